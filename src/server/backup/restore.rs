//! Putting a backup in a data folder's place.
//!
//! It is unpacked into a folder beside it, checked, made to last, and exchanged with it in one step; what was there is kept
//! aside. So a kill before that step leaves the data folder as it was, and one after it the restored server. While it is
//! beside, and until all is done, the file `restore-unfinished` in it tells an unfinished restore from a state that was set aside.

use super::crypt::{Key, open};
use super::error::BackupError;
use super::stamp::stamp;
use super::swap::{swap, sync_parent};
use super::take_over::take_over;
use super::unpack::unpack;
use super::work::{WORK_FOLDER, Work, give};
use crate::clock::Clock;
use crate::crash;
use crate::protocol::backup::{Manifest, RestoreReport};
use crate::server::folder::{Folder, OWNER_TOKEN_FILE, make_private, write_private};
use crate::store::copy::Pace;
use crate::store::handle::DATABASE_FILE;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// In a folder with a restore that is not finished.
const MARK_FILE: &str = "restore-unfinished";

/// What is to be restored.
#[derive(Clone, Debug)]
pub struct RestoreOrder {
    /// The backup.
    pub file: PathBuf,
    /// The file with the age identity that it was encrypted for; none: it is not encrypted.
    pub identity: Option<PathBuf>,
    /// The data folder; it may be missing.
    pub data: PathBuf,
}

/// Restores a backup. Blocks.
///
/// # Errors
/// [`BackupError`]; the data folder is as it was then.
pub fn restore(order: &RestoreOrder, clock: &Clock) -> Result<RestoreReport, BackupError> {
    let file = &order.file;
    let reader = open(file, &order.identity.as_deref().map_or(Key::None, Key::File))?;
    let data = resolve(&order.data)?;
    let there = There::take(&data)?;
    let aside = free_name(&data, &stamp(clock.now_ms()));
    let new = New::make(&data, &aside)?;
    let mut pace = Pace::until(CancellationToken::new());
    let manifest = unpack(reader, file, &new.path, &mut pace)?;
    crash::point("restore.unpacked");
    let taken_over = take_over(&data, &new.path, &manifest)?;
    make_last(&new.path, &manifest, &taken_over, there.is_there.then_some(data.as_path()))?;
    crash::point("restore.ready");
    let kept_aside = swap(&new.path, &data, &aside).map_err(|source| BackupError::Swap {
        new: new.path.clone(),
        data: data.clone(),
        source,
    })?;
    crash::point("restore.swapped");
    let mark = data.join(MARK_FILE);
    fs::remove_file(&mark).and_then(|()| sync_parent(&mark)).map_err(BackupError::io(&mark))?;
    new.finished();
    let kept_aside = kept_aside.filter(|kept| {
        // A folder that a start or systemd had just made is nothing to keep.
        there.has_server || fs::remove_dir_all(kept).is_err()
    });
    Ok(RestoreReport {
        file: file.display().to_string(),
        data: data.display().to_string(),
        kept_aside: kept_aside.map(|kept| kept.display().to_string()),
        owner_token: taken_over.iter().any(|name| name == OWNER_TOKEN_FILE),
        authorities: taken_over.iter().filter(|name| *name != OWNER_TOKEN_FILE).count(),
        manifest,
    })
}

/// At a start of the server: why there may be no server here, though a restore was begun.
///
/// # Errors
/// [`BackupError::Unfinished`].
pub fn check_start(data: &Path) -> Result<(), BackupError> {
    let Ok(data) = resolve(data) else { return Ok(()) };
    let beside = beside(&data);
    if data.join(DATABASE_FILE).exists() || !beside.join(MARK_FILE).exists() {
        return Ok(());
    }
    Err(BackupError::Unfinished { data, beside })
}

/// At a start of the server, in its folder: ends a restore that was killed after its last but one step.
pub fn finish(data: &Path) {
    if fs::remove_file(data.join(MARK_FILE)).is_ok() {
        let beside = resolve(data).map(|data| beside(&data)).unwrap_or_default();
        tracing::info!("a restore was cut short when all was in place; the state before it is in {}", beside.display());
    }
}

