//! Taking in what the server dispatches: onto the board, into the journal, to the runner.
//!
//! A task each, so that a burst shares the journal's fsyncs, and detached from the connection: what is journaled stays
//! so when the connection ends. Their number is bounded by the board.

use super::fetch::{FetchError, fetch};
use crate::agent::board::{Arrival, Phase};
use crate::agent::config::CHECK_COMMAND;
use crate::agent::credential::Credential;
use crate::agent::journal::{Done, Entry, Op};
use crate::agent::runner::control::Launch;
use crate::agent::runner::queue::{Runner, Slot, cancelled_before, expired};
use crate::agent::upgrade::take::Given;
use crate::crash;
use crate::http_client::ServerUrl;
use crate::protocol::frame::{AgentFrame, ErrorFrame, JOURNAL_ENTRIES_MAX};
use crate::protocol::ids::DeliveryId;
use crate::protocol::outcome::Outcome;
use crate::protocol::secret_env::SecretEnv;
use crate::protocol::spec::{Spec, TTL_MS_MAX};
use crate::protocol::state::State;
use crate::protocol::upgrade::Offer;
use crate::secret::{Secret, hex, sha256};
use crate::tls::Trust;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Fetches at once: each may hold a whole specification and a connection.
const FETCHES_MAX: usize = 4;
/// Replies that may wait for the writer; who has one more waits.
pub const REPLIES_MAX: usize = 64;

/// What others ask the writer for.
#[derive(Debug)]
pub enum Reply {
    /// Send this.
    Frame(AgentFrame),
    /// Tell again where this delivery stands.
    Again(DeliveryId),
    /// The journal cannot be written: leave.
    StorageFailed(String),
}

/// A dispatch frame.
#[derive(Debug)]
pub struct Dispatch {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// The attempt.
    pub attempt: u32,
    /// The document; none: fetch it.
    pub spec: Option<String>,
    /// Its hash.
    pub spec_sha256: String,
    /// The values of its `secret_env`.
    pub secrets: SecretEnv,
}

/// The way in, for one connection.
#[derive(Clone, Debug)]
pub struct Intake {
    runner: Runner,
    url: ServerUrl,
    trust: Trust,
    token: Arc<Secret>,
    fetches: Arc<Semaphore>,
    replies: mpsc::Sender<Reply>,
}

impl Intake {
    /// For a connection with this credential's server and fetch token.
    pub fn new(runner: Runner, credential: &Credential, token: Secret, replies: mpsc::Sender<Reply>) -> Self {
        let (url, trust) = (credential.url.clone(), credential.trust.clone());
        Self { runner, url, trust, token: Arc::new(token), fetches: Arc::new(Semaphore::new(FETCHES_MAX)), replies }
    }

    /// An offer, with what its release is fetched with.
    pub fn given(&self, offer: Offer) -> Given {
        Given { offer, url: self.url.clone(), trust: self.trust.clone(), token: Arc::clone(&self.token) }
    }

    /// Takes a dispatch in; returns when it is on its way. A stopping agent takes nothing.
    pub async fn dispatch(&self, dispatch: Dispatch) {
        if self.runner.tasks.stop_token().is_cancelled() {
            return;
        }
        match self.runner.board.arrive(dispatch.delivery) {
            Arrival::New(cancel) => {
                let intake = self.clone();
                self.runner.tasks.spawn("accept", async move { intake.take_in(dispatch, cancel).await });
            }
            // It is answered when it is in the journal.
            Arrival::Known(Phase::Arriving) => {}
            Arrival::Known(_) => self.reply(Reply::Again(dispatch.delivery)).await,
            Arrival::Full => {
                let why =
                    format!("the journal holds {JOURNAL_ENTRIES_MAX} deliveries that the server has not let go of");
                self.reply(Reply::StorageFailed(why)).await;
            }
        }
    }

    async fn reply(&self, reply: Reply) {
        // The connection may be gone: on the next one `hello` says it.
        let _ = self.replies.send(reply).await;
    }

