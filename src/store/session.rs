//! The begin and end of an agent's session, and the reconciliation of its journal with our rows.

use super::error::StoreError;
use super::op::Apply;
use super::output::positions;
use super::progress::fence;
use super::rollout;
use super::transition::{Because, DeliveryRow, delivery_row, find, select_deliveries, transition};
use crate::pin::Pin;
use crate::protocol::close::CloseReason;
use crate::protocol::frame::{JournalEntry, JournalVerdict};
use crate::protocol::ids::DeliveryId;
use crate::protocol::state::State;
use crate::protocol::upgrade::Ability;
use rusqlite::{Connection, OptionalExtension};
use std::collections::HashSet;

/// An agent authenticated and said what its journal holds.
#[derive(Clone, Debug)]
pub struct BeginSession {
    /// The agent's row.
    pub agent_seq: i64,
    /// Its version.
    pub version: String,
    /// Its operating system.
    pub os: String,
    /// Which challenge it answered: a higher number was given out later, by this process.
    pub challenge: i64,
    /// The latest epoch in its journal.
    pub last_epoch: u64,
    /// All that its journal has not been allowed to forget.
    pub journal: Vec<JournalEntry>,
    /// What it says of upgrades, within its limits.
    pub ability: Option<Ability>,
}

/// The session.
#[derive(Clone, Debug)]
pub struct SessionBegun {
    /// Higher than that of every earlier session of this agent.
    pub epoch: u64,
    /// One for each journal entry, same order.
    pub verdicts: Vec<JournalVerdict>,
    /// It is another journal than the one that we know: a copy, an older state of it, or a new one.
    pub clash: bool,
}

/// Why deliveries are lost that were given to another journal than the one that speaks now.
const CLASH_REASON: &str = "the agent's data folder was copied, moved, restored or emptied: it may have run";

impl BeginSession {
    /// Raises the epoch and reconciles.
    ///
    /// The journal that we know has at least the epoch that it last confirmed. One with less is a copy from before, an
    /// older state, or a new one: what it does not hold may have been given to the other, and run there.
    ///
    /// # Errors
    /// `Fenced` for an answer that comes after that to a later challenge: it tells what was true before. `NotFound` for a
    /// revoked agent; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<SessionBegun, StoreError> {
        // Higher than what the journal has, too: this database may have been restored from a backup.
        const BEGIN: &str = "UPDATE agents SET epoch = max(epoch, ?5) + 1, session_open = 1, connected_ms = ?2, \
             proven_ms = ?2, version = ?3, os = ?4, clash_ms = iif(?5 < ready_epoch, ?2, clash_ms), \
             challenge = ?6 WHERE seq = ?1 AND revoked_ms IS NULL AND challenge < ?6 RETURNING epoch, ?5 < ready_epoch";
        let last_epoch = i64::try_from(self.last_epoch).unwrap_or(i64::MAX - 1);
        let begun: Option<(i64, bool)> = apply
            .conn
            .prepare_cached(BEGIN)?
            .query_row((self.agent_seq, apply.now_ms, &self.version, &self.os, last_epoch, self.challenge), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let Some((epoch, clash)) = begun else {
            const REVOKED: &str = "SELECT revoked_ms IS NOT NULL FROM agents WHERE seq = ?1";
            let revoked = apply.conn.prepare_cached(REVOKED)?.query_row([self.agent_seq], |row| row.get(0))?;
            let unknown = StoreError::NotFound { what: "agent", key: self.agent_seq.to_string() };
            return Err(if revoked { unknown } else { StoreError::Fenced });
        };
        let epoch = u64::try_from(epoch).unwrap_or(0);
        let clash = clash || self.goes_back(apply)?;
        rollout::hello(apply, self.agent_seq, self.ability.as_ref())?;
        // An older session of this agent looks, and finds that it is over.
        apply.touched.agents.insert(self.agent_seq);
        let mut verdicts = Vec::with_capacity(self.journal.len());
        for entry in &self.journal {
            verdicts.push(self.reconcile(apply, epoch, clash, entry)?);
        }
        self.reconcile_the_rest(apply, epoch, clash)?;
        Ok(SessionBegun { epoch, verdicts, clash })
    }

