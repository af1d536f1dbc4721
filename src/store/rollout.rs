//! Rollouts: started, paused, resumed, stopped, and what agents report. What is offered next is in `rollout_turn.rs`.

use super::audit::{self, Actor};
use super::enqueue::in_scope;
use super::error::StoreError;
use super::op::Apply;
use super::progress::fence;
use crate::protocol::ids::RolloutId;
use crate::protocol::rollout::{Canary, RolloutRelease, Window};
use crate::protocol::scope::Scope;
use crate::protocol::upgrade::{Ability, UpgradeReport, UpgradeState};
use crate::secret::from_hex;
use rusqlite::OptionalExtension;

/// How often a release that may be good is offered to one agent.
pub const ATTEMPTS_MAX: u32 = 3;
/// How long after it was rolled back it is offered again, in milliseconds: an outage of the server is over by then.
pub const AGAIN_AFTER_MS: i64 = 10 * 60_000;

/// Starts a rollout.
#[derive(Clone, Debug)]
pub struct StartRollout {
    /// Who starts it.
    pub actor: Actor,
    /// What is rolled out, with each release's signature; one for each platform.
    pub releases: Vec<(RolloutRelease, String)>,
    /// To whom.
    pub scope: Scope,
    /// Who goes first.
    pub canary: Canary,
    /// So many may fail.
    pub failures_max: u32,
    /// How long the first must have run.
    pub soak_ms: i64,
    /// In which hours.
    pub window: Option<Window>,
    /// It may be older than what runs.
    pub downgrade: bool,
}

impl StartRollout {
    /// Adds the rows: one for each agent of the scope that there is now.
    ///
    /// # Errors
    /// `Conflict` while another one is open, `NoTargets`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<RolloutId, StoreError> {
        const OPEN: &str = "SELECT 1 FROM rollouts WHERE state = 'running' OR state = 'paused'";
        const COUNT: &str = concat!(
            "SELECT count(*) FROM agents WHERE revoked_ms IS NULL AND approved_ms IS NOT NULL AND ",
            in_scope!("agents.tags", "?1")
        );
        const ROLLOUT: &str = "INSERT INTO rollouts (id, created_ms, created_by, scope, canaries, failures_max, soak_ms, \
             window_from, window_to, downgrade, wave) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) RETURNING seq";
        const RELEASE: &str = "INSERT INTO rollout_releases (rollout_seq, platform, version, sha256, bytes, signature) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        const AGENTS: &str = concat!(
            "INSERT INTO rollout_agents (rollout_seq, agent_seq, changed_ms) SELECT ?2, seq, ?3 FROM agents \
             WHERE revoked_ms IS NULL AND approved_ms IS NOT NULL AND ",
            in_scope!("agents.tags", "?1")
        );
        if apply.conn.prepare_cached(OPEN)?.exists([])? {
            return Err(StoreError::Conflict(
                "another rollout is open: wait for its end, or stop it (`postrider rollout stop`)".to_owned(),
            ));
        }
        let scope = self.scope.to_json();
        let agents: u64 = apply.conn.prepare_cached(COUNT)?.query_row([&scope], |row| row.get(0))?;
        if agents == 0 {
            return Err(StoreError::NoTargets);
        }
        let (id, canaries) = (RolloutId::new(), self.canary.of(agents));
        let row = (
            id.as_bytes(),
            apply.now_ms,
            &self.actor.name,
            &scope,
            canaries,
            self.failures_max,
            self.soak_ms,
            self.window.map(|window| window.from),
            self.window.map(|window| window.to),
            self.downgrade,
            if canaries == 0 { 2 } else { 1 },
        );
        let seq: i64 = apply.conn.prepare_cached(ROLLOUT)?.query_row(row, |row| row.get(0))?;
        for (release, signature) in &self.releases {
            let sha256 = digest(&release.sha256)?;
            let row = (seq, &release.platform, &release.version, sha256, release.bytes, signature);
            apply.conn.prepare_cached(RELEASE)?.execute(row)?;
        }
        apply.conn.prepare_cached(AGENTS)?.execute((&scope, seq, apply.now_ms))?;
        let releases: Vec<_> = self.releases.iter().map(|(release, _)| release).collect();
        let detail = serde_json::json!({ "scope": self.scope, "agents": agents, "canaries": canaries,
            "failures_max": self.failures_max, "soak_ms": self.soak_ms, "window": self.window,
            "downgrade": self.downgrade, "releases": releases });
        audit::record(apply, &self.actor, "rollout.start", &id, &detail)?;
        Ok(id)
    }
}

fn digest(hex: &str) -> Result<[u8; 32], StoreError> {
    from_hex(hex).ok_or_else(|| StoreError::Sql("a SHA-256 in hexadecimal has 64 digits".to_owned()))
}

/// What an operator does to a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutChange {
    /// No more offers for now.
    Pause,
    /// Offers again; what failed so far counts no longer.
    Resume,
    /// No more offers at all.
    Stop,
}

/// Pauses, resumes or stops the open rollout.
#[derive(Clone, Debug)]
pub struct ChangeRollout {
    /// Who does it.
    pub actor: Actor,
    /// What.
    pub change: RolloutChange,
}

/// How many have failed.
pub(super) const FAILURES: &str = "SELECT count(*) FROM rollout_agents WHERE rollout_seq = ?1 \
     AND (state = 'failed' OR state = 'rolled_back')";

