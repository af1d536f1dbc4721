//! Agents: listed, shown, their facts stored, approved, revoked; and the key that a session is checked against.

use super::agent_json::{Online, select_agents, write_agent};
use super::audit::{self, Actor};
use super::enqueue::{Prefer, find_agent, find_one, in_scope};
use super::error::StoreError;
use super::handle::Store;
use super::op::Apply;
use super::progress::fence;
use super::transition::{Because, DeliveryRow, delivery_row, select_deliveries, transition};
use crate::protocol::http::AgentResponse;
use crate::protocol::ids::AgentId;
use crate::protocol::name::Tags;
use crate::protocol::scope::Scope;
use crate::protocol::state::State;
use rusqlite::{Connection, OptionalExtension, Row};

fn agent_by_seq(conn: &Connection, seq: i64, online: &impl Fn(i64) -> Option<Online>) -> Result<Vec<u8>, StoreError> {
    const SQL: &str = select_agents!("WHERE a.seq = ?1");
    let mut json = Vec::new();
    conn.prepare_cached(SQL)?.query_row([seq], |row| write_agent(row, online, &mut json))?;
    Ok(json)
}

/// An agent as operations answer it: who is connected they do not know.
fn response(conn: &Connection, seq: i64) -> Result<AgentResponse, StoreError> {
    let json = agent_by_seq(conn, seq, &|_| None)?;
    serde_json::from_slice(&json).map_err(|error| StoreError::Sql(error.to_string()))
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
    /// Agents of a scope that are not revoked, in order of enrollment, after `after`, carrying all of `tags`: at most
    /// `limit`. An [`AgentsResponse`](crate::protocol::http::AgentsResponse) as JSON. `online` knows the session of a row,
    /// if one stands.
    ///
    /// # Errors
    /// `NotFound` for an `after` that is no agent; SQLite's.
    pub async fn agents(
        &self,
        after: Option<AgentId>,
        tags: Tags,
        limit: u32,
        scope: Scope,
        online: impl Fn(i64) -> Option<Online> + Send + 'static,
    ) -> Result<Vec<u8>, StoreError> {
        const AFTER: &str = concat!("SELECT seq FROM agents WHERE id = ?1 AND ", in_scope!("agents.tags", "?2"));
        const PAGE: &str = select_agents!(
            "WHERE a.revoked_ms IS NULL AND a.seq > ?1 AND ",
            in_scope!("a.tags", "?2"),
            " AND ",
            in_scope!("a.tags", "?4"),
            " ORDER BY a.seq LIMIT ?3"
        );
        self.read(move |conn| {
            let after = match after {
                None => 0,
                Some(id) => conn
                    .prepare_cached(AFTER)?
                    .query_row((id.as_bytes(), scope.to_json()), |row| row.get(0))
                    .optional()?
                    .ok_or_else(|| StoreError::NotFound { what: "agent", key: id.to_string() })?,
            };
            let mut statement = conn.prepare_cached(PAGE)?;
            let tagged = Scope::of_tags(&tags).to_json();
            let mut rows = statement.query((after, tagged, i64::from(limit) + 1, scope.to_json()))?;
            let mut json = br#"{"agents":["#.to_vec();
            let (mut written, mut last, mut next) = (0, None, None);
            while let Some(row) = rows.next()? {
                if written == limit {
                    next = last;
                    break;
                }
                if written > 0 {
                    json.push(b',');
                }
                last = Some(write_agent(row, &online, &mut json)?);
                written += 1;
            }
            let next = next.map_or_else(|| "null".to_owned(), |id| format!("\"{id}\""));
            json.extend_from_slice(format!("],\"next\":{next}}}").as_bytes());
            Ok(json)
        })
        .await
    }

    /// One agent of a scope by id or name: an [`AgentResponse`] as JSON. `online` knows the session of a row, if one stands.
    ///
    /// # Errors
    /// `NotFound`, `Ambiguous`; SQLite's.
    pub async fn agent(
        &self,
        key: String,
        scope: Scope,
        online: impl Fn(i64) -> Option<Online> + Send + 'static,
    ) -> Result<Vec<u8>, StoreError> {
        self.read(move |conn| agent_by_seq(conn, find_agent(conn, &key, &scope)?.seq, &online)).await
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
        response(apply.conn, agent.seq)
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
        response(apply.conn, agent.seq)
    }
}
