//! Surviving a full disk.
//!
//! Two lines of defence. A soft quota (database size, free space of the disk) refuses submissions while acks,
//! outcomes and deletes go on. A ballast file beside the database is given up when the disk itself is full: SQLite
//! can then not even delete, because that needs space first. The ballast is made again when there is room.

use super::handle::Watch;
use crate::ballast::{Ballast, free_bytes};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Size of the ballast, in bytes: room for a checkpoint of the WAL (4 MiB and the largest transaction), which comes
/// before everything else, and for some thousand acks and outcomes.
pub const BALLAST_BYTES: u64 = 16 * 1024 * 1024;
/// Submissions are refused when the disk has less free than this, in bytes.
pub const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Database size beyond which submissions are refused, in bytes. History is cut at a quarter of it.
pub const QUOTA_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// How often size and free space are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What submitters are told then.
const FULL: &str = "the server's disk is full; make room";

/// Limits of the disk's use.
#[derive(Clone, Copy, Debug)]
pub struct DiskLimits {
    /// [`QUOTA_BYTES`].
    pub quota_bytes: u64,
    /// [`FREE_BYTES_MIN`].
    pub free_bytes_min: u64,
    /// [`BALLAST_BYTES`].
    pub ballast_bytes: u64,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self { quota_bytes: QUOTA_BYTES, free_bytes_min: FREE_BYTES_MIN, ballast_bytes: BALLAST_BYTES }
    }
}

/// Quota and ballast of one data folder.
pub struct Disk {
    folder: PathBuf,
    ballast: Ballast,
    limits: DiskLimits,
    looked: Option<Instant>,
    refusal: Option<String>,
    /// The disk was full, and there has not been room for the ballast since.
    full: bool,
}

impl Disk {
    /// For the database in `folder`, before it is opened. Makes the ballast if there is room, and gives it up if there is
    /// none to start.
    pub fn new(folder: &Path, limits: DiskLimits) -> Self {
        let mut ballast = Ballast::new(folder, limits.ballast_bytes);
        let full = ballast.make_room_to_start();
        if !full {
            ballast.make(limits.free_bytes_min);
        }
        Self { folder: folder.to_owned(), ballast, limits, looked: None, refusal: None, full }
    }

    /// Why submissions are refused at present, if they are.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Looks at size and free space, at most once a second.
    pub fn look(&mut self, conn: &Connection, watch: &Watch) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let size = database_bytes(conn).unwrap_or(0);
        let free = free_bytes(&self.folder);
        let refusal = if size > self.limits.quota_bytes {
            Some(format!(
                "the database holds {size} bytes, its quota is {}; it goes down as history is removed",
                self.limits.quota_bytes
            ))
        } else if free.is_some_and(|free| free < self.limits.free_bytes_min) {
            Some(format!(
                "the server's disk has {} bytes free, {} are needed; make room",
                free.unwrap_or(0),
                self.limits.free_bytes_min
            ))
        } else {
            let made = self.ballast.make(self.limits.free_bytes_min);
            self.full &= !made;
            self.full.then(|| FULL.to_owned())
        };
        self.set_refusal(refusal, watch);
    }

    /// The disk is full: removes the ballast. False: it was gone already.
    pub fn give_up_ballast(&mut self, watch: &Watch) -> bool {
        let given = self.ballast.give_up();
        self.full = true;
        self.set_refusal(Some(FULL.to_owned()), watch);
        given
    }

    fn set_refusal(&mut self, refusal: Option<String>, watch: &Watch) {
        if refusal.is_some() != self.refusal.is_some() {
            match &refusal {
                Some(why) => tracing::error!("submissions are refused: {why}"),
                None => tracing::info!("submissions are taken again"),
            }
        }
        self.refusal.clone_from(&refusal);
        watch.set_refusal(refusal);
    }
}

/// Bytes that the database uses: its pages without the free ones.
///
/// # Errors
/// SQLite's.
pub fn database_bytes(conn: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let used = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
    Ok(u64::try_from(used.saturating_mul(pragma("page_size")?)).unwrap_or(0))
}
