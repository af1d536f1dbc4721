//! What can go wrong with a backup, and what to do about it.

use crate::protocol::backup::FORMAT;
use crate::server::folder::FolderError;
use crate::store::copy::{CopyError, Stopped};
use std::io;
use std::path::{Path, PathBuf};

/// Why there is no backup, or no restored server.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// There is no server in the data folder.
    #[error("{} has no server's database: has a server been started there? --data names the data folder", .0.display())]
    NoServer(PathBuf),
    /// Another backup of the same server is being made.
    #[error("another backup of {} is being made: try again when it is done", .0.display())]
    Busy(PathBuf),
    /// The file is there.
    #[error("{} exists already: choose another name, or say --force to replace it", .0.display())]
    Exists(PathBuf),
    /// The folder that the file is to lie in is not there.
    #[error("{} is no folder: make it first, or choose another one", .0.display())]
    NoFolder(PathBuf),
    /// What is to be a file is something else.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    /// A file or folder cannot be read or written.
    #[error("{}: {source}; {}", .path.display(), cure(.source))]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It would be the backup that fills the server's disk.
    #[error(
        "a backup needs {needed} bytes on the disk of {} for a copy of the database while it is made, {free} are free: make room",
        .path.display()
    )]
    NoRoom {
        /// The data folder.
        path: PathBuf,
        /// What is needed.
        needed: u64,
        /// What there is.
        free: u64,
    },
    /// The database cannot be copied.
    #[error("the database {} cannot be backed up: {source}", .path.display())]
    Source {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: CopyError,
    },
    /// What was written is not what was to be written.
    #[error("the backup was written and does not read back ({0}): it was removed; look at the disk, and try again")]
    NotReadBack(Box<BackupError>),
    /// No recipient.
    #[error("{0:?} is no recipient: give an age1… that `age-keygen` prints")]
    Recipient(String),
    /// The file of identities cannot be used.
    #[error("{}: {why}; give the file that `age-keygen` wrote, with AGE-SECRET-KEY-1…", .path.display())]
    Identity {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// There is no key to it.
    #[error("the backup {} is encrypted: give the file with the age identity, --identity FILE", .0.display())]
    Encrypted(PathBuf),
    /// A key was given, and anybody could have written it.
    #[error("the backup {} is not encrypted, so it is not one that was made for this identity; if it is the right one, leave out --identity", .0.display())]
    NotEncrypted(PathBuf),
    /// It was made for somebody else.
    #[error("the backup {} was encrypted for another identity: give the one whose recipient it was made for", .0.display())]
    WrongIdentity(PathBuf),
    /// It is no backup of ours at all.
    #[error("{} is not a backup that postrider made", .0.display())]
    NotOurs(PathBuf),
    /// It was changed since it was made, or is not all there.
    #[error("the backup {} is damaged ({why}): take another one", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A later build made it, in a way that this one does not know.
    #[error(
        "the backup {} has format {found} and was made by postrider {by}, this build knows formats up to {FORMAT}: use that build",
        .path.display()
    )]
    NewerFormat {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The build that made it.
        by: String,
    },
    /// A later build made it.
    #[error(
        "the backup {} has schema version {found} and was made by postrider {by}, this build knows up to {known}: use that build",
        .path.display()
    )]
    NewerSchema {
        /// Which.
        path: PathBuf,
        /// Its database's schema.
        found: usize,
        /// Ours.
        known: usize,
        /// The build that made it.
        by: String,
    },
    /// The data folder is something else.
    #[error("{} is not a folder that can be a data folder; choose another with --data", .0.display())]
    NotAFolder(PathBuf),
    /// It is a folder of other things, which would be moved away.
    #[error(
        "{} has no server's database and is not empty: a restore would move it away; choose a new or empty folder with --data",
        .0.display()
    )]
    NotOurFolder(PathBuf),
    /// There is no server, because a restore was killed.
    #[error(
        "{} has no server's database, and a restore of it was not finished: run `postrider restore` again, or remove {}",
        .data.display(),
        .beside.display()
    )]
    Unfinished {
        /// The data folder.
        data: PathBuf,
        /// The unfinished restore.
        beside: PathBuf,
    },
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopped,
    /// The data folder cannot be exchanged.
    #[error("{} cannot be put in the place of {}: {source}; nothing was changed. {}", .new.display(), .data.display(), mount_cure(.source))]
    Swap {
        /// What was to take its place.
        new: PathBuf,
        /// The data folder.
        data: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl From<Stopped> for BackupError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl BackupError {
    /// For `map_err`: a file or folder that cannot be read or written.
    pub fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Not what was to be there.
    pub fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.into() }
    }
}

fn cure(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there, or choose another disk",
        io::ErrorKind::FileTooLarge => "the file system or a limit of this process takes no larger file",
        io::ErrorKind::PermissionDenied => "run this as the user that the server runs as, or as root",
        io::ErrorKind::NotFound => "is the path right?",
        _ => "look at the disk and at the rights there",
    }
}

fn mount_cure(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices => {
            "A file system that is mounted there cannot be exchanged: let the data folder be a folder in it"
        }
        _ => "The folder that both lie in must be writable",
    }
}
