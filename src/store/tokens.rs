//! Operators' tokens: made, found by hash, listed, revoked. The token itself is never stored.

use super::audit::{self, Actor};
use super::error::StoreError;
use super::handle::Store;
use super::op::Apply;
use crate::protocol::access::{Role, TokenResponse};
use crate::protocol::http::PAGE_MAX;
use crate::protocol::ids::TokenId;
use crate::protocol::scope::Scope;
use rusqlite::{OptionalExtension, Row};
use std::sync::Arc;

/// Makes a token.
#[derive(Clone, Debug)]
pub struct CreateToken {
    /// Who makes it.
    pub actor: Actor,
    /// Whose it will be.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Which agents it reaches.
    pub scope: Scope,
    /// Hash of the token.
    pub hash: [u8; 32],
    /// Until when it is good; none: until revoked.
    pub expires_ms: Option<i64>,
}

const COLUMNS: &str = "id, name, role, created_ms, expires_ms, revoked_ms, scope, used_ms, used_from, \
     (SELECT name FROM tokens AS maker WHERE maker.seq = tokens.made_by), totp IS NOT NULL AND totp_step > 0";

fn role(text: &str) -> Role {
    match text {
        "owner" => Role::Owner,
        "technician" => Role::Technician,
        // The schema allows no other; were there one, it would be the weakest.
        _ => Role::Viewer,
    }
}

fn scope(row: &Row<'_>, column: usize) -> rusqlite::Result<Scope> {
    // Read as nothing, a scope that cannot be read would reach all agents.
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn response(row: &Row<'_>) -> rusqlite::Result<TokenResponse> {
    Ok(TokenResponse {
        id: TokenId::from_bytes(row.get(0)?),
        token: None,
        name: row.get(1)?,
        role: role(row.get_ref(2)?.as_str()?),
        created_ms: row.get(3)?,
        expires_ms: row.get(4)?,
        revoked_ms: row.get(5)?,
        scope: scope(row, 6)?,
        used_ms: row.get(7)?,
        used_from: row.get(8)?,
        created_by: row.get(9)?,
        totp: row.get(10)?,
    })
}

impl CreateToken {
    /// Adds the row. No token makes one that is stronger than itself.
    ///
    /// # Errors
    /// `Forbidden` for a stronger one, `Conflict` for a name in use; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<TokenResponse, StoreError> {
        const TAKEN: &str = "SELECT 1 FROM tokens WHERE name = ?1 AND revoked_ms IS NULL"; // tokens_name
        const INSERT: &str = "INSERT INTO tokens (id, name, role, hash, created_ms, expires_ms, scope, made_by) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let ends_later = |ours: i64| self.expires_ms.is_none_or(|theirs| theirs > ours);
        let stronger = if self.role > self.actor.role {
            Some("a higher role than its maker's")
        } else if !self.actor.scope.contains(&self.scope) {
            Some("a wider scope than its maker's")
        } else if self.actor.expires_ms.is_some_and(ends_later) {
            Some("a longer life than its maker's")
        } else {
            None
        };
        if let Some(what) = stronger {
            return Err(StoreError::Forbidden(format!("the token would have {what}: no token makes a stronger one")));
        }
        if apply.conn.prepare_cached(TAKEN)?.exists([&self.name])? {
            return Err(StoreError::Conflict(format!("a token named {:?} exists; revoke it first", self.name)));
        }
        let id = TokenId::new();
        let scope = self.scope.to_json();
        let row = (
            id.as_bytes(),
            &self.name,
            self.role.as_str(),
            self.hash,
            apply.now_ms,
            self.expires_ms,
            scope,
            self.actor.token_seq,
        );
        apply.conn.prepare_cached(INSERT)?.execute(row)?;
        let made = format!("SELECT {COLUMNS} FROM tokens WHERE id = ?1");
        let made = apply.conn.prepare_cached(&made)?.query_row([id.as_bytes()], response)?;
        let detail = serde_json::json!({ "name": self.name, "role": self.role, "scope": self.scope,
            "expires_ms": self.expires_ms });
        audit::record(apply, &self.actor, "token.create", &id, &detail)?;
        Ok(made)
    }
}

/// Revokes a token, at once.
#[derive(Clone, Debug)]
pub struct RevokeToken {
    /// Who revokes it.
    pub actor: Actor,
    /// Which.
    pub id: TokenId,
}

impl RevokeToken {
    /// Marks the row. Idempotent.
    ///
    /// # Errors
    /// `NotFound`, also outside the actor's scope; `Conflict` for the last owner's token; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        // Without a scope: the others cannot do everything.
        const OTHERS: &str = "SELECT EXISTS (SELECT 1 FROM tokens WHERE role = 'owner' AND scope = '{}' AND revoked_ms IS NULL \
             AND (expires_ms IS NULL OR expires_ms > ?2) AND id <> ?1)";
        const SQL: &str = "UPDATE tokens SET revoked_ms = coalesce(revoked_ms, ?2) WHERE id = ?1";
        let target = target(apply, &self.actor, self.id)?;
        let key = (self.id.as_bytes(), apply.now_ms);
        let others: bool = apply.conn.prepare_cached(OTHERS)?.query_row(key, |row| row.get(0))?;
        if target.role == Role::Owner && !others {
            return Err(StoreError::Conflict("this is the last owner's token; make another one first".to_owned()));
        }
        apply.conn.prepare_cached(SQL)?.execute(key)?;
        apply.touched.tokens.insert(target.seq);
        audit::record(apply, &self.actor, "token.revoke", &self.id, &serde_json::json!({}))
    }
}

