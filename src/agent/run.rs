//! The agent from its start to its stop.

use super::config::{AgentConfig, Role, SLOTS_MAX, STARTS_PER_MINUTE_MAX};
use super::data::DataFolder;
use super::enroll::{Wish, credential};
use super::error::AgentError;
use super::journal::Op;
use super::journal_thread::{Journal, Opened};
use super::link::session::stay_connected;
use super::runner::control::{GRACE_AT_STOP, KILL_MAX};
use super::runner::queue::Runner;
use super::runner::starts::Starts;
use super::upgrade::book::Releases;
use super::upgrade::take::Upgrader;
use crate::crash;
use crate::tasks::Tasks;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long running commands may take to be gone when the agent stops.
const STOP_MAX: Duration = Duration::from_secs(GRACE_AT_STOP.as_secs() + KILL_MAX.as_secs() + 3);
/// How long another agent's lock is waited for, where its parent has gone: until it has ended its commands.
const LOCK_MAX: Duration = Duration::from_secs(30);
/// Between two looks at it.
const LOCK_LOOK: Duration = Duration::from_millis(100);
/// Between two looks for tombstones whose time is over. They do not press.
const PURGE_INTERVAL: Duration = Duration::from_secs(600);

/// Why the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// Another release of it is to be started.
    Upgrade,
}

/// Enrolls if need be, then stays connected and runs what it is given, until `stop`. Then it kills what runs, reports
/// that and ends.
///
/// # Errors
/// [`AgentError`]: what waiting does not cure, at the start only. The network is never a reason.
pub async fn run(config: AgentConfig, stop: CancellationToken) -> Result<(), AgentError> {
    Box::pin(live(config, stop)).await.map(drop)
}

/// The same, and why it ended: it also ends when it has decided to become another release.
///
/// # Errors
/// As [`run`].
pub async fn live(config: AgentConfig, stop: CancellationToken) -> Result<Ended, AgentError> {
    if !(1..=SLOTS_MAX).contains(&config.slots) {
        return Err(AgentError::Slots(config.slots));
    }
    if !(1..=STARTS_PER_MINUTE_MAX).contains(&config.starts_per_minute) {
        return Err(AgentError::StartsPerMinute(config.starts_per_minute));
    }
    let Some(folder) = folder(&config, &stop).await? else { return Ok(Ended::Stopped) };
    if config.role == Role::Trial {
        crash::fault("trial", &stop).await;
    }
    let wish = Wish { name: config.name, tags: config.tags };
    let Some(credential) = credential(&folder, config.join.as_ref(), &wish, &stop).await? else {
        return Ok(Ended::Stopped);
    };
    if config.enroll_only {
        return Ok(Ended::Stopped);
    }
    let Some(agent) = credential.agent_id else { return Err(AgentError::NoJoin) };
    let Opened { journal, held, last_epoch } = Journal::open(&folder.journal())?;
    let tasks = Tasks::default();
    let starts = Starts::new(config.starts_per_minute, Instant::now());
    let mut runner = Runner::new(journal, folder.spool(), config.supervisor, config.slots, starts, tasks.clone());
    runner.upgrade_check = config.upgrade_check;
    let stopped = tokio::select! {
        () = runner.recover(held) => false,
        () = stop.cancelled() => true,
    };
    if stopped {
        tasks.ask_to_stop();
        return Ok(Ended::Stopped);
    }
    runner.lay_in_spare();
    let purging = runner.clone();
    tasks.spawn("purge", async move { purge(&purging).await });
    let upgrader = Upgrader::new(folder.path(), Releases::open(folder.path())?, config.role);
    let leave = CancellationToken::new();
    let connected = stay_connected(credential, &folder, agent, last_epoch, &runner, &upgrader, &leave);
    let stopping = async {
        tokio::select! {
            () = stop.cancelled() => info!("stopping: running commands are ended"),
            () = upgrader.decided() => info!("ending, to start another release"),
        }
        tasks.ask_to_stop();
        if !tasks.drained(STOP_MAX).await {
            warn!("some commands could not be ended; the next start reports them");
        }
        leave.cancel();
    };
    let upgrading = async {
        tokio::join!(upgrader.take_offers(&runner), upgrader.keep_proof());
        // Only the others end the agent.
        std::future::pending::<()>().await;
    };
    let living = async {
        tokio::join!(connected, stopping);
    };
    tokio::select! {
        () = living => {}
        () = upgrading => {}
    }
    info!("stopped");
    Ok(if upgrader.is_decided() && !stop.is_cancelled() { Ended::Upgrade } else { Ended::Stopped })
}

/// The data folder. A child of a process that has died lets go of it within seconds.
async fn folder(config: &AgentConfig, stop: &CancellationToken) -> Result<Option<DataFolder>, AgentError> {
    let until = Instant::now() + if config.waits_for_lock { LOCK_MAX } else { Duration::ZERO };
    loop {
        match DataFolder::open(&config.data) {
            Err(AgentError::Locked(_)) if Instant::now() < until => {}
            opened => return opened.map(Some),
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOCK_LOOK)).await.is_none() {
            return Ok(None);
        }
    }
}

async fn purge(runner: &Runner) {
    let stop = runner.tasks.stop_token();
    if stop.run_until_cancelled(runner.time.known()).await.is_none() {
        return;
    }
    while !stop.is_cancelled() {
        if let Some(now_ms) = runner.time.now_ms()
            && let Err(why) = runner.journal.write(Op::Purge { now_ms }).await
        {
            warn!("old entries of the journal cannot be removed: {why}; it is tried again");
        }
        let _ = stop.run_until_cancelled(tokio::time::sleep(PURGE_INTERVAL)).await;
    }
}