    /// Whether the journal holds something as waiting that was reported as started: an older state of it, or a copy from
    /// before, of the same epoch.
    fn goes_back(&self, apply: &mut Apply<'_>) -> Result<bool, StoreError> {
        const CLASH: &str = "UPDATE agents SET clash_ms = ?2 WHERE seq = ?1";
        for entry in self.journal.iter().filter(|entry| entry.state == State::Accepted) {
            if find(apply, self.agent_seq, entry.delivery)?.is_some_and(|row| row.started) {
                apply.conn.prepare_cached(CLASH)?.execute((self.agent_seq, apply.now_ms))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An entry of the journal: our row follows it.
    fn reconcile(
        &self,
        apply: &mut Apply<'_>,
        epoch: u64,
        clash: bool,
        entry: &JournalEntry,
    ) -> Result<JournalVerdict, StoreError> {
        let mut verdict = JournalVerdict { delivery: entry.delivery, keep: false, stdout_from: 0, stderr_from: 0 };
        let Some(mut row) = find(apply, self.agent_seq, entry.delivery)? else { return Ok(verdict) };
        if row.state.is_terminal() && row.state != State::Lost {
            return Ok(verdict);
        }
        // After a clash another host may hold the same entry. What runs here and how something ended is true all the
        // same; but nothing starts, and what a copy takes for interrupted may be going on elsewhere.
        if clash && matches!(entry.state, State::Accepted | State::Interrupted) {
            let because = Because {
                epoch: Some(epoch),
                cause: Some("identity clash"),
                reason: Some(CLASH_REASON),
                ..Because::default()
            };
            if row.state != State::Lost {
                transition(apply, &mut row, State::Lost, &because)?;
            }
            return Ok(verdict);
        }
        verdict.keep = true;
        let because = Because { epoch: Some(epoch), cause: Some("in the agent's journal"), ..Because::default() };
        if row.state == State::Queued {
            transition(apply, &mut row, State::Accepted, &because)?;
        }
        if row.state == State::Accepted && entry.state == State::Running {
            transition(apply, &mut row, State::Running, &because)?;
        }
        (verdict.stdout_from, verdict.stderr_from) = positions(apply.conn, row.seq)?;
        Ok(verdict)
    }

    /// Rows that the journal does not have: what we thought accepted is lost, what was in doubt never arrived.
    fn reconcile_the_rest(&self, apply: &mut Apply<'_>, epoch: u64, clash: bool) -> Result<(), StoreError> {
        // deliveries_at_agent and deliveries_outbox: without the order SQLite would read the agent's whole history.
        const HELD: &str =
            select_deliveries!("WHERE d.agent_seq = ?1 AND d.state IN ('accepted', 'running') ORDER BY d.seq");
        const DOUBTED: &str = select_deliveries!(
            "WHERE d.agent_seq = ?1 AND d.state = 'queued' AND d.held = 0 AND d.in_doubt = 1 ORDER BY d.seq"
        );
        const CLEAR: &str = "UPDATE deliveries SET in_doubt = 0, due_ms = ?2 WHERE seq = ?1";
        let journaled: HashSet<DeliveryId> = self.journal.iter().map(|entry| entry.delivery).collect();
        let because = match clash {
            true => Because {
                epoch: Some(epoch),
                cause: Some("identity clash"),
                reason: Some(CLASH_REASON),
                ..Because::default()
            },
            false => Because {
                epoch: Some(epoch),
                cause: Some("reconciliation"),
                reason: Some("the agent no longer knows it"),
                ..Because::default()
            },
        };
        for mut row in rows(apply.conn, HELD, self.agent_seq)? {
            if !journaled.contains(&row.id) {
                transition(apply, &mut row, State::Lost, &because)?;
            }
        }
        for mut row in rows(apply.conn, DOUBTED, self.agent_seq)? {
            if clash {
                transition(apply, &mut row, State::Lost, &because)?;
                continue;
            }
            let because = Because { reason: Some("cancelled before it arrived"), ..because.clone() };
            apply.conn.prepare_cached(CLEAR)?.execute((row.seq, row.not_after_ms))?;
            if row.cancel_requested {
                transition(apply, &mut row, State::Cancelled, &because)?;
            }
        }
        Ok(())
    }
}

fn rows(conn: &Connection, sql: &str, agent_seq: i64) -> Result<Vec<DeliveryRow>, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([agent_seq], delivery_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The agent has this session's epoch in its journal.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The agent's row.
    pub agent_seq: i64,
    /// The session's epoch.
    pub epoch: u64,
    /// The newest of the server's pins that the agent has; none: it knows the server by none.
    pub pin: Option<Pin>,
}

impl Ready {
    /// From here on its writer is given rows to dispatch.
    ///
    /// # Errors
    /// `Fenced`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE agents SET ready_epoch = epoch, pin = ?2 WHERE seq = ?1";
        fence(apply, self.agent_seq, self.epoch)?;
        apply.conn.prepare_cached(SQL)?.execute((self.agent_seq, self.pin.map(|pin| *pin.as_bytes())))?;
        Ok(())
    }
}

/// A session ended.
#[derive(Clone, Debug)]
pub struct EndSession {
    /// The agent's row.
    pub agent_seq: i64,
    /// The session's epoch; nothing is written if it is not the agent's newest.
    pub epoch: u64,
    /// Its last proven round trip.
    pub proven_ms: i64,
    /// Why it ended.
    pub reason: CloseReason,
}

impl EndSession {
    /// Writes the end down.
    ///
    /// # Errors
    /// SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE agents SET session_open = 0, proven_ms = ?3, close_reason = ?4, closed_ms = ?5 \
             WHERE seq = ?1 AND epoch = ?2";
        let epoch = i64::try_from(self.epoch).unwrap_or(i64::MAX);
        let row = (self.agent_seq, epoch, self.proven_ms, self.reason.as_str(), apply.now_ms);
        apply.conn.prepare_cached(SQL)?.execute(row)?;
        Ok(())
    }
}

/// After a start no delivery counts as lost for this long, in milliseconds: its agent may still be waiting to reconnect
/// (its longest backoff is half a minute), with the outcome in its hands.
pub const START_GRACE_MS: i64 = 120_000;

/// At start: sessions that were open when the last process died have ended, and reports may have found nobody while
/// there was no server.
///
/// # Errors
/// SQLite's.
pub fn recover(conn: &Connection, now_ms: i64) -> rusqlite::Result<()> {
    const GRACE: &str = "UPDATE deliveries SET due_ms = ?1 WHERE finished_ms IS NULL AND due_ms < ?1 \
         AND (state IN ('accepted', 'running') OR (state = 'queued' AND in_doubt = 1))";
    const CLOSE: &str = "UPDATE agents SET session_open = 0, close_reason = 'connection_lost', closed_ms = ?1 \
         WHERE session_open = 1";
    // Challenges are counted from 1 in each process.
    const UNCOUNT: &str = "UPDATE agents SET challenge = 0 WHERE challenge <> 0";
    let tx = conn.unchecked_transaction()?;
    tx.execute(UNCOUNT, [])?;
    tx.execute(GRACE, [now_ms + START_GRACE_MS])?;
    tx.execute(CLOSE, [now_ms])?;
    tx.commit()
}
