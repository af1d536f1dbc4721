//! The journal's words and its SQL: what is written before anything is acknowledged, started or reported.
//!
//! All functions here work on one connection and block; `journal_thread` owns that connection and calls them.
//! `synchronous=FULL` and WAL: a committed transaction survives power loss, but for one of nothing but what may be lost
//! (see [`Op`]). Nothing is deleted while a server could still dispatch it (see the `stored` column).

use super::data::private;
use crate::protocol::ids::DeliveryId;
use crate::protocol::outcome::Outcome;
use crate::protocol::secret_env::SecretEnv;
use crate::protocol::state::State;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// `PRAGMA user_version` of the file that this build writes.
const JOURNAL_VERSION: i64 = 1;
/// A tombstone outlives its specification's expiry by this long, in milliseconds (a day): for clocks that differ.
const TOMBSTONE_EXTRA_MS: i64 = 86_400_000;
/// Tombstones removed in one transaction: more would hold up an accept that comes meanwhile.
const PURGE_ROWS_MAX: i64 = 1000;
/// How long to wait for a lock that only a curious `sqlite3` shell could hold.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = include_str!("journal.sql");
// `deliveries.delivery` is UNIQUE: its index serves all lookups by id.
const ACCEPT: &str = "INSERT INTO deliveries (delivery, attempt, state, spec, not_after_ms, outcome, secrets) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (delivery) DO NOTHING";
const EPOCH: &str = "UPDATE lineage SET epoch = ?1";
const WIPE: &str = "UPDATE deliveries SET secrets = NULL WHERE delivery = ?1 AND secrets IS NOT NULL";
const START: &str = "UPDATE deliveries SET state = 'running' WHERE delivery = ?1 AND state = 'accepted'";
const FINISH: &str =
    "UPDATE deliveries SET state = ?2, outcome = ?3 WHERE delivery = ?1 AND state IN ('accepted', 'running')";
const FORGET: &str = "UPDATE deliveries SET stored = 1, spec = NULL WHERE delivery = ?1 AND outcome IS NOT NULL";
const LOOKUP: &str = "SELECT outcome FROM deliveries WHERE delivery = ?1";
// Index `held`.
const HELD: &str = "SELECT delivery, state, spec, outcome, secrets FROM deliveries WHERE stored = 0 ORDER BY seq";
// Index `tombstones`.
const PURGE: &str = "DELETE FROM deliveries WHERE seq IN \
     (SELECT seq FROM deliveries WHERE stored = 1 AND not_after_ms < ?1 ORDER BY not_after_ms LIMIT ?2)";

/// A journal that cannot be opened or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// A newer build wrote it.
    #[error("the journal has version {found}, this build knows {JOURNAL_VERSION}: run the newer postrider again")]
    Newer {
        /// Its version.
        found: i64,
    },
    /// The database or the disk under it says no.
    #[error("the journal cannot be used: {0}")]
    Sql(String),
    /// The disk is full, and there is no ballast to give up.
    #[error("the journal cannot be written: the disk is full")]
    Full,
    /// Its thread has ended.
    #[error("the journal is closed")]
    Closed,
}

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            _ => Self::Sql(error.to_string()),
        }
    }
}

/// How an accepted delivery enters the journal.
#[derive(Clone, Debug)]
pub enum Entry {
    /// It waits for a slot.
    Waiting,
    /// A slot is free: accepted and started in one transaction.
    Started,
    /// It ends at once, without a run.
    Ended(Outcome),
}

/// One thing to write. All survive power loss but `Forget` and `Purge`: they are lost with the power unless something else
/// is written after them. Then the next `hello` tells the delivery again and the server says `stored` again, and the next
/// purge removes what this one did.
#[derive(Clone, Debug)]
pub enum Op {
    /// Take a delivery in, unless it is known.
    Accept {
        /// Which.
        delivery: DeliveryId,
        /// The dispatch attempt.
        attempt: u32,
        /// The document, byte for byte.
        spec: Vec<u8>,
        /// Its secret variables: written when it waits only. What starts at once needs none after a crash.
        secrets: SecretEnv,
        /// Its expiry.
        not_after_ms: i64,
        /// How it enters.
        entry: Entry,
    },
    /// A connection has this epoch.
    Epoch(u64),
    /// It starts.
    Start(DeliveryId),
    /// It ended.
    Finish(DeliveryId, Outcome),
    /// The server has its outcome: keep the tombstone only.
    Forget(DeliveryId),
    /// Remove tombstones that no server can ask for any more, by the server's clock.
    Purge {
        /// The server's time.
        now_ms: i64,
    },
}

impl Op {
    fn may_be_lost(&self) -> bool {
        matches!(self, Self::Forget(_) | Self::Purge { .. })
    }
}

