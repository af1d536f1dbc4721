//! The latest rollout, as it is shown.

use super::error::StoreError;
use super::handle::Store;
use crate::protocol::ids::{AgentId, RolloutId};
use crate::protocol::rollout::{RolloutAgent, RolloutRelease, RolloutResponse, Window};
use crate::secret::hex;
use rusqlite::{Connection, OptionalExtension, Row};

/// A rollout's releases, by platform: what they must still be.
pub type Releases = Vec<(String, [u8; 32])>;

impl Store {
    /// The latest rollout with a page of its agents, after `after`; none: there was none yet.
    ///
    /// # Errors
    /// `NotFound` for an `after` that is no agent; SQLite's.
    pub async fn rollout(&self, after: Option<AgentId>, limit: u32) -> Result<Option<RolloutResponse>, StoreError> {
        self.read(move |conn| show(conn, after, limit)).await
    }

    /// What the open rollout rolls out; none: none is open.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn rollout_releases(&self) -> Result<Option<Releases>, StoreError> {
        const OPEN: &str = "SELECT seq FROM rollouts WHERE state = 'running' OR state = 'paused'";
        const SQL: &str = "SELECT platform, sha256 FROM rollout_releases WHERE rollout_seq = ?1";
        self.read(|conn| {
            let open: Option<i64> = conn.prepare_cached(OPEN)?.query_row([], |row| row.get(0)).optional()?;
            let Some(open) = open else { return Ok(None) };
            let mut statement = conn.prepare_cached(SQL)?;
            let found = statement.query_map([open], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(Some(found.collect::<Result<_, _>>()?))
        })
        .await
    }
}

fn show(conn: &Connection, after: Option<AgentId>, limit: u32) -> Result<Option<RolloutResponse>, StoreError> {
    const ROLLOUT: &str = "SELECT seq, id, state, reason, wave, canaries, failures_max, soak_ms, window_from, window_to, scope, \
         downgrade, created_ms, created_by FROM rollouts ORDER BY seq DESC LIMIT 1";
    const RELEASES: &str =
        "SELECT platform, version, sha256, bytes FROM rollout_releases WHERE rollout_seq = ?1 ORDER BY platform";
    const STATES: &str = "SELECT state, count(*) FROM rollout_agents WHERE rollout_seq = ?1 GROUP BY state";
    const AFTER: &str = "SELECT seq FROM agents WHERE id = ?1";
    const AGENTS: &str = "SELECT a.id, a.name, a.session_open, r.wave, r.state, r.attempt, r.reason, r.changed_ms \
         FROM rollout_agents r JOIN agents a ON a.seq = r.agent_seq WHERE r.rollout_seq = ?1 AND r.agent_seq > ?2 \
         ORDER BY r.agent_seq LIMIT ?3";
    let read = |row: &Row<'_>| {
        let window: (Option<u16>, Option<u16>) = (row.get(8)?, row.get(9)?);
        let rollout = RolloutResponse {
            id: RolloutId::from_bytes(row.get(1)?),
            state: row.get(2)?,
            reason: row.get(3)?,
            wave: row.get(4)?,
            canaries: row.get(5)?,
            failures_max: row.get(6)?,
            soak_s: u32::try_from(row.get::<_, i64>(7)? / 1000).unwrap_or(u32::MAX),
            window: window.0.zip(window.1).map(|(from, to)| Window { from, to }),
            scope: serde_json::from_str(row.get_ref(10)?.as_str()?).unwrap_or_default(),
            downgrade: row.get(11)?,
            created_ms: row.get(12)?,
            created_by: row.get(13)?,
            releases: Vec::new(),
            states: std::collections::BTreeMap::new(),
            agents: Vec::new(),
            next: None,
        };
        Ok((row.get(0)?, rollout))
    };
    let found: Option<(i64, RolloutResponse)> = conn.prepare_cached(ROLLOUT)?.query_row([], read).optional()?;
    let Some((seq, mut rollout)) = found else { return Ok(None) };
    let release = |row: &Row<'_>| {
        let sha256: [u8; 32] = row.get(2)?;
        Ok(RolloutRelease { platform: row.get(0)?, version: row.get(1)?, sha256: hex(&sha256), bytes: row.get(3)? })
    };
    rollout.releases = conn.prepare_cached(RELEASES)?.query_map([seq], release)?.collect::<Result<_, _>>()?;
    let state = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    rollout.states = conn.prepare_cached(STATES)?.query_map([seq], state)?.collect::<Result<_, _>>()?;
    let after: i64 = match after {
        None => 0,
        Some(id) => conn
            .prepare_cached(AFTER)?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?
            .ok_or_else(|| StoreError::NotFound { what: "agent", key: id.to_string() })?,
    };
    let agent = |row: &Row<'_>| {
        Ok(RolloutAgent {
            agent_id: AgentId::from_bytes(row.get(0)?),
            name: row.get(1)?,
            online: row.get(2)?,
            wave: row.get(3)?,
            state: row.get(4)?,
            attempt: row.get(5)?,
            reason: row.get(6)?,
            changed_ms: row.get(7)?,
        })
    };
    let page = (seq, after, i64::from(limit) + 1);
    rollout.agents = conn.prepare_cached(AGENTS)?.query_map(page, agent)?.collect::<Result<_, _>>()?;
    if rollout.agents.len() > limit as usize {
        rollout.agents.truncate(limit as usize);
        rollout.next = rollout.agents.last().map(|agent| agent.agent_id);
    }
    Ok(Some(rollout))
}
