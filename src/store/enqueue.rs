//! A submission: the command, one delivery an agent and the audit row, all in one transaction.

use super::audit::{self, Actor};
use super::brake::Brake;
use super::error::StoreError;
use super::history::command_response;
use super::op::Apply;
use crate::protocol::audit::text_hash;
use crate::protocol::http::{Approval, Candidate, CommandResponse, DeliveryResponse};
use crate::protocol::ids::{AgentId, CommandId, DeliveryId};
use crate::protocol::name::Tags;
use crate::protocol::scope::Scope;
use crate::protocol::spec::Spec;
use crate::protocol::state::State;
use crate::secret::{hex, sha256};
use rusqlite::{OptionalExtension, Row};
use std::collections::BTreeSet;

/// How much of a specification the audit keeps, in bytes: audit rows are never deleted.
pub const AUDIT_SPEC_BYTES_MAX: usize = 16 * 1024;
/// Agents that the audit names of one submission; the others are counted.
pub const AUDIT_AGENTS_MAX: usize = 50;

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
    /// How many agents the submitter says there are.
    pub confirm: Option<u64>,
    /// Above which numbers of agents it is not just taken.
    pub brake: Brake,
    /// Secret variables; none: there are none.
    pub secrets: Option<Sealed>,
    /// The client's key, and the hash of what it submitted.
    pub idempotency: Option<(String, [u8; 32])>,
}

/// Secret variables, sealed for one command.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The id that the command gets: they open under it alone.
    pub command: CommandId,
    /// Sealed names and values.
    pub bytes: Vec<u8>,
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
    /// It waits for somebody's approval and is given nothing.
    pub pending: bool,
}

/// SQL: an agent's tags (the first) are in a scope (the second, as [`Scope::to_json`] writes it). The scope of all is told
/// by its text, so that it costs nothing for each agent.
macro_rules! in_scope {
    ($tags:literal, $scope:literal) => {
        concat!(
            "(",
            $scope,
            " = '{}' OR NOT EXISTS (SELECT 1 FROM json_each(",
            $scope,
            ") AS need WHERE NOT EXISTS (SELECT 1 FROM json_each(",
            $tags,
            ") AS own WHERE own.key = need.key AND own.value IN (SELECT value FROM json_each(need.value)))))"
        )
    };
}
pub(super) use in_scope;

