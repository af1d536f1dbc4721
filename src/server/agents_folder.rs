//! The folder `agents/` in the data folder: the executables that hosts get from this server, one for each platform, as
//! `postrider-PLATFORM`, with an optional signature beside it. For its own platform a server has itself.
//!
//! What is handed out is one open file: whatever takes its name later is another one, and what is written into it while
//! it is read is noticed. All of it blocks for the disk.

use crate::release::{EXECUTABLE_BYTES_MAX, Platform, SIGNATURE_BYTES_MAX, SIGNATURE_SUFFIX};
use ring::digest::{Context, SHA256};
use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// The folder's name in the data folder.
pub const AGENTS_FOLDER: &str = "agents";
/// How an executable's name begins; its platform follows.
const PREFIX: &str = "postrider-";
/// Read at one time.
const PIECE_BYTES: usize = 64 * 1024;
/// The part of an executable in which its headers are: of ours, the first kilobyte.
const HEADER_BYTES: usize = 4096;

/// Why there is no executable to hand out.
#[derive(Debug, thiserror::Error)]
pub enum AgentsFolderError {
    /// Nobody put one there.
    #[error(
        "there is no executable for {platform} here, only for: {}; put one into the folder {AGENTS_FOLDER} of the server's data folder, as {PREFIX}{platform}",
        list(there)
    )]
    Missing {
        /// What it was asked for.
        platform: Platform,
        /// What there is.
        there: Vec<Platform>,
    },
    /// There is one that is not taken.
    #[error("{AGENTS_FOLDER}/{PREFIX}{platform} is not handed out: {why}")]
    Unfit {
        /// What it should be for.
        platform: Platform,
        /// Why not, and what to do.
        why: String,
    },
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ")
}

/// What tells one state of a file from another: length, when it was written to, and on Unix which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    inode: [u64; 2],
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        #[cfg(unix)]
        let inode = {
            use std::os::unix::fs::MetadataExt;
            [found.dev(), found.ino()]
        };
        #[cfg(not(unix))]
        let inode = [0; 2];
        Self { bytes: found.len(), modified: found.modified().ok(), inode }
    }
}

/// An executable to hand out. Clones share the open file.
#[derive(Clone, Debug)]
pub struct AgentExecutable {
    /// What it runs on.
    pub platform: Platform,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of it.
    pub sha256: [u8; 32],
    /// Where it lay when it was opened; none: it is the server's own.
    pub path: Option<PathBuf>,
    file: Arc<File>,
    stamp: Stamp,
}

impl AgentExecutable {
    /// Reads from `at` what fits into the buffer; 0: that is the end.
    ///
    /// # Errors
    /// What the disk says; the file was written to since it was hashed.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let most = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len());
        let read = read_at(&self.file, &mut buffer[..most], at)?;
        if Stamp::of(&self.file.metadata()?) != self.stamp || (read == 0 && most > 0) {
            return Err(io::Error::other("the file was written to while it was handed out"));
        }
        Ok(read)
    }

    /// The text of the signature's file that lies beside it now; none: there is none. Nobody has verified it.
    ///
    /// # Errors
    /// What the disk says; too long, or no text.
    pub fn signature(&self) -> io::Result<Option<String>> {
        let Some(path) = &self.path else { return Ok(None) };
        let mut beside = path.clone().into_os_string();
        beside.push(SIGNATURE_SUFFIX);
        let file = match open(Path::new(&beside)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut text = String::new();
        file.take(SIGNATURE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > SIGNATURE_BYTES_MAX {
            return Err(io::Error::other("it is longer than any signature"));
        }
        Ok(Some(text))
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, at)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, at)
}

/// Opens a regular file, and nothing that a link at its place leads to.
fn open(path: &Path) -> io::Result<File> {
    // What is no regular file could keep its reader waiting for ever.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use nix::fcntl::OFlag;
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits());
    }
    let file = options.open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// The executable that this process runs, even if another one has taken its name.
fn open_own() -> io::Result<File> {
    #[cfg(target_os = "linux")]
    return File::open("/proc/self/exe");
    #[cfg(not(target_os = "linux"))]
    File::open(std::env::current_exe()?)
}

