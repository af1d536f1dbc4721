//! Releases: an executable of ours, and the signature without which none is taken.
//!
//! The signature is minisign's, beside the file as `FILE.minisig`: `minisign -S -s KEY -m FILE` makes it, with the key pair of
//! whoever answers for what runs on these hosts. What is verified is one file as it lies on disk: copy first to where nobody
//! else may write, verify the copy, run the copy.

use crate::secret::hex;
use minisign_verify::{PublicKey, Signature};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What a signature's file is called: the executable's name and this.
pub const SIGNATURE_SUFFIX: &str = ".minisig";
/// Most bytes of an executable. Ours has some 20 MB.
pub const EXECUTABLE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Most bytes of a signature's file: four lines, of which two are comments.
pub const SIGNATURE_BYTES_MAX: u64 = 4 * 1024;
/// The part of an executable in which its header says what it runs on.
const HEADER_BYTES: usize = 4096;

/// The public key that releases are verified with: one line of base64, as `minisign -G` prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct ReleaseKey {
    text: String,
    key: PublicKey,
}

/// Why a file is no release.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The text is no public key.
    #[error(
        "{0:?} is no public key of minisign: it is one line of 56 characters that begins with RW, the second of the .pub file"
    )]
    Key(String),
    /// It cannot be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The executable, or its signature.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no signature.
    #[error(
        "{0} is not there: what is not signed is not taken; make it with `minisign -S -m` and the executable's name"
    )]
    Unsigned(PathBuf),
    /// It is longer than any.
    #[error("{path} has {bytes} bytes, more than {max}: it is something else")]
    TooLarge {
        /// The executable, or its signature.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The signature's file is damaged, or of another format.
    #[error("{0} is no signature of minisign, or damaged; sign again with `minisign -S`, and copy both files again")]
    Signature(PathBuf),
    /// Signed by somebody else.
    #[error("{0} was signed with another key than the configured one; take the release from whoever has that key")]
    OtherKey(PathBuf),
    /// The right key, over other bytes.
    #[error("{0} is not what was signed: it is truncated, damaged or changed; copy it and its signature again")]
    Changed(PathBuf),
    /// No executable of a kind that we are built for.
    #[error("{0} is no executable that this program knows (ELF or PE, x86_64 or aarch64)")]
    NoExecutable(PathBuf),
}

/// A release whose signature is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// SHA-256 of the executable.
    pub sha256: [u8; 32],
    /// Its length.
    pub bytes: u64,
    /// What it runs on.
    pub platform: Platform,
}

impl ReleaseKey {
    /// Verifies `executable` by the signature that lies beside it, reading each once.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub fn verify(&self, executable: &Path) -> Result<Release, ReleaseError> {
        let mut beside = executable.as_os_str().to_owned();
        beside.push(SIGNATURE_SUFFIX);
        let beside = PathBuf::from(beside);
        let file = open(&beside, SIGNATURE_BYTES_MAX).map_err(|error| match error {
            ReleaseError::Read { path, source } if source.kind() == io::ErrorKind::NotFound => {
                ReleaseError::Unsigned(path)
            }
            other => other,
        })?;
        let mut text = String::new();
        let read = file.take(SIGNATURE_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|_| ReleaseError::Signature(beside.clone()))?;
        let signature = Signature::decode(&text).map_err(|_| ReleaseError::Signature(beside.clone()))?;
        self.verify_with(executable, &signature, &beside)
    }

    /// The file's bytes go through both hashes; then the signature is looked at.
    fn verify_with(&self, path: &Path, signature: &Signature, beside: &Path) -> Result<Release, ReleaseError> {
        let wrong = |error| match error {
            minisign_verify::Error::UnexpectedKeyId => ReleaseError::OtherKey(beside.to_owned()),
            minisign_verify::Error::InvalidSignature => ReleaseError::Changed(path.to_owned()),
            _ => ReleaseError::Signature(beside.to_owned()),
        };
        let mut verifier = self.key.verify_stream(signature).map_err(wrong)?;
        let mut file = open(path, EXECUTABLE_BYTES_MAX)?.take(EXECUTABLE_BYTES_MAX);
        let (mut sha256, mut bytes) = (Context::new(&SHA256), 0u64);
        let (mut header, mut buffer) = (Vec::with_capacity(HEADER_BYTES), vec![0; 64 * 1024]);
        loop {
            let read = |source| ReleaseError::Read { path: path.to_owned(), source };
            let n = match file.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(read)?,
            };
            if n == 0 {
                break;
            }
            let chunk = &buffer[..n];
            verifier.update(chunk);
            sha256.update(chunk);
            header.extend_from_slice(&chunk[..n.min(HEADER_BYTES - header.len())]);
            bytes += n as u64;
        }
        verifier.finalize().map_err(wrong)?;
        let platform = Platform::of(&header).ok_or_else(|| ReleaseError::NoExecutable(path.to_owned()))?;
        let mut digest = [0; 32];
        digest.copy_from_slice(sha256.finish().as_ref());
        Ok(Release { sha256: digest, bytes, platform })
    }
}

