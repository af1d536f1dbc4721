//! Moving a delivery: the one place where a state is written.

use super::error::StoreError;
use super::op::Apply;
use crate::protocol::ids::DeliveryId;
use crate::protocol::state::State;
use rusqlite::{OptionalExtension, Row};

/// After timeout (or, for a queued row in doubt, after expiry and timeout) a delivery without a report is lost this
/// much later, in milliseconds: the kill's grace, a reconnect and the report must fit in.
pub const LOST_GRACE_MS: i64 = 60_000;

/// What a move needs to know of a delivery.
#[derive(Clone, Debug)]
pub struct DeliveryRow {
    /// Its id.
    pub id: DeliveryId,
    /// Row number.
    pub seq: i64,
    /// Its command's row number.
    pub command_seq: i64,
    /// Its agent's row number.
    pub agent_seq: i64,
    /// Where it stands.
    pub state: State,
    /// Dispatches so far.
    pub attempt: u32,
    /// Dispatched, and no hello has told since whether it arrived.
    pub in_doubt: bool,
    /// On hold: its command was not approved.
    pub held: bool,
    /// Somebody asked to cancel it.
    pub cancel_requested: bool,
    /// Its agent has reported its start.
    pub started: bool,
    /// The command's timeout.
    pub timeout_ms: i64,
    /// The command's expiry.
    pub not_after_ms: i64,
    /// Since when it may go out: when the command was committed, or else approved.
    pub free_ms: i64,
}

/// A statement that reads [`DeliveryRow`]s: what follows the join of `deliveries d` and `commands c`. Columns of the
/// caller's own come behind those of the row, from [`COLUMNS`] on.
macro_rules! select_deliveries {
    ($rest:literal) => {
        select_deliveries!("", $rest)
    };
    ($columns:literal, $rest:literal) => {
        concat!(
            "SELECT d.seq, d.command_seq, d.agent_seq, d.state, d.attempt, d.in_doubt, \
             d.cancel_requested_ms IS NOT NULL, c.timeout_ms, c.not_after_ms, coalesce(c.approved_ms, c.created_ms), d.id, \
             d.started_ms IS NOT NULL, d.held",
            $columns,
            " FROM deliveries d JOIN commands c ON c.seq = d.command_seq ",
            $rest
        )
    };
}
pub(super) use select_deliveries;

/// Columns of `select_deliveries!` itself.
pub(super) const COLUMNS: usize = 13;

/// Reads a row of `select_deliveries!`.
///
/// # Errors
/// SQLite's; a state that is none, which the schema rules out.
pub fn delivery_row(row: &Row<'_>) -> rusqlite::Result<DeliveryRow> {
    Ok(DeliveryRow {
        id: DeliveryId::from_bytes(row.get(10)?),
        seq: row.get(0)?,
        command_seq: row.get(1)?,
        agent_seq: row.get(2)?,
        state: state_column(row, 3)?,
        attempt: row.get(4)?,
        in_doubt: row.get(5)?,
        cancel_requested: row.get(6)?,
        started: row.get(11)?,
        held: row.get(12)?,
        timeout_ms: row.get(7)?,
        not_after_ms: row.get(8)?,
        free_ms: row.get(9)?,
    })
}

/// Reads a state.
///
/// # Errors
/// SQLite's; a word that is no state.
pub fn state_column(row: &Row<'_>, column: usize) -> rusqlite::Result<State> {
    row.get_ref(column)?.as_str()?.parse().map_err(|error: crate::protocol::state::StateError| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// Finds a delivery of one agent by its id: another agent's is not found.
///
/// # Errors
/// SQLite's.
pub fn find(apply: &Apply<'_>, agent_seq: i64, id: DeliveryId) -> Result<Option<DeliveryRow>, StoreError> {
    const SQL: &str = select_deliveries!("WHERE d.id = ?1 AND d.agent_seq = ?2"); // unique id
    let mut statement = apply.conn.prepare_cached(SQL)?;
    Ok(statement.query_row((id.as_bytes(), agent_seq), delivery_row).optional()?)
}

/// How a process ended, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct End {
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// How long it ran, in milliseconds.
    pub duration_ms: Option<i64>,
    /// All that it wrote to standard output, in bytes.
    pub stdout_bytes: Option<i64>,
    /// All that it wrote to standard error, in bytes.
    pub stderr_bytes: Option<i64>,
}

/// What goes with a move.
#[derive(Clone, Debug, Default)]
pub struct Because<'a> {
    /// The session concerned.
    pub epoch: Option<u64>,
    /// Who or what.
    pub cause: Option<&'a str>,
    /// For terminal states: stored with the delivery.
    pub reason: Option<&'a str>,
    /// For terminal states: likewise.
    pub end: End,
}

