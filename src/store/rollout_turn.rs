//! The next step of the open rollout: who is offered its release now, who is not waited for any longer, and whether it is
//! paused, goes on to the others, or is over.

use super::audit::{self, Actor};
use super::error::StoreError;
use super::op::Apply;
use super::rollout::FAILURES;
use crate::protocol::ids::RolloutId;
use crate::protocol::rollout::Window;
use crate::protocol::upgrade::Offer;
use crate::secret::hex;
use rusqlite::{OptionalExtension, Row};

/// Agents that are on their way at one time: as many as may be lost before a limit of failures is seen, and as many as load
/// the release from the server at once.
pub const UNDER_WAY_MAX: u32 = 32;
/// An agent that has gone offline with an offer in its hands, but has not begun with it, is not waited for after this, in
/// milliseconds: another one goes in its place, and it is offered it again when it comes back.
const GONE_AFTER_MS: i64 = 10 * 60_000;
/// An agent that is not heard of for so long since it said that it restarts, in milliseconds, counts as failed: more than two
/// probations and the start of a host.
const SILENT_AFTER_MS: i64 = 15 * 60_000;

/// Takes the next step.
#[derive(Clone, Debug)]
pub struct RolloutTurn {
    /// The minute of the server's day.
    pub minute: u16,
    /// Why the releases are no longer what they were at the start, if they are not.
    pub changed: Option<String>,
}

/// What there is to do.
#[derive(Clone, Debug, Default)]
pub struct RolloutStep {
    /// A rollout is open.
    pub open: bool,
    /// Whom to send an offer: the agent's row, and the session that it is for.
    pub offers: Vec<(i64, u64, Offer)>,
    /// What is told in the log.
    pub notes: Vec<String>,
}

/// The open rollout.
struct Open {
    seq: i64,
    id: RolloutId,
    canaries: u64,
    failures_max: u64,
    failures_seen: u64,
    soak_ms: i64,
    window: Option<Window>,
    downgrade: bool,
    wave: u32,
    running: bool,
}

impl Open {
    fn find(apply: &Apply<'_>) -> Result<Option<Self>, StoreError> {
        const SQL: &str = "SELECT seq, id, canaries, failures_max, failures_seen, soak_ms, window_from, window_to, downgrade, \
             wave, state = 'running' FROM rollouts WHERE state = 'running' OR state = 'paused'"; // rollouts_open
        let read = |row: &Row<'_>| {
            let window: (Option<u16>, Option<u16>) = (row.get(6)?, row.get(7)?);
            Ok(Self {
                seq: row.get(0)?,
                id: RolloutId::from_bytes(row.get(1)?),
                canaries: row.get(2)?,
                failures_max: row.get(3)?,
                failures_seen: row.get(4)?,
                soak_ms: row.get(5)?,
                window: window.0.zip(window.1).map(|(from, to)| Window { from, to }),
                downgrade: row.get(8)?,
                wave: row.get(9)?,
                running: row.get(10)?,
            })
        };
        Ok(apply.conn.prepare_cached(SQL)?.query_row([], read).optional()?)
    }

    fn count(&self, apply: &Apply<'_>, sql: &str) -> Result<u64, StoreError> {
        Ok(apply.conn.prepare_cached(sql)?.query_row([self.seq], |row| row.get(0))?)
    }

    /// The server changes its state by itself.
    fn set(&self, apply: &Apply<'_>, state: &str, reason: Option<&str>) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE rollouts SET state = ?2, reason = ?3 WHERE seq = ?1";
        apply.conn.prepare_cached(SQL)?.execute((self.seq, state, reason))?;
        let action = match state {
            "paused" => "rollout.pause",
            "stopped" => "rollout.stop",
            _ => "rollout.end",
        };
        let detail = serde_json::json!({ "reason": reason });
        audit::record(apply, &Actor::server("rollout"), action, &self.id, &detail)
    }
}

