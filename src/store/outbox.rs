//! What a writer reads: the first rows of its agent's outbox, and what else it has to tell the agent.

use super::error::StoreError;
use super::handle::Store;
use crate::protocol::ids::{AgentId, DeliveryId};
use rusqlite::OptionalExtension;
use std::collections::HashSet;

/// One look at an agent's rows.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The agent was revoked.
    pub revoked: bool,
    /// The epoch of the agent's newest session.
    pub epoch: u64,
    /// Rows to dispatch, oldest first, at most as many as there is room for.
    pub rows: Vec<OutboxRow>,
    /// There are more rows than there was room for.
    pub more: bool,
    /// Deliveries that the agent holds and that somebody asked to cancel.
    pub cancels: Vec<DeliveryId>,
}

/// A row to dispatch.
#[derive(Debug)]
pub struct OutboxRow {
    /// Which delivery.
    pub id: DeliveryId,
    /// Dispatches so far.
    pub attempt: u32,
    /// The specification document, byte for byte.
    pub spec: String,
    /// When the command was committed, in Unix milliseconds.
    pub created_ms: i64,
}

impl Store {
    /// Looks at an agent's outbox. `window` is how many unfinished deliveries the agent may hold; `in_flight` are those
    /// already dispatched on this connection.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn outbox(
        &self,
        agent_seq: i64,
        window: usize,
        in_flight: HashSet<DeliveryId>,
    ) -> Result<Outbox, StoreError> {
        const AGENT: &str = "SELECT revoked_ms IS NOT NULL, epoch FROM agents WHERE seq = ?1";
        const HELD: &str = "SELECT id, cancel_requested_ms IS NOT NULL FROM deliveries \
             WHERE agent_seq = ?1 AND state IN ('accepted', 'running') ORDER BY seq"; // deliveries_held
        const QUEUED: &str = "SELECT d.id, d.attempt, d.command_seq FROM deliveries d \
             WHERE d.agent_seq = ?1 AND d.state = 'queued' AND d.due_ms > ?2 AND d.cancel_requested_ms IS NULL \
             ORDER BY d.seq LIMIT ?3"; // deliveries_outbox
        const SPEC: &str = "SELECT spec, created_ms FROM commands WHERE seq = ?1";
        let now_ms = self.clock.now_ms();
        self.read(move |conn| {
            let mut outbox = Outbox::default();
            (outbox.revoked, outbox.epoch) =
                conn.prepare_cached(AGENT)?.query_row([agent_seq], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let mut held = 0;
            let mut statement = conn.prepare_cached(HELD)?;
            let mut rows = statement.query([agent_seq])?;
            while let Some(row) = rows.next()? {
                held += 1;
                if row.get(1)? {
                    outbox.cancels.push(DeliveryId::from_bytes(row.get(0)?));
                }
            }
            let room = window.saturating_sub(held + in_flight.len());
            let limit = window.saturating_add(1);
            let mut statement = conn.prepare_cached(QUEUED)?;
            let mut rows = statement.query((agent_seq, now_ms, i64::try_from(limit).unwrap_or(i64::MAX)))?;
            while let Some(row) = rows.next()? {
                let id = DeliveryId::from_bytes(row.get(0)?);
                if in_flight.contains(&id) {
                    continue;
                }
                if outbox.rows.len() >= room {
                    outbox.more = true;
                    break;
                }
                let command_seq: i64 = row.get(2)?;
                let (spec, created_ms) =
                    conn.prepare_cached(SPEC)?.query_row([command_seq], |row| Ok((row.get(0)?, row.get(1)?)))?;
                outbox.rows.push(OutboxRow { id, attempt: row.get(1)?, spec, created_ms });
            }
            Ok(outbox)
        })
        .await
    }

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
