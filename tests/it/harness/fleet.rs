//! Many agents in this process that take whatever is dispatched, with a journal in memory each: a run takes no time and
//! succeeds. They come back after a loss, tell their journals truly, and count what happened to each delivery.
//!
//! They keep no tombstones: a delivery that the server offers again after `stored` is started again, and counted.

use super::api::Api;
use super::eventually::eventually;
use super::raw_agent::{Identity, NotConnected, RawAgent, success};
use futures_util::{SinkExt, StreamExt};
use postrider::agent::link::wait::{BACKOFF_AFTER_WELCOME, BACKOFF_FIRST, BACKOFF_MAX, SESSION_GOOD};
use postrider::backoff::Backoff;
use postrider::protocol::frame::{AgentFrame, JournalEntry, ServerFrame, decode, encode};
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::state::State;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::{Error, Message};

/// A handshake that takes longer is tried again: its link may be dead.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Enrolled at one time.
const ENROLLED_AT_ONCE: usize = 16;

/// The agents; they are gone when it is dropped.
pub struct Fleet {
    members: Vec<Arc<Member>>,
    _drivers: JoinSet<()>,
}

/// What happened to deliveries, over all agents.
#[derive(Debug, Default)]
pub struct Tally {
    /// How often each was started.
    pub starts: HashMap<DeliveryId, u32>,
    /// Dispatches of what this connection's `hello` had named or what it had accepted already.
    pub repeats: u32,
    /// What the server complained of.
    pub errors: Vec<String>,
}

struct Member {
    name: String,
    address: String,
    identity: Identity,
    /// Ended and not forgotten yet.
    journal: Mutex<HashSet<DeliveryId>>,
    tally: Mutex<Tally>,
    connections: AtomicU32,
}

impl Fleet {
    /// Enrolls `count` agents `{prefix}-0…`, connects them at `address` (the server or a proxy), and waits until the
    /// server has welcomed them all.
    pub async fn start(api: &Api, prefix: &str, count: usize, address: &str) -> Self {
        raise_the_limit_of_files();
        let made = api.call("POST", "/api/join", json!({ "uses": count })).await.json();
        let join = made["join"].as_str().unwrap();
        let enroll = |number: usize| async move {
            let name = format!("{prefix}-{number}");
            let identity = Identity::enroll_with(api, join, &name).await;
            (name, identity)
        };
        let enrolled = futures_util::stream::iter((0..count).map(enroll)).buffered(ENROLLED_AT_ONCE);
        let enrolled: Vec<_> = enrolled.collect().await;
        let members: Vec<_> = enrolled
            .into_iter()
            .map(|(name, identity)| {
                Arc::new(Member {
                    name,
                    address: address.to_owned(),
                    identity,
                    journal: Mutex::default(),
                    tally: Mutex::default(),
                    connections: AtomicU32::new(0),
                })
            })
            .collect();
        let mut drivers = JoinSet::new();
        for member in &members {
            let member = Arc::clone(member);
            drivers.spawn(async move { member.live().await });
        }
        let fleet = Self { members, _drivers: drivers };
        eventually("the fleet is connected", || async { fleet.connections().iter().all(|n| *n > 0).then_some(()) })
            .await;
        fleet
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.members.iter().map(|member| member.name.clone()).collect()
    }

    /// How often each was welcomed.
    pub fn connections(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.connections.load(Ordering::Relaxed)).collect()
    }

    /// What happened so far.
    pub fn tally(&self) -> Tally {
        let mut all = Tally::default();
        for member in &self.members {
            let tally = member.tally.lock().unwrap();
            all.repeats += tally.repeats;
            all.errors.extend(tally.errors.iter().cloned());
            for (delivery, starts) in &tally.starts {
                *all.starts.entry(*delivery).or_default() += starts;
            }
        }
        all
    }

    /// Each of these commands (of one delivery each) was started once, and nothing was offered to who had it.
    pub async fn ran_once(&self, api: &Api, commands: &[String]) {
        let tally = self.tally();
        assert!(tally.errors.is_empty(), "{:?}", tally.errors);
        assert_eq!(tally.repeats, 0, "dispatched again, though the agent had told that it has it");
        let mut wrong = BTreeMap::new();
        for command in commands {
            let shown = api.command(command).await;
            let delivery = shown["deliveries"][0]["id"].as_str().unwrap().parse().unwrap();
            let starts = tally.starts.get(&delivery).copied().unwrap_or(0);
            if starts != 1 || shown["state"] != "succeeded" {
                wrong.insert(command, (starts, shown["state"].clone()));
            }
        }
        assert!(wrong.is_empty(), "starts and state: {wrong:?}");
    }
}

