//! The server's data folder: private, used by one server at a time, with the owner's token in it.

use crate::seal::{SEAL_KEY_BYTES, SealKey};
use crate::secret::{from_hex, hex, random};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The owner's token, made at the first start.
pub const OWNER_TOKEN_FILE: &str = "owner.token";
/// The key to what the database keeps sealed, 32 bytes in hexadecimal.
pub const SEAL_KEY_FILE: &str = "seal.key";
/// The address that the server listens on, while it runs.
pub const LISTEN_FILE: &str = "listen";
/// The pins of its authorities, newest first, one a line, if it speaks TLS.
pub const PINS_FILE: &str = "pins";

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be made, read or written.
    #[error(
        "the data folder {path} cannot be used: {source}; check its owner and rights, or choose another with --data"
    )]
    Unusable {
        /// The folder or file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another server runs on it.
    #[error("another server is using the data folder {0}; stop it first, or choose another folder with --data")]
    InUse(PathBuf),
}

/// A data folder that this process alone uses, until dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Makes the folder (0700) if it is missing, and locks it.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let unusable = |source| FolderError::Unusable { path: path.to_owned(), source };
        make_private(path).map_err(unusable)?;
        let lock = private_file(&path.join("lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(FolderError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a small file whole or not at all, readable by its owner only.
    ///
    /// # Errors
    /// [`FolderError::Unusable`].
    pub fn write(&self, name: &str, text: &str) -> Result<(), FolderError> {
        write_private(&self.path, name, text)
    }

    /// The folder's key, made if it is missing.
    ///
    /// # Errors
    /// [`FolderError::Unusable`]: it cannot be read or written, or is no key.
    pub fn seal_key(&self) -> Result<SealKey, FolderError> {
        if let Some(key) = read_seal_key(&self.path)? {
            return Ok(key);
        }
        let key = random::<SEAL_KEY_BYTES>();
        self.write(SEAL_KEY_FILE, &format!("{}\n", hex(&key)))?;
        Ok(SealKey::new(&key))
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.path.join(name));
    }

    /// Whether a file is there.
    pub fn has(&self, name: &str) -> bool {
        self.path.join(name).exists()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing is not enough: a child of this process that has not reached its exec yet holds the file, too.
        let _ = self.lock.unlock();
    }
}

/// A data folder's key. None: there is none yet.
///
/// # Errors
/// [`FolderError::Unusable`]: it cannot be read, or is no key.
pub fn read_seal_key(folder: &Path) -> Result<Option<SealKey>, FolderError> {
    let path = folder.join(SEAL_KEY_FILE);
    let wrong = |source| FolderError::Unusable { path: path.clone(), source };
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(wrong)?,
    };
    let damaged = || wrong(io::Error::new(io::ErrorKind::InvalidData, "it is no key of 64 hexadecimal digits"));
    from_hex(text.trim()).as_ref().map(SealKey::new).map(Some).ok_or_else(damaged)
}

/// Writes a small file into a folder whole or not at all, readable by its owner only.
///
/// # Errors
/// [`FolderError::Unusable`].
pub fn write_private(folder: &Path, name: &str, text: &str) -> Result<(), FolderError> {
    let path = folder.join(name);
    let fresh = folder.join(format!("{name}.new"));
    let written = private_file(&fresh).and_then(|mut file| {
        file.set_len(0)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(folder)?.sync_all()
    });
    written.map_err(|source| FolderError::Unusable { path, source })
}

/// Makes a folder (0700) if it is missing.
///
/// # Errors
/// What the file system says.
#[cfg(unix)]
pub fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a folder if it is missing.
///
/// # Errors
/// What the file system says.
#[cfg(not(unix))]
pub fn make_private(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Opens a file for reading and writing; makes it (0600) if it is missing.
///
/// # Errors
/// What the file system says.
pub fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