/// What became of an [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is in the file.
    Written,
    /// `Accept`: it was there before. With its outcome, where it has one.
    Known(Option<Outcome>),
}

/// An entry that the server has not let go of.
#[derive(Clone, Debug)]
pub struct Held {
    /// Which.
    pub delivery: DeliveryId,
    /// The document.
    pub spec: Vec<u8>,
    /// Its secret variables, while it waits.
    pub secrets: SecretEnv,
    /// `accepted`, or a terminal state with its outcome; `running` only before recovery.
    pub outcome: Option<Outcome>,
    /// Whether it was running when the agent ended.
    pub running: bool,
}

/// Opens the journal, makes it if it is not there.
///
/// # Errors
/// [`JournalError::Newer`], [`JournalError::Sql`].
pub fn open(path: &Path) -> Result<Connection, JournalError> {
    // SQLite gives its -wal and -shm files the permissions of the main file.
    private()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| JournalError::Sql(format!("{}: {error}", path.display())))?;
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // What is deleted is overwritten: secrets are deleted when their command starts.
    connection.pragma_update(None, "secure_delete", true)?;
    // Or statements would be compiled anew for each value that is bound, as SQLite is built with STAT4.
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match found {
        0 => connection
            .execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {JOURNAL_VERSION}; COMMIT;"))?,
        JOURNAL_VERSION => {}
        found => return Err(JournalError::Newer { found }),
    }
    Ok(connection)
}

/// The latest epoch in the journal: 0 in a new one, and in one that was in another place before. That one may be a copy,
/// so it must not pass for the journal that the server knows.
///
/// # Errors
/// [`JournalError::Sql`].
pub fn last_epoch(connection: &Connection, place: &str) -> Result<u64, JournalError> {
    const MOVE: &str = "INSERT INTO lineage (one, epoch, place) VALUES (1, 0, ?1) \
         ON CONFLICT (one) DO UPDATE SET epoch = 0, place = ?1 WHERE place <> ?1";
    let moved = connection.execute(MOVE, [place])? == 1;
    let epoch = connection.query_row("SELECT epoch FROM lineage", [], |row| row.get(0))?;
    if moved {
        tracing::info!("the journal is new here, or its folder was moved or copied");
    }
    Ok(epoch)
}

/// Everything that the server has not let go of, in order of acceptance.
///
/// # Errors
/// [`JournalError::Sql`].
pub fn held(connection: &Connection) -> Result<Vec<Held>, JournalError> {
    let mut statement = connection.prepare(HELD)?;
    let rows = statement.query_map([], |row| {
        let state: String = row.get(1)?;
        let secrets = row.get::<_, Option<String>>(4)?;
        Ok((row.get::<_, [u8; 16]>(0)?, state, row.get::<_, Vec<u8>>(2)?, row.get::<_, Option<String>>(3)?, secrets))
    })?;
    let mut held = Vec::new();
    for row in rows {
        let (delivery, state, spec, outcome, secrets) = row?;
        let running = State::from_str(&state).is_ok_and(|state| state == State::Running);
        let outcome = outcome.as_deref().map(read_outcome).transpose()?;
        let secrets = secrets.as_deref().map_or(Ok(SecretEnv::default()), serde_json::from_str);
        let secrets = secrets.map_err(|error| JournalError::Sql(format!("secrets in it cannot be read: {error}")))?;
        held.push(Held { delivery: DeliveryId::from_bytes(delivery), spec, secrets, outcome, running });
    }
    Ok(held)
}

/// Writes all of `ops` in one transaction: all or none. It is on disk after that, unless all of them may be lost.
///
/// # Errors
/// [`JournalError::Full`], [`JournalError::Sql`]; then nothing is written.
pub fn write(connection: &mut Connection, ops: &[&Op]) -> Result<Vec<Done>, JournalError> {
    if !ops.iter().all(|op| op.may_be_lost()) {
        return write_group(connection, ops);
    }
    // In WAL mode such a commit syncs nothing. The next one with FULL syncs the whole log, so nothing is lost out of order.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let written = write_group(connection, ops);
    connection.pragma_update(None, "synchronous", "FULL")?;
    written
}

fn write_group(connection: &mut Connection, ops: &[&Op]) -> Result<Vec<Done>, JournalError> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut wiped = 0;
    let done = ops.iter().map(|op| write_one(&transaction, op, &mut wiped)).collect::<Result<Vec<_>, _>>()?;
    transaction.commit()?;
    if wiped > 0 {
        // The log has them, too, until it is emptied.
        let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0));
        if !matches!(emptied, Ok(true)) {
            tracing::warn!(?emptied, "the journal's log keeps a secret until it is emptied: another program reads it");
        }
    }
    Ok(done)
}