/// A regular file of at most `max` bytes.
fn open(path: &Path, max: u64) -> Result<File, ReleaseError> {
    let read = |source| ReleaseError::Read { path: path.to_owned(), source };
    // What is no regular file could keep its reader waiting for ever.
    let found = std::fs::metadata(path).map_err(read)?;
    if !found.is_file() {
        return Err(read(io::Error::other("it is no regular file")));
    }
    let file = File::open(path).map_err(read)?;
    let bytes = file.metadata().map_err(read)?.len();
    if bytes > max {
        return Err(ReleaseError::TooLarge { path: path.to_owned(), bytes, max });
    }
    Ok(file)
}

impl fmt::Display for ReleaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ReleaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ReleaseKey {
    type Err = ReleaseError;
    fn from_str(text: &str) -> Result<Self, ReleaseError> {
        let text = text.trim();
        match PublicKey::from_base64(text) {
            Ok(key) => Ok(Self { text: text.to_owned(), key }),
            Err(_) => Err(ReleaseError::Key(text.chars().take(80).collect())),
        }
    }
}

impl Serialize for ReleaseKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ReleaseKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What an executable runs on: operating system and processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Platform {
    /// Linux on a 64-bit PC.
    #[serde(rename = "linux-x86_64")]
    LinuxX86_64,
    /// Linux on 64-bit Arm.
    #[serde(rename = "linux-aarch64")]
    LinuxAarch64,
    /// Windows on a 64-bit PC.
    #[serde(rename = "windows-x86_64")]
    WindowsX86_64,
    /// Windows on 64-bit Arm.
    #[serde(rename = "windows-aarch64")]
    WindowsAarch64,
}

impl Platform {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::LinuxX86_64, Self::LinuxAarch64, Self::WindowsX86_64, Self::WindowsAarch64];

    /// What this process runs on, if it is one of them.
    pub fn here() -> Option<Self> {
        format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH).parse().ok()
    }

    /// What an executable says in its first bytes: the ELF header of 64 bits, little-endian (System V ABI, chapter 4), or
    /// the PE header (Microsoft's PE format, "Machine Types").
    pub fn of(header: &[u8]) -> Option<Self> {
        if header.starts_with(b"\x7fELF\x02\x01\x01") {
            return match u16::from_le_bytes(header.get(18..20)?.try_into().ok()?) {
                62 => Some(Self::LinuxX86_64),
                183 => Some(Self::LinuxAarch64),
                _ => None,
            };
        }
        if !header.starts_with(b"MZ") {
            return None;
        }
        let at = u32::from_le_bytes(header.get(60..64)?.try_into().ok()?) as usize;
        let pe = header.get(at..at.checked_add(6)?)?;
        match (&pe[..4], u16::from_le_bytes([pe[4], pe[5]])) {
            (b"PE\0\0", 0x8664) => Some(Self::WindowsX86_64),
            (b"PE\0\0", 0xaa64) => Some(Self::WindowsAarch64),
            _ => None,
        }
    }

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LinuxX86_64 => "linux-x86_64",
            Self::LinuxAarch64 => "linux-aarch64",
            Self::WindowsX86_64 => "windows-x86_64",
            Self::WindowsAarch64 => "windows-aarch64",
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no platform.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no platform: linux-x86_64, linux-aarch64, windows-x86_64 or windows-aarch64")]
pub struct PlatformError(String);

impl FromStr for Platform {
    type Err = PlatformError;
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let found = Self::ALL.into_iter().find(|platform| platform.as_str() == text);
        found.ok_or_else(|| PlatformError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes for {}, SHA-256 {}", self.bytes, self.platform, hex(&self.sha256))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisign::KeyPair;
    use std::fs;

    /// An executable's header and something behind it.
    fn elf(machine: u8) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(18, 0);
        bytes.extend([machine, 0]);
        bytes.resize(200_000, 7);
        bytes
    }

