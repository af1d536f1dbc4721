//! What an agent reports of a delivery: accepted, started, finished.
//!
//! Each report carries the session's epoch; an older one than the agent's newest is fenced off here, so that two
//! connections of one agent can never interleave their writes.

use super::error::StoreError;
use super::op::Apply;
use super::transition::{
    Because, COLUMNS, DeliveryRow, End, LOST_GRACE_MS, delivery_row, select_deliveries, transition,
};
use crate::protocol::ids::DeliveryId;
use crate::protocol::outcome::Outcome;
use crate::protocol::state::State;
use rusqlite::{OptionalExtension, Row};

/// What a report met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Written, or it was there already.
    Done,
    /// The delivery has ended here: the agent should end it too.
    Ended,
    /// No such delivery of this agent.
    Unknown,
    /// It was never dispatched, so the agent cannot have it.
    NotDispatched,
    /// The report does not fit the delivery's state.
    Unexpected,
}

/// Who reports, about what.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// The agent's row.
    pub agent_seq: i64,
    /// The session's epoch.
    pub epoch: u64,
    /// Which delivery.
    pub delivery: DeliveryId,
}

impl Report {
    /// Finds the row, or what to answer instead; and when the session began, in Unix milliseconds.
    ///
    /// # Errors
    /// `Fenced`; SQLite's.
    pub fn find(&self, apply: &Apply<'_>) -> Result<Result<(DeliveryRow, i64), Progress>, StoreError> {
        // The fence in the same look: this is most of what is asked of the database.
        const SQL: &str = select_deliveries!(
            ", a.epoch, coalesce(a.connected_ms, 0)",
            "JOIN agents a ON a.seq = d.agent_seq WHERE d.id = ?1 AND d.agent_seq = ?2"
        );
        let read = |row: &Row<'_>| Ok((delivery_row(row)?, row.get::<_, i64>(COLUMNS)?, row.get(COLUMNS + 1)?));
        let key = (self.delivery.as_bytes(), self.agent_seq);
        let found = apply.conn.prepare_cached(SQL)?.query_row(key, read).optional()?;
        let Some((row, newest, connected_ms)) = found else {
            fence(apply, self.agent_seq, self.epoch)?;
            return Ok(Err(Progress::Unknown));
        };
        match row {
            _ if u64::try_from(newest) != Ok(self.epoch) => Err(StoreError::Fenced),
            row if row.state == State::Queued && row.attempt == 0 => Ok(Err(Progress::NotDispatched)),
            row => Ok(Ok((row, connected_ms))),
        }
    }

    fn because(&self) -> Because<'static> {
        Because { epoch: Some(self.epoch), ..Because::default() }
    }
}

/// Refuses what an older session than the agent's newest reports. Answers when the newest began, in Unix milliseconds.
///
/// # Errors
/// `Fenced`; SQLite's.
pub fn fence(apply: &Apply<'_>, agent_seq: i64, epoch: u64) -> Result<i64, StoreError> {
    const SQL: &str = "SELECT epoch, coalesce(connected_ms, 0) FROM agents WHERE seq = ?1";
    let (newest, connected_ms): (i64, i64) =
        apply.conn.prepare_cached(SQL)?.query_row([agent_seq], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if u64::try_from(newest) == Ok(epoch) { Ok(connected_ms) } else { Err(StoreError::Fenced) }
}

/// The agent has it in its journal. Repeated while it waits for a slot.
#[derive(Clone, Copy, Debug)]
pub struct Accept(
    /// Who and what.
    pub Report,
);

impl Accept {
    /// Takes the row out of the outbox; a repetition puts off the moment at which it counts as lost.
    ///
    /// # Errors
    /// `Fenced`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<Progress, StoreError> {
        const AGAIN: &str = "UPDATE deliveries SET due_ms = ?2 WHERE seq = ?1";
        let (mut row, connected_ms) = match self.0.find(apply)? {
            Ok(found) => found,
            Err(progress) => return Ok(progress),
        };
        match row.state {
            State::Queued => {
                transition(apply, &mut row, State::Accepted, &self.0.because())?;
                // What waited for an offline agent says nothing about us.
                if connected_ms <= row.free_ms {
                    apply.touched.accept_ms.push(apply.now_ms - row.free_ms);
                }
                if row.cancel_requested {
                    // It was asked for while the dispatch was under way: now there is somebody to ask.
                    apply.touched.agents.insert(row.agent_seq);
                }
                Ok(Progress::Done)
            }
            State::Accepted => {
                let due_ms = apply.now_ms + row.timeout_ms + LOST_GRACE_MS;
                apply.conn.prepare_cached(AGAIN)?.execute((row.seq, due_ms))?;
                Ok(Progress::Done)
            }
            State::Running | State::Lost => Ok(Progress::Done),
            _ => Ok(Progress::Ended),
        }
    }
}