    async fn take_in(&self, dispatch: Dispatch, cancel: CancellationToken) {
        let delivery = dispatch.delivery;
        let document = match self.document(&dispatch).await {
            Ok(document) => document,
            Err(NoDocument::Gone) => return self.runner.board.remove(delivery),
            Err(NoDocument::Later(why)) => {
                warn!(%delivery, "the delivery cannot be taken in now: {why}; the server offers it again");
                return self.runner.board.remove(delivery);
            }
            Err(NoDocument::Damaged) => {
                self.runner.board.remove(delivery);
                let message = format!("the specification of {delivery} does not have the hash that it should have");
                let error = ErrorFrame { code: "malformed".to_owned(), message };
                return self.reply(Reply::Frame(AgentFrame::Error(error))).await;
            }
        };
        let Dispatch { attempt, secrets, .. } = dispatch;
        let (verdict, not_after_ms) = self.judge(&document, &secrets, &cancel);
        let entry = match &verdict {
            Verdict::Run(_, Some(_)) => Entry::Started,
            Verdict::Run(_, None) => Entry::Waiting,
            Verdict::End(outcome) => Entry::Ended(outcome.clone()),
        };
        let accept = Op::Accept { delivery, attempt, spec: document.to_vec(), secrets, not_after_ms, entry };
        crash::point("agent.dispatched");
        let done = self.runner.journal.write(accept).await;
        crash::point("agent.accepted");
        match done {
            Ok(Done::Written) => self.go_on(delivery, verdict, cancel),
            // A server that was restored from a backup asks again: it gets the old outcome, without output.
            Ok(Done::Known(Some(outcome))) => {
                info!(%delivery, "the delivery has run before: its outcome is told again");
                self.runner.board.set_phase(delivery, Phase::Ended(outcome));
            }
            // Written by a commit that reported a failure. It has not run: it was never on the board.
            Ok(Done::Known(None)) => {
                let waiting = match verdict {
                    Verdict::Run(launch, _) => Verdict::Run(launch, None),
                    end @ Verdict::End(_) => end,
                };
                self.go_on(delivery, waiting, cancel);
            }
            Err(why) => {
                self.runner.board.remove(delivery);
                self.reply(Reply::StorageFailed(why.to_string())).await;
            }
        }
    }

    fn go_on(&self, delivery: DeliveryId, verdict: Verdict, cancel: CancellationToken) {
        match verdict {
            Verdict::Run(launch, slot) => {
                let phase = if slot.is_some() { Phase::Running } else { Phase::Accepted };
                self.runner.board.set_phase(delivery, phase);
                self.runner.admit(delivery, *launch, cancel, slot);
            }
            Verdict::End(outcome) => self.runner.board.set_phase(delivery, Phase::Ended(outcome)),
        }
    }

    fn judge(&self, document: &[u8], secrets: &SecretEnv, cancel: &CancellationToken) -> (Verdict, i64) {
        let named = |spec: Spec| match secrets.are_named_by(&spec.secret_env) {
            true => Ok(spec),
            false => Err("the secrets that it names did not come with it, or others did".to_owned()),
        };
        let spec = match Spec::parse(document).map_err(|why| why.to_string()).and_then(named) {
            Ok(spec) => spec,
            Err(why) => {
                let forgotten_ms = self.runner.time.now_ms().unwrap_or_default().saturating_add(TTL_MS_MAX);
                let reason = format!("this agent cannot take the specification: {why}");
                return (Verdict::End(Outcome::without_run(State::Refused, reason)), forgotten_ms);
            }
        };
        let not_after_ms = spec.not_after_ms;
        if self.runner.upgrade_check && spec.command.as_deref() != Some(CHECK_COMMAND) {
            let reason = "this agent is there for a moment, to prove an upgrade of the server, and runs nothing else";
            return (Verdict::End(Outcome::without_run(State::Refused, reason.to_owned())), not_after_ms);
        }
        let verdict = if self.runner.is_expired(&spec) {
            Verdict::End(expired())
        } else if cancel.is_cancelled() {
            Verdict::End(cancelled_before())
        } else {
            Verdict::Run(Box::new(Launch::new(spec, secrets.clone())), self.runner.free_slot())
        };
        (verdict, not_after_ms)
    }

    async fn fetch(&self, delivery: DeliveryId) -> Result<Bytes, NoDocument> {
        let _permit = self.fetches.acquire().await.map_err(|_| NoDocument::Gone)?;
        fetch(&self.url, &self.trust, &self.token, delivery).await.map_err(|error| match error {
            FetchError::Gone => NoDocument::Gone,
            error => NoDocument::Later(error.to_string()),
        })
    }

    async fn document(&self, dispatch: &Dispatch) -> Result<Bytes, NoDocument> {
        let document = match &dispatch.spec {
            Some(text) => Bytes::copy_from_slice(text.as_bytes()),
            None => {
                // With the connection the fetch ends, or the next connection would wait for it: it is offered again.
                tokio::select! {
                    fetched = self.fetch(dispatch.delivery) => fetched?,
                    () = self.replies.closed() => {
                        return Err(NoDocument::Later("the connection ended before it was fetched".to_owned()));
                    }
                }
            }
        };
        if hex(&sha256(&document)).eq_ignore_ascii_case(&dispatch.spec_sha256) {
            Ok(document)
        } else {
            Err(NoDocument::Damaged)
        }
    }
}

enum Verdict {
    Run(Box<Launch>, Option<Slot>),
    End(Outcome),
}

enum NoDocument {
    Gone,
    Later(String),
    Damaged,
}