/// The agents as the server shows them, in order of enrollment; up to 500.
pub async fn shown(api: &Api) -> Vec<Value> {
    api.get("/api/agents?limit=500").await["agents"].as_array().unwrap().clone()
}

/// Each agent costs two files in this process, four behind a proxy.
fn raise_the_limit_of_files() {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
}

impl Member {
    /// Connects again and again, with the waits of a real agent.
    async fn live(&self) {
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
        loop {
            let journal: Vec<_> = {
                let held = self.journal.lock().unwrap();
                held.iter().map(|delivery| JournalEntry { delivery: *delivery, state: State::Succeeded }).collect()
            };
            let connected = RawAgent::try_connect_to(&self.address, &self.identity, journal);
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connected).await;
            let at_least = match connected.unwrap_or_else(|_| Err(NotConnected::default())) {
                Ok(agent) => {
                    self.connections.fetch_add(1, Ordering::Relaxed);
                    let since = Instant::now();
                    // Whatever ended it: it comes back.
                    let _ = self.serve(agent).await;
                    if since.elapsed() >= SESSION_GOOD {
                        backoff.reset();
                    }
                    backoff.ease(BACKOFF_AFTER_WELCOME);
                    None
                }
                Err(declined) => declined.retry_after_s.map(Duration::from_secs),
            };
            sleep(backoff.next(at_least)).await;
        }
    }

    /// Takes what comes until the connection ends.
    async fn serve(&self, agent: RawAgent) -> Result<(), Error> {
        let RawAgent { mut socket, welcome } = agent;
        let ServerFrame::Welcome { journal, .. } = welcome else { unreachable!("checked at connect") };
        let mut told: HashSet<DeliveryId> = HashSet::new();
        for verdict in journal {
            told.insert(verdict.delivery);
            if verdict.keep {
                socket.send(report(&finished(verdict.delivery))).await?;
            } else {
                self.journal.lock().unwrap().remove(&verdict.delivery);
            }
        }
        while let Some(message) = socket.next().await {
            let Message::Text(text) = message? else { continue };
            match decode(&text).unwrap() {
                ServerFrame::Dispatch { delivery, .. } => {
                    for frame in self.take(delivery, &mut told) {
                        socket.feed(report(&frame)).await?;
                    }
                    socket.flush().await?;
                }
                ServerFrame::Stored { delivery } => {
                    self.journal.lock().unwrap().remove(&delivery);
                }
                ServerFrame::Error(error) => {
                    self.tally.lock().unwrap().errors.push(format!("{}: {}: {}", self.name, error.code, error.message));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Journals and starts a delivery, unless it is in the journal; answers the reports.
    fn take(&self, delivery: DeliveryId, told: &mut HashSet<DeliveryId>) -> [AgentFrame; 3] {
        let mut tally = self.tally.lock().unwrap();
        tally.repeats += u32::from(!told.insert(delivery));
        if self.journal.lock().unwrap().insert(delivery) {
            *tally.starts.entry(delivery).or_default() += 1;
        }
        [AgentFrame::Accepted { delivery }, AgentFrame::Started { delivery }, finished(delivery)]
    }
}

fn finished(delivery: DeliveryId) -> AgentFrame {
    AgentFrame::Finished { delivery, outcome: success() }
}

fn report(frame: &AgentFrame) -> Message {
    Message::text(encode(frame))
}