/// The agent started it.
#[derive(Clone, Copy, Debug)]
pub struct Start(
    /// Who and what.
    pub Report,
);

impl Start {
    /// Moves it to `running`, by way of `accepted` if that report was lost.
    ///
    /// # Errors
    /// `Fenced`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<Progress, StoreError> {
        let (mut row, _) = match self.0.find(apply)? {
            Ok(found) => found,
            Err(progress) => return Ok(progress),
        };
        match row.state {
            State::Queued | State::Accepted => {
                advance(apply, &mut row, State::Running, &self.0.because())?;
                Ok(Progress::Done)
            }
            State::Running | State::Lost => Ok(Progress::Done),
            _ => Ok(Progress::Ended),
        }
    }
}

/// It ended.
#[derive(Clone, Debug)]
pub struct Finish {
    /// Who and what.
    pub report: Report,
    /// How. Must be reportable.
    pub outcome: Outcome,
}

impl Finish {
    /// Writes the outcome. A second one changes nothing: the first is the truth, and the agent may forget it.
    ///
    /// # Errors
    /// `Fenced`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<Progress, StoreError> {
        let (mut row, _) = match self.report.find(apply)? {
            Ok(found) => found,
            Err(progress) => return Ok(progress),
        };
        if row.state.is_terminal() && row.state != State::Lost {
            return Ok(Progress::Done);
        }
        let outcome = &self.outcome;
        let contradicts = outcome.state == State::Succeeded && outcome.exit_code.is_some_and(|code| code != 0);
        if !outcome.is_reportable() || contradicts {
            return Ok(Progress::Unexpected);
        }
        if row.state != State::Lost {
            let ran = !matches!(outcome.state, State::Cancelled | State::Expired | State::Refused);
            let through = if ran { State::Running } else { State::Accepted };
            advance(apply, &mut row, through, &self.report.because())?;
        }
        if !row.state.may_become(outcome.state) {
            return Ok(Progress::Unexpected);
        }
        let exit_code = match outcome.state {
            State::Succeeded => Some(0),
            State::Expired | State::Refused => None,
            _ => outcome.exit_code,
        };
        let bytes = |bytes: u64| Some(i64::try_from(bytes).unwrap_or(i64::MAX));
        let end = End {
            exit_code,
            signal: outcome.signal,
            duration_ms: outcome.duration_ms.and_then(bytes),
            stdout_bytes: bytes(outcome.stdout.bytes),
            stderr_bytes: bytes(outcome.stderr.bytes),
        };
        let because = Because { reason: outcome.reason.as_deref(), end, ..self.report.because() };
        transition(apply, &mut row, outcome.state, &because)?;
        Ok(Progress::Done)
    }
}

/// Moves a row forward to `accepted` or `running`, step by step; nothing if it is there or further.
fn advance(
    apply: &mut Apply<'_>,
    row: &mut DeliveryRow,
    until: State,
    because: &Because<'_>,
) -> Result<(), StoreError> {
    if row.state == State::Queued {
        transition(apply, row, State::Accepted, because)?;
    }
    if row.state == State::Accepted && until == State::Running {
        transition(apply, row, State::Running, because)?;
    }
    Ok(())
}
