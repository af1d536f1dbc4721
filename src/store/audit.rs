//! Audit rows: who did what, in the transaction that did it, and who was refused what. They form a chain.

use super::error::StoreError;
use super::op::Apply;
use crate::protocol::access::Role;
use crate::protocol::audit::{AuditFields, CHAIN_START};
use crate::protocol::ids::TokenId;
use crate::protocol::scope::Scope;
use rusqlite::OptionalExtension;
use rusqlite::types::ToSql;

/// Who acts, from where, and what they may do.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The token's row; none: a part of the server itself, or nobody that is known.
    pub token_seq: Option<i64>,
    /// The token's id.
    pub token_id: Option<TokenId>,
    /// The token's name, or which part of the server.
    pub name: String,
    /// The address that the request came from.
    pub peer: Option<String>,
    /// What they may do.
    pub role: Role,
    /// Which agents they reach.
    pub scope: Scope,
    /// Until when their token is good, in Unix milliseconds; none: until revoked.
    pub expires_ms: Option<i64>,
}

impl Actor {
    /// A part of the server. It may do everything.
    pub fn server(part: &str) -> Self {
        Self { role: Role::Owner, ..Self::nobody(&format!("server ({part})"), None) }
    }

    /// Somebody without a token: an agent that enrolls, a stranger. They may do nothing by their role.
    pub fn nobody(name: &str, peer: Option<String>) -> Self {
        Self {
            token_seq: None,
            token_id: None,
            name: name.to_owned(),
            peer,
            role: Role::Viewer,
            scope: Scope::default(),
            expires_ms: None,
        }
    }
}

/// Something was done.
pub const DONE: &str = "done";
/// Somebody tried, and was refused.
pub const REFUSED: &str = "refused";

/// Writes the row of something that is done in this transaction.
///
/// # Errors
/// SQLite's.
pub fn record(
    apply: &Apply<'_>,
    actor: &Actor,
    action: &str,
    target: &dyn ToString,
    detail: &serde_json::Value,
) -> Result<(), StoreError> {
    append(apply, actor, action, Some(&target.to_string()), DONE, &detail.to_string())
}

/// Writes the row of what somebody tried in vain.
#[derive(Clone, Debug)]
pub struct Refuse {
    /// Who tried.
    pub actor: Actor,
    /// Method and route, or what else it was.
    pub action: String,
    /// Id of what it was about.
    pub target: Option<String>,
    /// The rest.
    pub detail: serde_json::Value,
}

impl Refuse {
    /// Appends it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        append(apply, &self.actor, &self.action, self.target.as_deref(), REFUSED, &self.detail.to_string())
    }
}

/// Appends a row to the chain.
///
/// # Errors
/// SQLite's.
pub fn append(
    apply: &Apply<'_>,
    actor: &Actor,
    action: &str,
    target: Option<&str>,
    outcome: &str,
    detail: &str,
) -> Result<(), StoreError> {
    const LAST: &str = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";
    const INSERT: &str = "INSERT INTO audit (seq, at_ms, actor, token_id, peer, action, target, outcome, detail, hash) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let last: Option<(i64, [u8; 32])> =
        apply.conn.prepare_cached(LAST)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (last, head) = last.unwrap_or((0, CHAIN_START));
    let token_id = actor.token_id.map(|id| id.to_string());
    let row = AuditFields {
        seq: last + 1,
        at_ms: apply.now_ms,
        actor: &actor.name,
        token_id: token_id.as_deref(),
        peer: actor.peer.as_deref(),
        action,
        target,
        outcome,
        detail,
    };
    let hash = row.hash(&head);
    let values: [&dyn ToSql; 10] = [
        &row.seq,
        &row.at_ms,
        &row.actor,
        &row.token_id,
        &row.peer,
        &row.action,
        &row.target,
        &row.outcome,
        &row.detail,
        &hash,
    ];
    apply.conn.prepare_cached(INSERT)?.execute(values)?;
    Ok(())
}
