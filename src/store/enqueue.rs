//! A submission: the command, one delivery an agent and the audit row, all in one transaction.

use super::audit::{self, Actor};
use super::error::StoreError;
use super::history::command_response;
use super::op::Apply;
use crate::protocol::http::{Candidate, CommandResponse, DeliveryResponse};
use crate::protocol::ids::{AgentId, CommandId, DeliveryId};
use crate::protocol::name::Tags;
use crate::protocol::spec::Spec;
use crate::protocol::state::State;
use crate::secret::{hex, sha256};
use rusqlite::{OptionalExtension, Row};
use std::collections::BTreeSet;

/// To whom.
#[derive(Clone, Debug)]
pub enum Selector {
    /// Ids or names, each of which must mean one agent.
    Agents(Vec<String>),
    /// All agents that carry every one of these tags.
    Tags(Tags),
    /// All agents.
    All,
}

/// A submission.
#[derive(Clone, Debug)]
pub struct Enqueue {
    /// Who submits. Always has a token.
    pub actor: Actor,
    /// To whom. Resolved in the transaction, so that nobody is missed or met twice.
    pub targets: Selector,
    /// The specification document, byte for byte.
    pub document: String,
    /// The same, read and checked.
    pub spec: Spec,
    /// For people.
    pub note: Option<String>,
    /// The client's key, and the hash of what it submitted.
    pub idempotency: Option<(String, [u8; 32])>,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Enqueued {
    /// The command's row number, to wait on.
    pub command_seq: i64,
    /// The command with its deliveries.
    pub command: CommandResponse,
    /// The key had been used for the same submission: this is its command, and nothing was added.
    pub replayed: bool,
}

/// An agent as submissions see it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Row number.
    pub seq: i64,
    /// Id.
    pub id: AgentId,
    /// Label.
    pub name: String,
}

impl Enqueue {
    /// Adds the rows.
    ///
    /// # Errors
    /// `Quota`, `NotFound`, `Ambiguous`, `NoTargets`, `KeyReused`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<Enqueued, StoreError> {
        if let Some(replayed) = self.replay(apply)? {
            return Ok(replayed);
        }
        if let Some(why) = apply.quota {
            return Err(StoreError::Quota(why.to_owned()));
        }
        let targets = self.targets.resolve(apply)?;
        if targets.is_empty() {
            return Err(StoreError::NoTargets);
        }
        let id = CommandId::new();
        let command_seq = self.insert_command(apply, id)?;
        let mut deliveries = Vec::with_capacity(targets.len());
        for target in &targets {
            let delivery = self.insert_delivery(apply, command_seq, target)?;
            deliveries.push(DeliveryResponse::queued(delivery, target.id, target.name.clone()));
        }
        let detail = serde_json::json!({
            "spec_sha256": hex(&sha256(self.document.as_bytes())),
            "summary": self.spec.summary().chars().take(200).collect::<String>(),
            "agents": targets.len(),
        });
        audit::record(apply, &self.actor, "command.submit", &id, &detail)?;
        let command = CommandResponse {
            id,
            created_ms: apply.now_ms,
            created_by: self.actor.name.clone(),
            spec: self.document.clone(),
            summary: self.spec.summary(),
            not_after_ms: self.spec.not_after_ms,
            note: self.note.clone(),
            state: (deliveries.len() == 1).then_some(State::Queued),
            states: [(State::Queued, deliveries.len() as u64)].into(),
            deliveries,
        };
        Ok(Enqueued { command_seq, command, replayed: false })
    }

    fn replay(&self, apply: &Apply<'_>) -> Result<Option<Enqueued>, StoreError> {
        const SQL: &str = "SELECT seq, id, idempotency_hash FROM commands \
             WHERE token_seq = ?1 AND idempotency_key = ?2"; // commands_idempotency
        let Some((key, hash)) = &self.idempotency else { return Ok(None) };
        let found: Option<(i64, [u8; 16], [u8; 32])> = apply
            .conn
            .prepare_cached(SQL)?
            .query_row((self.actor.token_seq, key), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((command_seq, id, first)) = found else { return Ok(None) };
        if first != *hash {
            return Err(StoreError::KeyReused);
        }
        let command = command_response(apply.conn, CommandId::from_bytes(id), None, false)?;
        Ok(Some(Enqueued { command_seq, command: command.response, replayed: true }))
    }

    fn insert_command(&self, apply: &Apply<'_>, id: CommandId) -> Result<i64, StoreError> {
        const SQL: &str = "INSERT INTO commands (id, created_ms, token_seq, spec, timeout_ms, not_after_ms, \
             output_bytes_max, note, idempotency_key, idempotency_hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        apply.conn.prepare_cached(SQL)?.execute((
            id.as_bytes(),
            apply.now_ms,
            self.actor.token_seq,
            &self.document,
            i64::try_from(self.spec.timeout_ms).unwrap_or(i64::MAX),
            self.spec.not_after_ms,
            i64::try_from(self.spec.output_bytes_max).unwrap_or(i64::MAX),
            &self.note,
            self.idempotency.as_ref().map(|(key, _)| key),
            self.idempotency.as_ref().map(|(_, hash)| hash),
        ))?;
        Ok(apply.conn.last_insert_rowid())
    }

    fn insert_delivery(
        &self,
        apply: &mut Apply<'_>,
        command_seq: i64,
        target: &Target,
    ) -> Result<DeliveryId, StoreError> {
        const DELIVERY: &str = "INSERT INTO deliveries (id, command_seq, agent_seq, due_ms) VALUES (?1, ?2, ?3, ?4)";
        const TRANSITION: &str =
            "INSERT INTO transitions (delivery_seq, at_ms, before, event, cause) VALUES (?1, ?2, '', 'queued', ?3)";
        let id = DeliveryId::new();
        apply.conn.prepare_cached(DELIVERY)?.execute((
            id.as_bytes(),
            command_seq,
            target.seq,
            self.spec.not_after_ms,
        ))?;
        let seq = apply.conn.last_insert_rowid();
        apply.conn.prepare_cached(TRANSITION)?.execute((seq, apply.now_ms, &self.actor.name))?;
        apply.touched.agents.insert(target.seq);
        apply.touched.states.push(State::Queued);
        Ok(id)
    }
}

