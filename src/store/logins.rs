//! What is kept of tokens in use: when last, and who logged in and out with them.
//!
//! Logins themselves are in the server's memory and end with it; here are their audit rows, and the one-time password that
//! a login used up.

use super::audit::{self, Actor};
use super::error::StoreError;
use super::op::Apply;
use rusqlite::OptionalExtension;

/// Last uses are known to the minute, in milliseconds: each costs a share of a commit.
pub const USE_MS: i64 = 60_000;

/// A token was used.
#[derive(Clone, Debug)]
pub struct UseToken {
    /// Its row.
    pub token_seq: i64,
    /// From where.
    pub from: String,
}

impl UseToken {
    /// Notes the use, unless the same minute is noted. While submissions are refused for want of space it notes nothing:
    /// what space there is has better uses.
    ///
    /// # Errors
    /// SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE tokens SET used_ms = ?2, used_from = ?3 WHERE seq = ?1 AND used_ms IS NOT ?2";
        if apply.quota.is_none() {
            let minute = apply.now_ms - apply.now_ms.rem_euclid(USE_MS);
            apply.conn.prepare_cached(SQL)?.execute((self.token_seq, minute, &self.from))?;
        }
        Ok(())
    }
}

/// An operator logs in with a token.
#[derive(Clone, Debug)]
pub struct OpenLogin {
    /// Who.
    pub actor: Actor,
    /// The time step whose password they gave; none: none was asked for.
    pub totp_step: Option<i64>,
    /// Until when the login is good at most.
    pub expires_ms: i64,
}

impl OpenLogin {
    /// Uses the password up. False: it was used before, or the token is good no longer or now asks for one.
    ///
    /// # Errors
    /// `Quota`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<bool, StoreError> {
        const USE: &str = "UPDATE tokens SET totp_step = ?2 WHERE seq = ?1 AND revoked_ms IS NULL AND totp IS NOT NULL AND totp_step < ?2";
        const PLAIN: &str =
            "SELECT 1 FROM tokens WHERE seq = ?1 AND revoked_ms IS NULL AND (totp IS NULL OR totp_step = 0)";
        if let Some(why) = apply.quota {
            return Err(StoreError::Quota(why.to_owned()));
        }
        let good = match self.totp_step {
            Some(step) => {
                apply.touched.tokens.extend(self.actor.token_seq);
                apply.conn.prepare_cached(USE)?.execute((self.actor.token_seq, step))? == 1
            }
            None => {
                apply.conn.prepare_cached(PLAIN)?.query_row([self.actor.token_seq], |_| Ok(())).optional()?.is_some()
            }
        };
        if good {
            let detail = serde_json::json!({ "totp": self.totp_step.is_some(), "expires_ms": self.expires_ms });
            audit::append(apply, &self.actor, "session.create", None, audit::DONE, &detail.to_string())?;
        }
        Ok(good)
    }
}

/// An operator logs out.
#[derive(Clone, Debug)]
pub struct CloseLogin {
    /// Who.
    pub actor: Actor,
}

impl CloseLogin {
    /// Writes its audit row, and wakes what the login holds open.
    ///
    /// # Errors
    /// SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        apply.touched.tokens.extend(self.actor.token_seq);
        audit::append(apply, &self.actor, "session.end", None, audit::DONE, "{}")
    }
}
