//! The reading half: frames become operations, in the order in which they came; what was committed becomes a note
//! to the writer.
//!
//! It does not wait for one commit before it reads the next frame: up to [`PENDING_MAX`] are under way. When they are,
//! it stops reading, and TCP slows this agent and no other. Frames that came together are queued together.

use super::handshake::Session;
use super::writer::Note;
use crate::crash;
use crate::protocol::close::CloseReason;
use crate::protocol::frame::{AgentFrame, ErrorFrame, FACTS_BYTES_MAX, FrameError, decode};
use crate::protocol::ids::DeliveryId;
use crate::protocol::output::OutputFrame;
use crate::protocol::plain::plain;
use crate::protocol::upgrade::UPGRADE_REASON_BYTES_MAX;
use crate::server::app::App;
use crate::server::upgrade::Socket;
use crate::store::agents::StoreFacts;
use crate::store::commit::Job;
use crate::store::error::StoreError;
use crate::store::handle::job;
use crate::store::op::Operation;
use crate::store::output::AppendOutput;
use crate::store::progress::{Accept, Finish, Progress, Report, Start};
use crate::store::rollout::UpgradeTold;
use futures_util::future::BoxFuture;
use futures_util::stream::SplitStream;
use futures_util::{FutureExt, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::error::ProtocolError as BreachError;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

/// Operations of one session under way. Each may hold an output frame of 8 KiB.
pub const PENDING_MAX: usize = 64;
/// Frames that break the protocol before the connection is closed.
pub const FAULTS_MAX: u32 = 16;

/// What a committed report means for the agent.
enum Committed {
    Accepted(DeliveryId, Progress),
    Finished(DeliveryId, Progress),
    Other(DeliveryId, Progress),
    Facts,
    Upgrading,
}

type Pending = BoxFuture<'static, Result<Committed, StoreError>>;

enum Event {
    Frame(Option<Result<Message, SocketError>>),
    Committed(Result<Committed, StoreError>),
    Ended,
}

/// The first one's answer, which takes it out; none: there are none.
async fn first(pending: &mut VecDeque<Pending>) -> Option<Result<Committed, StoreError>> {
    let result = pending.front_mut()?.await;
    pending.pop_front();
    Some(result)
}

/// The reading half of a session.
pub struct Reader {
    app: Arc<App>,
    session: Session,
    stream: SplitStream<Socket>,
    notes: mpsc::Sender<Note>,
    // In their order, and only the first is waited for: it is answered last of those that are committed together, so the
    // reader wakes once for all of them.
    pending: VecDeque<Pending>,
    /// Operations of frames that were read, to be queued together. Their commits are among the pending.
    unqueued: Vec<Job>,
    faults: u32,
}

impl Reader {
    /// Reads `stream` for `session`.
    pub fn new(app: Arc<App>, session: Session, stream: SplitStream<Socket>, notes: mpsc::Sender<Note>) -> Self {
        Self { app, session, stream, notes, pending: VecDeque::new(), unqueued: Vec::new(), faults: 0 }
    }

    /// Reads until the connection or the session ends; answers why, if nobody else has said.
    pub async fn run(mut self) -> CloseReason {
        let standing = Arc::clone(&self.session.standing);
        loop {
            let full = self.pending.len() >= PENDING_MAX;
            standing.held_up.store(full, Ordering::Relaxed);
            let event = tokio::select! {
                biased;
                () = standing.ended() => Event::Ended,
                Some(result) = first(&mut self.pending) => Event::Committed(result),
                frame = self.stream.next(), if !full => Event::Frame(frame),
            };
            standing.held_up.store(true, Ordering::Relaxed);
            let handled = match event {
                Event::Ended => Err(CloseReason::ConnectionLost),
                Event::Committed(result) => Box::pin(self.committed(result)).await,
                Event::Frame(frame) => Box::pin(self.frames(frame)).await,
            };
            if let Err(reason) = handled {
                return reason;
            }
        }
    }

    /// Takes a frame and those that have come with it.
    async fn frames(&mut self, first: Option<Result<Message, SocketError>>) -> Result<(), CloseReason> {
        let mut taken = self.frame(first).await;
        while taken.is_ok()
            && !self.unqueued.is_empty()
            && self.pending.len() < PENDING_MAX
            && let Some(frame) = self.stream.next().now_or_never()
        {
            taken = self.frame(frame).await;
        }
        // What came before the end of the connection counts.
        self.flush().await?;
        taken
    }

    async fn flush(&mut self) -> Result<(), CloseReason> {
        if self.unqueued.is_empty() {
            return Ok(());
        }
        let jobs = std::mem::take(&mut self.unqueued);
        self.app.store.queue_all(jobs).await.map_err(|_| CloseReason::ServerStorage)
    }

    async fn frame(&mut self, frame: Option<Result<Message, SocketError>>) -> Result<(), CloseReason> {
        match frame {
            Some(Ok(Message::Text(text))) => match decode::<AgentFrame>(&text) {
                Ok(frame) => self.control(frame).await,
                // A newer agent may say more than we understand: it is told, and that is no breach.
                Err(error @ FrameError::UnknownType(_)) => {
                    tracing::debug!(agent = %self.session.name, error = %plain(&error.to_string(), 200), "unknown frame");
                    self.note(Note::Fault(Box::new(error.answer()))).await
                }
                Err(error) => self.fault(error.answer()).await,
            },
            Some(Ok(Message::Binary(bytes))) => match OutputFrame::decode(&bytes) {
                Ok(frame) => {
                    let delivery = frame.delivery;
                    let (agent_seq, epoch) = (self.session.agent_seq, self.session.standing.epoch);
                    let operation = AppendOutput { agent_seq, epoch, frame };
                    self.queue(operation, move |progress| Committed::Other(delivery, progress))
                }
                Err(error) => self.fault(ErrorFrame { code: "malformed".to_owned(), message: error.to_string() }).await,
            },
            Some(Ok(Message::Pong(payload))) => match <[u8; 8]>::try_from(payload.as_ref()) {
                Ok(number) => {
                    self.session.standing.pong(u64::from_be_bytes(number), self.app.store.clock.now_ms());
                    Ok(())
                }
                // An unsolicited pong proves nothing and harms nothing.
                Err(_) => Ok(()),
            },
            // The WebSocket layer answers pings by itself.
            Some(Ok(Message::Ping(_) | Message::Frame(_))) => Ok(()),
            Some(Ok(Message::Close(frame))) => {
                Err(frame.map_or(CloseReason::ConnectionLost, |frame| CloseReason::from_code(frame.code.into())))
            }
            Some(Err(SocketError::Capacity(_))) => Err(CloseReason::FrameTooLong),
            // The WebSocket layer calls an end without a close frame a breach of the protocol; it is how links break.
            Some(Err(SocketError::Protocol(BreachError::ResetWithoutClosingHandshake))) => {
                Err(CloseReason::ConnectionLost)
            }
            Some(Err(SocketError::Protocol(_) | SocketError::Utf8(_))) => Err(CloseReason::ProtocolError),
            Some(Err(_)) | None => Err(CloseReason::ConnectionLost),
        }
    }

    async fn control(&mut self, frame: AgentFrame) -> Result<(), CloseReason> {
        let report =
            |delivery| Report { agent_seq: self.session.agent_seq, epoch: self.session.standing.epoch, delivery };
        match frame {
            AgentFrame::Accepted { delivery } => {
                let operation = Accept(report(delivery));
                self.queue(operation, move |progress| Committed::Accepted(delivery, progress))
            }
            AgentFrame::Started { delivery } => {
                let operation = Start(report(delivery));
                self.queue(operation, move |progress| Committed::Other(delivery, progress))
            }
            AgentFrame::Finished { delivery, mut outcome } => {
                outcome.cut_reason();
                let operation = Finish { report: report(delivery), outcome };
                self.queue(operation, move |progress| Committed::Finished(delivery, progress))
            }
            AgentFrame::Facts { facts } => {
                let facts = facts.to_string();
                if facts.len() > FACTS_BYTES_MAX {
                    let message = format!("facts have at most {FACTS_BYTES_MAX} bytes");
                    return self.fault(ErrorFrame { code: "malformed".to_owned(), message }).await;
                }
                let operation =
                    StoreFacts { agent_seq: self.session.agent_seq, epoch: self.session.standing.epoch, facts };
                self.queue(operation, |()| Committed::Facts)
            }
            AgentFrame::Upgrading(mut report) => {
                report.cut_reason();
                report.reason = report.reason.map(|reason| plain(&reason, UPGRADE_REASON_BYTES_MAX));
                let (agent_seq, epoch) = (self.session.agent_seq, self.session.standing.epoch);
                self.queue(UpgradeTold { agent_seq, epoch, report }, |()| Committed::Upgrading)
            }
            AgentFrame::Hello(_) | AgentFrame::Ready => {
                let message = "the session has begun already".to_owned();
                self.fault(ErrorFrame { code: "unexpected".to_owned(), message }).await
            }
            AgentFrame::Error(error) => {
                tracing::warn!(agent = %self.session.name, code = %plain(&error.code, 200),
                    "the agent reports an error: {}", plain(&error.message, 200));
                Ok(())
            }
        }
    }

    /// Has an operation queued with others; its commit is awaited with the others.
    fn queue<O: Operation + 'static>(
        &mut self,
        operation: O,
        then: impl FnOnce(O::Answer) -> Committed + Send + 'static,
    ) -> Result<(), CloseReason> {
        let (job, reply) = job(operation);
        self.unqueued.push(job);
        self.pending.push_back(async move { reply.done().await.map(then) }.boxed());
        Ok(())
    }

    async fn committed(&mut self, result: Result<Committed, StoreError>) -> Result<(), CloseReason> {
        let committed = result.map_err(|error| match error {
            StoreError::Fenced => CloseReason::Superseded,
            error => {
                // The agent keeps what it reported, and reports it again on its next connection.
                tracing::warn!(agent = %self.session.name, %error, "a report could not be stored; the agent sends it again");
                CloseReason::ServerStorage
            }
        })?;
        match committed {
            Committed::Facts => Ok(()),
            Committed::Upgrading => {
                self.app.releases.ring();
                Ok(())
            }
            Committed::Accepted(delivery, Progress::Done) => {
                crash::point("session.accepted");
                self.note(Note::Accepted(delivery)).await
            }
            Committed::Finished(delivery, Progress::Done) => {
                crash::point("session.finished");
                self.note(Note::Stored(delivery)).await
            }
            Committed::Other(_, Progress::Done) => Ok(()),
            Committed::Accepted(delivery, Progress::Ended) | Committed::Other(delivery, Progress::Ended) => {
                self.note(Note::Ended(delivery)).await
            }
            Committed::Accepted(delivery, progress)
            | Committed::Finished(delivery, progress)
            | Committed::Other(delivery, progress) => {
                let (code, message) = match progress {
                    Progress::NotDispatched => ("not_dispatched", "was never dispatched to this agent"),
                    Progress::Unexpected => ("unexpected", "cannot take this report in its state"),
                    _ => ("unknown_delivery", "is not known for this agent"),
                };
                self.fault(ErrorFrame { code: code.to_owned(), message: format!("delivery {delivery} {message}") })
                    .await
            }
        }
    }

    async fn note(&mut self, note: Note) -> Result<(), CloseReason> {
        // The writer may be busy: what was read does not wait for it.
        self.flush().await?;
        self.notes.send(note).await.map_err(|_| CloseReason::ConnectionLost)
    }

    /// The peer broke the protocol: it is told, and after [`FAULTS_MAX`] times closed.
    async fn fault(&mut self, error: ErrorFrame) -> Result<(), CloseReason> {
        tracing::warn!(agent = %self.session.name, code = %error.code,
            "the agent sent a bad frame: {}; update the older of the two", plain(&error.message, 200));
        self.faults += 1;
        if self.faults > FAULTS_MAX {
            return Err(CloseReason::ProtocolError);
        }
        self.note(Note::Fault(Box::new(error))).await
    }
}