    fn sign(pair: &KeyPair, path: &Path) {
        let signature = minisign::sign(None, &pair.sk, fs::File::open(path).unwrap(), None, None).unwrap();
        fs::write(format!("{}{SIGNATURE_SUFFIX}", path.display()), signature.into_string()).unwrap();
    }

    #[test]
    fn only_what_the_key_signed_is_a_release() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postrider");
        let (ours, theirs) =
            (KeyPair::generate_unencrypted_keypair().unwrap(), KeyPair::generate_unencrypted_keypair().unwrap());
        let key: ReleaseKey = ours.pk.to_base64().parse().unwrap();
        let good = elf(183);

        assert!(matches!(key.verify(&path), Err(ReleaseError::Unsigned(_))));
        fs::write(&path, &good).unwrap();
        assert!(matches!(key.verify(&path), Err(ReleaseError::Unsigned(_))), "no signature");
        sign(&ours, &path);
        let release = key.verify(&path).unwrap();
        assert_eq!((release.bytes, release.platform), (200_000, Platform::LinuxAarch64));
        assert_eq!(release.sha256, crate::secret::sha256(&good));

        for changed in [good[..199_999].to_vec(), [&good[..], b"x"].concat(), elf(62)] {
            fs::write(&path, changed).unwrap();
            assert!(matches!(key.verify(&path), Err(ReleaseError::Changed(_))));
        }
        fs::write(&path, &good).unwrap();
        sign(&theirs, &path);
        assert!(matches!(key.verify(&path), Err(ReleaseError::OtherKey(_))));
        let beside = dir.path().join("postrider.minisig");
        for nonsense in ["", "untrusted comment: x\nRWQ=\n", &"x".repeat(4000), "\u{1F980}\n\u{1F980}\n\n\n"] {
            fs::write(&beside, nonsense).unwrap();
            assert!(matches!(key.verify(&path), Err(ReleaseError::Signature(_))), "{nonsense:?}");
        }
        fs::write(&beside, "x".repeat(5000)).unwrap();
        assert!(matches!(key.verify(&path), Err(ReleaseError::TooLarge { .. })));
        fs::write(&path, "#!/bin/sh\n").unwrap();
        sign(&ours, &path);
        assert!(matches!(key.verify(&path), Err(ReleaseError::NoExecutable(_))));
        assert!(matches!(key.verify(dir.path()), Err(ReleaseError::Unsigned(_) | ReleaseError::Read { .. })));
    }

    #[test]
    fn a_key_is_one_line_of_base64_and_nothing_else() {
        let pair = KeyPair::generate_unencrypted_keypair().unwrap();
        let text = pair.pk.to_base64();
        let key: ReleaseKey = format!(" {text}\n").parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(serde_json::from_str::<ReleaseKey>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
        for bad in ["", "RW", &text[1..], &text.replace('R', "é"), "untrusted comment: minisign public key"] {
            assert!(bad.parse::<ReleaseKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_header_says_what_an_executable_runs_on() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(Platform::of(&own[..HEADER_BYTES]), Platform::here());
        let pe = |at: u32, machine: u16| {
            let mut bytes = b"MZ".to_vec();
            bytes.resize(60, 0);
            bytes.extend(at.to_le_bytes());
            bytes.resize(at as usize, 0);
            bytes.extend(b"PE\0\0");
            bytes.extend(machine.to_le_bytes());
            bytes
        };
        assert_eq!(Platform::of(&pe(128, 0x8664)), Some(Platform::WindowsX86_64));
        assert_eq!(Platform::of(&pe(64, 0xaa64)), Some(Platform::WindowsAarch64));
        let mut far = pe(64, 0x8664);
        far[60..64].copy_from_slice(&u32::MAX.to_le_bytes());
        for bad in [&far[..], &pe(64, 0x14c), &elf(40), b"", b"MZ", b"\x7fELF\x02\x01\x01", &pe(64, 0x8664)[..66]] {
            assert_eq!(Platform::of(bad), None, "{bad:?}");
        }
        for platform in Platform::ALL {
            assert_eq!(platform.as_str().parse::<Platform>().unwrap(), platform);
            assert_eq!(serde_json::to_string(&platform).unwrap(), format!("\"{platform}\""));
        }
        assert!("linux-mips".parse::<Platform>().is_err());
    }
}