/// Moves a delivery, with its times, and records it.
///
/// # Errors
/// [`StoreError::Conflict`] for a move that the state machine forbids; SQLite's.
pub fn transition(
    apply: &mut Apply<'_>,
    delivery: &mut DeliveryRow,
    next: State,
    because: &Because<'_>,
) -> Result<(), StoreError> {
    // What is on hold can be in a journal after a restored backup only: it was approved once.
    const ACCEPTED: &str = "UPDATE deliveries SET state = 'accepted', in_doubt = 0, held = 0, accepted_ms = ?2, \
         due_ms = ?3 WHERE seq = ?1";
    const RUNNING: &str = "UPDATE deliveries SET state = 'running', started_ms = ?2, due_ms = ?3 WHERE seq = ?1";
    const ENDED: &str = "UPDATE deliveries SET state = ?2, in_doubt = 0, held = 0, finished_ms = ?3, reason = ?4, \
         exit_code = ?5, signal = ?6, duration_ms = ?7, stdout_bytes = max(?8, stdout_next), \
         stderr_bytes = max(?9, stderr_next) WHERE seq = ?1";
    if !delivery.state.may_become(next) {
        return Err(StoreError::Conflict(format!("a delivery that is {} cannot become {next}", delivery.state)));
    }
    let now_ms = apply.now_ms;
    let due_ms = now_ms + delivery.timeout_ms + LOST_GRACE_MS;
    match next {
        State::Accepted => {
            apply.conn.prepare_cached(ACCEPTED)?.execute((delivery.seq, now_ms, due_ms))?;
        }
        State::Running => {
            apply.conn.prepare_cached(RUNNING)?.execute((delivery.seq, now_ms, due_ms))?;
        }
        _ => {
            let End { exit_code, signal, duration_ms, stdout_bytes, stderr_bytes } = because.end;
            apply.conn.prepare_cached(ENDED)?.execute((
                delivery.seq,
                next.as_str(),
                now_ms,
                because.reason,
                exit_code,
                signal,
                duration_ms,
                stdout_bytes,
                stderr_bytes,
            ))?;
        }
    }
    if delivery.state == State::Queued {
        forget_secrets(apply, delivery.command_seq)?;
    }
    record(apply, delivery, next.as_str(), None, because)?;
    apply.touched.states.push(next);
    if next.is_terminal() {
        apply.touched.ends.insert(delivery.command_seq);
    }
    delivery.state = next;
    Ok(())
}

/// One delivery less waits for the secrets of its command, if it has some. The last one ends them.
fn forget_secrets(apply: &Apply<'_>, command_seq: i64) -> Result<(), StoreError> {
    const LESS: &str = "UPDATE secrets SET waiting = waiting - 1 WHERE command_seq = ?1";
    const LAST: &str = "DELETE FROM secrets WHERE command_seq = ?1 AND waiting = 0";
    if apply.conn.prepare_cached(LESS)?.execute([command_seq])? > 0 {
        apply.conn.prepare_cached(LAST)?.execute([command_seq])?;
    }
    Ok(())
}

/// Records something that happened without a move: `approved`, `dispatched`, `cancel_requested`, or a move itself.
///
/// # Errors
/// SQLite's.
pub fn record(
    apply: &mut Apply<'_>,
    delivery: &DeliveryRow,
    event: &str,
    attempt: Option<u32>,
    because: &Because<'_>,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO transitions (delivery_seq, at_ms, before, event, epoch, attempt, cause) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let epoch = because.epoch.map(|epoch| i64::try_from(epoch).unwrap_or(i64::MAX));
    let before = delivery.state.as_str();
    apply.conn.prepare_cached(SQL)?.execute((
        delivery.seq,
        apply.now_ms,
        before,
        event,
        epoch,
        attempt,
        because.cause,
    ))?;
    apply.touched.commands.insert(delivery.command_seq);
    Ok(())
}
