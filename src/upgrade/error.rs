//! Why an upgrade did not come about.

use crate::cli::error::CliError;
use crate::release::{Platform, ReleaseError};
use crate::server::backup::error::BackupError;
use std::io;
use std::path::{Path, PathBuf};

/// Why an upgrade did not come about. What is not said to have been undone was not begun.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Somebody else is at it.
    #[error("another upgrade is under way here ({0}); wait for its end")]
    Busy(String),
    /// Nothing says who signs releases.
    #[error(
        "no key is configured to know releases by: `minisign -G` makes one, and release_key in {0} names its public half"
    )]
    NoKey(PathBuf),
    /// Not signed, or not an executable.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// For another kind of machine.
    #[error("{path} is for {found}, this host is {here}: take the build for this host")]
    Platform {
        /// The executable.
        path: PathBuf,
        /// What it runs on.
        found: Platform,
        /// What this host is.
        here: String,
    },
    /// It does not even say its version.
    #[error("{path} does not run here: {why}; is it built for this system's libraries? The static build runs anywhere")]
    DoesNotRun {
        /// The executable.
        path: PathBuf,
        /// What happened.
        why: String,
    },
    /// It is in place already.
    #[error("{0} is what runs already; nothing was changed")]
    Already(String),
    /// The new release would not start on these settings and data.
    #[error("the new release would not start here, nothing was changed:\n{0}")]
    Rehearsal(String),
    /// There is nothing to go back to.
    #[error("there is no earlier release in {0} to go back to")]
    NoPrevious(PathBuf),
    /// The owner's token is needed for the check command.
    #[error("the upgrade ends with a command through the server, for which it needs an owner's token: {0}")]
    Token(CliError),
    /// The server did not do its part before the upgrade.
    #[error("the server that runs did not pass the check that the new one will have to pass: {0}; cure that first")]
    Before(String),
    /// The backup failed.
    #[error("the backup before the upgrade failed, nothing was changed: {0}")]
    Backup(#[from] BackupError),
    /// The old one is back.
    #[error("the upgrade to {to} failed and was taken back, {from} runs again: {why}")]
    RolledBack {
        /// What failed.
        to: String,
        /// What runs.
        from: String,
        /// What happened.
        why: String,
    },
    /// Neither runs.
    #[error(
        "the upgrade to {to} failed: {why}\nand going back to {from} failed, too: {back}\nThe backup of before is {backup}"
    )]
    Stuck {
        /// What failed.
        to: String,
        /// What should run again.
        from: String,
        /// What happened.
        why: String,
        /// What happened then.
        back: String,
        /// Where the data of before is.
        backup: String,
    },
    /// The file system says no.
    #[error("{path}: {source}{}", cure(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// Something stands where a link of ours belongs.
    #[error("{0} is not a link that an upgrade made: move it away, then try again")]
    InTheWay(PathBuf),
    /// The server cannot be stopped or started.
    #[error("{0}")]
    Service(String),
}

impl UpgradeError {
    /// Says which file.
    pub fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path: path.clone(), source }
    }
}

fn cure(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; run it as root",
        io::ErrorKind::StorageFull => "; make room, then try again",
        _ => "",
    }
}