impl RolloutTurn {
    /// Moves the rows and says whom to send an offer.
    ///
    /// # Errors
    /// SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<RolloutStep, StoreError> {
        let mut step = RolloutStep::default();
        let Some(mut open) = Open::find(apply)? else { return Ok(step) };
        step.open = true;
        if let Some(why) = &self.changed {
            open.set(apply, "stopped", Some(why))?;
            step.notes.push(format!("the rollout is stopped: {why}"));
            return Ok(RolloutStep { open: false, ..step });
        }
        give_up(apply, &open)?;
        settle(apply, &open)?;
        if !open.running {
            return Ok(step);
        }
        let failures = open.count(apply, FAILURES)?.saturating_sub(open.failures_seen);
        if failures > open.failures_max {
            let agents = if failures == 1 { "1 agent" } else { &format!("{failures} agents") };
            let why = format!("{agents} failed, and {} may: `postrider rollout` shows why", open.failures_max);
            open.set(apply, "paused", Some(&why))?;
            step.notes.push(format!("the rollout is paused: {why}"));
            return Ok(step);
        }
        const LEFT: &str = "SELECT count(*) FROM rollout_agents WHERE rollout_seq = ?1 AND \
             (state = 'waiting' OR state = 'offered' OR state = 'taken' OR state = 'restarting')";
        if open.count(apply, LEFT)? == 0 {
            open.set(apply, "done", None)?;
            step.notes.push("the rollout is done".to_owned());
            return Ok(RolloutStep { open: false, ..step });
        }
        if open.wave == 1 && canaries_are_good(apply, &open)? {
            const NEXT: &str = "UPDATE rollouts SET wave = 2 WHERE seq = ?1";
            apply.conn.prepare_cached(NEXT)?.execute([open.seq])?;
            open.wave = 2;
            step.notes.push("the first agents of the rollout have proven its release: the others follow".to_owned());
        }
        if open.window.is_none_or(|window| window.holds(self.minute)) {
            offer(apply, &open)?;
        }
        step.offers = to_send(apply, &open)?;
        Ok(step)
    }
}

/// Those that are not waited for any longer.
fn give_up(apply: &Apply<'_>, open: &Open) -> Result<(), StoreError> {
    const GONE: &str = "UPDATE rollout_agents SET state = 'waiting', wave = NULL, changed_ms = ?2, \
         reason = 'it went offline before it had begun' WHERE rollout_seq = ?1 AND (state = 'offered' OR state = 'taken') \
         AND EXISTS (SELECT 1 FROM agents a WHERE a.seq = agent_seq AND a.session_open = 0 AND a.closed_ms < ?3)";
    const SILENT: &str = "UPDATE rollout_agents SET state = 'failed', changed_ms = ?2, \
         reason = 'it was not heard of after it restarted with the release' \
         WHERE rollout_seq = ?1 AND state = 'restarting' AND changed_ms < ?3";
    const REVOKED: &str = "UPDATE rollout_agents SET state = 'unable', changed_ms = ?2, reason = 'it was revoked' \
         WHERE rollout_seq = ?1 AND (state = 'waiting' OR state = 'offered' OR state = 'taken' OR state = 'restarting') \
         AND EXISTS (SELECT 1 FROM agents a WHERE a.seq = agent_seq AND a.revoked_ms IS NOT NULL)";
    let now_ms = apply.now_ms;
    apply.conn.prepare_cached(GONE)?.execute((open.seq, now_ms, now_ms - GONE_AFTER_MS))?;
    apply.conn.prepare_cached(SILENT)?.execute((open.seq, now_ms, now_ms - SILENT_AFTER_MS))?;
    apply.conn.prepare_cached(REVOKED)?.execute((open.seq, now_ms))?;
    Ok(())
}

/// Those of whom it can be told without an offer: they run the release already, or cannot.
fn settle(apply: &Apply<'_>, open: &Open) -> Result<(), StoreError> {
    const HAVE: &str = "UPDATE rollout_agents SET state = 'upgraded', reason = NULL, changed_ms = ?2 WHERE rollout_seq = ?1 \
         AND (state = 'waiting' OR state = 'offered') AND EXISTS (SELECT 1 FROM agent_releases h JOIN rollout_releases r \
         ON r.rollout_seq = ?1 AND r.platform = h.platform AND r.sha256 = h.release WHERE h.agent_seq = rollout_agents.agent_seq)";
    const CANNOT: &str = "UPDATE rollout_agents SET state = 'unable', changed_ms = ?2, reason = coalesce( \
         (SELECT coalesce(h.cannot, 'the rollout has no release for ' || h.platform) FROM agent_releases h \
         WHERE h.agent_seq = rollout_agents.agent_seq), \
         'its version knows nothing of upgrades: upgrade it by hand once') \
         WHERE rollout_seq = ?1 AND state = 'waiting' \
         AND EXISTS (SELECT 1 FROM agents a WHERE a.seq = agent_seq AND a.session_open = 1 AND a.ready_epoch = a.epoch) \
         AND NOT EXISTS (SELECT 1 FROM agent_releases h JOIN rollout_releases r ON r.rollout_seq = ?1 \
         AND r.platform = h.platform WHERE h.agent_seq = rollout_agents.agent_seq AND h.cannot IS NULL)";
    apply.conn.prepare_cached(HAVE)?.execute((open.seq, apply.now_ms))?;
    apply.conn.prepare_cached(CANNOT)?.execute((open.seq, apply.now_ms))?;
    Ok(())
}

