//! A file that only takes room, to be given up when the disk is full: SQLite needs room even to delete.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a start needs, in bytes: SQLite's shared memory, a first transaction, small files.
const START_BYTES: u64 = 1024 * 1024;
/// After a write that failed though there seemed to be room (a quota): each try writes all that fits, in front of others.
const RETRY_WAIT: Duration = Duration::from_secs(60);

/// The file. It may be there or not.
#[derive(Debug)]
pub struct Ballast {
    folder: PathBuf,
    file: PathBuf,
    bytes: u64,
    /// Its last write failed: not again before this.
    retry_at: Option<Instant>,
}

impl Ballast {
    /// Of this size, in this folder. Does not make it.
    pub fn new(folder: &Path, bytes: u64) -> Self {
        Self { folder: folder.to_owned(), file: folder.join("ballast"), bytes, retry_at: None }
    }

    /// Makes it where it is missing and leaves its own size and `spare_bytes` free beside it. False: it is not there.
    pub fn make(&mut self, spare_bytes: u64) -> bool {
        let needed = spare_bytes.saturating_add(2 * self.bytes);
        let enough = free_bytes(&self.folder).is_none_or(|free| free > needed);
        let there = fs::metadata(&self.file).is_ok_and(|file| file.len() >= self.bytes);
        if there || !enough || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return there;
        }
        if let Err(error) = self.write() {
            let _ = fs::remove_file(&self.file);
            if self.retry_at.is_none() {
                tracing::warn!(%error, "the ballast file cannot be made, though its disk seems to have room");
            }
            self.retry_at = Some(Instant::now() + RETRY_WAIT);
            return false;
        }
        self.retry_at = None;
        true
    }

    /// Real bytes: a sparse file holds nothing.
    fn write(&self) -> io::Result<()> {
        let mut file = File::create(&self.file)?;
        let block = vec![0xB5_u8; 64 * 1024];
        let mut left = self.bytes;
        while left > 0 {
            let bytes = usize::try_from(left).unwrap_or(block.len()).min(block.len());
            file.write_all(&block[..bytes])?;
            left -= bytes as u64;
        }
        file.sync_all()
    }

    /// At a start, before anything is opened: gives its room away where there is less than `START_BYTES` free. True: it
    /// did.
    pub fn make_room_to_start(&self) -> bool {
        free_bytes(&self.folder).is_some_and(|free| free < START_BYTES) && self.give_up()
    }

    /// Gives its room away. False: it was gone already.
    pub fn give_up(&self) -> bool {
        let given = fs::remove_file(&self.file).is_ok();
        if given {
            tracing::error!(
                "the disk is full: the ballast file was given up so that outcomes can still be written; make room"
            );
        }
        given
    }
}

/// What this folder's disk has left for us, in bytes; none: not known.
#[cfg(unix)]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// What this folder's disk has left for us, in bytes; none: not known.
#[cfg(not(unix))]
pub fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_failed_is_not_tried_again_at_once() {
        let place = tempfile::TempDir::new().unwrap();
        let folder = place.path().join("data");
        let mut ballast = Ballast::new(&folder, 1);
        assert!(!ballast.make(0), "there is no such folder");
        fs::create_dir(&folder).unwrap();
        assert!(!ballast.make(0), "too soon");
        ballast.retry_at = Some(Instant::now());
        assert!(ballast.make(0));
        assert!(ballast.give_up());
        assert!(ballast.make(0), "the last write did not fail");
    }
}
