//! Agents: listed, shown, their facts stored, approved, revoked; and the key that a session is checked against.

use super::audit::{self, Actor};
use super::enqueue::{Prefer, find_agent, find_one, in_scope};
use super::error::StoreError;
use super::handle::Store;
use super::op::Apply;
use super::progress::fence;
use super::transition::{Because, DeliveryRow, delivery_row, select_deliveries, transition};
use crate::protocol::close::CloseReason;
use crate::protocol::http::{AgentResponse, LastClose};
use crate::protocol::ids::{AgentId, JoinId};
use crate::protocol::name::Tags;
use crate::protocol::scope::Scope;
use crate::protocol::state::State;
use rusqlite::{Connection, OptionalExtension, Row};

/// An agent's row: what is stored of it. Presence is added by whoever knows it.
#[derive(Clone, Debug)]
pub struct AgentRow {
    /// Row number.
    pub seq: i64,
    /// As answered, with `online` false and the times of the latest session that ended.
    pub response: AgentResponse,
}

// The outbox count is one look into deliveries_outbox an agent.
const SELECT: &str = "SELECT seq, id, name, epoch, connected_ms, proven_ms, close_reason, closed_ms, tags, facts, \
     enrolled_ms, version, os, \
     (SELECT count(*) FROM deliveries d WHERE d.agent_seq = agents.seq AND d.state = 'queued' AND d.held = 0), clash_ms, \
     approved_ms IS NULL, enrolled_from, (SELECT id FROM joins WHERE joins.seq = agents.join_seq) FROM agents";

fn agent_row(row: &Row<'_>) -> rusqlite::Result<AgentRow> {
    let reason: Option<String> = row.get(6)?;
    let at_ms: Option<i64> = row.get(7)?;
    let reason = reason.and_then(|word| CloseReason::ALL.into_iter().find(|reason| reason.as_str() == word));
    let facts: Option<String> = row.get(9)?;
    let tags: Tags = serde_json::from_str(row.get_ref(8)?.as_str()?).unwrap_or_default();
    Ok(AgentRow {
        seq: row.get(0)?,
        response: AgentResponse {
            id: AgentId::from_bytes(row.get(1)?),
            name: row.get(2)?,
            online: false,
            pending: row.get(15)?,
            epoch: row.get(3)?,
            connected_ms: row.get(4)?,
            proven_ms: row.get(5)?,
            last_close: reason.zip(at_ms).map(|(reason, at_ms)| LastClose { reason, at_ms }),
            clash_ms: row.get(14)?,
            outbox: row.get(13)?,
            tags,
            facts: facts.and_then(|facts| serde_json::from_str(&facts).ok()),
            enrolled_ms: row.get(10)?,
            enrolled_from: row.get(16)?,
            join_id: JoinId::from_bytes(row.get(17)?),
            version: row.get(11)?,
            os: row.get(12)?,
        },
    })
}

fn agent_by_seq(conn: &Connection, seq: i64) -> Result<AgentRow, StoreError> {
    let sql = format!("{SELECT} WHERE seq = ?1");
    Ok(conn.prepare_cached(&sql)?.query_row([seq], agent_row)?)
}

/// What a session's handshake needs of an agent.
#[derive(Clone, Debug)]
pub struct AgentKey {
    /// Row number.
    pub seq: i64,
    /// Label.
    pub name: String,
    /// Ed25519.
    pub public_key: [u8; 32],
    /// Whether it was revoked.
    pub revoked: bool,
    /// Whether it waits for approval.
    pub pending: bool,
}

