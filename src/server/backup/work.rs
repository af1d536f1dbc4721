//! A folder in the data folder for copies of the database while a backup is made: as private as the database itself, and
//! on its disk, so that nothing unencrypted ever lies where an encrypted backup goes.
//!
//! One backup of a server at a time. What a killed one left is removed by the next, and by a start of the server.

use super::error::BackupError;
use crate::server::folder::{make_private, private_file};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Its name.
pub const WORK_FOLDER: &str = "backup-work";
const LOCK_FILE: &str = "lock";

/// The folder, ours until dropped, and empty at both ends.
#[derive(Debug)]
pub struct Work {
    path: PathBuf,
    lock: File,
}

impl Work {
    /// Takes it; makes it if it is missing.
    ///
    /// # Errors
    /// [`BackupError::Busy`], [`BackupError::Io`].
    pub fn take(data: &Path) -> Result<Self, BackupError> {
        let path = data.join(WORK_FOLDER);
        let lock_path = path.join(LOCK_FILE);
        let made = make_private(&path).and_then(|()| private_file(&lock_path));
        let lock = made.map_err(BackupError::io(&path))?;
        // Root may do this for a server that runs as another user, who must be able to do it next time.
        give(&path, data).and_then(|()| give(&lock_path, data)).map_err(BackupError::io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BackupError::Busy(data.to_owned())),
            Err(TryLockError::Error(source)) => return Err(BackupError::Io { path: lock_path, source }),
        }
        clear(&path, LOCK_FILE).map_err(BackupError::io(&path))?;
        Ok(Self { path, lock })
    }

    /// Where a file or folder in it is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = clear(&self.path, LOCK_FILE);
        let _ = self.lock.unlock();
    }
}

/// Removes what a killed backup left, at a start of the server. A backup that is under way is left alone.
pub fn clear_leftovers(data: &Path) {
    if data.join(WORK_FOLDER).exists()
        && let Err(error) = Work::take(data)
    {
        tracing::info!("{error}");
    }
}

/// Removes everything in a folder but the file `keep`.
///
/// # Errors
/// The file system's.
pub fn clear(folder: &Path, keep: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else if entry.file_name() != keep {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Gives a file or folder to whom `like` belongs, where we may: root alone may, and only root has to.
///
/// # Errors
/// The file system's.
#[cfg(unix)]
pub fn give(path: &Path, like: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let (theirs, ours) = (fs::metadata(like)?, fs::symlink_metadata(path)?);
    if nix::unistd::geteuid().is_root() && (theirs.uid(), theirs.gid()) != (ours.uid(), ours.gid()) {
        std::os::unix::fs::lchown(path, Some(theirs.uid()), Some(theirs.gid()))?;
    }
    Ok(())
}

/// Nothing: the folder's own rules apply.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn give(_path: &Path, _like: &Path) -> io::Result<()> {
    Ok(())
}
