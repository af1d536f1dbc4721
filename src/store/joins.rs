//! Join strings: made, listed, revoked. Only the hash of the secret is kept.

use super::audit::{self, Actor};
use super::enqueue::in_scope;
use super::enroll::{JOIN_UNKNOWN, refuse};
use super::error::StoreError;
use super::handle::Store;
use super::op::Apply;
use crate::protocol::access::JoinResponse;
use crate::protocol::http::PAGE_MAX;
use crate::protocol::ids::JoinId;
use crate::protocol::name::Tags;
use crate::protocol::scope::Scope;
use rusqlite::{OptionalExtension, Row};

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
    /// What its agents carry, checked.
    pub tags: Tags,
    /// Whether its agents wait for approval.
    pub approve: bool,
}

const COLUMNS: &str = "id, created_ms, created_by, expires_ms, uses_max, uses, revoked_ms, tags, approve";

fn response(row: &Row<'_>) -> rusqlite::Result<JoinResponse> {
    Ok(JoinResponse {
        id: JoinId::from_bytes(row.get(0)?),
        join: None,
        install: None,
        created_ms: row.get(1)?,
        created_by: row.get(2)?,
        expires_ms: row.get(3)?,
        uses_max: row.get(4)?,
        uses: row.get(5)?,
        revoked_ms: row.get(6)?,
        tags: serde_json::from_str(row.get_ref(7)?.as_str()?).unwrap_or_default(),
        approve: row.get(8)?,
    })
}

/// Tags as the database keeps them.
///
/// # Errors
/// None that can happen: maps of texts are JSON.
pub fn json(tags: &Tags) -> Result<String, StoreError> {
    serde_json::to_string(tags).map_err(|error| StoreError::Sql(error.to_string()))
}

impl CreateJoin {
    /// Adds the row.
    ///
    /// # Errors
    /// `Forbidden` for agents that would be outside the actor's scope; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<JoinResponse, StoreError> {
        if !self.actor.scope.holds(&self.tags) {
            return Err(StoreError::Forbidden(format!(
                "the join string's agents would be outside your scope ({}): give it tags that are inside",
                self.actor.scope
            )));
        }
        let sql = format!(
            "INSERT INTO joins (id, hash, created_ms, created_by, expires_ms, uses_max, tags, approve) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING {COLUMNS}"
        );
        let id = JoinId::new();
        let tags = json(&self.tags)?;
        let row = (
            id.as_bytes(),
            self.hash,
            apply.now_ms,
            &self.actor.name,
            self.expires_ms,
            self.uses_max,
            tags,
            self.approve,
        );
        let made = apply.conn.prepare_cached(&sql)?.query_row(row, response)?;
        let detail = serde_json::json!({
            "uses": self.uses_max,
            "expires_ms": self.expires_ms,
            "tags": self.tags,
            "approve": self.approve,
        });
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
    /// Marks the row. Idempotent. Outside the actor's scope there is none.
    ///
    /// # Errors
    /// `NotFound`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        const SQL: &str = concat!(
            "UPDATE joins SET revoked_ms = coalesce(revoked_ms, ?2) WHERE id = ?1 AND ",
            in_scope!("joins.tags", "?3")
        );
        let row = (self.id.as_bytes(), apply.now_ms, self.actor.scope.to_json());
        if apply.conn.prepare_cached(SQL)?.execute(row)? == 0 {
            return Err(StoreError::NotFound { what: "join string", key: self.id.to_string() });
        }
        audit::record(apply, &self.actor, "join.revoke", &self.id, &serde_json::json!({}))
    }
}

impl Store {
    /// Whether an agent could enroll now with the join string whose secret has this hash.
    ///
    /// # Errors
    /// `JoinRefused`; SQLite's.
    pub async fn join_is_good(&self, hash: [u8; 32]) -> Result<(), StoreError> {
        // The index of joins.hash.
        const SQL: &str = "SELECT revoked_ms IS NULL, expires_ms > ?2, uses < uses_max FROM joins WHERE hash = ?1";
        let now_ms = self.clock.now_ms();
        self.read(move |conn| {
            let found: Option<(bool, bool, bool)> = conn
                .prepare_cached(SQL)?
                .query_row((hash, now_ms), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            let (good, fresh, has_uses) = found.ok_or(StoreError::JoinRefused(JOIN_UNKNOWN))?;
            refuse(good, fresh, has_uses)
        })
        .await
    }

    /// Join strings for agents of a scope, newest first.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn joins(&self, scope: Scope) -> Result<Vec<JoinResponse>, StoreError> {
        self.read(move |conn| {
            const IN: &str = in_scope!("joins.tags", "?1");
            let sql = format!("SELECT {COLUMNS} FROM joins WHERE {IN} ORDER BY seq DESC LIMIT {PAGE_MAX}");
            Ok(conn.prepare_cached(&sql)?.query_map([scope.to_json()], response)?.collect::<Result<_, _>>()?)
        })
        .await
    }
}
