//! History over its limits: the oldest commands go, with everything that belongs to them.

use super::disk::database_bytes;
use super::error::StoreError;
use super::op::Apply;

/// How long history is kept, in milliseconds (90 days).
pub const HISTORY_MS_MAX: i64 = 90 * 86_400_000;
/// How much history is kept, in bytes of database.
pub const HISTORY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Commands deleted in one operation, so that a large clean-up does not hold up others.
pub const RETAIN_MAX: u32 = 100;

/// Deletes commands that are over the limits and have ended.
#[derive(Clone, Debug)]
pub struct Retain {
    /// [`HISTORY_MS_MAX`].
    pub history_ms_max: i64,
    /// [`HISTORY_BYTES_MAX`].
    pub history_bytes_max: u64,
}

impl Retain {
    /// Deletes up to [`RETAIN_MAX`] commands; answers how many. Commands with a delivery that has not ended stay.
    ///
    /// # Errors
    /// SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<u64, StoreError> {
        const SQL: &str = "DELETE FROM commands WHERE seq IN (SELECT c.seq FROM commands c WHERE c.created_ms < ?1 \
             AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.command_seq = c.seq \
                AND d.finished_ms IS NULL) \
             ORDER BY c.created_ms LIMIT ?2)"; // commands_created
        let over = database_bytes(apply.conn)? > self.history_bytes_max;
        let before_ms = if over { i64::MAX } else { apply.now_ms - self.history_ms_max };
        let deleted = apply.conn.prepare_cached(SQL)?.execute((before_ms, RETAIN_MAX))?;
        Ok(deleted as u64)
    }
}
