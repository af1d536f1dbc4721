//! Audit rows: who did what, in the transaction that did it.

use super::error::StoreError;
use super::op::Apply;
use rusqlite::types::ToSql;

/// Who acts, and from where.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The token's row; none: a part of the server itself.
    pub token_seq: Option<i64>,
    /// The token's name, or which part of the server.
    pub name: String,
    /// The address that the request came from.
    pub peer: Option<String>,
}

impl Actor {
    /// A part of the server.
    pub fn server(part: &str) -> Self {
        Self { token_seq: None, name: format!("server ({part})"), peer: None }
    }
}

const INSERT: &str = "INSERT INTO audit (at_ms, actor, peer, action, target, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// Writes one row.
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
    let target = target.to_string();
    let detail = detail.to_string();
    let row: [&dyn ToSql; 6] = [&apply.now_ms, &actor.name, &actor.peer, &action, &target, &detail];
    apply.conn.prepare_cached(INSERT)?.execute(row)?;
    Ok(())
}
