//! Making a backup: a copy of the database, the keys, one file, read back before it gets its name.

use super::archive;
use super::crypt::{Checker, Key, Recipients, open};
use super::error::BackupError;
use super::files::{beside_the_database, entry};
use super::unpack::unpack;
use super::work::Work;
use crate::ballast::free_bytes;
use crate::clock::Clock;
use crate::crash;
use crate::protocol::backup::{BackupReport, FORMAT, Manifest};
use crate::server::folder::{make_private, private_file};
use crate::store::copy::{CopyError, Pace, copy};
use crate::store::disk::FREE_BYTES_MIN;
use crate::store::handle::DATABASE_FILE;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct BackupOrder {
    /// The server's data folder. The server may run.
    pub data: PathBuf,
    /// The backup.
    pub file: PathBuf,
    /// Replace a file that is there.
    pub force: bool,
    /// For whom it is encrypted, if at all.
    pub recipients: Recipients,
}

/// Makes a backup. Blocks, for as long as it takes to read the database a few times.
///
/// # Errors
/// [`BackupError`]; no file of that name has been made or changed then.
pub fn make(order: &BackupOrder, clock: &Clock, stop: &CancellationToken) -> Result<BackupReport, BackupError> {
    prepare(order, clock, stop)?.name()
}

/// Makes a backup that has been read back, and has not got its name yet.
///
/// # Errors
/// The same.
pub fn prepare(order: &BackupOrder, clock: &Clock, stop: &CancellationToken) -> Result<Ready, BackupError> {
    let (data, mut pace) = (order.data.as_path(), Pace::until(stop.clone()));
    let database = data.join(DATABASE_FILE);
    if !database.exists() {
        return Err(BackupError::NoServer(data.to_owned()));
    }
    let folder = check_target(&order.file, order.force)?;
    let work = Work::take(data)?;
    check_room(data, &database)?;
    let made_ms = clock.now_ms();
    let copied = work.file(DATABASE_FILE);
    let contents = copy(&database, &copied, &mut pace).map_err(|source| match source {
        CopyError::Stopped => BackupError::Stopped,
        source => BackupError::Source { path: database, source },
    })?;
    crash::point("backup.copied");
    // Keys after the database: it must not know of one that is not there.
    let place = |name: &str| if name == DATABASE_FILE { copied.clone() } else { data.join(name) };
    let mut files = vec![entry(DATABASE_FILE, &copied, &mut pace)?];
    for name in beside_the_database(data)? {
        files.push(entry(&name, &place(&name), &mut pace)?);
    }
    let manifest = Manifest {
        format: FORMAT,
        postrider: env!("CARGO_PKG_VERSION").to_owned(),
        schema: contents.schema,
        server_id: contents.server_id,
        made_ms,
        rows: contents.rows,
        files,
    };
    let part = Part::make(&order.file)?;
    let (file, path, encrypted) = (BufWriter::new(part.open()?), &part.path, !order.recipients.is_empty());
    let failed = BackupError::io(path);
    let checker = Checker::new();
    let mut written = if encrypted {
        let sealed = order.recipients.encrypt(&checker, file).map_err(&failed)?;
        archive::write(sealed, path, &manifest, place, &mut pace)?.finish().map_err(&failed)?
    } else {
        archive::write(file, path, &manifest, place, &mut pace)?
    };
    written.flush().and_then(|()| written.get_ref().sync_all()).map_err(&failed)?;
    crash::point("backup.written");
    // Before it is unpacked again: there need not be room for both.
    fs::remove_file(&copied).map_err(BackupError::io(&copied))?;
    let key = if encrypted { Key::Checker(&checker) } else { Key::None };
    read_back(path, &key, &manifest, &work, &mut pace)?;
    let bytes = fs::metadata(path).map_err(&failed)?.len();
    drop(failed);
    let report = BackupReport { file: order.file.display().to_string(), bytes, encrypted, manifest };
    Ok(Ready { part, folder, order: order.clone(), report })
}

/// A backup without its name; gone when dropped.
pub struct Ready {
    part: Part,
    folder: PathBuf,
    order: BackupOrder,
    report: BackupReport,
}

impl Ready {
    /// Gives it its name, for good.
    ///
    /// # Errors
    /// [`BackupError::Exists`]: somebody made one meanwhile. [`BackupError::Io`].
    pub fn name(self) -> Result<BackupReport, BackupError> {
        let file = &self.order.file;
        check_target(file, self.order.force)?;
        let named = fs::rename(&self.part.path, file).and_then(|()| File::open(&self.folder)?.sync_all());
        named.map_err(BackupError::io(file))?;
        Ok(self.report)
    }
}

/// What was written, from the disk.
fn read_back(path: &Path, key: &Key<'_>, manifest: &Manifest, work: &Work, pace: &mut Pace) -> Result<(), BackupError> {
    let into = work.file("read-back");
    make_private(&into).map_err(BackupError::io(&into))?;
    match open(path, key).and_then(|file| unpack(file, path, &into, pace)) {
        Ok(read) if read == *manifest => Ok(()),
        Ok(_) => Err(BackupError::NotReadBack(Box::new(BackupError::damaged(path, "its manifest is another one")))),
        Err(BackupError::Stopped) => Err(BackupError::Stopped),
        Err(error) => Err(BackupError::NotReadBack(Box::new(error))),
    }
}

/// Whether the file may be made; answers its folder.
fn check_target(file: &Path, force: bool) -> Result<PathBuf, BackupError> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    if !folder.is_dir() {
        return Err(BackupError::NoFolder(folder));
    }
    match fs::metadata(file) {
        Ok(found) if !found.is_file() => Err(BackupError::NotAFile(file.to_owned())),
        Ok(_) if !force => Err(BackupError::Exists(file.to_owned())),
        _ if file.file_name().is_none() => Err(BackupError::NotAFile(file.to_owned())),
        _ => Ok(folder),
    }
}

/// A backup must not be what fills the server's disk.
fn check_room(data: &Path, database: &Path) -> Result<(), BackupError> {
    let needed = fs::metadata(database).map_err(BackupError::io(database))?.len() + FREE_BYTES_MIN;
    match free_bytes(data) {
        Some(free) if free < needed => Err(BackupError::NoRoom { path: data.to_owned(), needed, free }),
        _ => Ok(()),
    }
}

/// A backup that has not got its name yet; gone when dropped.
struct Part {
    path: PathBuf,
}

impl Part {
    /// Of a file, beside it. What a killed one left is removed.
    fn make(file: &Path) -> Result<Self, BackupError> {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let path = file.with_file_name(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(BackupError::Io { path, source: error }),
            _ => Ok(Self { path }),
        }
    }

    fn open(&self) -> Result<File, BackupError> {
        private_file(&self.path).map_err(BackupError::io(&self.path))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
