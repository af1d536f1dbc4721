//! One authenticated connection, from `welcome` to its end, and the loop that makes the next.

use super::connect::{Welcomed, connect};
use super::intake::{Intake, REPLIES_MAX, Reply};
use super::keepalive::{Keepalive, Pongs};
use super::reader::Reader;
use super::sent::Sent;
use super::wait::{BACKOFF_AFTER_WELCOME, BACKOFF_FIRST, BACKOFF_MAX, BACKOFF_PENDING, Leave, SESSION_GOOD};
use super::writer::Writer;
use crate::agent::credential::Credential;
use crate::agent::data::DataFolder;
use crate::agent::error::AgentError;
use crate::agent::facts;
use crate::agent::journal::{JournalError, Op};
use crate::agent::runner::queue::Runner;
use crate::agent::upgrade::take::Upgrader;
use crate::backoff::Backoff;
use crate::crash;
use crate::pin::PINS_MAX;
use crate::protocol::close::CloseReason;
use crate::protocol::frame::AgentFrame;
use crate::protocol::ids::AgentId;
use crate::protocol::upgrade::UpgradeReport;
use crate::tls::Trust;
use futures_util::StreamExt;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Between two reports of facts: disks fill and users come within minutes, not seconds.
const FACTS_INTERVAL: Duration = Duration::from_secs(600);
/// How long the last reports and the server's farewell may take when the agent stops.
const PARTING: Duration = Duration::from_secs(2);

