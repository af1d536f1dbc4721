//! The writing half: the only task that owns the sending half of one agent's socket.
//!
//! It looks at its own rows of the outbox, and writes each frame under a deadline. A look that finds nothing stays with the
//! committing thread ([`crate::store::parked`]), which answers as soon as there is something; meanwhile the writer waits
//! for that answer, its bell, its poll tick, its keepalive and the reader's notes. It holds no lock, and no other agent's
//! writer waits for it. There is no cursor: a row that is still `queued` and not in flight on this connection is to be sent.

use super::handshake::{CLOSE_TIMEOUT, Session, close_frame};
use crate::backoff::jitter;
use crate::clock::Moment;
use crate::crash;
use crate::protocol::close::CloseReason;
use crate::protocol::frame::{ErrorFrame, FRAME_BYTES_MAX, ServerFrame, encode};
use crate::protocol::ids::DeliveryId;
use crate::protocol::secret_env::SecretEnv;
use crate::protocol::spec::SPEC_INLINE_BYTES_MAX;
use crate::protocol::upgrade::Offer;
use crate::secret::{hex, sha256};
use crate::server::app::App;
use crate::server::sealed;
use crate::server::upgrade::Socket;
use crate::store::error::StoreError;
use crate::store::outbox::{Claim, Claimed, IN_FLIGHT_BYTES_MAX, Nudge, OutboxRow, Withdraw};
use futures_util::future::BoxFuture;
use futures_util::stream::SplitSink;
use futures_util::{FutureExt, SinkExt};
use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;

/// Notes from the reader under way. When they are, the reader waits, and with it this agent's socket.
pub const NOTES_MAX: usize = 32;
/// While the reader is held up by us, a pong may lie unread: the deadline is put off by this much.
const HELD_UP_PAUSE: Duration = Duration::from_millis(500);
/// For so long at most: a peer that hears nothing and never stops talking holds its reader up, too.
const HELD_UP_MAX: Duration = Duration::from_secs(60);

/// What the reader tells the writer.
#[derive(Debug)]
pub enum Note {
    /// The agent has the delivery, and we have that on disk.
    Accepted(DeliveryId),
    /// Its outcome is on disk: the agent may forget it.
    Stored(DeliveryId),
    /// It had ended here: the agent should end it too.
    Ended(DeliveryId),
    /// The agent's frame made no sense.
    Fault(Box<ErrorFrame>),
}

enum Event {
    Note(Option<Note>),
    Claimed(Result<Claimed, StoreError>),
    Bell,
    Poll,
    Keepalive,
    AcceptOverdue,
    Offer(Option<Box<Offer>>),
    Stop,
    Ended,
}

/// A dispatch that is not accepted yet.
struct InFlight {
    since: Instant,
    bytes: usize,
}

/// A look at the outbox that is not answered yet.
struct UnderWay {
    answer: BoxFuture<'static, Result<Claimed, StoreError>>,
    /// How many deliveries were in flight when it began.
    in_flight: usize,
    /// Enough bytes were.
    full: bool,
}

impl UnderWay {
    async fn answered(claim: &mut Option<Self>) -> Result<Claimed, StoreError> {
        match claim {
            Some(claim) => claim.answer.as_mut().await,
            None => std::future::pending().await,
        }
    }
}

/// The writing half of a session.
pub struct Writer {
    app: Arc<App>,
    session: Session,
    sink: SplitSink<Socket, Message>,
    notes: mpsc::Receiver<Note>,
    /// Dispatched on this connection and not accepted yet.
    in_flight: HashMap<DeliveryId, InFlight>,
    /// Asked to cancel on this connection.
    cancelled: HashSet<DeliveryId>,
    /// The look that is under way.
    claim: Option<UnderWay>,
    /// Something may have come since it began.
    again: bool,
    /// Since when an overdue pong, or accept, is put off.
    pong_put_off: Option<Instant>,
    accept_put_off: Option<Instant>,
    /// The last look found more rows than there was room for.
    more: bool,
    /// It left rows alone until some bytes that are in flight have arrived.
    held_back: bool,
    ping_at: Instant,
    pong_due: Option<Instant>,
    poll_at: Instant,
    poll_interval: Duration,
}

