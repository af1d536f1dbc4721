//! The agent's data folder: made private, locked for one process, files written whole or not at all.

use super::error::AgentError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A data folder that this process has to itself until it is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    // Held for its lock.
    _lock: File,
}

/// The credential file's name.
pub const CREDENTIAL_FILE: &str = "agent.json";

impl DataFolder {
    /// Makes the folder (0700) if it is not there, and locks it.
    ///
    /// # Errors
    /// [`AgentError::Data`], [`AgentError::Locked`].
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        make_private(path)?;
        let lock_path = path.join("lock");
        let lock = private()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|source| AgentError::Data { path: lock_path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(AgentError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(AgentError::Data { path: lock_path, source }),
        }
        make_private(&path.join("spool"))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The credential file.
    pub fn credential(&self) -> PathBuf {
        self.path.join(CREDENTIAL_FILE)
    }

    /// The journal's database.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal.db")
    }

    /// The folder of spooled output.
    pub fn spool(&self) -> PathBuf {
        self.path.join("spool")
    }
}

/// Options that make a new file readable for its owner only.
pub fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a folder for its owner only, if it is not there.
///
/// # Errors
/// [`AgentError::Data`].
pub fn make_private(path: &Path) -> Result<(), AgentError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|source| AgentError::Data { path: path.to_owned(), source })
}

/// Writes a private file so that after a crash there is the old one or the new one, whole.
///
/// # Errors
/// What the file system says.
pub fn write_whole(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    // A left-over of a crash might have other permissions.
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private().write(true).create_new(true).open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_told_clearly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let held = DataFolder::open(&path).unwrap();
        assert!(matches!(DataFolder::open(&path), Err(AgentError::Locked(_))));
        drop(held);
        assert!(DataFolder::open(&path).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn files_are_private_and_replaced_whole() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        for content in [&b"one"[..], b"two"] {
            write_whole(&path, content).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
