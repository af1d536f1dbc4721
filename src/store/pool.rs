//! Connections: how each is opened, and the pool of read-only ones.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a statement waits for a lock that another process holds (an operator's shell).
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Read connections. Reads are short; more would only wait for the two or four cores.
pub const READERS: u32 = 4;
/// Prepared statements kept by each connection: more than there are statements.
const STATEMENTS: usize = 128;

/// Makes the file where it is missing, for its owner only: specifications may hold secrets. SQLite gives the files
/// beside it the same rights.
///
/// # Errors
/// The file system's.
pub fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Opens the write connection. The file stays as it is: it may not be ours.
///
/// # Errors
/// SQLite's.
pub fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    // FULL: a commit is on the disk before it is answered (https://sqlite.org/pragma.html#pragma_synchronous).
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    // What is deleted is overwritten: secrets are deleted once they are delivered.
    conn.pragma_update(None, "secure_delete", true)?;
    // A WAL that grew under load gives its space back.
    conn.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    conn.pragma_update(None, "cache_size", -16_000)?;
    keep_plans(&conn)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}

/// Plans do not depend on the values that are bound. Without this a statement is compiled anew for each value, because
/// SQLite is built with STAT4: 13 % of the server's CPU in a profile of sequential round trips.
fn keep_plans(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Turns on the write-ahead log, in which readers do not wait for the writer. Written into the file, so only once it is
/// known to be ours.
///
/// # Errors
/// SQLite's.
pub fn use_wal(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update(None, "journal_mode", "WAL")
}

/// Makes read-only connections for r2d2.
#[derive(Debug)]
pub struct ReadOnly {
    /// The database file.
    pub path: PathBuf,
}

impl r2d2::ManageConnection for ReadOnly {
    type Connection = Connection;
    type Error = rusqlite::Error;

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags)?;
        conn.busy_timeout(BUSY_TIMEOUT)?;
        conn.pragma_update(None, "query_only", true)?;
        conn.pragma_update(None, "cache_size", -4_000)?;
        keep_plans(&conn)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(conn)
    }

    fn is_valid(&self, conn: &mut Connection) -> rusqlite::Result<()> {
        conn.execute_batch("SELECT 1")
    }

    fn has_broken(&self, _conn: &mut Connection) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_on_the_disk_before_they_are_answered() {
        let folder = tempfile::tempdir().unwrap();
        let conn = open_writer(&folder.path().join("a.db")).unwrap();
        use_wal(&conn).unwrap();
        let synchronous: i64 = conn.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        // 2 is FULL: in WAL mode, too, each commit is synced (https://sqlite.org/pragma.html#pragma_synchronous).
        assert_eq!((synchronous, mode.as_str()), (2, "wal"));
    }
}