impl Writer {
    /// Writes to `sink` for `session`.
    pub fn new(app: Arc<App>, session: Session, sink: SplitSink<Socket, Message>, notes: mpsc::Receiver<Note>) -> Self {
        let now = Instant::now();
        // Within ±20 %, so that a fleet's polls spread.
        let interval = app.keepalive.poll_interval;
        let poll_interval = interval.mul_f64(0.8) + jitter(interval.mul_f64(0.4));
        let mut writer = Self {
            app,
            session,
            sink,
            notes,
            in_flight: HashMap::new(),
            cancelled: HashSet::new(),
            claim: None,
            again: false,
            pong_put_off: None,
            accept_put_off: None,
            more: false,
            held_back: false,
            ping_at: now,
            pong_due: None,
            poll_at: now,
            poll_interval,
        };
        writer.ping_at = now + writer.ping_wait();
        writer
    }

    /// The ping interval within ±20 %, so that a fleet's pings spread.
    fn ping_wait(&self) -> Duration {
        let interval = self.app.keepalive.ping_interval;
        interval.mul_f64(0.8) + jitter(interval.mul_f64(0.4))
    }

    /// Writes until the session ends, then says goodbye if the socket still takes it.
    pub async fn run(mut self) {
        if let Err(reason) = self.write_until_the_end().await {
            self.session.standing.end(reason);
        }
        // Nothing more is taken for us.
        self.claim = None;
        let reason = self.session.standing.reason();
        if reason != CloseReason::ConnectionLost {
            let _ = timeout(CLOSE_TIMEOUT, self.sink.send(close_frame(reason))).await;
        }
        let _ = timeout(CLOSE_TIMEOUT, self.sink.close()).await;
    }

    async fn write_until_the_end(&mut self) -> Result<(), CloseReason> {
        let app = Arc::clone(&self.app);
        let standing = Arc::clone(&self.session.standing);
        let board = &app.store.watch.agents;
        let agent = self.session.agent_seq;
        // Listening begins before each look, so a ring in between is not missed.
        let mut bell = pin!(board.listen(agent));
        Box::pin(self.look()).await?;
        loop {
            let (keepalive_at, accept_due, poll_at) = (self.keepalive_at(), self.accept_due(), self.poll_at);
            let event = tokio::select! {
                biased;
                () = standing.ended() => Event::Ended,
                () = app.tasks.stop_token().cancelled() => Event::Stop,
                () = sleep_until(keepalive_at) => Event::Keepalive,
                () = sleep_until(accept_due) => Event::AcceptOverdue,
                note = self.notes.recv() => Event::Note(note),
                claimed = UnderWay::answered(&mut self.claim) => Event::Claimed(claimed),
                () = bell.as_mut() => Event::Bell,
                () = sleep_until(poll_at) => Event::Poll,
                offer = standing.offered() => Event::Offer(offer),
            };
            match event {
                Event::Ended => return Ok(()),
                Event::Stop => return Err(CloseReason::Draining),
                Event::Note(None) => return Err(CloseReason::ConnectionLost),
                Event::Note(Some(note)) => Box::pin(self.note(note)).await?,
                Event::Claimed(claimed) => Box::pin(self.claimed(claimed)).await?,
                Event::Bell => {
                    bell.set(board.listen(agent));
                    Box::pin(self.look()).await?;
                }
                Event::Poll => Box::pin(self.look()).await?,
                Event::Offer(None) => {}
                Event::Offer(Some(offer)) => Box::pin(self.send(&ServerFrame::Upgrade(*offer))).await?,
                // The pong may have come before its deadline, without a word to us.
                Event::Keepalive if self.pong_due().is_none() => Box::pin(self.ping()).await?,
                Event::Keepalive | Event::AcceptOverdue => Box::pin(self.overdue()).await?,
            }
        }
    }

    /// When the pong to the latest ping is due; none: it has come, and the reader has noted it.
    fn pong_due(&self) -> Option<Instant> {
        self.pong_due.filter(|_| self.session.standing.awaits_pong())
    }

    /// When to look after the keepalive: at the next ping; while a pong is late for it, at the pong's deadline.
    fn keepalive_at(&self) -> Instant {
        match self.pong_due() {
            Some(due) if self.ping_at <= Instant::now() => due,
            Some(due) => due.min(self.ping_at),
            None => self.ping_at,
        }
    }