impl Enqueue {
    /// Adds the rows.
    ///
    /// # Errors
    /// `Quota`, `NotFound`, `Ambiguous`, `NoTargets`, `ConfirmNeeded`, `KeyReused`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<Enqueued, StoreError> {
        if let Some(replayed) = self.replay(apply)? {
            return Ok(replayed);
        }
        if let Some(why) = apply.quota {
            return Err(StoreError::Quota(why.to_owned()));
        }
        let targets = self.targets.resolve(apply, &self.actor.scope)?;
        if targets.is_empty() {
            return Err(StoreError::NoTargets);
        }
        self.brake.confirm(apply.conn, self.actor.role, &self.targets, &targets, self.confirm)?;
        let held = self.brake.holds(targets.len());
        let id = self.secrets.as_ref().map_or_else(CommandId::new, |sealed| sealed.command);
        let command_seq = self.insert_command(apply, id, held)?;
        if let Some(sealed) = &self.secrets {
            const SECRETS: &str = "INSERT INTO secrets (command_seq, waiting, sealed) VALUES (?1, ?2, ?3)";
            let waiting = i64::try_from(targets.len()).unwrap_or(i64::MAX);
            apply.conn.prepare_cached(SECRETS)?.execute((command_seq, waiting, &sealed.bytes))?;
        }
        let mut deliveries = Vec::with_capacity(targets.len());
        for target in &targets {
            let delivery = self.insert_delivery(apply, command_seq, target, held)?;
            let queued = DeliveryResponse::queued(delivery, target.id, target.name.clone());
            deliveries.push(DeliveryResponse { held, ..queued });
        }
        audit::record(apply, &self.actor, "command.submit", &id, &self.told(&targets, held))?;
        let command = CommandResponse {
            id,
            created_ms: apply.now_ms,
            created_by: self.actor.name.clone(),
            spec: self.document.clone(),
            summary: self.spec.summary(),
            not_after_ms: self.spec.not_after_ms,
            note: self.note.clone(),
            approval: held.then(Approval::default),
            state: (deliveries.len() == 1).then_some(State::Queued),
            states: [(State::Queued, deliveries.len() as u64)].into(),
            deliveries,
        };
        Ok(Enqueued { command_seq, command, replayed: false })
    }

    /// What the audit tells of it, after history has forgotten it.
    fn told(&self, targets: &[Target], held: bool) -> serde_json::Value {
        let text = &self.document[..self.document.floor_char_boundary(AUDIT_SPEC_BYTES_MAX)];
        let named = targets.iter().take(AUDIT_AGENTS_MAX);
        let named: Vec<_> = named.map(|target| serde_json::json!({ "id": target.id, "name": target.name })).collect();
        // Of all of them, in the order of their ids: who was reached can be checked later, though not all are named.
        let mut ids: Vec<[u8; 16]> = targets.iter().map(|target| *target.id.as_bytes()).collect();
        ids.sort_unstable();
        let ids = ids.concat();
        let mut detail = serde_json::json!({
            "spec_sha256": text_hash(&self.document),
            "spec": text,
            "agents": named,
            "agent_count": targets.len(),
            "targets": self.targets.told(),
            "agents_sha256": hex(&sha256(&ids)),
            "held": held,
        });
        if text.len() < self.document.len() {
            detail["cut"] = true.into();
        }
        if let Some(note) = &self.note {
            detail["note"] = note.as_str().into();
        }
        detail
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
        let command = command_response(apply.conn, CommandId::from_bytes(id), None, false, &self.actor.scope)?;
        Ok(Some(Enqueued { command_seq, command: command.response, replayed: true }))
    }

    fn insert_command(&self, apply: &Apply<'_>, id: CommandId, approval: bool) -> Result<i64, StoreError> {
        const SQL: &str = "INSERT INTO commands (id, created_ms, token_seq, spec, timeout_ms, not_after_ms, \
             output_bytes_max, note, idempotency_key, idempotency_hash, approval) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
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
            approval,
        ))?;
        Ok(apply.conn.last_insert_rowid())
    }

    fn insert_delivery(
        &self,
        apply: &mut Apply<'_>,
        command_seq: i64,
        target: &Target,
        held: bool,
    ) -> Result<DeliveryId, StoreError> {
        const DELIVERY: &str =
            "INSERT INTO deliveries (id, command_seq, agent_seq, due_ms, held) VALUES (?1, ?2, ?3, ?4, ?5)";
        const TRANSITION: &str =
            "INSERT INTO transitions (delivery_seq, at_ms, before, event, cause) VALUES (?1, ?2, '', 'queued', ?3)";
        let id = DeliveryId::new();
        apply.conn.prepare_cached(DELIVERY)?.execute((
            id.as_bytes(),
            command_seq,
            target.seq,
            self.spec.not_after_ms,
            held,
        ))?;
        let seq = apply.conn.last_insert_rowid();
        apply.conn.prepare_cached(TRANSITION)?.execute((seq, apply.now_ms, &self.actor.name))?;
        apply.touched.agents.insert(target.seq);
        apply.touched.states.push(State::Queued);
        Ok(id)
    }
}

fn target(row: &Row<'_>) -> rusqlite::Result<Target> {
    Ok(Target { seq: row.get(0)?, id: AgentId::from_bytes(row.get(1)?), name: row.get(2)?, pending: row.get(3)? })
}

impl Selector {
    /// As the audit tells it: what was asked, not whom it reached.
    fn told(&self) -> serde_json::Value {
        match self {
            Self::Agents(_) => "agents".into(),
            Self::Tags(tags) => serde_json::json!({ "tags": tags }),
            Self::All => "all".into(),
        }
    }

