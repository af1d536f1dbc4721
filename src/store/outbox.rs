//! The outbox: what a writer takes from it, and what else it has to tell its agent.

use super::error::StoreError;
use super::handle::Store;
use super::op::Apply;
use super::progress::fence;
use super::transition::{Because, COLUMNS, delivery_row, find, record, select_deliveries, transition};
use crate::clock::Moment;
use crate::protocol::ids::{AgentId, CommandId, DeliveryId};
use crate::protocol::spec::SPEC_INLINE_BYTES_MAX;
use crate::protocol::state::State;
use rusqlite::{OptionalExtension, Row};
use std::collections::HashSet;

/// A writer's look at its agent's rows. What it is given to dispatch is recorded as dispatched in the same transaction:
/// on disk before a frame goes out, so that nobody but the agent can say from then on that it does not have the row.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The agent's row.
    pub agent_seq: i64,
    /// The session's epoch.
    pub epoch: u64,
    /// How many unfinished deliveries the agent may hold.
    pub window: usize,
    /// Dispatched on this connection and not accepted yet.
    pub in_flight: HashSet<DeliveryId>,
    /// Asked to cancel on this connection.
    pub cancelled: HashSet<DeliveryId>,
    /// When the session began: nothing is taken if the clock was set since.
    pub since: Moment,
    /// It is answered only when there is something ([`super::parked`]).
    pub parks: bool,
}

/// While so many bytes of dispatches are not accepted, and after so many in one look, no more go out. With what a look
/// adds, that is 96 KiB at most: a ping waits in line behind them, and a link of 10 kB a second carries them within its
/// pong's deadline. Less would make large commands wait for more round trips.
pub const IN_FLIGHT_BYTES_MAX: usize = 32 * 1024;

/// Dispatches of one delivery that are each told in its story; after that every so manyth is, so that an agent which
/// comes and goes for days does not fill the database. The count itself goes on.
pub const ATTEMPTS_TOLD: u32 = 20;

/// What it found.
#[derive(Debug, Default)]
pub struct Claimed {
    /// To dispatch now, oldest first, at most as many as there is room for.
    pub rows: Vec<OutboxRow>,
    /// There is something to dispatch, and the clock was set since the session began.
    pub clock_was_set: bool,
    /// There are more rows than there was room for.
    pub more: bool,
    /// There are more rows that would have been too many bytes at once.
    pub held_back: bool,
    /// Deliveries that the agent holds and that somebody asked to cancel, without those that it was asked for already.
    pub cancels: Vec<DeliveryId>,
}

impl Claimed {
    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        let Self { rows, clock_was_set, more, held_back, cancels } = self;
        rows.is_empty() && cancels.is_empty() && !clock_was_set && !more && !held_back
    }
}

/// A writer that waits for the answer to its claim has it look again now.
#[derive(Clone, Copy, Debug)]
pub struct Nudge {
    /// The agent's row.
    pub agent_seq: i64,
}

impl Nudge {
    /// Says that something may be there.
    ///
    /// # Errors
    /// None.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        apply.touched.nudged.insert(self.agent_seq);
        Ok(())
    }
}

/// A row to dispatch.
#[derive(Debug)]
pub struct OutboxRow {
    /// Which delivery.
    pub id: DeliveryId,
    /// Which dispatch this is: 1 for the first.
    pub attempt: u32,
    /// The specification document, byte for byte.
    pub spec: String,
    /// The command's id.
    pub command: CommandId,
    /// Its sealed secrets, if it has some.
    pub sealed: Option<Vec<u8>>,
    /// Since when it may go out, in Unix milliseconds.
    pub free_ms: i64,
    /// That was while this session stood.
    pub fresh: bool,
}