    fn accept_due(&self) -> Instant {
        let oldest = self.in_flight.values().map(|sent| sent.since).min();
        oldest.map_or_else(
            || Instant::now() + self.app.keepalive.accept_timeout,
            |at| at + self.app.keepalive.accept_timeout,
        )
    }

    /// An answer is overdue, unless it waits among the notes, or unread because the reader waits for us.
    async fn overdue(&mut self) -> Result<(), CloseReason> {
        for _ in 0..NOTES_MAX {
            let Ok(note) = self.notes.try_recv() else { break };
            self.note(note).await?;
        }
        let now = Instant::now();
        let held_up = self.session.standing.held_up.load(Ordering::Relaxed);
        let is_put_off = |since: &mut Option<Instant>| held_up && now - *since.get_or_insert(now) < HELD_UP_MAX;
        if self.pong_due().is_some_and(|due| due <= now) {
            if !is_put_off(&mut self.pong_put_off) {
                return Err(CloseReason::PongTimeout);
            }
            self.pong_due = Some(now + HELD_UP_PAUSE);
        }
        if self.accept_due() <= now {
            if !is_put_off(&mut self.accept_put_off) {
                return Err(CloseReason::AcceptTimeout);
            }
            let restart = now - self.app.keepalive.accept_timeout + HELD_UP_PAUSE;
            self.in_flight.values_mut().for_each(|sent| sent.since = sent.since.max(restart));
        }
        Ok(())
    }

    async fn note(&mut self, note: Note) -> Result<(), CloseReason> {
        match note {
            Note::Accepted(delivery) => {
                self.accept_put_off = None;
                if self.in_flight.remove(&delivery).is_some() {
                    // An answer to what we sent on this connection: a proven round trip.
                    self.session.standing.prove(self.app.store.clock.now_ms());
                }
                if self.held_back && !self.is_full() { self.look().await } else { Ok(()) }
            }
            Note::Stored(delivery) => {
                self.in_flight.remove(&delivery);
                self.cancelled.remove(&delivery);
                self.send(&ServerFrame::Stored { delivery }).await?;
                if self.more || self.held_back && !self.is_full() { self.look().await } else { Ok(()) }
            }
            Note::Ended(delivery) => {
                self.in_flight.remove(&delivery);
                self.send(&ServerFrame::Cancel { delivery }).await
            }
            Note::Fault(error) => self.send(&ServerFrame::Error(*error)).await,
        }
    }

    async fn ping(&mut self) -> Result<(), CloseReason> {
        if self.session.standing.connected.clock_was_set(Moment::now(self.app.store.clock.now_ms())) {
            return Err(CloseReason::ClockStep);
        }
        self.pong_put_off = None;
        let payload = self.session.standing.ping().to_be_bytes().to_vec();
        let now = Instant::now();
        self.ping_at = now + self.ping_wait();
        self.pong_due = Some(now + self.app.keepalive.pong_timeout);
        self.write(Message::Ping(payload.into())).await
    }

    /// Enough bytes are in flight.
    fn is_full(&self) -> bool {
        self.in_flight.values().map(|sent| sent.bytes).sum::<usize>() >= IN_FLIGHT_BYTES_MAX
    }

    /// Looks at the outbox for what is not in flight, up to the window. If a look is under way, that one looks again.
    async fn look(&mut self) -> Result<(), CloseReason> {
        self.poll_at = Instant::now() + self.poll_interval;
        let (agent_seq, store) = (self.session.agent_seq, &self.app.store);
        if self.claim.is_some() {
            self.again = true;
            let nudged = store.queue(Nudge { agent_seq }).await;
            return nudged.map(drop).map_err(|_| CloseReason::ServerStorage);
        }
        self.again = false;
        let full = self.is_full();
        let claim = Claim {
            agent_seq,
            epoch: self.session.standing.epoch,
            // Cancels go out all the same.
            window: if full { 0 } else { self.app.keepalive.window as usize },
            in_flight: self.in_flight.keys().copied().collect(),
            cancelled: self.cancelled.clone(),
            since: self.session.standing.connected,
            parks: !full,
        };
        let in_flight = claim.in_flight.len();
        let reply = store.queue(claim).await.map_err(|_| CloseReason::ServerStorage)?;
        self.claim = Some(UnderWay { answer: reply.done().boxed(), in_flight, full });
        Ok(())
    }