/// A platform, and whether its executable lies in the folder.
type Lies = (Platform, bool);

/// The folder of a server that runs.
#[derive(Debug)]
pub struct AgentsFolder {
    path: PathBuf,
    /// For the server's own platform.
    own: Option<(Platform, Arc<File>)>,
    /// What was hashed last, so that it is not hashed at each request. Held while a file is hashed: whoever asks for the same
    /// one waits for that.
    hashed: Mutex<HashMap<Lies, (Stamp, [u8; 32])>>,
}

impl AgentsFolder {
    /// The one in this data folder, which need not be there; and the executable that runs, which is opened now.
    pub fn open(data: &Path) -> Self {
        let own = Platform::here().and_then(|platform| match open_own() {
            Ok(file) => Some((platform, Arc::new(file))),
            Err(error) => {
                tracing::warn!(%error, "the server's own executable cannot be read, so hosts cannot get it from here");
                None
            }
        });
        Self { path: data.join(AGENTS_FOLDER), own, hashed: Mutex::default() }
    }

    /// For which platforms something is there.
    pub fn platforms(&self) -> Vec<Platform> {
        let own = self.own.as_ref().map(|(platform, _)| *platform);
        let is_there = |platform: &Platform| Some(*platform) == own || self.place(*platform).symlink_metadata().is_ok();
        Platform::ALL.into_iter().filter(is_there).collect()
    }

    fn place(&self, platform: Platform) -> PathBuf {
        self.path.join(format!("{PREFIX}{platform}"))
    }