impl Claim {
    /// Finds the rows and records their dispatch. Writes nothing when there is nothing to dispatch, or when the agent's
    /// journal is not known to have this session's epoch: without that a copy of it could not be told apart later.
    ///
    /// # Errors
    /// `NotFound` when the agent was revoked, `Fenced`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<Claimed, StoreError> {
        const AGENT: &str = "SELECT revoked_ms IS NOT NULL, ready_epoch = epoch, epoch, coalesce(connected_ms, 0) \
             FROM agents WHERE seq = ?1";
        const HELD: &str = "SELECT id, cancel_requested_ms IS NOT NULL FROM deliveries \
             WHERE agent_seq = ?1 AND state IN ('accepted', 'running') ORDER BY seq"; // deliveries_at_agent
        const QUEUED: &str = "SELECT id FROM deliveries WHERE agent_seq = ?1 AND state = 'queued' AND held = 0 \
             AND due_ms > ?2 AND cancel_requested_ms IS NULL ORDER BY seq LIMIT ?3"; // deliveries_outbox
        let conn = apply.conn;
        let (revoked, ready, newest, connected_ms): (bool, bool, i64, i64) = conn
            .prepare_cached(AGENT)?
            .query_row([self.agent_seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        if revoked {
            return Err(StoreError::NotFound { what: "agent", key: self.agent_seq.to_string() });
        }
        if u64::try_from(newest) != Ok(self.epoch) {
            return Err(StoreError::Fenced);
        }
        let mut claimed = Claimed::default();
        if !ready {
            return Ok(claimed);
        }
        let mut held = 0;
        let mut statement = conn.prepare_cached(HELD)?;
        let mut rows = statement.query([self.agent_seq])?;
        while let Some(row) = rows.next()? {
            let id = DeliveryId::from_bytes(row.get(0)?);
            // What was accepted since the writer looked is counted once.
            held += usize::from(!self.in_flight.contains(&id));
            if row.get(1)? {
                claimed.cancels.extend((!self.cancelled.contains(&id)).then_some(id));
            }
        }
        let room = self.window.saturating_sub(held + self.in_flight.len());
        // The oldest rows are those in flight, if there are any; one more tells whether there is more.
        let limit = i64::try_from(self.window.saturating_add(1)).unwrap_or(i64::MAX);
        let mut statement = conn.prepare_cached(QUEUED)?;
        let queued = statement
            .query_map((self.agent_seq, apply.now_ms, limit), |row| Ok(DeliveryId::from_bytes(row.get(0)?)))?;
        let queued: Vec<DeliveryId> = queued.collect::<Result<_, _>>()?;
        let mut bytes = 0;
        for id in queued.into_iter().filter(|id| !self.in_flight.contains(id)) {
            if claimed.rows.len() >= room {
                claimed.more = true;
                break;
            }
            if bytes >= IN_FLIGHT_BYTES_MAX {
                claimed.held_back = true;
                break;
            }
            if self.since.clock_was_set(apply.now) {
                claimed.clock_was_set = true;
                break;
            }
            let Some(row) = self.take(apply, id, connected_ms)? else { continue };
            // A larger one is fetched.
            bytes += if row.spec.len() <= SPEC_INLINE_BYTES_MAX { row.spec.len() } else { 0 };
            claimed.rows.push(row);
        }
        Ok(claimed)
    }

    fn take(&self, apply: &mut Apply<'_>, id: DeliveryId, connected_ms: i64) -> Result<Option<OutboxRow>, StoreError> {
        const ROW: &str = select_deliveries!(
            ", c.spec, c.id, s.sealed",
            "LEFT JOIN secrets s ON s.command_seq = c.seq WHERE d.id = ?1 AND d.agent_seq = ?2"
        );
        const TAKE: &str = "UPDATE deliveries SET attempt = attempt + 1, in_doubt = 1 WHERE seq = ?1";
        let read = |row: &Row<'_>| {
            let command = CommandId::from_bytes(row.get(COLUMNS + 1)?);
            Ok((delivery_row(row)?, row.get(COLUMNS)?, command, row.get(COLUMNS + 2)?))
        };
        let found = apply.conn.prepare_cached(ROW)?.query_row((id.as_bytes(), self.agent_seq), read).optional()?;
        let Some((row, spec, command, sealed)) = found else { return Ok(None) };
        let attempt = row.attempt + 1;
        apply.conn.prepare_cached(TAKE)?.execute([row.seq])?;
        if attempt <= ATTEMPTS_TOLD || attempt % ATTEMPTS_TOLD == 0 {
            let because = Because { epoch: Some(self.epoch), ..Because::default() };
            record(apply, &row, "dispatched", Some(attempt), &because)?;
        }
        let fresh = attempt == 1 && connected_ms <= row.free_ms;
        Ok(Some(OutboxRow { id, attempt, spec, command, sealed, free_ms: row.free_ms, fresh }))
    }
}

/// A row that was claimed and cannot go out, now or later: its secrets do not open. It has not left on this session, and
/// what `hello` told says that it had not arrived before.
#[derive(Clone, Debug)]
pub struct Withdraw {
    /// The agent's row.
    pub agent_seq: i64,
    /// The session's epoch.
    pub epoch: u64,
    /// Which delivery.
    pub delivery: DeliveryId,
}

impl Withdraw {
    /// Cancels it.
    ///
    /// # Errors
    /// `Fenced`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        fence(apply, self.agent_seq, self.epoch)?;
        match find(apply, self.agent_seq, self.delivery)? {
            Some(mut row) if row.state == State::Queued => {
                let reason = "its secrets cannot be opened: seal.key is not the one that sealed them; submit it again";
                let because = Because {
                    epoch: Some(self.epoch),
                    cause: Some("server"),
                    reason: Some(reason),
                    ..Because::default()
                };
                transition(apply, &mut row, State::Cancelled, &because)
            }
            _ => Ok(()),
        }
    }
}

impl Store {
    /// The specification of one of an agent's own deliveries, for an agent that is not revoked.
    ///
    /// # Errors
    /// `NotFound`; SQLite's.
    pub async fn spec_for(&self, agent: AgentId, delivery: DeliveryId) -> Result<String, StoreError> {
        const SQL: &str = "SELECT c.spec FROM deliveries d JOIN commands c ON c.seq = d.command_seq \
             JOIN agents a ON a.seq = d.agent_seq WHERE d.id = ?1 AND a.id = ?2 AND a.revoked_ms IS NULL";
        self.read(move |conn| {
            let found: Option<String> = conn
                .prepare_cached(SQL)?
                .query_row((delivery.as_bytes(), agent.as_bytes()), |row| row.get(0))
                .optional()?;
            found.ok_or_else(|| StoreError::NotFound { what: "delivery", key: delivery.to_string() })
        })
        .await
    }
}
