//! A copy of the database while its server writes, and the check of a copy.
//!
//! SQLite's online backup copies pages; it neither reads nor builds indexes, can rest between steps, and needs no more of
//! the source than a read transaction, for which no writer of a WAL waits. `VACUUM INTO` would make a smaller file, but in
//! one go and with all the work of building it. The read transaction is ours and spans all steps: without it each commit
//! of the server would make the copy begin again. Until it ends the WAL grows by what is committed.

use super::migrate::{APPLICATION_ID, is_usable, known_version};
use super::pool::{BUSY_TIMEOUT, make_private};
use crate::protocol::ids::ServerId;
use crate::secret::Secret;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Pages of one step: 1 MiB. More would make a rest a rare thing, less would cost a lock and an unlock too often.
const STEP_PAGES: i32 = 256;
/// Longest work without a rest. The committing thread waits for a core or the disk no longer than this.
const WORK_MAX: Duration = Duration::from_millis(5);
/// Longest rest. It is as long as the work before it, so that half of one core is left even on a host with one.
const REST_MAX: Duration = Duration::from_millis(50);
/// SQLite's instructions between two looks at the clock while it checks a file: about a millisecond.
const LOOK_EVERY_OPS: i32 = 20_000;

const SERVER_ID: &str = "SELECT id FROM server";

/// Works half of the time, so that a backup does not hold up the server beside it, and stops when it is told to.
#[derive(Clone, Debug)]
pub struct Pace {
    stop: CancellationToken,
    since: Instant,
}

impl Pace {
    /// Until `stop`.
    pub fn until(stop: CancellationToken) -> Self {
        Self { stop, since: Instant::now() }
    }

    /// Rests where it is due. Blocks.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn breathe(&mut self) -> Result<(), Stopped> {
        if self.stop.is_cancelled() {
            return Err(Stopped);
        }
        let worked = self.since.elapsed();
        if worked >= WORK_MAX {
            std::thread::sleep(worked.min(REST_MAX));
            self.since = Instant::now();
        }
        Ok(())
    }
}

/// The server is stopping.
#[derive(Clone, Copy, Debug)]
pub struct Stopped;

/// What a database holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The schema's version.
    pub schema: usize,
    /// Whose it is.
    pub server_id: ServerId,
    /// Rows by table.
    pub rows: BTreeMap<String, u64>,
}

/// Why a database cannot be copied, or a copy not be used.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It is another program's.
    #[error("it is not a postrider server's database")]
    Foreign,
    /// A later build wrote it.
    #[error("it has schema version {found}, this build knows up to {known}: use the newer build")]
    Newer {
        /// The file's.
        found: usize,
        /// Ours.
        known: usize,
    },
    /// It is damaged.
    #[error("{0}")]
    Unsound(String),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopped,
    /// SQLite's word.
    #[error(transparent)]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for CopyError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => Self::Stopped,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Unsound(error.to_string()),
            _ => Self::Sqlite(error),
        }
    }
}

impl From<Stopped> for CopyError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// Copies the database at `from`, in use or not, to the new file `to`, as it is at one moment. Not synced.
///
/// # Errors
/// [`CopyError`]; what is at `to` then is of no use.
pub fn copy(from: &Path, to: &Path, pace: &mut Pace) -> Result<Contents, CopyError> {
    let source = open(from, pace)?;
    let moment = source.unchecked_transaction()?;
    let contents = contents(&source)?;
    make_private(to).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let mut target = Connection::open(to)?;
    target.pragma_update(None, "synchronous", "OFF")?;
    let backup = Backup::new(&source, &mut target)?;
    while backup.step(STEP_PAGES)? != StepResult::Done {
        pace.breathe()?;
    }
    drop(backup);
    drop(moment);
    // One file from now on, without a WAL beside it. The server turns that on again.
    target.pragma_update(None, "journal_mode", "DELETE")?;
    target.close().map_err(|(_, error)| error)?;
    Ok(contents)
}

/// Looks through a database that nobody else uses, row by row and index by index.
///
/// # Errors
/// [`CopyError`].
pub fn check(path: &Path, pace: &mut Pace) -> Result<Contents, CopyError> {
    const CHECK: &str = "PRAGMA integrity_check(5)";
    const PARENTLESS: &str = "SELECT \"table\", count(*) FROM pragma_foreign_key_check GROUP BY 1";
    let conn = open(path, pace)?;
    let contents = contents(&conn)?;
    let said: Vec<String> = conn.prepare(CHECK)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if said != ["ok"] {
        return Err(CopyError::Unsound(said.join("; ")));
    }
    let parentless: Vec<String> = conn
        .prepare(PARENTLESS)?
        .query_map([], |row| {
            Ok(format!("{} rows of {} without what they belong to", row.get::<_, i64>(1)?, row.get::<_, String>(0)?))
        })?
        .collect::<Result<_, _>>()?;
    if !parentless.is_empty() {
        return Err(CopyError::Unsound(parentless.join("; ")));
    }
    Ok(contents)
}

/// Whether a token is good in a database that nobody else uses.
///
/// # Errors
/// SQLite's.
pub fn knows_token(path: &Path, token: &Secret) -> Result<bool, CopyError> {
    const KNOWN: &str = "SELECT count(*) FROM tokens WHERE hash = ?1 AND revoked_ms IS NULL";
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    Ok(conn.query_row(KNOWN, [token.hash()], |row| row.get::<_, i64>(0))? > 0)
}

