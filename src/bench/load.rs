//! The submitters: each sends a command, waits for what becomes of it, and sends the next when it is due.

use super::simulated::Fleet;
use super::tally::Tally;
use crate::cli::client::{ANSWER_BYTES_MAX, ApiClient};
use crate::http_client::{Answer, HttpClient, HttpClientError};
use crate::protocol::http::{SubmitRequest, Targets};
use crate::protocol::name::Tags;
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// How long an outcome may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause after a submission that was not taken.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// A connection that was not used for so long is opened anew: after 10 s the server closes it, and a submission that finds
/// it closed would pass for one that was refused.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// For how long after the end submitters take what was due before it: so long a stall of the server shows in the latencies
/// whole. What is left then counts as not submitted.
const BACKLOG: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// When commands are due.
#[derive(Debug)]
pub enum Pace {
    /// As soon as a submitter is free, until then.
    Closed(Instant),
    /// At times of their own.
    Open(Arc<Ticks>),
}

/// Moments at which commands are due, one after the other.
#[derive(Debug)]
pub struct Ticks {
    begin: Instant,
    rate: u32,
    due: Semaphore,
    come: AtomicU64,
    taken: AtomicU64,
}

impl Ticks {
    /// `rate` of them a second from `begin` until `end`. A thread of its own wakes the submitters: the runtime's timers
    /// would be late by up to a millisecond.
    pub fn start(rate: u32, begin: Instant, end: Instant) -> Arc<Self> {
        let ticks =
            Arc::new(Self { begin, rate, due: Semaphore::new(0), come: AtomicU64::new(0), taken: AtomicU64::new(0) });
        let own = Arc::clone(&ticks);
        std::thread::spawn(move || {
            for number in 0.. {
                let at = own.at(number);
                if at >= end {
                    break;
                }
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                own.come.fetch_add(1, Ordering::Relaxed);
                own.due.add_permits(1);
            }
            // What was due is not forgotten at the end, but works off for a while.
            let late = end + BACKLOG;
            while own.left() > 0 && Instant::now() < late {
                std::thread::sleep(LOOK_EVERY);
            }
            own.due.close();
        });
        ticks
    }

    fn at(&self, number: u64) -> Instant {
        self.begin + Duration::from_secs_f64(number as f64 / f64::from(self.rate))
    }

    /// The next one, when it has come; none: it was the last.
    async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        Some(self.at(self.taken.fetch_add(1, Ordering::Relaxed)))
    }

    /// How many have come and were taken by nobody yet: all submitters are busy.
    pub fn left(&self) -> u64 {
        // Not the semaphore's own number: that leaves out whom it has woken, and closing it sends those away.
        self.come.load(Ordering::Relaxed).saturating_sub(self.taken.load(Ordering::Relaxed))
    }
}

/// To whom commands go.
#[derive(Debug)]
pub enum Aim {
    /// To one after the other: ids, and whether an outcome can be expected.
    Each(Vec<(String, bool)>),
    /// Each to all that carry these tags.
    All(Tags, u32),
}

/// What the submitters share.
pub struct Load {
    /// The server.
    pub client: ApiClient,
    /// Where outcomes come from; none: real agents, and the server holds its answer until it has the outcome.
    pub fleet: Option<Arc<Fleet>>,
    /// To whom.
    pub aim: Aim,
    /// When.
    pub pace: Pace,
    /// Bytes that each command carries.
    pub payload: usize,
    /// Where to count.
    pub tally: Arc<Tally>,
    /// Whose turn it is.
    pub turn: AtomicUsize,
}

/// One submission.
struct Shot {
    path: String,
    targets: Option<Targets>,
    confirm: Option<u64>,
    deliveries: u32,
    is_answered: bool,
}

