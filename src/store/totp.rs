//! One-time passwords of tokens: a sealed secret is set, proven, and taken away again.

use super::audit::{self, Actor};
use super::error::StoreError;
use super::op::Apply;
use super::tokens::target;
use crate::protocol::ids::TokenId;
use serde_json::json;

/// A token gets a secret. It is not asked for before it is proven.
#[derive(Clone, Debug)]
pub struct SetTotp {
    /// Whose token it is.
    pub actor: Actor,
    /// The token.
    pub id: TokenId,
    /// The secret, sealed.
    pub sealed: Vec<u8>,
}

impl SetTotp {
    /// Keeps the secret in place of one that was never proven.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when one is in force; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE tokens SET totp = ?2, totp_step = 0 WHERE seq = ?1 AND totp_step = 0";
        let target = target(apply, &self.actor, self.id)?;
        if apply.conn.prepare_cached(SQL)?.execute((target.seq, &self.sealed))? == 0 {
            let what = "one-time passwords are on already; turn them off first (`postrider tokens totp --off`)";
            return Err(StoreError::Conflict(what.to_owned()));
        }
        apply.touched.tokens.insert(target.seq);
        audit::record(apply, &self.actor, "token.totp_new", &self.id, &json!({}))
    }
}

/// Its owner shows that they have the secret.
#[derive(Clone, Debug)]
pub struct ProveTotp {
    /// Whose token it is.
    pub actor: Actor,
    /// The token.
    pub id: TokenId,
    /// The sealed secret that the password was checked against.
    pub sealed: Vec<u8>,
    /// The time step of the password: it is used up.
    pub step: i64,
}

impl ProveTotp {
    /// Puts the secret in force. False: it is another one by now.
    ///
    /// # Errors
    /// `NotFound`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<bool, StoreError> {
        const SQL: &str = "UPDATE tokens SET totp_step = ?3 WHERE seq = ?1 AND totp = ?2 AND totp_step = 0";
        let target = target(apply, &self.actor, self.id)?;
        if apply.conn.prepare_cached(SQL)?.execute((target.seq, &self.sealed, self.step))? == 0 {
            return Ok(false);
        }
        // What the bare token holds open ends.
        apply.touched.tokens.insert(target.seq);
        audit::record(apply, &self.actor, "token.totp_on", &self.id, &json!({}))?;
        Ok(true)
    }
}

/// One-time passwords are asked for no longer.
#[derive(Clone, Debug)]
pub struct ClearTotp {
    /// Who says so.
    pub actor: Actor,
    /// The token.
    pub id: TokenId,
}

impl ClearTotp {
    /// Takes the secret away. Idempotent.
    ///
    /// # Errors
    /// `NotFound`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE tokens SET totp = NULL, totp_step = 0 WHERE seq = ?1";
        let target = target(apply, &self.actor, self.id)?;
        apply.conn.prepare_cached(SQL)?.execute([target.seq])?;
        apply.touched.tokens.insert(target.seq);
        audit::record(apply, &self.actor, "token.totp_off", &self.id, &json!({}))
    }
}