/// Whether enough of the first have ended, none of them is on its way, the last has run for long enough, and all that were
/// upgraded are there.
fn canaries_are_good(apply: &Apply<'_>, open: &Open) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT coalesce(sum(r.state = 'upgraded' OR r.state = 'failed' OR r.state = 'rolled_back'), 0), \
         coalesce(sum(r.state = 'offered' OR r.state = 'taken' OR r.state = 'restarting' OR r.state = 'waiting'), 0), \
         coalesce(max(r.changed_ms), 0), coalesce(sum(r.state = 'upgraded' AND a.session_open = 0), 0) \
         FROM rollout_agents r JOIN agents a ON a.seq = r.agent_seq WHERE r.rollout_seq = ?1 AND r.wave = 1";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let (ended, under_way, changed_ms, away): (u64, u64, i64, u64) =
        apply.conn.prepare_cached(SQL)?.query_row([open.seq], read)?;
    Ok(ended >= open.canaries && under_way == 0 && away == 0 && changed_ms + open.soak_ms <= apply.now_ms)
}

/// Marks those who are offered it now: agents that are there, by chance, so that the first are not always the same.
fn offer(apply: &Apply<'_>, open: &Open) -> Result<(), StoreError> {
    const UNDER_WAY: &str = "SELECT count(*) FROM rollout_agents WHERE rollout_seq = ?1 AND \
         (state = 'offered' OR state = 'taken' OR state = 'restarting')";
    const FIRST: &str = "SELECT count(*) FROM rollout_agents WHERE rollout_seq = ?1 AND wave = 1";
    const OFFER: &str = "UPDATE rollout_agents SET state = 'offered', wave = coalesce(wave, ?2), attempt = attempt + 1, \
         offered_epoch = 0, changed_ms = ?3, reason = NULL WHERE rollout_seq = ?1 AND agent_seq IN (SELECT r.agent_seq \
         FROM rollout_agents r JOIN agents a ON a.seq = r.agent_seq WHERE r.rollout_seq = ?1 AND r.state = 'waiting' \
         AND r.not_before_ms <= ?3 AND a.session_open = 1 AND a.ready_epoch = a.epoch AND (?2 = 2 OR r.wave IS ?5) \
         ORDER BY random() LIMIT ?4)";
    let room = u64::from(UNDER_WAY_MAX).saturating_sub(open.count(apply, UNDER_WAY)?);
    let mut statement = apply.conn.prepare_cached(OFFER)?;
    if open.wave == 1 {
        // Of the first, those that were rolled back and may try again.
        statement.execute((open.seq, 1, apply.now_ms, room, Some(1)))?;
        let room = room.min(open.canaries.saturating_sub(open.count(apply, FIRST)?));
        statement.execute((open.seq, 1, apply.now_ms, room, None::<u32>))?;
    } else {
        statement.execute((open.seq, 2, apply.now_ms, room, None::<u32>))?;
    }
    Ok(())
}

/// Offers that the agents' present sessions have not seen, and marks them.
fn to_send(apply: &Apply<'_>, open: &Open) -> Result<Vec<(i64, u64, Offer)>, StoreError> {
    const SQL: &str = "SELECT r.agent_seq, a.epoch, r.attempt, p.version, p.platform, p.sha256, p.bytes, p.signature \
         FROM rollout_agents r JOIN agents a ON a.seq = r.agent_seq JOIN agent_releases h ON h.agent_seq = r.agent_seq \
         JOIN rollout_releases p ON p.rollout_seq = r.rollout_seq AND p.platform = h.platform WHERE r.rollout_seq = ?1 \
         AND (r.state = 'offered' OR r.state = 'taken' OR r.state = 'restarting') AND r.offered_epoch < a.epoch \
         AND a.session_open = 1 AND a.ready_epoch = a.epoch";
    const SENT: &str = "UPDATE rollout_agents SET offered_epoch = ?3 WHERE rollout_seq = ?1 AND agent_seq = ?2";
    let mut statement = apply.conn.prepare_cached(SQL)?;
    let found = statement.query_map([open.seq], |row| {
        let offer = Offer {
            rollout: open.id,
            attempt: row.get(2)?,
            version: row.get(3)?,
            platform: row.get(4)?,
            sha256: hex(&row.get::<_, [u8; 32]>(5)?),
            bytes: row.get(6)?,
            signature: row.get(7)?,
            downgrade: open.downgrade,
        };
        Ok((row.get(0)?, row.get(1)?, offer))
    })?;
    let found: Vec<(i64, u64, Offer)> = found.collect::<Result<_, _>>()?;
    for (agent, epoch, _) in &found {
        apply.conn.prepare_cached(SENT)?.execute((open.seq, agent, epoch))?;
    }
    Ok(found)
}