/// Connects again and again until `stop`; never ends for any other reason. `last_epoch` is what the journal has; `folder` takes what
/// the credential learns.
pub async fn stay_connected(
    mut credential: Credential,
    folder: &DataFolder,
    agent: AgentId,
    mut last_epoch: u64,
    runner: &Runner,
    upgrader: &Upgrader,
    stop: &CancellationToken,
) {
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
    loop {
        let connected = tokio::select! {
            connected = async {
                runner.board.settled().await;
                connect(&credential, agent, last_epoch, &runner.board, Some(upgrader.ability())).await
            } => connected,
            () = stop.cancelled() => return,
        };
        let since = Instant::now();
        let leave = match connected {
            Ok(welcomed) => {
                let (url, name, epoch) = (&credential.url, &credential.name, welcomed.epoch);
                info!(agent = %name, agent_id = %agent, epoch, "connected to {url} as {name}");
                let learned = learn(&welcomed, &mut credential, folder);
                if let Some(told) = &welcomed.release_key {
                    upgrader.learn_key(told);
                }
                let leave = live(welcomed, learned, &credential, &mut last_epoch, runner, upgrader, stop).await;
                if since.elapsed() >= SESSION_GOOD {
                    backoff.reset();
                } else if leave.is_outage() {
                    backoff.ease(BACKOFF_AFTER_WELCOME);
                }
                leave
            }
            Err(leave) => leave,
        };
        if stop.is_cancelled() {
            return;
        }
        if leave.is_pending() {
            backoff.ease(BACKOFF_PENDING);
        }
        let wait = backoff.next(leave.at_least());
        if leave.is_pending() {
            info!(
                agent = %credential.name,
                agent_id = %agent,
                "{} waits for approval at {}: `postrider agents approve {agent}` there lets it in; asking again in {:.1} s",
                credential.name,
                credential.url,
                wait.as_secs_f32()
            );
        } else {
            let (url, name, wait_s) = (&credential.url, &credential.name, wait.as_secs_f32());
            warn!(agent = %name, agent_id = %agent, "not connected to {url}: {leave}; trying again in {wait_s:.1} s");
        }
        if let Some(advice) = leave.advice() {
            error!(agent = %credential.name, agent_id = %agent, "{advice}");
        }
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// Keeps the server's pins instead of ours, if it is known by ours: before the writer says that we are ready.
fn learn(welcomed: &Welcomed, credential: &mut Credential, folder: &DataFolder) -> Result<(), AgentError> {
    let known = credential.trust.pins();
    if known.is_empty() || !credential.url.is_tls() || welcomed.pins.is_empty() || welcomed.pins == known {
        return Ok(());
    }
    // What does not fit a join string is no list of ours.
    let trust = Trust::new(&welcomed.pins[..welcomed.pins.len().min(PINS_MAX)]);
    let known = std::mem::replace(&mut credential.trust, trust);
    if let Err(error) = credential.save(folder) {
        credential.trust = known;
        return Err(error);
    }
    info!("the server's authorities have changed; the newest is {}", welcomed.pins[0]);
    Ok(())
}

async fn live(
    welcomed: Welcomed,
    learned: Result<(), AgentError>,
    credential: &Credential,
    last_epoch: &mut u64,
    runner: &Runner,
    upgrader: &Upgrader,
    stop: &CancellationToken,
) -> Leave {
    let sent = Sent::after_hello(&welcomed.told, &welcomed.verdicts, Instant::now());
    // Before the time is known: that is what recovered deliveries wait for, and some must not start.
    let settled = match learned {
        Ok(()) => settle(&welcomed, runner).await.map_err(|why| why.to_string()),
        Err(why) => Err(why.to_string()),
    };
    if settled.is_ok() {
        *last_epoch = welcomed.epoch;
        runner.time.learn(welcomed.server_time_ms);
    }
    let (sink, stream) = welcomed.socket.split();
    let (replies, mut asked) = mpsc::channel(REPLIES_MAX);
    let pongs = Pongs::default();
    let intake = Intake::new(runner.clone(), credential, welcomed.fetch_token, replies.clone());
    let (upgrader, runner) = (upgrader.clone(), runner.clone());
    let told = upgrader.told();
    let mut reader = Reader {
        stream,
        pongs: pongs.clone(),
        intake,
        runner: runner.clone(),
        upgrader: upgrader.clone(),
        replies: replies.clone(),
    };
    let mut keepalive = Keepalive::new(welcomed.ping_interval_ms, welcomed.pong_timeout_ms, Instant::now(), pongs);
    if upgrader.is_on_trial() {
        // It has little time to prove itself.
        keepalive.ping_soon();
    }
    let mut writer = Writer { sink, sent, keepalive, board: runner.board.clone(), upgrader };
    let leave = match settled {
        Err(why) => Leave::left(CloseReason::AgentStorage, why),
        Ok(()) => tokio::select! {
            leave = reader.read() => leave,
            leave = writer.write(&mut asked, stop) => leave,
            leave = tell_facts(&replies) => leave,
            leave = tell_upgrade(told, &replies) => leave,
            // Whatever the other two are stuck in.
            leave = overdue(stop) => leave,
        },
    };
    writer.farewell(&leave).await;
    if stop.is_cancelled() {
        // Whether the server says farewell too changes nothing.
        let _ = tokio::time::timeout(PARTING, reader.wait_for_end()).await;
    }
    leave
}

/// Brings the journal in line with `welcome`, before the writer says that it is ready.
async fn settle(welcomed: &Welcomed, runner: &Runner) -> Result<(), JournalError> {
    for verdict in welcomed.verdicts.iter().filter(|verdict| !verdict.keep) {
        runner.let_go(verdict.delivery).await?;
    }
    // Last: with this epoch in it the journal passes for the one that the server knows.
    runner.journal.write(Op::Epoch(welcomed.epoch)).await?;
    crash::point("agent.epoch");
    Ok(())
}

async fn overdue(stop: &CancellationToken) -> Leave {
    stop.cancelled().await;
    tokio::time::sleep(PARTING).await;
    Leave::left(CloseReason::AgentShutdown, "")
}

/// What became of an offer, as long as this session knows something newer than its `hello` did.
async fn tell_upgrade(mut told: watch::Receiver<Option<UpgradeReport>>, replies: &mpsc::Sender<Reply>) -> Leave {
    told.mark_changed();
    while told.changed().await.is_ok() {
        let report = told.borrow_and_update().clone();
        if let Some(report) = report {
            let _ = replies.send(Reply::Frame(AgentFrame::Upgrading(report))).await;
        }
    }
    std::future::pending().await
}

async fn tell_facts(replies: &mpsc::Sender<Reply>) -> Leave {
    loop {
        // A panic in there costs the facts, not the connection.
        if let Ok(facts) = tokio::task::spawn_blocking(facts::collect).await {
            let _ = replies.send(Reply::Frame(AgentFrame::Facts { facts })).await;
        }
        tokio::time::sleep(FACTS_INTERVAL).await;
    }
}