fn target(row: &Row<'_>) -> rusqlite::Result<Target> {
    Ok(Target { seq: row.get(0)?, id: AgentId::from_bytes(row.get(1)?), name: row.get(2)? })
}

impl Selector {
    /// The agents that it means, each once, in the order of their rows.
    ///
    /// # Errors
    /// `NotFound`, `Ambiguous`; SQLite's.
    pub fn resolve(&self, apply: &Apply<'_>) -> Result<Vec<Target>, StoreError> {
        const ALL: &str = "SELECT seq, id, name FROM agents WHERE revoked_ms IS NULL ORDER BY seq";
        // Every asked tag must be among the agent's.
        const TAGGED: &str = "SELECT seq, id, name FROM agents WHERE revoked_ms IS NULL AND NOT EXISTS ( \
                SELECT 1 FROM json_each(?1) AS asked WHERE NOT EXISTS ( \
                    SELECT 1 FROM json_each(agents.tags) AS own WHERE own.key = asked.key AND own.value = asked.value)) \
             ORDER BY seq";
        match self {
            Selector::Agents(keys) => {
                let mut met = BTreeSet::new();
                let mut targets = Vec::with_capacity(keys.len());
                for key in keys {
                    let found = find_agent(apply.conn, key)?;
                    if met.insert(found.seq) {
                        targets.push(found);
                    }
                }
                Ok(targets)
            }
            Selector::Tags(tags) => {
                let tags = serde_json::to_string(tags).map_err(|error| StoreError::Sql(error.to_string()))?;
                Ok(apply.conn.prepare_cached(TAGGED)?.query_map([tags], target)?.collect::<Result<_, _>>()?)
            }
            Selector::All => Ok(apply.conn.prepare_cached(ALL)?.query_map([], target)?.collect::<Result<_, _>>()?),
        }
    }
}

/// Finds the one agent, not revoked, with this id or name.
///
/// # Errors
/// `NotFound`, `Ambiguous`; SQLite's.
pub fn find_agent(conn: &rusqlite::Connection, key: &str) -> Result<Target, StoreError> {
    const BY_ID: &str = "SELECT seq, id, name FROM agents WHERE id = ?1 AND revoked_ms IS NULL";
    const BY_NAME: &str = "SELECT seq, id, name FROM agents WHERE name = ?1 AND revoked_ms IS NULL ORDER BY seq"; // agents_name
    let not_found = || StoreError::NotFound { what: "agent", key: key.chars().take(80).collect() };
    if let Ok(id) = key.parse::<AgentId>() {
        return conn.prepare_cached(BY_ID)?.query_row([id.as_bytes()], target).optional()?.ok_or_else(not_found);
    }
    let mut found: Vec<Target> = conn.prepare_cached(BY_NAME)?.query_map([key], target)?.collect::<Result<_, _>>()?;
    match found.len() {
        0 => Err(not_found()),
        1 => Ok(found.remove(0)),
        _ => Err(StoreError::Ambiguous { name: key.to_owned(), candidates: candidates(conn, &found)? }),
    }
}

/// Most candidates that an error lists.
const CANDIDATES_MAX: usize = 20;

fn candidates(conn: &rusqlite::Connection, found: &[Target]) -> Result<Vec<Candidate>, StoreError> {
    const SQL: &str = "SELECT tags FROM agents WHERE seq = ?1";
    let mut candidates = Vec::new();
    for agent in found.iter().take(CANDIDATES_MAX) {
        let tags: String = conn.prepare_cached(SQL)?.query_row([agent.seq], |row| row.get(0))?;
        let tags = serde_json::from_str(&tags).unwrap_or_default();
        candidates.push(Candidate { id: agent.id, name: agent.name.clone(), tags });
    }
    Ok(candidates)
}
