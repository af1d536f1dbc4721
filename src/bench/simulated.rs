//! A simulated agent: the real protocol over a real socket, and no process behind it.
//!
//! It takes a command and answers at once. A black-holed one does neither, and keeps its socket.

use super::flights::{Flights, Mark};
use crate::agent::board::Board;
use crate::agent::credential::Credential;
use crate::agent::link::connect::{Welcomed, broken, closed, connect, lost};
use crate::agent::link::dial::Socket;
use crate::agent::link::wait::{BACKOFF_AFTER_WELCOME, BACKOFF_FIRST, BACKOFF_MAX, Leave, SESSION_GOOD};
use crate::backoff::{Backoff, jitter};
use crate::protocol::frame::{AgentFrame, ServerFrame, decode, encode};
use crate::protocol::ids::{AgentId, DeliveryId};
use crate::protocol::outcome::{Outcome, StreamSummary};
use crate::protocol::state::State;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// A black-holed agent takes this long to notice, and connects anew: longer than the server's keepalive.
const HOLE: Duration = Duration::from_secs(30);

/// What all simulated agents share.
#[derive(Debug)]
pub struct Fleet {
    /// Whom to tell.
    pub flights: Flights,
    /// How many are connected now.
    pub connected: AtomicUsize,
    /// What each reports of its host.
    pub facts: serde_json::Value,
    /// Ends all of them.
    pub stop: CancellationToken,
}

/// One agent.
#[derive(Debug)]
pub struct Simulated {
    /// Its key.
    pub credential: Credential,
    /// Its id.
    pub id: AgentId,
    /// It is black-holed once it is connected.
    pub is_black_holed: bool,
}

impl Simulated {
    /// Connects again and again, as agents do, until all are to stop.
    pub async fn live(self, fleet: Arc<Fleet>) {
        let (mut backoff, mut epoch) = (Backoff::new(BACKOFF_FIRST, BACKOFF_MAX), 0);
        // It holds nothing: what it takes it answers in the same breath.
        let empty = Board::default();
        let living = async {
            loop {
                let begun = Instant::now();
                let leave = match connect(&self.credential, self.id, epoch, &empty, None).await {
                    Ok(welcomed) => {
                        epoch = welcomed.epoch;
                        let leave = self.converse(welcomed, &fleet).await;
                        if begun.elapsed() >= SESSION_GOOD {
                            backoff.reset();
                        } else if leave.is_outage() {
                            backoff.ease(BACKOFF_AFTER_WELCOME);
                        }
                        leave
                    }
                    Err(leave) => leave,
                };
                sleep(backoff.next(leave.at_least())).await;
            }
        };
        fleet.stop.run_until_cancelled(living).await;
    }

    async fn converse(&self, welcomed: Welcomed, fleet: &Fleet) -> Leave {
        fleet.connected.fetch_add(1, Ordering::Relaxed);
        let every = Duration::from_millis(welcomed.ping_interval_ms);
        let ended = self.answer(welcomed.socket, every, fleet).await;
        fleet.connected.fetch_sub(1, Ordering::Relaxed);
        ended.err().unwrap_or_else(lost)
    }

    async fn answer(&self, mut socket: Socket, ping_every: Duration, fleet: &Fleet) -> Result<(), Leave> {
        say(&mut socket, &AgentFrame::Ready).await?;
        if self.is_black_holed {
            sleep(HOLE).await;
            return Ok(());
        }
        say(&mut socket, &AgentFrame::Facts { facts: fleet.facts.clone() }).await?;
        let next_ping = || Instant::now() + ping_every.mul_f64(0.8) + jitter(ping_every.mul_f64(0.4));
        let mut ping = pin!(sleep_until(next_ping()));
        let mut held = HashMap::new();
        loop {
            let message = tokio::select! {
                message = socket.next() => message.ok_or_else(lost)?.map_err(|error| broken(&error))?,
                () = ping.as_mut() => {
                    ping.as_mut().reset(next_ping());
                    let payload = Bytes::from_static(&[0; 8]);
                    socket.send(Message::Ping(payload)).await.map_err(|error| broken(&error))?;
                    continue;
                }
            };
            let Message::Text(text) = message else {
                closed(message).map_or(Ok(()), Err)?;
                continue;
            };
            match decode::<ServerFrame>(&text) {
                Ok(ServerFrame::Dispatch { delivery, spec, .. }) => {
                    if let Some(mark) = spec.as_deref().and_then(mark) {
                        fleet.flights.journaled(mark);
                        held.insert(delivery, mark);
                    }
                    take(&mut socket, delivery).await?;
                }
                Ok(ServerFrame::Stored { delivery }) => {
                    if let Some(mark) = held.remove(&delivery) {
                        fleet.flights.stored(mark);
                    }
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// The mark among a specification's words.
fn mark(spec: &str) -> Option<Mark> {
    #[derive(Deserialize)]
    struct Words<'a> {
        #[serde(borrow)]
        argv: Vec<&'a str>,
    }
    Mark::parse(serde_json::from_str::<Words<'_>>(spec).ok()?.argv.last()?)
}

/// All that an agent has to say of a command that ends at once.
async fn take(socket: &mut Socket, delivery: DeliveryId) -> Result<(), Leave> {
    let nothing = StreamSummary::default();
    let outcome = Outcome {
        state: State::Succeeded,
        exit_code: Some(0),
        signal: None,
        reason: None,
        duration_ms: Some(0),
        stdout: nothing,
        stderr: nothing,
    };
    // In one write, so that the generator's own work stays small.
    for frame in [AgentFrame::Accepted { delivery }, AgentFrame::Started { delivery }] {
        socket.feed(Message::text(encode(&frame))).await.map_err(|error| broken(&error))?;
    }
    say(socket, &AgentFrame::Finished { delivery, outcome }).await
}

async fn say(socket: &mut Socket, frame: &AgentFrame) -> Result<(), Leave> {
    socket.send(Message::text(encode(frame))).await.map_err(|error| broken(&error))
}