impl ChangeRollout {
    /// Changes the row. Idempotent.
    ///
    /// # Errors
    /// `Conflict` when none is open; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<RolloutId, StoreError> {
        const FIND: &str = "SELECT seq, id, state FROM rollouts WHERE state = 'running' OR state = 'paused'";
        const SET: &str = "UPDATE rollouts SET state = ?2, reason = NULL, failures_seen = coalesce(?3, failures_seen) \
             WHERE seq = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, RolloutId::from_bytes(row.get(1)?), row.get(2)?));
        let found: Option<(i64, RolloutId, String)> =
            apply.conn.prepare_cached(FIND)?.query_row([], read).optional()?;
        let Some((seq, id, state)) = found else {
            let why = "no rollout is open: `postrider rollout` shows the latest, `postrider rollout start` starts one";
            return Err(StoreError::Conflict(why.to_owned()));
        };
        let (word, action) = match self.change {
            RolloutChange::Pause => ("paused", "rollout.pause"),
            RolloutChange::Resume => ("running", "rollout.resume"),
            RolloutChange::Stop => ("stopped", "rollout.stop"),
        };
        if word == state {
            return Ok(id);
        }
        let seen: Option<i64> = match self.change {
            RolloutChange::Resume => Some(apply.conn.prepare_cached(FAILURES)?.query_row([seq], |row| row.get(0))?),
            _ => None,
        };
        apply.conn.prepare_cached(SET)?.execute((seq, word, seen))?;
        audit::record(apply, &self.actor, action, &id, &serde_json::json!({}))?;
        Ok(id)
    }
}

/// An agent reports what became of an offer.
#[derive(Clone, Debug)]
pub struct UpgradeTold {
    /// The agent's row.
    pub agent_seq: i64,
    /// The session's epoch.
    pub epoch: u64,
    /// What it says, within its limits.
    pub report: UpgradeReport,
}

impl UpgradeTold {
    /// Lets the row follow.
    ///
    /// # Errors
    /// `Fenced`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        fence(apply, self.agent_seq, self.epoch)?;
        follow(apply, self.agent_seq, &self.report)
    }
}

/// What an agent says of upgrades in `hello`. Writes nothing that is there already: a whole fleet may come at one moment.
pub(super) fn hello(apply: &Apply<'_>, agent_seq: i64, ability: Option<&Ability>) -> Result<(), StoreError> {
    const FORGET: &str = "DELETE FROM agent_releases WHERE agent_seq = ?1";
    const KNOWN: &str =
        "SELECT 1 FROM agent_releases WHERE agent_seq = ?1 AND platform IS ?2 AND release IS ?3 AND cannot IS ?4";
    const KEEP: &str =
        "INSERT OR REPLACE INTO agent_releases (agent_seq, platform, release, cannot) VALUES (?1, ?2, ?3, ?4)";
    // It was upgraded by hand, or has become able otherwise.
    const ABLE: &str = "UPDATE rollout_agents SET state = 'waiting', reason = NULL, changed_ms = ?2 WHERE agent_seq = ?1 \
         AND state = 'unable' AND rollout_seq = (SELECT seq FROM rollouts WHERE state = 'running' OR state = 'paused')";
    let Some(ability) = ability else {
        apply.conn.prepare_cached(FORGET)?.execute([agent_seq])?;
        return Ok(());
    };
    let release: Option<[u8; 32]> = ability.release.as_deref().and_then(from_hex);
    let row = (agent_seq, &ability.platform, release, &ability.cannot);
    if !apply.conn.prepare_cached(KNOWN)?.exists(row)? {
        apply.conn.prepare_cached(KEEP)?.execute(row)?;
        apply.conn.prepare_cached(ABLE)?.execute((agent_seq, apply.now_ms))?;
    }
    ability.last.as_ref().map_or(Ok(()), |report| follow(apply, agent_seq, report))
}

/// A report of an attempt that is not over, or a later truth about one that was given up.
fn follow(apply: &Apply<'_>, agent_seq: i64, report: &UpgradeReport) -> Result<(), StoreError> {
    const FIND: &str = "SELECT r.seq, a.state, coalesce(a.reason, '') FROM rollout_agents a \
         JOIN rollouts r ON r.seq = a.rollout_seq WHERE r.id = ?1 AND a.agent_seq = ?2 AND a.attempt = ?3";
    const SET: &str = "UPDATE rollout_agents SET state = ?3, reason = ?4, changed_ms = ?5, not_before_ms = ?6 \
         WHERE rollout_seq = ?1 AND agent_seq = ?2";
    let key = (report.rollout.as_bytes(), agent_seq, report.attempt);
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let found: Option<(i64, String, String)> = apply.conn.prepare_cached(FIND)?.query_row(key, read).optional()?;
    let Some((rollout, state, reason)) = found else { return Ok(()) };
    let again = report.state == UpgradeState::RolledBack && report.again && report.attempt < ATTEMPTS_MAX;
    let told = report.reason.clone().unwrap_or_default();
    let (next, told, not_before_ms) = match again {
        true => ("waiting", format!("rolled back: {told}"), apply.now_ms + AGAIN_AFTER_MS),
        false => (report.state.as_str(), told, 0),
    };
    let is_under_way = matches!(state.as_str(), "waiting" | "offered" | "taken" | "restarting");
    // It was given up as not heard of, and is heard of after all.
    let is_late = state == "failed" && matches!(report.state, UpgradeState::Upgraded | UpgradeState::RolledBack);
    if !(is_under_way || is_late) || (state == next && reason == told) || (state == "waiting" && again) {
        return Ok(());
    }
    let told = Some(told).filter(|told| !told.is_empty());
    apply.conn.prepare_cached(SET)?.execute((rollout, agent_seq, next, told, apply.now_ms, not_before_ms))?;
    Ok(())
}