fn write_one(connection: &Connection, op: &Op, wiped: &mut usize) -> Result<Done, JournalError> {
    match op {
        Op::Accept { delivery, attempt, spec, secrets, not_after_ms, entry } => {
            let (state, outcome) = match entry {
                Entry::Waiting => (State::Accepted, None),
                Entry::Started => (State::Running, None),
                Entry::Ended(outcome) => (outcome.state, Some(write_outcome(outcome))),
            };
            let id = delivery.as_bytes();
            let secrets = (state == State::Accepted && !secrets.is_empty()).then(|| write_secrets(secrets));
            let row = params![id, attempt, state.as_str(), spec, not_after_ms, outcome, secrets];
            if connection.prepare_cached(ACCEPT)?.execute(row)? == 1 {
                return Ok(Done::Written);
            }
            let known: Option<Option<String>> =
                connection.prepare_cached(LOOKUP)?.query_row(params![id], |row| row.get(0)).optional()?;
            return Ok(Done::Known(known.flatten().as_deref().map(read_outcome).transpose()?));
        }
        Op::Epoch(epoch) => connection.prepare_cached(EPOCH)?.execute([i64::try_from(*epoch).unwrap_or(i64::MAX)])?,
        Op::Start(delivery) => {
            *wiped += connection.prepare_cached(WIPE)?.execute(params![delivery.as_bytes()])?;
            connection.prepare_cached(START)?.execute(params![delivery.as_bytes()])?
        }
        Op::Finish(delivery, outcome) => {
            *wiped += connection.prepare_cached(WIPE)?.execute(params![delivery.as_bytes()])?;
            let row = params![delivery.as_bytes(), outcome.state.as_str(), write_outcome(outcome)];
            connection.prepare_cached(FINISH)?.execute(row)?
        }
        Op::Forget(delivery) => connection.prepare_cached(FORGET)?.execute(params![delivery.as_bytes()])?,
        Op::Purge { now_ms } => {
            let before = now_ms.saturating_sub(TOMBSTONE_EXTRA_MS);
            connection.prepare_cached(PURGE)?.execute(params![before, PURGE_ROWS_MAX])?
        }
    };
    Ok(Done::Written)
}

fn write_secrets(secrets: &SecretEnv) -> String {
    serde_json::to_string(secrets).expect("secrets are plain data")
}

fn write_outcome(outcome: &Outcome) -> String {
    serde_json::to_string(outcome).expect("an outcome is plain data")
}