/// Whose database it is, if that can be read.
///
/// # Errors
/// SQLite's.
pub fn server_id(path: &Path) -> Result<ServerId, CopyError> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    Ok(conn.query_row(SERVER_ID, [], |row| row.get(0)).map(ServerId::from_bytes)?)
}

/// A read-only connection that keeps to the pace, or is interrupted.
fn open(path: &Path, pace: &Pace) -> rusqlite::Result<Connection> {
    let mut conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    let mut pace = pace.clone();
    conn.progress_handler(LOOK_EVERY_OPS, Some(move || pace.breathe().is_err()))?;
    Ok(conn)
}

/// How many rows each table of a database has, whatever build wrote it.
///
/// # Errors
/// [`CopyError::Sqlite`], [`CopyError::Unsound`].
pub fn rows(path: &Path, pace: &mut Pace) -> Result<BTreeMap<String, u64>, CopyError> {
    Ok(count(&open(path, pace)?)?)
}

fn count(conn: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    const TABLES: &str =
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name";
    let tables: Vec<String> = conn.prepare(TABLES)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut rows = BTreeMap::new();
    for table in tables {
        let count = conn.query_row(&format!("SELECT count(*) FROM \"{table}\""), [], |row| row.get(0))?;
        rows.insert(table, count);
    }
    Ok(rows)
}

/// What this connection sees, if it is ours and this build knows it.
fn contents(conn: &Connection) -> Result<Contents, CopyError> {
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let schema = usize::try_from(pragma("user_version")?).unwrap_or(0);
    if pragma("application_id")? != i64::from(APPLICATION_ID) || schema == 0 {
        return Err(CopyError::Foreign);
    }
    if !is_usable(schema, known_version()) {
        return Err(CopyError::Newer { found: schema, known: known_version() });
    }
    let server_id = conn.query_row(SERVER_ID, [], |row| row.get(0)).map(ServerId::from_bytes)?;
    Ok(Contents { schema, server_id, rows: count(conn)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::migrate::migrate;
    use crate::store::pool::{open_writer, use_wal};

    fn pace() -> Pace {
        Pace::until(CancellationToken::new())
    }

    /// A server's database in WAL mode, with rows.
    fn database(path: &Path) -> Connection {
        let mut conn = open_writer(path).unwrap();
        migrate(&mut conn).unwrap();
        use_wal(&conn).unwrap();
        conn.execute("INSERT INTO server (one, id, created_ms) VALUES (1, randomblob(16), 1)", []).unwrap();
        for number in 0..200 {
            token(&conn, number);
        }
        conn
    }

    fn token(conn: &Connection, number: u32) {
        let sql = "INSERT INTO tokens (id, name, role, hash, created_ms, used_from) \
            VALUES (randomblob(16), ?1, 'owner', randomblob(32), 1, hex(randomblob(4000)))";
        conn.execute(sql, [format!("t{number}")]).unwrap();
    }

    #[test]
    fn a_copy_is_of_one_moment_while_others_write() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["a.db", "b.db"].map(|name| folder.path().join(name));
        drop(database(&from));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let conn = open_writer(&from).unwrap();
                let mut number = 1000;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    token(&conn, number);
                    number += 1;
                }
            });
            let copied = copy(&from, &to, &mut pace()).unwrap();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(copied.rows["tokens"] >= 200, "{copied:?}");
            assert_eq!(check(&to, &mut pace()).unwrap(), copied);
        });
        assert!(!folder.path().join("b.db-wal").exists());
    }

    #[test]
    fn what_is_damaged_foreign_newer_or_parentless_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["a.db", "b.db"].map(|name| folder.path().join(name));
        let conn = database(&from);
        let copied = copy(&from, &to, &mut pace()).unwrap();
        let bytes = std::fs::read(&to).unwrap();
        let told = |change: &dyn Fn(&Path)| {
            std::fs::write(&to, &bytes).unwrap();
            change(&to);
            check(&to, &mut pace()).unwrap_err()
        };
        let sql = |sql: &'static str| move |path: &Path| Connection::open(path).unwrap().execute_batch(sql).unwrap();
        assert!(matches!(told(&sql("PRAGMA application_id = 7")), CopyError::Foreign));
        let newer = told(&sql("PRAGMA user_version = 9999"));
        assert!(matches!(newer, CopyError::Newer { found: 9999, .. }), "{newer}");
        let orphan =
            "PRAGMA foreign_keys = off; INSERT INTO secrets (command_seq, waiting, sealed) VALUES (7, 1, x'00')";
        let parentless = told(&sql(orphan));
        assert!(parentless.to_string().contains("1 rows of secrets"), "{parentless}");
        let flipped = told(&|path| {
            let mut bytes = bytes.clone();
            bytes[8192..12288].fill(0xEE);
            std::fs::write(path, bytes).unwrap();
        });
        assert!(!flipped.to_string().is_empty());
        std::fs::write(&to, &bytes).unwrap();
        assert_eq!(check(&to, &mut pace()).unwrap(), copied);
        drop(conn);
    }

    #[test]
    fn a_copy_ends_when_it_is_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["a.db", "b.db"].map(|name| folder.path().join(name));
        let _conn = database(&from);
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(matches!(copy(&from, &to, &mut Pace::until(stop)), Err(CopyError::Stopped)));
    }
}
