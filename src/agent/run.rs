//! The agent from its start to its stop.

use super::config::{AgentConfig, SLOTS_MAX, STARTS_PER_MINUTE_MAX};
use super::data::DataFolder;
use super::enroll::{Wish, credential};
use super::error::AgentError;
use super::journal::Op;
use super::journal_thread::{Journal, Opened};
use super::link::session::stay_connected;
use super::runner::control::{GRACE_AT_STOP, KILL_MAX};
use super::runner::queue::Runner;
use super::runner::starts::Starts;
use crate::tasks::Tasks;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long running commands may take to be gone when the agent stops.
const STOP_MAX: Duration = Duration::from_secs(GRACE_AT_STOP.as_secs() + KILL_MAX.as_secs() + 3);
/// Between two looks for tombstones whose time is over. They do not press.
const PURGE_INTERVAL: Duration = Duration::from_secs(600);

/// Enrolls if need be, then stays connected and runs what it is given, until `stop`. Then it kills what runs, reports
/// that and ends.
///
/// # Errors
/// [`AgentError`]: what waiting does not cure, at the start only. The network is never a reason.
pub async fn run(config: AgentConfig, stop: CancellationToken) -> Result<(), AgentError> {
    if !(1..=SLOTS_MAX).contains(&config.slots) {
        return Err(AgentError::Slots(config.slots));
    }
    if !(1..=STARTS_PER_MINUTE_MAX).contains(&config.starts_per_minute) {
        return Err(AgentError::StartsPerMinute(config.starts_per_minute));
    }
    let folder = DataFolder::open(&config.data)?;
    let wish = Wish { name: config.name, tags: config.tags };
    let Some(credential) = credential(&folder, config.join.as_ref(), &wish, &stop).await? else { return Ok(()) };
    if config.enroll_only {
        return Ok(());
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
        return Ok(());
    }
    runner.lay_in_spare();
    let purging = runner.clone();
    tasks.spawn("purge", async move { purge(&purging).await });
    let leave = CancellationToken::new();
    let connected = stay_connected(credential, &folder, agent, last_epoch, &runner, &leave);
    let stopping = async {
        stop.cancelled().await;
        info!("stopping: running commands are ended");
        tasks.ask_to_stop();
        if !tasks.drained(STOP_MAX).await {
            warn!("some commands could not be ended; the next start reports them");
        }
        leave.cancel();
    };
    tokio::join!(connected, stopping);
    info!("stopped");
    Ok(())
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