fn read_outcome(text: &str) -> Result<Outcome, JournalError> {
    serde_json::from_str(text).map_err(|error| JournalError::Sql(format!("an outcome in it cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn accept(delivery: DeliveryId, entry: Entry) -> Op {
        let secrets = SecretEnv::default();
        Op::Accept { delivery, attempt: 1, spec: b"{}".to_vec(), secrets, not_after_ms: 1000, entry }
    }

    #[test]
    fn what_is_held_survives_and_what_is_forgotten_leaves_a_tombstone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let [a, b, c] = [DeliveryId::new(), DeliveryId::new(), DeliveryId::new()];
        let refused = Outcome::without_run(State::Refused, "no");
        {
            let mut connection = open(&path).unwrap();
            let ops = [accept(a, Entry::Waiting), accept(b, Entry::Started), accept(c, Entry::Ended(refused.clone()))];
            let done = write(&mut connection, &ops.iter().collect::<Vec<_>>()).unwrap();
            assert_eq!(done, vec![Done::Written; 3]);
        }
        let mut connection = open(&path).unwrap();
        let found = held(&connection).unwrap();
        assert_eq!(found.iter().map(|held| held.delivery).collect::<Vec<_>>(), [a, b, c]);
        assert!(!found[0].running && found[1].running && found[2].outcome == Some(refused.clone()));
        write(&mut connection, &[&Op::Forget(a), &Op::Forget(c)]).unwrap();
        // `a` has no outcome: it cannot be forgotten.
        assert_eq!(held(&connection).unwrap().len(), 2);
        let again = write(&mut connection, &[&accept(c, Entry::Started)]).unwrap();
        assert_eq!(again, [Done::Known(Some(refused))]);
        write(&mut connection, &[&Op::Purge { now_ms: 1000 + TOMBSTONE_EXTRA_MS }]).unwrap();
        assert!(matches!(write(&mut connection, &[&accept(c, Entry::Waiting)]).unwrap()[0], Done::Known(Some(_))));
        write(&mut connection, &[&Op::Purge { now_ms: 1001 + TOMBSTONE_EXTRA_MS }]).unwrap();
        assert_eq!(write(&mut connection, &[&accept(c, Entry::Waiting)]).unwrap(), [Done::Written]);
    }

    /// Whether a file of the journal has this text.
    fn on_disk(path: &Path, text: &str) -> bool {
        let has = |file: &Path| {
            let bytes = std::fs::read(file).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        };
        has(path) || has(&path.with_extension("db-wal"))
    }

    #[test]
    fn secrets_are_there_while_their_command_waits_and_nowhere_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let with_secret = |delivery, entry| {
            let mut op = accept(delivery, entry);
            let Op::Accept { secrets, .. } = &mut op else { unreachable!() };
            secrets.set("TOKEN".to_owned(), Secret::new("hunter2-".repeat(300)));
            op
        };
        let ids = [DeliveryId::new(), DeliveryId::new(), DeliveryId::new()];
        let [started, cancelled, at_once] = ids;
        let mut connection = open(&path).unwrap();
        let ops = [with_secret(started, Entry::Waiting), with_secret(cancelled, Entry::Waiting)];
        write(&mut connection, &ops.iter().collect::<Vec<_>>()).unwrap();
        assert!(on_disk(&path, "hunter2-"), "a crash now must not lose it");
        drop(connection);
        let mut connection = open(&path).unwrap();
        let found = held(&connection).unwrap();
        assert!(found.iter().all(|held| held.secrets.names() == ["TOKEN"]), "{found:?}");
        let outcome = Outcome::without_run(State::Cancelled, "x");
        write(&mut connection, &[&Op::Start(started), &Op::Finish(cancelled, outcome)]).unwrap();
        assert!(!on_disk(&path, "hunter2-"));
        // What starts at once never needs it again.
        write(&mut connection, &[&with_secret(at_once, Entry::Started)]).unwrap();
        assert!(!on_disk(&path, "hunter2-"));
        assert!(held(&connection).unwrap().iter().all(|held| held.secrets.is_empty()));
    }

    /// 2: FULL.
    fn synchronous(connection: &Connection) -> i64 {
        connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap()
    }

    #[test]
    fn what_is_written_is_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open(&folder.path().join("journal.db")).unwrap();
        assert_eq!(synchronous(&connection), 2);
    }

    #[test]
    fn what_may_be_lost_is_written_and_what_comes_after_it_is_on_the_disk_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let [first, second] = [DeliveryId::new(), DeliveryId::new()];
        let outcome = Outcome::without_run(State::Refused, "no");
        let mut connection = open(&path).unwrap();
        let ops = [first, second].map(|id| accept(id, Entry::Ended(outcome.clone())));
        write(&mut connection, &ops.iter().collect::<Vec<_>>()).unwrap();
        write(&mut connection, &[&Op::Forget(first), &Op::Purge { now_ms: 0 }]).unwrap();
        assert_eq!(synchronous(&connection), 2);
        // What no commit takes: a reference to nothing.
        let broken = "CREATE TEMP TABLE parent (id INTEGER PRIMARY KEY); \
             CREATE TEMP TABLE child (parent REFERENCES parent DEFERRABLE INITIALLY DEFERRED); \
             CREATE TEMP TRIGGER refer AFTER UPDATE ON main.deliveries BEGIN INSERT INTO child VALUES (1); END;";
        connection.execute_batch(broken).unwrap();
        connection.pragma_update(None, "foreign_keys", true).unwrap();
        let failed = write(&mut connection, &[&Op::Forget(second)]).unwrap_err();
        assert!(failed.to_string().contains("FOREIGN KEY"), "{failed}");
        assert_eq!(synchronous(&connection), 2);
        drop(connection);
        let mut connection = open(&path).unwrap();
        assert_eq!(held(&connection).unwrap().iter().map(|held| held.delivery).collect::<Vec<_>>(), [second]);
        let again = write(&mut connection, &[&accept(first, Entry::Waiting)]).unwrap();
        assert_eq!(again, [Done::Known(Some(outcome))], "a tombstone");
    }

    #[test]
    fn a_journal_of_a_newer_build_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
        assert!(matches!(open(&path), Err(JournalError::Newer { found: 2 })));
    }

    #[test]
    fn an_outcome_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = open(&folder.path().join("journal.db")).unwrap();
        let id = DeliveryId::new();
        let first = Outcome::without_run(State::Cancelled, "first");
        let second = Outcome::without_run(State::Failed, "second");
        let ops = [accept(id, Entry::Started), Op::Finish(id, first.clone()), Op::Finish(id, second), Op::Start(id)];
        write(&mut connection, &ops.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(held(&connection).unwrap()[0].outcome, Some(first));
    }
}