    /// Sends what a look found, and looks for more.
    async fn claimed(&mut self, claimed: Result<Claimed, StoreError>) -> Result<(), CloseReason> {
        let Some(claim) = self.claim.take() else { return Ok(()) };
        let claimed = claimed.map_err(|error| match error {
            StoreError::NotFound { .. } => CloseReason::Revoked,
            StoreError::Fenced => CloseReason::Superseded,
            error => {
                tracing::warn!(agent = %self.session.name, %error, "the outbox cannot be read; the agent comes again");
                CloseReason::ServerStorage
            }
        })?;
        if claimed.clock_was_set {
            return Err(CloseReason::ClockStep);
        }
        (self.more, self.held_back) = (claimed.more, claimed.held_back || claim.full);
        let expected = claim.in_flight + claimed.rows.len();
        for row in claimed.rows {
            self.dispatch(row).await?;
        }
        for delivery in claimed.cancels {
            if self.cancelled.insert(delivery) {
                self.send(&ServerFrame::Cancel { delivery }).await?;
            }
        }
        // Without room the next look waits for a note; what was accepted or withdrawn meanwhile made room.
        let has_room = self.in_flight.len() < expected || !(self.more || self.held_back);
        if has_room || self.again { self.look().await } else { Ok(()) }
    }

    async fn dispatch(&mut self, mut row: OutboxRow) -> Result<(), CloseReason> {
        let (delivery, fresh, free_ms) = (row.id, row.fresh, row.free_ms);
        let secrets = match row.sealed.take() {
            None => SecretEnv::default(),
            Some(sealed) => match sealed::open(&self.app.seal, row.command, &sealed) {
                Some(secrets) => secrets,
                None => return self.withdraw(delivery).await,
            },
        };
        let frame = dispatch_frame(row, secrets);
        // In flight from before the write: an answer may come while it is still under way.
        self.in_flight.insert(delivery, InFlight { since: Instant::now(), bytes: frame.len() });
        self.write(Message::text(frame)).await?;
        crash::point("session.dispatched");
        if fresh {
            self.app.metrics.dispatched(self.app.store.clock.now_ms() - free_ms);
        }
        Ok(())
    }

    /// The delivery would wait for ever.
    async fn withdraw(&mut self, delivery: DeliveryId) -> Result<(), CloseReason> {
        tracing::error!(agent = %self.session.name, %delivery, "the secrets of a command cannot be opened: seal.key is \
            not the one that sealed them; the delivery is cancelled: submit it again");
        let withdraw = Withdraw { agent_seq: self.session.agent_seq, epoch: self.session.standing.epoch, delivery };
        self.app.store.write(withdraw).await.map_err(|error| match error {
            StoreError::Fenced => CloseReason::Superseded,
            _ => CloseReason::ServerStorage,
        })
    }

    async fn send(&mut self, frame: &ServerFrame) -> Result<(), CloseReason> {
        self.write(Message::text(encode(frame))).await
    }

    /// Writes one frame before its deadline, which a pong that is due brings forward: a dead socket is found by
    /// whichever comes first. A frame that missed its deadline may still arrive, so the connection ends with it.
    async fn write(&mut self, message: Message) -> Result<(), CloseReason> {
        let mut deadline = Instant::now() + self.app.keepalive.write_timeout;
        if let Some(pong_due) = self.pong_due() {
            deadline = deadline.min(pong_due.max(Instant::now() + HELD_UP_PAUSE));
        }
        match timeout_at(deadline, self.sink.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(CloseReason::ConnectionLost),
            Err(_) => Err(CloseReason::WriteTimeout),
        }
    }
}

/// The dispatch frame of a row: with its specification, or without where that would make the frame too large.
fn dispatch_frame(row: OutboxRow, secrets: SecretEnv) -> String {
    let (delivery, attempt) = (row.id, row.attempt);
    let spec_sha256 = hex(&sha256(row.spec.as_bytes()));
    if row.spec.len() <= SPEC_INLINE_BYTES_MAX {
        let (spec, spec_sha256, secrets) = (Some(row.spec), spec_sha256.clone(), secrets.clone());
        let frame = encode(&ServerFrame::Dispatch { delivery, attempt, spec, spec_sha256, secrets });
        // Quotes and backslashes double in a JSON string.
        if frame.len() <= FRAME_BYTES_MAX {
            return frame;
        }
    }
    encode(&ServerFrame::Dispatch { delivery, attempt, spec: None, spec_sha256, secrets })
}
