//! An agent enrolls: its public key and name against one use of a join string.

use super::audit::{self, Actor};
use super::error::StoreError;
use super::joins::json;
use super::op::Apply;
use crate::protocol::ids::AgentId;
use crate::protocol::name::{AgentName, Tags, check_tags};
use rusqlite::OptionalExtension;

/// Why an enrollment with a wrong secret is refused.
pub const JOIN_UNKNOWN: &str = "the join string is not known here";

/// Whether a join string enrolls another agent: it is not revoked, has not expired, and has uses left.
///
/// # Errors
/// `JoinRefused`.
pub(super) fn refuse(good: bool, fresh: bool, has_uses: bool) -> Result<(), StoreError> {
    match (good, fresh, has_uses) {
        (false, _, _) => Err(StoreError::JoinRefused("the join string was revoked")),
        (_, false, _) => Err(StoreError::JoinRefused("the join string has expired")),
        (_, _, false) => Err(StoreError::JoinRefused("the join string has been used up")),
        (true, true, true) => Ok(()),
    }
}

/// An enrollment.
#[derive(Clone, Debug)]
pub struct Enroll {
    /// The address it comes from.
    pub peer: Option<String>,
    /// Hash of the join string's secret.
    pub secret_hash: [u8; 32],
    /// Ed25519.
    pub public_key: [u8; 32],
    /// The name it wants.
    pub name: AgentName,
    /// Its tags, checked.
    pub tags: Tags,
}

/// The agent.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// It waits for approval.
    pub pending: bool,
}

impl Enroll {
    /// Adds the agent and uses the join string up by one. The same key with the same join string is the same agent, so
    /// that a lost answer can be asked for again. It carries the join string's tags, whatever it says itself of their
    /// keys: a scope must not be a matter of the endpoint's word.
    ///
    /// # Errors
    /// `JoinRefused`; `Conflict` for a key that enrolled otherwise, and for too many tags; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<Enrolled, StoreError> {
        const JOIN: &str = "SELECT seq, uses < uses_max, expires_ms > ?2, revoked_ms IS NULL, approve, tags FROM joins WHERE hash = ?1";
        const KNOWN: &str =
            "SELECT id, name, join_seq, revoked_ms IS NULL, approved_ms IS NULL FROM agents WHERE public_key = ?1";
        const USE: &str = "UPDATE joins SET uses = uses + 1 WHERE seq = ?1";
        const AGENT: &str = "INSERT INTO agents (id, name, public_key, tags, join_seq, enrolled_ms, enrolled_from, \
             approved_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, iif(?8, NULL, ?6))";
        let join: Option<(i64, bool, bool, bool, bool, String)> = apply
            .conn
            .prepare_cached(JOIN)?
            .query_row((self.secret_hash, apply.now_ms), |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
            })
            .optional()?;
        let Some((join_seq, has_uses, fresh, good, approve, join_tags)) = join else {
            return Err(StoreError::JoinRefused(JOIN_UNKNOWN));
        };
        let known: Option<([u8; 16], String, i64, bool, bool)> = apply
            .conn
            .prepare_cached(KNOWN)?
            .query_row([self.public_key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
            .optional()?;
        if let Some((id, name, used, not_revoked, pending)) = known {
            return if used == join_seq && not_revoked {
                Ok(Enrolled { id: AgentId::from_bytes(id), name, pending })
            } else {
                Err(StoreError::Conflict(
                    "this key has enrolled before; remove the agent's data folder first".to_owned(),
                ))
            };
        }
        refuse(good, fresh, has_uses)?;
        let id = AgentId::new();
        let mut tags = self.tags.clone();
        tags.extend(serde_json::from_str::<Tags>(&join_tags).unwrap_or_default());
        check_tags(&tags).map_err(|error| StoreError::Conflict(format!("{error}, with those of the join string")))?;
        apply.conn.prepare_cached(USE)?.execute([join_seq])?;
        apply.conn.prepare_cached(AGENT)?.execute((
            id.as_bytes(),
            self.name.as_str(),
            self.public_key,
            json(&tags)?,
            join_seq,
            apply.now_ms,
            &self.peer,
            approve,
        ))?;
        let actor = Actor::nobody("join string", self.peer.clone());
        let detail = serde_json::json!({ "name": self.name, "tags": tags, "pending": approve });
        audit::record(apply, &actor, "agent.enroll", &id, &detail)?;
        Ok(Enrolled { id, name: self.name.to_string(), pending: approve })
    }
}
