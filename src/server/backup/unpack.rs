//! Reading a backup: nothing in it is believed before its manifest, its hashes and its database have been checked.
//!
//! Each byte of the archive is under a checksum or is compared: what was flipped, cut off or added anywhere is found.

use super::archive::GZIP_START;
use super::error::BackupError;
use super::files::{CHUNK_BYTES, FILES_MAX, SMALL_BYTES_MAX, is_kept};
use crate::protocol::backup::{FORMAT, FileEntry, MANIFEST_FILE, Manifest, ManifestHead};
use crate::secret::hex;
use crate::server::folder::{make_private, private_file};
use crate::store::copy::{Contents, CopyError, Pace, check};
use crate::store::handle::DATABASE_FILE;
use crate::store::migrate::{is_usable, known_version};
use flate2::bufread::GzDecoder;
use ring::digest::{Context, SHA256};
use std::collections::HashSet;
use std::io::{self, BufRead, Read, Write};
use std::path::Path;

/// Unpacks the backup that `from` reads, which is at `path`, into the folder `into` and checks all of it.
///
/// # Errors
/// [`BackupError`]; what is in the folder then is not to be used.
pub fn unpack(mut from: impl BufRead, path: &Path, into: &Path, pace: &mut Pace) -> Result<Manifest, BackupError> {
    let mut start = [0; GZIP_START.len()];
    from.read_exact(&mut start).map_err(|error| cannot_read(path, &error))?;
    if start != GZIP_START {
        return Err(BackupError::NotOurs(path.to_owned()));
    }
    let mut zip = GzDecoder::new(start.as_slice().chain(from));
    let manifest = unpack_tar(&mut zip, path, into, pace)?;
    let rest_is_empty = drain(&mut zip).map_err(|error| cannot_read(path, &error))?;
    let ends_there = zip.get_mut().fill_buf().map_err(|error| cannot_read(path, &error))?.is_empty();
    if !rest_is_empty || !ends_there {
        return Err(BackupError::damaged(path, "there is more in it than there should be"));
    }
    check_database(&manifest, path, into, pace)?;
    Ok(manifest)
}

fn unpack_tar(zip: impl Read, path: &Path, into: &Path, pace: &mut Pace) -> Result<Manifest, BackupError> {
    let mut tar = tar::Archive::new(zip);
    let mut entries = tar.entries().map_err(|error| cannot_read(path, &error))?.raw(true);
    let mut next = || entries.next().transpose().map_err(|error| cannot_read(path, &error));
    let first = next()?.filter(|entry| entry.path_bytes().as_ref() == MANIFEST_FILE.as_bytes());
    let mut first = first.ok_or_else(|| BackupError::NotOurs(path.to_owned()))?;
    let mut text = Vec::new();
    (&mut first).take(SMALL_BYTES_MAX).read_to_end(&mut text).map_err(|error| cannot_read(path, &error))?;
    let manifest = read_manifest(&text, path)?;
    for entry in &manifest.files {
        let missing = || BackupError::damaged(path, format!("{} is missing in it", entry.name));
        let mut packed = next()?.ok_or_else(missing)?;
        let is_it = packed.path_bytes().as_ref() == entry.name.as_bytes()
            && packed.header().entry_type().is_file()
            && packed.size() == entry.bytes;
        if !is_it {
            return Err(missing());
        }
        unpack_file(&mut packed, entry, path, into, pace)?;
    }
    match next()? {
        None => Ok(manifest),
        Some(_) => Err(BackupError::damaged(path, "there is more in it than its manifest says")),
    }
}

/// The manifest, if this build knows what it says.
fn read_manifest(text: &[u8], path: &Path) -> Result<Manifest, BackupError> {
    let wrong = |error: serde_json::Error| BackupError::damaged(path, format!("its manifest: {error}"));
    let head: ManifestHead = serde_json::from_slice(text).map_err(wrong)?;
    if head.format > FORMAT {
        return Err(BackupError::NewerFormat { path: path.to_owned(), found: head.format, by: head.postrider });
    }
    let manifest: Manifest = serde_json::from_slice(text).map_err(wrong)?;
    if !is_usable(manifest.schema, known_version()) {
        let (found, known) = (manifest.schema, known_version());
        return Err(BackupError::NewerSchema { path: path.to_owned(), found, known, by: manifest.postrider });
    }
    let files = &manifest.files;
    let names: HashSet<&str> = files.iter().map(|entry| entry.name.as_str()).collect();
    let is_sound = files.first().is_some_and(|entry| entry.name == DATABASE_FILE)
        && files.len() <= FILES_MAX
        && names.len() == files.len()
        && names.iter().all(|name| is_kept(name))
        && files[1..].iter().all(|entry| entry.bytes <= SMALL_BYTES_MAX);
    match is_sound {
        true => Ok(manifest),
        false => Err(BackupError::damaged(path, "its manifest lists what cannot be in a backup")),
    }
}

fn unpack_file(
    packed: &mut impl Read,
    entry: &FileEntry,
    path: &Path,
    into: &Path,
    pace: &mut Pace,
) -> Result<(), BackupError> {
    let to = into.join(&entry.name);
    let folder = to.parent().unwrap_or(into);
    make_private(folder).map_err(BackupError::io(folder))?;
    let mut file = private_file(&to).map_err(BackupError::io(&to))?;
    let (mut sum, mut bytes, mut chunk) = (Context::new(&SHA256), 0, vec![0; CHUNK_BYTES]);
    loop {
        let count = packed.read(&mut chunk).map_err(|error| cannot_read(path, &error))?;
        if count == 0 {
            break;
        }
        sum.update(&chunk[..count]);
        bytes += count as u64;
        file.write_all(&chunk[..count]).map_err(BackupError::io(&to))?;
        pace.breathe()?;
    }
    if bytes != entry.bytes || hex(sum.finish().as_ref()) != entry.sha256 {
        return Err(BackupError::damaged(path, format!("{} is not what it was", entry.name)));
    }
    Ok(())
}

fn check_database(manifest: &Manifest, path: &Path, into: &Path, pace: &mut Pace) -> Result<(), BackupError> {
    let found = match check(&into.join(DATABASE_FILE), pace) {
        Ok(found) => found,
        Err(CopyError::Stopped) => return Err(BackupError::Stopped),
        Err(error) => return Err(BackupError::damaged(path, format!("{DATABASE_FILE}: {error}"))),
    };
    let said = Contents { schema: manifest.schema, server_id: manifest.server_id, rows: manifest.rows.clone() };
    match found == said {
        true => Ok(()),
        false => Err(BackupError::damaged(path, "its database does not hold what its manifest says")),
    }
}

/// Reads to the end, which checks the sum. Whether there were only zeros: a tar ends with some.
fn drain(zip: &mut impl Read) -> io::Result<bool> {
    let (mut chunk, mut empty) = (vec![0; CHUNK_BYTES], true);
    loop {
        match zip.read(&mut chunk)? {
            0 => return Ok(empty),
            count => empty &= chunk[..count].iter().all(|byte| *byte == 0),
        }
    }
}

/// A backup that cannot be read on. The disk's own errors are told as such.
fn cannot_read(path: &Path, error: &io::Error) -> BackupError {
    match error.raw_os_error() {
        Some(code) => BackupError::Io { path: path.to_owned(), source: io::Error::from_raw_os_error(code) },
        None if error.kind() == io::ErrorKind::UnexpectedEof => BackupError::damaged(path, "it ends too early"),
        None => BackupError::damaged(path, error.to_string()),
    }
}