    /// The executable for a platform: the one in the folder, else the server's own.
    ///
    /// # Errors
    /// [`AgentsFolderError`].
    pub fn find(&self, platform: Platform) -> Result<AgentExecutable, AgentsFolderError> {
        let unfit = |why: String| AgentsFolderError::Unfit { platform, why };
        let (path, file) = match self.place(platform).canonicalize() {
            Ok(path) => {
                // A link to a neighbour is fine: names with versions, and one that says which of them.
                if !self.path.canonicalize().is_ok_and(|folder| path.starts_with(folder)) {
                    return Err(unfit("it is a link out of the folder; copy the file into it".to_owned()));
                }
                let file = open(&path).map_err(|error| unfit(format!("it cannot be opened: {error}")))?;
                (Some(path), Arc::new(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.place(platform).is_symlink() => {
                match &self.own {
                    Some((own, file)) if *own == platform => (None, Arc::clone(file)),
                    _ => return Err(AgentsFolderError::Missing { platform, there: self.platforms() }),
                }
            }
            Err(error) => return Err(unfit(format!("it cannot be opened: {error}"))),
        };
        self.look(platform, path, file).map_err(|error| unfit(error.to_string()))
    }

    /// Hashes the file, unless it is as it was when it was hashed last.
    fn look(&self, platform: Platform, path: Option<PathBuf>, file: Arc<File>) -> io::Result<AgentExecutable> {
        let key = (platform, path.is_some());
        let mut hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&file.metadata()?);
        let sha256 = match hashed.get(&key) {
            Some((known, sha256)) if *known == stamp => *sha256,
            _ => {
                let sha256 = check(platform, &file, stamp.bytes)?;
                if Stamp::of(&file.metadata()?) != stamp {
                    return Err(io::Error::other("it is being written; come again"));
                }
                hashed.insert(key, (stamp, sha256));
                sha256
            }
        };
        Ok(AgentExecutable { platform, bytes: stamp.bytes, sha256, path, file, stamp })
    }
}

/// Whether it is a whole executable for the platform; its SHA-256.
fn check(platform: Platform, file: &File, bytes: u64) -> io::Result<[u8; 32]> {
    if bytes > EXECUTABLE_BYTES_MAX {
        let why = format!("it has {bytes} bytes, more than {EXECUTABLE_BYTES_MAX}: it is something else");
        return Err(io::Error::other(why));
    }
    let (mut sha256, mut at, mut buffer) = (Context::new(&SHA256), 0, vec![0; PIECE_BYTES]);
    loop {
        let read = read_at(file, &mut buffer, at)?;
        if at == 0 {
            let header = &buffer[..read.min(HEADER_BYTES)];
            match Platform::of(header) {
                Some(found) if found == platform => {}
                Some(found) => return Err(io::Error::other(format!("it is an executable for {found}"))),
                None => return Err(io::Error::other("it is no executable that this program knows")),
            }
            if end(header).is_none_or(|end| end > bytes) {
                return Err(io::Error::other("it is not whole: it is being copied, or the copy was cut off"));
            }
        }
        if read == 0 {
            break;
        }
        sha256.update(&buffer[..read]);
        at += read as u64;
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(sha256.finish().as_ref());
    Ok(digest)
}

/// Where an executable ends at the earliest, by its headers: an ELF file with its table of sections (System V ABI, chapter
/// 4), which linkers write last, and a PE file with the last of its sections (Microsoft's PE format, "Section Table").
fn end(header: &[u8]) -> Option<u64> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(header.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(header.get(at..at.checked_add(4)?)?.try_into().ok()?));
    if header.starts_with(b"\x7fELF") {
        let table = u64::from_le_bytes(header.get(40..48)?.try_into().ok()?);
        return table.checked_add(u64::from(u16_at(58)?) * u64::from(u16_at(60)?));
    }
    let pe = u32_at(60)? as usize;
    let sections = pe.checked_add(24)?.checked_add(usize::from(u16_at(pe.checked_add(20)?)?))?;
    let mut ends = (0..usize::from(u16_at(pe.checked_add(6)?)?)).map(|number| {
        let section = sections.checked_add(number * 40)?;
        Some(u64::from(u32_at(section.checked_add(16)?)?) + u64::from(u32_at(section.checked_add(20)?)?))
    });
    ends.try_fold(0, |most, end| Some(most.max(end?)))
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::sha256;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    /// An executable with a table of sections at its end.
    fn elf(machine: u8, filling: u8) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(100_064, filling);
        bytes[18..20].copy_from_slice(&[machine, 0]);
        bytes[40..48].copy_from_slice(&100_000u64.to_le_bytes());
        bytes[58..62].copy_from_slice(&[64, 0, 1, 0]);
        bytes
    }

    fn all_of(executable: &AgentExecutable) -> io::Result<Vec<u8>> {
        let (mut all, mut buffer) = (Vec::new(), [0; 1000]);
        loop {
            match executable.read_at(&mut buffer, all.len() as u64)? {
                0 => return Ok(all),
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }

    fn told(folder: &AgentsFolder, platform: Platform) -> String {
        folder.find(platform).unwrap_err().to_string()
    }

    const ARM: Platform = Platform::LinuxAarch64;

    #[test]
    fn what_lies_in_the_folder_is_handed_out_and_what_replaces_it_is_hashed_anew() {
        let data = tempfile::tempdir().unwrap();
        let folder = AgentsFolder::open(data.path());
        let missing = told(&folder, ARM);
        assert!(missing.contains("agents") && missing.contains("postrider-linux-aarch64"), "{missing}");
        fs::create_dir(data.path().join(AGENTS_FOLDER)).unwrap();
        let place = folder.place(ARM);
        fs::write(&place, elf(183, 1)).unwrap();
        let first = folder.find(ARM).unwrap();
        assert_eq!((first.sha256, first.bytes), (sha256(&elf(183, 1)), 100_064));
        assert_eq!(first.signature().unwrap(), None);
        fs::write(data.path().join("agents/postrider-linux-aarch64.minisig"), "a signature").unwrap();
        assert_eq!(first.signature().unwrap().as_deref(), Some("a signature"));
        assert!(folder.platforms().contains(&ARM) && folder.platforms().contains(&Platform::here().unwrap()));

        let beside = data.path().join("agents/new");
        fs::write(&beside, elf(183, 2)).unwrap();
        fs::rename(&beside, &place).unwrap();
        let second = folder.find(ARM).unwrap();
        assert_eq!(second.sha256, sha256(&elf(183, 2)));
        assert_eq!(all_of(&second).unwrap(), elf(183, 2));
        assert_eq!(all_of(&first).unwrap(), elf(183, 1), "what was begun with it ends with it");
    }

    #[test]
    fn a_file_that_is_written_to_while_it_is_handed_out_is_not_handed_out_to_its_end() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join(AGENTS_FOLDER)).unwrap();
        let folder = AgentsFolder::open(data.path());
        // The clock of a file system may stand still for some milliseconds.
        let write = |bytes: &[u8], at_s: u64| {
            fs::write(folder.place(ARM), bytes).unwrap();
            let file = OpenOptions::new().write(true).open(folder.place(ARM)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(at_s)).unwrap();
        };
        write(&elf(183, 1), 1);
        let found = folder.find(ARM).unwrap();
        let mut buffer = [0; 1000];
        assert_eq!(found.read_at(&mut buffer, 0).unwrap(), 1000);
        write(&elf(183, 3), 2);
        assert!(found.read_at(&mut buffer, 1000).is_err());
        assert_eq!(folder.find(ARM).unwrap().sha256, sha256(&elf(183, 3)));
        write(&elf(183, 3)[..90_000], 1);
        assert!(found.read_at(&mut buffer, 99_000).is_err());
    }

    #[test]
    fn halves_links_out_of_the_folder_and_other_things_are_not_handed_out() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join(AGENTS_FOLDER)).unwrap();
        let folder = AgentsFolder::open(data.path());
        let place = folder.place(ARM);
        let cases: [(&[u8], &str); 5] = [
            (&elf(183, 1)[..100_063], "not whole"),
            (&elf(183, 1)[..30], "not whole"),
            (&elf(62, 1), "for linux-x86_64"),
            (b"#!/bin/sh\n", "no executable"),
            (b"", "no executable"),
        ];
        for (bytes, why) in cases {
            fs::write(&place, bytes).unwrap();
            assert!(told(&folder, ARM).contains(why), "{}", told(&folder, ARM));
        }
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
        assert!(told(&folder, ARM).contains("regular"), "{}", told(&folder, ARM));
        fs::remove_dir(&place).unwrap();
        nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(told(&folder, ARM).contains("regular"), "{}", told(&folder, ARM));
        fs::remove_file(&place).unwrap();