/// The folder itself, where it is a link: systemd makes such. Its parent is there then.
fn resolve(data: &Path) -> Result<PathBuf, BackupError> {
    let failed = BackupError::io(data);
    if let Ok(found) = fs::canonicalize(data) {
        return Ok(found);
    }
    let data = std::path::absolute(data).map_err(&failed)?;
    let (Some(parent), Some(name)) = (data.parent(), data.file_name()) else {
        return Err(BackupError::NotAFolder(data));
    };
    make_private(parent).map_err(&failed)?;
    Ok(fs::canonicalize(parent).map_err(&failed)?.join(name))
}

/// Where a restore is made ready.
fn beside(data: &Path) -> PathBuf {
    suffixed(data, ".restoring")
}

fn suffixed(data: &Path, suffix: &str) -> PathBuf {
    let mut name = data.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    data.with_file_name(name)
}

/// A name for the state before the restore.
fn free_name(data: &Path, stamp: &str) -> PathBuf {
    let first = suffixed(data, &format!(".before-restore-{stamp}"));
    let others = (2..).map(|number| suffixed(data, &format!(".before-restore-{stamp}-{number}")));
    std::iter::once(first.clone()).chain(others).find(|name| !name.exists()).unwrap_or(first)
}

/// What is in the place now, with its locks: no server and no backup uses it.
struct There {
    is_there: bool,
    has_server: bool,
    _locks: Option<(Folder, Option<Work>)>,
}

impl There {
    fn take(data: &Path) -> Result<Self, BackupError> {
        if !data.exists() {
            return Ok(Self { is_there: false, has_server: false, _locks: None });
        }
        let has_server = data.join(DATABASE_FILE).exists();
        // Somebody's home would be moved away.
        let entries = fs::read_dir(data).map_err(|_| BackupError::NotAFolder(data.to_owned()))?;
        if !has_server && entries.flatten().any(|entry| entry.file_name() != "lock") {
            return Err(BackupError::NotOurFolder(data.to_owned()));
        }
        let folder = Folder::open(data)?;
        finish(data);
        let work = data.join(WORK_FOLDER).exists().then(|| Work::take(data)).transpose()?;
        Ok(Self { is_there: true, has_server, _locks: Some((folder, work)) })
    }
}

/// The folder beside, locked as a server would; gone when dropped, unless it is in place.
struct New {
    path: PathBuf,
    is_unfinished: bool,
    lock: Folder,
}

impl New {
    fn make(data: &Path, aside: &Path) -> Result<Self, BackupError> {
        let path = beside(data);
        let is_ours = path.join(MARK_FILE).exists() || !path.join(DATABASE_FILE).exists();
        if path.exists() && !is_ours {
            // A restore was killed between its last steps: this is the state before it.
            let aside = suffixed(aside, "-earlier");
            fs::rename(&path, &aside).map_err(BackupError::io(&aside))?;
        }
        let lock = Folder::open(&path)?;
        super::work::clear(&path, "lock").map_err(BackupError::io(&path))?;
        write_private(&path, MARK_FILE, "")?;
        Ok(Self { path, is_unfinished: true, lock })
    }

    fn finished(mut self) {
        self.is_unfinished = false;
    }
}

impl Drop for New {
    fn drop(&mut self) {
        // What lies there after the exchange is not ours.
        if self.is_unfinished && self.path.join(MARK_FILE).exists() {
            let _ = fs::remove_dir_all(&self.path);
        }
        tracing::debug!("{} is free", self.lock.path().display());
    }
}

/// Gives everything to whom the folder before belonged, and has it on the disk.
fn make_last(new: &Path, manifest: &Manifest, taken_over: &[String], like: Option<&Path>) -> Result<(), BackupError> {
    let names = manifest.files.iter().map(|entry| entry.name.as_str());
    let names = names.chain(taken_over.iter().map(String::as_str)).chain(["lock", MARK_FILE]);
    let mut paths: Vec<PathBuf> = Vec::new();
    for name in names {
        let path = new.join(name);
        // The file, then the folders that it lies in.
        paths.extend(path.ancestors().take_while(|path| path.starts_with(new)).map(Path::to_owned));
    }
    paths.sort();
    paths.dedup();
    let last = |path: &Path| -> io::Result<()> {
        if let Some(like) = like {
            give(path, like)?;
        }
        File::open(path)?.sync_all()
    };
    paths.iter().rev().try_for_each(|path| last(path).map_err(BackupError::io(path)))
}
