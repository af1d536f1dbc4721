//! The folder of releases: a folder for each, with the executable in it, and the links `current` and `previous`.
//!
//! What runs the server goes through `current`, so an upgrade is one rename of a link. Root owns it all: an executable is
//! copied here first, and what is verified is the copy.

use super::error::UpgradeError;
use crate::release::SIGNATURE_SUFFIX;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The executable in a release's folder.
pub const PROGRAM: &str = "postrider";
/// The link to what runs.
pub const CURRENT: &str = "current";
/// The link to what ran before.
pub const PREVIOUS: &str = "previous";
/// The link to what finishes or undoes an upgrade that was cut off: a release that is known to run.
pub const KEEPER: &str = "keeper";
/// What is being copied.
const STAGED: &str = ".new";
const LOCK: &str = "lock";
/// So many releases are kept, with the two that the links name.
const KEPT: usize = 4;

/// The folder.
#[derive(Clone, Debug)]
pub struct Releases {
    root: PathBuf,
}

/// The right to change it, until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Releases {
    /// As it is, if it is there at all.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes it if it is not there.
    ///
    /// # Errors
    /// [`UpgradeError::Io`].
    pub fn open(root: &Path) -> Result<Self, UpgradeError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o755);
        builder.create(root).map_err(UpgradeError::io(root))?;
        Ok(Self::at(root))
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The right to change it. None: somebody else has it.
    ///
    /// # Errors
    /// [`UpgradeError::Io`].
    pub fn lock(&self) -> Result<Option<Lock>, UpgradeError> {
        let path = self.file(LOCK);
        let open = File::options().create(true).append(true).open(&path);
        let file = open.map_err(UpgradeError::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(UpgradeError::Io { path, source }),
        }
    }

    /// Where a release's executable is.
    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join(name).join(PROGRAM)
    }

    /// The release that a link names, if its executable is there.
    pub fn named_by(&self, link: &str) -> Option<String> {
        let name = fs::read_link(self.root.join(link)).ok()?.to_str()?.to_owned();
        self.program(&name).is_file().then_some(name)
    }

    /// Copies an executable, with its signature if it has one, to where nobody else may write. Answers the copy.
    ///
    /// # Errors
    /// [`UpgradeError::Io`].
    pub fn stage(&self, executable: &Path) -> Result<PathBuf, UpgradeError> {
        let folder = self.root.join(STAGED);
        clear(&folder).and_then(|()| fs::create_dir(&folder)).map_err(UpgradeError::io(&folder))?;
        let copy = folder.join(PROGRAM);
        copy_file(executable, &copy, 0o755)?;
        let signature = beside(executable);
        if signature.exists() {
            copy_file(&signature, &beside(&copy), 0o644)?;
        }
        Ok(copy)
    }

    /// Gives what was staged its name. A release of that name that is there already has the same bytes, because its name says
    /// so, and stays.
    ///
    /// # Errors
    /// [`UpgradeError::Io`].
    pub fn keep(&self, name: &str) -> Result<(), UpgradeError> {
        let (staged, kept) = (self.root.join(STAGED), self.root.join(name));
        if self.program(name).is_file() {
            return clear(&staged).map_err(UpgradeError::io(&staged));
        }
        clear(&kept).and_then(|()| fs::rename(&staged, &kept)).map_err(UpgradeError::io(&kept))?;
        sync(&kept).and_then(|()| sync(&self.root)).map_err(UpgradeError::io(&kept))
    }

    /// Lets a link name a release, in one step that lasts.
    ///
    /// # Errors
    /// [`UpgradeError::Io`].
    pub fn point(&self, link: &str, name: &str) -> Result<(), UpgradeError> {
        replace_link(&self.root.join(link), Path::new(name))
    }

    /// Lets the command line and the unit find what runs: `link` leads to `current`. A copy of what runs that somebody installed
    /// there is replaced; anything else is not ours.
    ///
    /// # Errors
    /// [`UpgradeError::InTheWay`], [`UpgradeError::Io`].
    pub fn lead(&self, link: &Path) -> Result<(), UpgradeError> {
        let target = self.root.join(CURRENT).join(PROGRAM);
        match fs::symlink_metadata(link) {
            Ok(found) if found.is_file() && same(link, &target).map_err(UpgradeError::io(link))? => {}
            Ok(_) if fs::read_link(link).is_ok_and(|to| to == target) => return Ok(()),
            Ok(_) => return Err(UpgradeError::InTheWay(link.to_owned())),
            Err(_) => {}
        }
        replace_link(link, &target)
    }

    /// Removes what was staged and never kept, and the oldest releases.
    ///
    /// # Errors
    /// [`UpgradeError::Io`].
    pub fn prune(&self) -> Result<(), UpgradeError> {
        let failed = UpgradeError::io(&self.root);
        clear(&self.root.join(STAGED)).map_err(&failed)?;
        let linked = [CURRENT, PREVIOUS, KEEPER].map(|link| self.named_by(link));
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.metadata().map_err(&failed)?;
            if kind.is_dir() && self.program(&name).is_file() && !linked.contains(&Some(name.clone())) {
                found.push((kind.modified().map_err(&failed)?, name));
            }
        }
        found.sort();
        let left = found.len().saturating_sub(KEPT - 2);
        found.iter().take(left).try_for_each(|(_, name)| clear(&self.root.join(name)).map_err(&failed))
    }
}

