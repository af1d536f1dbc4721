//! The server's authorities, as far as the database knows of them: who made and retired them, and which agents know which.

use super::audit::{self, Actor};
use super::error::StoreError;
use super::handle::Store;
use super::op::Apply;
use crate::pin::Pin;
use std::collections::HashMap;

/// An authority was made.
#[derive(Clone, Debug)]
pub struct CreateAuthority {
    /// Who makes it.
    pub actor: Actor,
    /// Its pin.
    pub pin: Pin,
}

impl CreateAuthority {
    /// Writes it down.
    ///
    /// # Errors
    /// SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        audit::record(apply, &self.actor, "authority.create", &self.pin, &serde_json::json!({}))
    }
}

/// An authority is to be retired.
#[derive(Clone, Debug)]
pub struct RetireAuthority {
    /// Who retires it.
    pub actor: Actor,
    /// Its pin.
    pub pin: Pin,
    /// Even if agents know no newer one.
    pub force: bool,
}

impl RetireAuthority {
    /// Writes it down, if no agent depends on it.
    ///
    /// # Errors
    /// `Conflict` when agents know no newer one; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        const SQL: &str = "SELECT count(*) FROM agents WHERE pin = ?1 AND revoked_ms IS NULL";
        let agents: u64 = apply.conn.prepare_cached(SQL)?.query_row([self.pin.as_bytes()], |row| row.get(0))?;
        if agents > 0 && !self.force {
            return Err(StoreError::Conflict(format!(
                "{agents} {} no newer authority yet: wait until they have been online, or force it; \
                 then they must enroll anew",
                if agents == 1 { "agent knows" } else { "agents know" }
            )));
        }
        let detail = serde_json::json!({ "agents": agents, "force": self.force });
        audit::record(apply, &self.actor, "authority.retire", &self.pin, &detail)
    }
}

impl Store {
    /// How many agents that are not revoked have each pin as their newest. Pins without an agent are missing.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn authority_agents(&self) -> Result<HashMap<Pin, u64>, StoreError> {
        const SQL: &str = "SELECT pin, count(*) FROM agents WHERE pin IS NOT NULL AND revoked_ms IS NULL GROUP BY pin";
        self.read(|conn| {
            let mut statement = conn.prepare_cached(SQL)?;
            let counts = statement.query_map([], |row| Ok((Pin::from_bytes(row.get(0)?), row.get(1)?)))?;
            Ok(counts.collect::<Result<_, _>>()?)
        })
        .await
    }
}
