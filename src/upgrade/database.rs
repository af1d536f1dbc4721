//! The copy of the database for a migration that breaks.
//!
//! It is made when the old server has stopped, and only where the new one will migrate. It takes the database's place again
//! only if the old server cannot use what the new one left, and the new one has taken nothing: what was accepted is never
//! given up for a release.

use super::error::UpgradeError;
use super::releases::{Releases, remove, sync};
use crate::server::backup::error::BackupError;
use crate::store::copy::{CopyError, Pace, check, copy, rows};
use crate::store::handle::DATABASE_FILE;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// The copy, in the folder of releases.
const COPY: &str = "before-migration.db";
/// What grows with everything that a server accepts.
const GROWING: [&str; 2] = ["commands", "audit"];

/// Copies the database of a server that has stopped.
///
/// # Errors
/// [`UpgradeError::Backup`].
pub fn set_aside(data: &Path, releases: &Releases) -> Result<PathBuf, UpgradeError> {
    let (database, to) = (data.join(DATABASE_FILE), releases.file(COPY));
    drop_copy(&to)?;
    copy(&database, &to, &mut pace()).map_err(|source| unusable(&database, source))?;
    File::open(&to).and_then(|copy| copy.sync_all()).map_err(UpgradeError::io(&to))?;
    Ok(to)
}

/// Puts the copy back, if nothing was accepted since. The server does not run.
///
/// # Errors
/// Why it was not put back; the database is then as it was.
pub fn put_back(data: &Path, copied: &Path) -> Result<(), String> {
    let database = data.join(DATABASE_FILE);
    let before = check(copied, &mut pace()).map_err(|error| format!("the copy of before: {error}"))?.rows;
    // A file that cannot even be read has no rows that could be lost, but it might have had: the copy stays beside it.
    let now = rows(&database, &mut pace()).map_err(|error| format!("what the new release left: {error}"))?;
    if GROWING.iter().any(|table| now.get(*table) != before.get(*table)) {
        return Err("the new release has accepted something since, which would be lost".to_owned());
    }
    let fresh = data.join("upgrade.db");
    let failed = |error: std::io::Error| format!("the copy of before cannot be put back: {error}");
    remove(&fresh).map_err(failed)?;
    let put = fs::copy(copied, &fresh).and_then(|_| {
        own_like(&fresh, &database)?;
        File::open(&fresh)?.sync_all()?;
        // What the log holds is of the file that goes.
        for ending in ["-wal", "-shm"] {
            remove(&data.join(format!("{DATABASE_FILE}{ending}")))?;
        }
        fs::rename(&fresh, &database)?;
        sync(data)
    });
    put.map_err(failed)
}

/// Removes a copy that is not needed any more.
///
/// # Errors
/// [`UpgradeError::Io`].
pub fn drop_copy(copied: &Path) -> Result<(), UpgradeError> {
    remove(copied).map_err(UpgradeError::io(copied))
}

fn pace() -> Pace {
    Pace::until(CancellationToken::new())
}

fn unusable(path: &Path, source: CopyError) -> UpgradeError {
    BackupError::Source { path: path.to_owned(), source }.into()
}

/// Root may do this for a server that runs as another user.
#[cfg(unix)]
fn own_like(file: &Path, model: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let model = fs::metadata(model)?;
    std::os::unix::fs::chown(file, Some(model.uid()), Some(model.gid()))
}

#[cfg(not(unix))]
fn own_like(_: &Path, _: &Path) -> std::io::Result<()> {
    Ok(())
}
