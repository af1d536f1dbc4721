//! The archive: a gzipped tar with the manifest first, then the files in the manifest's order.

use super::error::BackupError;
use super::files::CHUNK_BYTES;
use crate::protocol::backup::{MANIFEST_FILE, Manifest};
use crate::store::copy::Pace;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// How hard it is compressed: a database shrinks to a third with the least work, and hardly further with more.
const LEVEL: Compression = Compression::new(3);
/// How a gzip begins that [`write()`] made: deflate, no name, no time, no system. Its checksum does not cover these bytes.
pub const GZIP_START: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Writes an archive to `out`, which is at `path`. The file of each entry is `place(name)`; it must not change meanwhile.
///
/// # Errors
/// [`BackupError::Io`], [`BackupError::Stopped`].
pub fn write<W: Write>(
    out: W,
    path: &Path,
    manifest: &Manifest,
    place: impl Fn(&str) -> PathBuf,
    pace: &mut Pace,
) -> Result<W, BackupError> {
    let failed = BackupError::io(path);
    let zip = GzBuilder::new().operating_system(255).write(out, LEVEL);
    let mut tar = tar::Builder::new(zip);
    let seconds = u64::try_from(manifest.made_ms / 1000).unwrap_or(0);
    let text = serde_json::to_vec_pretty(manifest).map_err(io::Error::other).map_err(&failed)?;
    append(&mut tar, MANIFEST_FILE, text.len() as u64, seconds, &mut text.as_slice()).map_err(&failed)?;
    for entry in &manifest.files {
        let from = place(&entry.name);
        let mut file = Paced { file: File::open(&from).map_err(BackupError::io(&from))?, pace, stopped: false };
        let written = append(&mut tar, &entry.name, entry.bytes, seconds, &mut file);
        if file.stopped {
            return Err(BackupError::Stopped);
        }
        written.map_err(&failed)?;
    }
    let zip = tar.into_inner().map_err(&failed)?;
    zip.finish().map_err(failed)
}

fn append<W: Write>(
    tar: &mut tar::Builder<GzEncoder<W>>,
    name: &str,
    bytes: u64,
    seconds: u64,
    from: &mut dyn Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(seconds);
    tar.append_data(&mut header, name, from.take(bytes))
}

/// A file that is read at a pace.
struct Paced<'a> {
    file: File,
    pace: &'a mut Pace,
    stopped: bool,
}

impl Read for Paced<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.pace.breathe().is_err() {
            self.stopped = true;
            return Err(io::Error::other("stopped"));
        }
        let count = buffer.len().min(CHUNK_BYTES);
        self.file.read(&mut buffer[..count])
    }
}