impl Store {
    /// Agents of a scope that are not revoked, in order of enrollment, after `after`, carrying all of `tags`.
    ///
    /// # Errors
    /// `NotFound` for an `after` that is no agent; SQLite's.
    pub async fn agents(
        &self,
        after: Option<AgentId>,
        tags: Tags,
        limit: u32,
        scope: Scope,
    ) -> Result<Vec<AgentRow>, StoreError> {
        const AFTER: &str = concat!("SELECT seq FROM agents WHERE id = ?1 AND ", in_scope!("agents.tags", "?2"));
        self.read(move |conn| {
            let after = match after {
                None => 0,
                Some(id) => conn
                    .prepare_cached(AFTER)?
                    .query_row((id.as_bytes(), scope.to_json()), |row| row.get(0))
                    .optional()?
                    .ok_or_else(|| StoreError::NotFound { what: "agent", key: id.to_string() })?,
            };
            const IN: &str = concat!(in_scope!("agents.tags", "?2"), " AND ", in_scope!("agents.tags", "?4"));
            let sql = format!("{SELECT} WHERE revoked_ms IS NULL AND seq > ?1 AND {IN} ORDER BY seq LIMIT ?3");
            let mut statement = conn.prepare_cached(&sql)?;
            let tagged = Scope::of_tags(&tags).to_json();
            let rows = statement.query_map((after, tagged, limit, scope.to_json()), agent_row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// One agent of a scope by id or name.
    ///
    /// # Errors
    /// `NotFound`, `Ambiguous`; SQLite's.
    pub async fn agent(&self, key: String, scope: Scope) -> Result<AgentRow, StoreError> {
        self.read(move |conn| agent_by_seq(conn, find_agent(conn, &key, &scope)?.seq)).await
    }

    /// The key of the agent with this id, revoked or not.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn agent_key(&self, id: AgentId) -> Result<Option<AgentKey>, StoreError> {
        const SQL: &str = "SELECT seq, name, public_key, revoked_ms IS NOT NULL, approved_ms IS NULL \
             FROM agents WHERE id = ?1";
        self.read(move |conn| {
            let key = |row: &Row<'_>| {
                Ok(AgentKey {
                    seq: row.get(0)?,
                    name: row.get(1)?,
                    public_key: row.get(2)?,
                    revoked: row.get(3)?,
                    pending: row.get(4)?,
                })
            };
            Ok(conn.prepare_cached(SQL)?.query_row([id.as_bytes()], key).optional()?)
        })
        .await
    }

    /// How many deliveries wait in the outbox, without those on hold.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn outbox_size(&self) -> Result<u64, StoreError> {
        const SQL: &str = "SELECT count(*) FROM deliveries WHERE state = 'queued' AND held = 0"; // deliveries_outbox
        self.read(|conn| Ok(conn.prepare_cached(SQL)?.query_row([], |row| row.get(0))?)).await
    }
}

/// Host inventory, as reported.
#[derive(Clone, Debug)]
pub struct StoreFacts {
    /// The agent's row.
    pub agent_seq: i64,
    /// The session's epoch.
    pub epoch: u64,
    /// A JSON document within its limit.
    pub facts: String,
}

impl StoreFacts {
    /// Replaces the earlier facts.
    ///
    /// # Errors
    /// `Fenced`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE agents SET facts = ?2 WHERE seq = ?1";
        fence(apply, self.agent_seq, self.epoch)?;
        apply.conn.prepare_cached(SQL)?.execute((self.agent_seq, &self.facts))?;
        Ok(())
    }
}

/// Revokes an agent: it is cut, and what waits for it is cancelled.
#[derive(Clone, Debug)]
pub struct RevokeAgent {
    /// Who revokes it.
    pub actor: Actor,
    /// Its id or name.
    pub key: String,
}

impl RevokeAgent {
    /// Marks the row, ends its queued deliveries, counts as lost what it holds, and rings for its session.
    ///
    /// # Errors
    /// `NotFound`, `Ambiguous`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<AgentResponse, StoreError> {
        const REVOKE: &str = "UPDATE agents SET revoked_ms = ?2 WHERE seq = ?1";
        const OPEN: &str = select_deliveries!("WHERE d.agent_seq = ?1 AND d.finished_ms IS NULL");
        let agent = find_agent(apply.conn, &self.key, &self.actor.scope)?;
        apply.conn.prepare_cached(REVOKE)?.execute((agent.seq, apply.now_ms))?;
        let open: Vec<DeliveryRow> =
            apply.conn.prepare_cached(OPEN)?.query_map([agent.seq], delivery_row)?.collect::<Result<_, _>>()?;
        let because =
            Because { cause: Some(&self.actor.name), reason: Some("the agent was revoked"), ..Because::default() };
        for mut row in open {
            let end = if row.state == State::Queued && !row.in_doubt { State::Cancelled } else { State::Lost };
            transition(apply, &mut row, end, &because)?;
        }
        apply.touched.agents.insert(agent.seq);
        audit::record(apply, &self.actor, "agent.revoke", &agent.id, &serde_json::json!({ "name": agent.name }))?;
        Ok(agent_by_seq(apply.conn, agent.seq)?.response)
    }
}

/// Lets an agent in that waits for approval.
#[derive(Clone, Debug)]
pub struct ApproveAgent {
    /// Who decides.
    pub actor: Actor,
    /// Its id or name.
    pub key: String,
}

impl ApproveAgent {
    /// Marks the row. Idempotent. Its next connection finds it approved. By a name that one waiting agent has, and others
    /// that do not wait, it means the one that waits.
    ///
    /// # Errors
    /// `NotFound`, `Ambiguous`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<AgentResponse, StoreError> {
        const APPROVE: &str = "UPDATE agents SET approved_ms = ?2 WHERE seq = ?1";
        let agent = find_one(apply.conn, &self.key, &self.actor.scope, Prefer::Pending)?;
        if agent.pending {
            apply.conn.prepare_cached(APPROVE)?.execute((agent.seq, apply.now_ms))?;
            audit::record(apply, &self.actor, "agent.approve", &agent.id, &serde_json::json!({ "name": agent.name }))?;
        }
        Ok(agent_by_seq(apply.conn, agent.seq)?.response)
    }
}
