//! Who is connected: memory that sessions write and lists read. Never on the send path, and nothing is decided by it,
//! except that an older connection of the same agent is told to go.

use crate::clock::Moment;
use crate::protocol::close::CloseReason;
use crate::protocol::upgrade::Offer;
use crate::secret::random;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// One session, as its two halves and the lists share it.
#[derive(Debug)]
pub struct Standing {
    /// The session's epoch.
    pub epoch: u64,
    /// When it was authenticated. Its agent counts on from the time that it was told then: if the clock is set, it would
    /// take fresh commands for expired, or run expired ones.
    pub connected: Moment,
    /// Its last proven round trip, in Unix milliseconds.
    pub proven_ms: AtomicI64,
    /// What the latest ping says, and the latest that was answered by its pong while it was that.
    pinged: AtomicU64,
    ponged: AtomicU64,
    /// The reader is waiting for us and not for the socket, so that a pong may lie unread.
    pub held_up: AtomicBool,
    /// A release that the agent is to be offered, and the ring for it. Boxed: few have one.
    offer: Mutex<Option<Box<Offer>>>,
    offered: Notify,
    end: CancellationToken,
    reason: OnceLock<CloseReason>,
}

impl Standing {
    /// A session that begins now. Its authentication was a round trip.
    pub fn new(epoch: u64, now_ms: i64) -> Self {
        Self {
            epoch,
            connected: Moment::now(now_ms),
            proven_ms: AtomicI64::new(now_ms),
            pinged: AtomicU64::new(0),
            ponged: AtomicU64::new(0),
            held_up: AtomicBool::new(false),
            offer: Mutex::default(),
            offered: Notify::new(),
            end: CancellationToken::new(),
            reason: OnceLock::new(),
        }
    }

    /// Ends the session. The first reason counts.
    pub fn end(&self, reason: CloseReason) {
        let _ = self.reason.set(reason);
        self.end.cancel();
    }

    /// Waits until somebody ends the session.
    pub async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Lays a release before its writer. A later one takes the place of one that was not sent yet.
    pub fn offer(&self, offer: Offer) {
        *self.offer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(offer));
        self.offered.notify_one();
    }

    /// Waits for a release to be offered, for one waiter.
    pub async fn offered(&self) -> Option<Box<Offer>> {
        self.offered.notified().await;
        self.offer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Why it ended; a connection lost, if nobody said.
    pub fn reason(&self) -> CloseReason {
        self.reason.get().copied().unwrap_or(CloseReason::ConnectionLost)
    }
}

/// The sessions that stand, by their agents' row numbers.
#[derive(Debug, Default)]
pub struct Presence {
    sessions: Mutex<HashMap<i64, Arc<Standing>>>,
}

impl Presence {
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Arc<Standing>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins. An older one of the same agent is ended; if this is the older one, it is.
    pub fn begin(&self, agent_seq: i64, standing: &Arc<Standing>) {
        let older = {
            let mut sessions = self.sessions();
            match sessions.get(&agent_seq) {
                Some(newer) if newer.epoch > standing.epoch => Some(Arc::clone(standing)),
                _ => sessions.insert(agent_seq, Arc::clone(standing)),
            }
        };
        if let Some(older) = older {
            older.end(CloseReason::Superseded);
        }
    }

    /// A session has ended.
    pub fn end(&self, agent_seq: i64, epoch: u64) {
        let mut sessions = self.sessions();
        if sessions.get(&agent_seq).is_some_and(|standing| standing.epoch == epoch) {
            sessions.remove(&agent_seq);
        }
    }

    /// The agent's session, if one stands.
    pub fn get(&self, agent_seq: i64) -> Option<Arc<Standing>> {
        self.sessions().get(&agent_seq).cloned()
    }

    /// Ends all that stand.
    pub fn end_all(&self, reason: CloseReason) {
        let standing: Vec<_> = self.sessions().values().cloned().collect();
        standing.iter().for_each(|standing| standing.end(reason));
    }

    /// How many stand.
    pub fn count(&self) -> usize {
        self.sessions().len()
    }
}

impl Standing {
    /// What the next ping, which is about to be sent, says: nobody can answer it without having heard it.
    pub fn ping(&self) -> u64 {
        let number = u64::from_le_bytes(random());
        self.pinged.store(number, Ordering::Release);
        number
    }

    /// A pong came. Only that to the latest ping proves something.
    pub fn pong(&self, number: u64, now_ms: i64) {
        if number == self.pinged.load(Ordering::Acquire) && self.ponged.swap(number, Ordering::AcqRel) != number {
            self.prove(now_ms);
        }
    }

    /// Whether the latest ping is not answered yet.
    pub fn awaits_pong(&self) -> bool {
        self.ponged.load(Ordering::Acquire) != self.pinged.load(Ordering::Acquire)
    }

    /// Notes a proven round trip.
    pub fn prove(&self, now_ms: i64) {
        self.proven_ms.store(now_ms, Ordering::Relaxed);
    }
}