impl Load {
    /// Submits until no more are due. `slot` is the submitter's.
    pub async fn submit(self: Arc<Self>, slot: u32) {
        let authorization = self.client.authorization();
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
        let mut connection: Option<(HttpClient, Instant)> = None;
        while let Some(due) = self.due().await {
            let shot = self.aim();
            let flight = self.fleet.as_ref().map(|fleet| fleet.flights.begin(slot, shot.deliveries));
            let mut argv = vec!["true".to_owned()];
            argv.extend(flight.as_ref().map(|(mark, _)| mark.to_string()));
            let request = SubmitRequest {
                argv: Some(argv),
                targets: shot.targets,
                confirm: shot.confirm,
                stdin: (self.payload > 0).then(|| "x".repeat(self.payload)),
                ..SubmitRequest::default()
            };
            let body = Bytes::from(serde_json::to_vec(&request).expect("plain data with string keys"));
            connection = connection.filter(|(_, used)| used.elapsed() < IDLE_MAX);
            let answer = match self.send(&mut connection, &shot.path, &headers, body).await {
                Ok(answer) => answer,
                Err(error) => {
                    connection = None;
                    self.tally.refused(due, &error.to_string());
                    sleep(REFUSED_PAUSE).await;
                    continue;
                }
            };
            if answer.status != StatusCode::CREATED {
                self.tally.refused(due, answer.status.as_str());
                sleep(REFUSED_PAUSE).await;
                continue;
            }
            match flight {
                None if has_succeeded(&answer.body) => self.tally.answered(due, Instant::now()),
                None => self.tally.unanswered(due),
                Some((_, landed)) => {
                    self.tally.accepted(due, Instant::now());
                    if shot.is_answered {
                        match timeout(PATIENCE, landed).await {
                            Ok(Ok(landed)) => self.tally.landed(due, landed),
                            _ => self.tally.unanswered(due),
                        }
                    }
                }
            }
        }
    }

    async fn due(&self) -> Option<Instant> {
        match &self.pace {
            Pace::Open(ticks) => ticks.next().await,
            Pace::Closed(end) => Some(Instant::now()).filter(|now| now < end),
        }
    }

    fn aim(&self) -> Shot {
        match &self.aim {
            Aim::All(tags, agents) => Shot {
                path: "/api/commands".to_owned(),
                targets: Some(Targets { tags: Some(tags.clone()), ..Targets::default() }),
                confirm: Some(u64::from(*agents)),
                deliveries: *agents,
                is_answered: true,
            },
            Aim::Each(agents) => {
                let (id, is_answered) = &agents[self.turn.fetch_add(1, Ordering::Relaxed) % agents.len()];
                let wait = if self.fleet.is_none() { "?wait=60" } else { "" };
                let path = format!("/api/agents/{id}/command{wait}");
                Shot { path, targets: None, confirm: None, deliveries: 1, is_answered: *is_answered }
            }
        }
    }

    async fn send(
        &self,
        connection: &mut Option<(HttpClient, Instant)>,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, HttpClientError> {
        let (client, used) = match connection {
            Some(connection) => connection,
            None => {
                let client = HttpClient::connect(self.client.url(), self.client.trust()).await?;
                connection.insert((client, Instant::now()))
            }
        };
        let answer = client.send(Method::POST, path, headers, body, PATIENCE, ANSWER_BYTES_MAX).await;
        *used = Instant::now();
        answer
    }
}

fn has_succeeded(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct State<'a> {
        state: &'a str,
    }
    serde_json::from_slice::<State<'_>>(body).is_ok_and(|command| command.state == "succeeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_moment_that_is_due_is_taken_once_and_the_last_one_too() {
        let begin = Instant::now();
        let ticks = Ticks::start(1000, begin, begin + Duration::from_millis(50));
        let mut due = Vec::new();
        while let Some(moment) = ticks.next().await {
            assert!(moment <= Instant::now());
            due.push(moment - begin);
        }
        assert_eq!(due, (0..50).map(Duration::from_millis).collect::<Vec<_>>());
        assert_eq!(ticks.left(), 0);
    }
}