/// Where the signature of an executable is.
fn beside(executable: &Path) -> PathBuf {
    let mut name = executable.as_os_str().to_owned();
    name.push(SIGNATURE_SUFFIX);
    name.into()
}

fn copy_file(from: &Path, to: &Path, mode: u32) -> Result<(), UpgradeError> {
    let mut source = File::open(from).map_err(UpgradeError::io(from))?;
    let copied = File::create_new(to).and_then(|mut copy| {
        io::copy(&mut source, &mut copy)?;
        #[cfg(unix)]
        copy.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        copy.sync_all()
    });
    #[cfg(not(unix))]
    let _ = mode;
    copied.map_err(UpgradeError::io(to))
}

/// Whether two files have the same bytes.
fn same(one: &Path, other: &Path) -> io::Result<bool> {
    Ok(fs::metadata(one)?.len() == fs::metadata(other)?.len() && fs::read(one)? == fs::read(other)?)
}

fn replace_link(link: &Path, target: &Path) -> Result<(), UpgradeError> {
    let mut name = link.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    let replaced = remove(&fresh).and_then(|()| symlink(target, &fresh)).and_then(|()| {
        fs::rename(&fresh, link)?;
        sync(link.parent().unwrap_or(Path::new("/")))
    });
    replaced.map_err(UpgradeError::io(link))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes a folder's entries last.
pub fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a file. What is not there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a folder and what is in it. What is not there is fine.
fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_name_releases_and_the_oldest_others_go() {
        let folder = tempfile::tempdir().unwrap();
        let releases = Releases::open(&folder.path().join("a/b")).unwrap();
        let stage = |text: &str| {
            let file = folder.path().join("from");
            fs::write(&file, text).unwrap();
            releases.stage(&file).unwrap();
        };
        assert_eq!(releases.named_by(CURRENT), None);
        for name in ["1", "2", "3", "4", "5", "6"] {
            stage(name);
            releases.keep(name).unwrap();
        }
        releases.point(CURRENT, "1").unwrap();
        releases.point(PREVIOUS, "6").unwrap();
        releases.point(CURRENT, "2").unwrap();
        releases.prune().unwrap();
        assert_eq!(releases.named_by(CURRENT).as_deref(), Some("2"));
        assert_eq!(fs::read_to_string(releases.file("current/postrider")).unwrap(), "2");
        let there = ["1", "2", "3", "4", "5", "6"].map(|name| releases.program(name).exists());
        assert_eq!(there.iter().filter(|there| **there).count(), KEPT);
        assert!(there[1] && there[5] && !there[0]);
        // A release that is there already is not touched.
        stage("other");
        releases.keep("2").unwrap();
        assert_eq!(fs::read_to_string(releases.program("2")).unwrap(), "2");
        assert!(!releases.file(STAGED).exists());
    }

    #[test]
    fn one_at_a_time_and_nobodys_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let releases = Releases::open(folder.path()).unwrap();
        let lock = releases.lock().unwrap();
        assert!(lock.is_some() && releases.lock().unwrap().is_none());
        drop(lock);
        assert!(releases.lock().unwrap().is_some());
        let link = folder.path().join("bin");
        fs::create_dir(folder.path().join("1")).unwrap();
        fs::write(releases.program("1"), "runs").unwrap();
        releases.point(CURRENT, "1").unwrap();
        fs::write(&link, "runs").unwrap();
        releases.lead(&link).unwrap();
        releases.lead(&link).unwrap();
        assert!(link.is_symlink());
        fs::remove_file(&link).unwrap();
        fs::write(&link, "precious").unwrap();
        assert!(matches!(releases.lead(&link), Err(UpgradeError::InTheWay(_))));
        assert_eq!(fs::read_to_string(&link).unwrap(), "precious");
    }
}
