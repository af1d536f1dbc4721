//! Join strings: made, listed, revoked. Only the hash of the secret is kept.

use super::audit::{self, Actor};
use super::error::StoreError;
use super::handle::Store;
use super::op::Apply;
use crate::protocol::access::JoinResponse;
use crate::protocol::http::PAGE_MAX;
use crate::protocol::ids::JoinId;
use rusqlite::Row;

/// Makes a join string.
#[derive(Clone, Debug)]
pub struct CreateJoin {
    /// Who makes it.
    pub actor: Actor,
    /// Hash of its secret.
    pub hash: [u8; 32],
    /// How many agents may enroll with it.
    pub uses_max: u32,
    /// Until when it is good.
    pub expires_ms: i64,
}

const COLUMNS: &str = "id, created_ms, created_by, expires_ms, uses_max, uses, revoked_ms";

fn response(row: &Row<'_>) -> rusqlite::Result<JoinResponse> {
    Ok(JoinResponse {
        id: JoinId::from_bytes(row.get(0)?),
        join: None,
        created_ms: row.get(1)?,
        created_by: row.get(2)?,
        expires_ms: row.get(3)?,
        uses_max: row.get(4)?,
        uses: row.get(5)?,
        revoked_ms: row.get(6)?,
    })
}

impl CreateJoin {
    /// Adds the row.
    ///
    /// # Errors
    /// SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<JoinResponse, StoreError> {
        const SQL: &str = "INSERT INTO joins (id, hash, created_ms, created_by, expires_ms, uses_max) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id, created_ms, created_by, expires_ms, uses_max, uses, revoked_ms";
        let id = JoinId::new();
        let row = (id.as_bytes(), self.hash, apply.now_ms, &self.actor.name, self.expires_ms, self.uses_max);
        let made = apply.conn.prepare_cached(SQL)?.query_row(row, response)?;
        let detail = serde_json::json!({ "uses": self.uses_max, "expires_ms": self.expires_ms });
        audit::record(apply, &self.actor, "join.create", &id, &detail)?;
        Ok(made)
    }
}

/// Revokes a join string. Agents that enrolled with it stay.
#[derive(Clone, Debug)]
pub struct RevokeJoin {
    /// Who revokes it.
    pub actor: Actor,
    /// Which.
    pub id: JoinId,
}

impl RevokeJoin {
    /// Marks the row. Idempotent.
    ///
    /// # Errors
    /// `NotFound`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE joins SET revoked_ms = coalesce(revoked_ms, ?2) WHERE id = ?1";
        if apply.conn.prepare_cached(SQL)?.execute((self.id.as_bytes(), apply.now_ms))? == 0 {
            return Err(StoreError::NotFound { what: "join string", key: self.id.to_string() });
        }
        audit::record(apply, &self.actor, "join.revoke", &self.id, &serde_json::json!({}))
    }
}

impl Store {
    /// Join strings, newest first.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn joins(&self) -> Result<Vec<JoinResponse>, StoreError> {
        self.read(|conn| {
            let sql = format!("SELECT {COLUMNS} FROM joins ORDER BY seq DESC LIMIT {PAGE_MAX}");
            Ok(conn.prepare_cached(&sql)?.query_map([], response)?.collect::<Result<_, _>>()?)
        })
        .await
    }
}