/// A token that somebody acts on.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Row number.
    pub seq: i64,
    /// What it may do.
    pub role: Role,
}

/// The token with this id, if the actor's scope contains its own.
///
/// # Errors
/// `NotFound`; SQLite's.
pub fn target(apply: &Apply<'_>, actor: &Actor, id: TokenId) -> Result<Target, StoreError> {
    const SQL: &str = "SELECT seq, role, scope FROM tokens WHERE id = ?1";
    let read = |row: &Row<'_>| {
        let target = Target { seq: row.get(0)?, role: role(row.get_ref(1)?.as_str()?) };
        Ok((target, scope(row, 2)?))
    };
    let found = apply.conn.prepare_cached(SQL)?.query_row([id.as_bytes()], read).optional()?;
    match found {
        Some((target, scope)) if actor.scope.contains(&scope) => Ok(target),
        _ => Err(StoreError::NotFound { what: "token", key: id.to_string() }),
    }
}

/// A token that is good now. Whoever changes one of these columns says so in `Touched::tokens`, or the old ones go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Row number.
    pub seq: i64,
    /// Its id.
    pub id: TokenId,
    /// Whose.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Which agents it reaches.
    pub scope: Scope,
    /// Until when it is good; none: until revoked.
    pub expires_ms: Option<i64>,
    /// The sealed secret of its one-time passwords; none: there is none.
    pub totp: Option<Vec<u8>>,
    /// The latest time step whose password was used; 0: none are asked for yet.
    pub totp_step: i64,
}

impl Bearer {
    /// Whether it has not ended by itself at this time, in Unix milliseconds.
    pub fn is_good_at(&self, now_ms: i64) -> bool {
        self.expires_ms.is_none_or(|expires_ms| expires_ms > now_ms)
    }

    /// Whether a one-time password is needed with it.
    pub fn needs_code(&self) -> bool {
        self.totp.is_some() && self.totp_step > 0
    }
}

/// How a good token is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKey {
    /// By its hash.
    Hash([u8; 32]),
    /// By its row.
    Seq(i64),
}

impl Store {
    /// A token, if it is good now: from memory, if it is known there.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn bearer(&self, key: TokenKey) -> Result<Option<Arc<Bearer>>, StoreError> {
        // Before the read: what changes during it must not pass for what was read.
        let changes = self.watch.token_changes();
        if let Some(known) = self.bearers.get(&key, changes, self.clock.now_ms()) {
            return Ok(Some(known));
        }
        let read = self.read_bearer(key).await?.map(Arc::new);
        if let Some(bearer) = &read {
            self.bearers.keep(key, changes, bearer);
        }
        Ok(read)
    }

    /// The same from the database.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) async fn read_bearer(&self, key: TokenKey) -> Result<Option<Bearer>, StoreError> {
        const BY_HASH: &str = "SELECT seq, id, name, role, scope, expires_ms, totp, totp_step FROM tokens \
             WHERE hash = ?1 AND revoked_ms IS NULL AND (expires_ms IS NULL OR expires_ms > ?2)";
        const BY_SEQ: &str = "SELECT seq, id, name, role, scope, expires_ms, totp, totp_step FROM tokens \
             WHERE seq = ?1 AND revoked_ms IS NULL AND (expires_ms IS NULL OR expires_ms > ?2)";
        let now_ms = self.clock.now_ms();
        self.read(move |conn| {
            // Found by the hash of 32 random bytes: what a comparison's time tells about it leads to no token.
            let bearer = |row: &Row<'_>| {
                Ok(Bearer {
                    seq: row.get(0)?,
                    id: TokenId::from_bytes(row.get(1)?),
                    name: row.get(2)?,
                    role: role(row.get_ref(3)?.as_str()?),
                    scope: scope(row, 4)?,
                    expires_ms: row.get(5)?,
                    totp: row.get(6)?,
                    totp_step: row.get(7)?,
                })
            };
            let found = match key {
                TokenKey::Hash(hash) => conn.prepare_cached(BY_HASH)?.query_row((hash, now_ms), bearer),
                TokenKey::Seq(seq) => conn.prepare_cached(BY_SEQ)?.query_row((seq, now_ms), bearer),
            };
            Ok(found.optional()?)
        })
        .await
    }

    /// The tokens that reach no agent outside `within`, newest first.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn tokens(&self, within: Scope) -> Result<Vec<TokenResponse>, StoreError> {
        self.read(move |conn| {
            let sql = format!("SELECT {COLUMNS} FROM tokens ORDER BY seq DESC");
            let mut statement = conn.prepare_cached(&sql)?;
            let mut tokens = Vec::new();
            for token in statement.query_map([], response)? {
                let token = token?;
                if within.contains(&token.scope) && tokens.len() < PAGE_MAX as usize {
                    tokens.push(token);
                }
            }
            Ok(tokens)
        })
        .await
    }

    /// Whether any token was ever made: if not, this is the first start.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn has_tokens(&self) -> Result<bool, StoreError> {
        self.read(|conn| Ok(conn.prepare_cached("SELECT 1 FROM tokens")?.exists([])?)).await
    }
}
