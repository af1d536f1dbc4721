//! A request to cancel.
//!
//! What never left the outbox is cancelled here and now. What the agent holds, or may hold because a dispatch was
//! never answered, is marked: the agent is asked, and its answer is the truth.

use super::audit::{self, Actor};
use super::enqueue::in_scope;
use super::error::StoreError;
use super::op::Apply;
use super::transition::{Because, DeliveryRow, delivery_row, record, select_deliveries, transition};
use crate::protocol::http::CancelResponse;
use crate::protocol::ids::CommandId;
use crate::protocol::state::State;
use rusqlite::OptionalExtension;

/// A request to cancel a command.
#[derive(Clone, Debug)]
pub struct Cancel {
    /// Who asks.
    pub actor: Actor,
    /// Which command.
    pub command: CommandId,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Cancelled {
    /// For the caller.
    pub response: CancelResponse,
}

impl Cancel {
    /// Cancels or marks each delivery to an agent in the actor's scope. Idempotent.
    ///
    /// # Errors
    /// `NotFound`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<Cancelled, StoreError> {
        const COMMAND: &str = "SELECT seq FROM commands WHERE id = ?1";
        const ROWS: &str = concat!(
            select_deliveries!("JOIN agents a ON a.seq = d.agent_seq WHERE d.command_seq = ?1 AND "),
            in_scope!("a.tags", "?2"),
            " ORDER BY d.seq"
        );
        const MARK: &str = "UPDATE deliveries SET cancel_requested_ms = ?2 WHERE seq = ?1";
        let seq: Option<i64> =
            apply.conn.prepare_cached(COMMAND)?.query_row([self.command.as_bytes()], |row| row.get(0)).optional()?;
        let not_found = || StoreError::NotFound { what: "command", key: self.command.to_string() };
        let rows: Vec<DeliveryRow> = apply
            .conn
            .prepare_cached(ROWS)?
            .query_map((seq.ok_or_else(not_found)?, self.actor.scope.to_json()), delivery_row)?
            .collect::<Result<_, _>>()?;
        if rows.is_empty() {
            return Err(not_found());
        }
        let mut response = CancelResponse { id: self.command, cancelled: 0, requested: 0, ended: 0 };
        let cause = format!("cancelled by {}", self.actor.name);
        let because = Because { cause: Some(&self.actor.name), reason: Some(&cause), ..Because::default() };
        let mut marked = 0;
        for mut row in rows {
            if row.state.is_terminal() {
                response.ended += 1;
            } else if row.state == State::Queued && !row.in_doubt {
                transition(apply, &mut row, State::Cancelled, &because)?;
                response.cancelled += 1;
            } else {
                response.requested += 1;
                if !row.cancel_requested {
                    marked += 1;
                    apply.conn.prepare_cached(MARK)?.execute((row.seq, apply.now_ms))?;
                    record(apply, &row, "cancel_requested", None, &because)?;
                    apply.touched.agents.insert(row.agent_seq);
                }
            }
        }
        // A repetition changes nothing and is not told again.
        if response.cancelled + marked > 0 {
            let detail = serde_json::json!({ "cancelled": response.cancelled, "requested": marked });
            audit::record(apply, &self.actor, "command.cancel", &self.command, &detail)?;
        }
        Ok(Cancelled { response })
    }
}