        fs::write(data.path().join("elsewhere"), elf(183, 1)).unwrap();
        symlink(data.path().join("elsewhere"), &place).unwrap();
        assert!(told(&folder, ARM).contains("link out"), "{}", told(&folder, ARM));
        fs::remove_file(&place).unwrap();
        symlink("nowhere", &place).unwrap();
        assert!(told(&folder, ARM).contains("cannot be opened"), "{}", told(&folder, ARM));
        fs::write(data.path().join("agents/nowhere"), elf(183, 1)).unwrap();
        assert_eq!(folder.find(ARM).unwrap().sha256, sha256(&elf(183, 1)));
    }

    #[test]
    fn for_its_own_platform_a_server_has_itself() {
        let data = tempfile::tempdir().unwrap();
        let folder = AgentsFolder::open(data.path());
        let own = folder.find(Platform::here().unwrap()).unwrap();
        let bytes = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!((own.sha256, own.bytes, own.path), (sha256(&bytes), bytes.len() as u64, None));
    }

    #[test]
    fn headers_say_where_an_executable_ends() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(end(&own[..HEADER_BYTES]).is_some_and(|end| end > 10_000 && end <= own.len() as u64));
        let mut pe = b"MZ".to_vec();
        pe.resize(1024, 0);
        pe[60] = 128;
        pe[128..134].copy_from_slice(b"PE\0\0\x64\x86");
        pe[134] = 2;
        pe[148] = 240;
        let table = 128 + 24 + 240;
        pe[table + 16..table + 24].copy_from_slice(&[0, 2, 0, 0, 0, 4, 0, 0]);
        pe[table + 56..table + 64].copy_from_slice(&[0, 1, 0, 0, 0, 8, 0, 0]);
        assert_eq!(end(&pe), Some(0x900));
        assert_eq!(end(&pe[..table + 50]), None);
        assert_eq!(end(b"MZ"), None);
        pe[60..64].copy_from_slice(&[255; 4]);
        assert_eq!(end(&pe), None);
    }
}