    /// The agents that it means, each once. Named ones in the order of the names, others in that of their rows, without
    /// those that are pending.
    ///
    /// # Errors
    /// `NotFound`, `Ambiguous`, `Conflict` for a named one that is pending; SQLite's.
    pub fn resolve(&self, apply: &Apply<'_>, scope: &Scope) -> Result<Vec<Target>, StoreError> {
        const IN: &str = concat!(
            "SELECT seq, id, name, 0 FROM agents WHERE revoked_ms IS NULL AND approved_ms IS NOT NULL AND ",
            in_scope!("agents.tags", "?1"),
            " AND ",
            in_scope!("agents.tags", "?2"),
            " ORDER BY seq"
        );
        let all_in = |tagged: &Scope| -> Result<Vec<Target>, StoreError> {
            let mut statement = apply.conn.prepare_cached(IN)?;
            let found = statement.query_map((tagged.to_json(), scope.to_json()), target)?;
            Ok(found.collect::<Result<_, _>>()?)
        };
        match self {
            Selector::Agents(keys) => {
                let mut met = BTreeSet::new();
                let mut targets = Vec::with_capacity(keys.len());
                for key in keys {
                    let found = find_one(apply.conn, key, scope, Prefer::Approved)?;
                    if found.pending {
                        return Err(StoreError::Conflict(format!(
                            "{} waits for approval: `postrider agents approve {}` lets it in",
                            found.name, found.id
                        )));
                    }
                    if met.insert(found.seq) {
                        targets.push(found);
                    }
                }
                Ok(targets)
            }
            Selector::Tags(tags) => all_in(&Scope::of_tags(tags)),
            Selector::All => all_in(&Scope::default()),
        }
    }
}

/// Whom a name means when several agents have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// Nobody: it is ambiguous.
    Nobody,
    /// Those that do not wait for approval: a stranger who enrolls with a name that is taken makes it mean nobody else.
    Approved,
    /// Those that wait for approval.
    Pending,
}

/// Finds the one agent, not revoked, with this id or name. Outside the scope there are none.
///
/// # Errors
/// `NotFound`, `Ambiguous`; SQLite's.
pub fn find_agent(conn: &rusqlite::Connection, key: &str, scope: &Scope) -> Result<Target, StoreError> {
    find_one(conn, key, scope, Prefer::Nobody)
}

/// The same; of several that have the name, those are meant that `prefer` says, if there are such.
///
/// # Errors
/// `NotFound`, `Ambiguous`; SQLite's.
pub fn find_one(conn: &rusqlite::Connection, key: &str, scope: &Scope, prefer: Prefer) -> Result<Target, StoreError> {
    const BY_ID: &str = concat!(
        "SELECT seq, id, name, approved_ms IS NULL FROM agents WHERE id = ?1 AND revoked_ms IS NULL AND ",
        in_scope!("agents.tags", "?2")
    );
    const BY_NAME: &str = concat!(
        "SELECT seq, id, name, approved_ms IS NULL FROM agents WHERE name = ?1 AND revoked_ms IS NULL AND ",
        in_scope!("agents.tags", "?2"),
        " ORDER BY seq"
    ); // agents_name
    let scope = scope.to_json();
    let not_found = || StoreError::NotFound { what: "agent", key: key.chars().take(80).collect() };
    if let Ok(id) = key.parse::<AgentId>() {
        return conn.prepare_cached(BY_ID)?.query_row((id.as_bytes(), scope), target).optional()?.ok_or_else(not_found);
    }
    let mut found: Vec<Target> =
        conn.prepare_cached(BY_NAME)?.query_map((key, scope), target)?.collect::<Result<_, _>>()?;
    let preferred = |agent: &Target| prefer != Prefer::Nobody && agent.pending == (prefer == Prefer::Pending);
    if found.iter().any(preferred) {
        found.retain(preferred);
    }
    match found.len() {
        0 => Err(not_found()),
        1 => Ok(found.remove(0)),
        _ => Err(StoreError::Ambiguous { name: key.to_owned(), candidates: candidates(conn, &found)? }),
    }
}

/// Most candidates that an error lists.
const CANDIDATES_MAX: usize = 20;

/// The first of these agents, for an error.
///
/// # Errors
/// SQLite's.
pub fn candidates(conn: &rusqlite::Connection, found: &[Target]) -> Result<Vec<Candidate>, StoreError> {
    const SQL: &str = "SELECT tags FROM agents WHERE seq = ?1";
    let mut candidates = Vec::new();
    for agent in found.iter().take(CANDIDATES_MAX) {
        let tags: String = conn.prepare_cached(SQL)?.query_row([agent.seq], |row| row.get(0))?;
        let tags = serde_json::from_str(&tags).unwrap_or_default();
        candidates.push(Candidate { id: agent.id, name: agent.name.clone(), tags, pending: agent.pending });
    }
    Ok(candidates)
}
