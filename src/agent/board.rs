//! The board: where every delivery stands that the server has not let go of. In memory; the journal is its truth.
//!
//! Who changes something here has it in the journal first. Whoever looks is woken by a bell without data and then
//! reads what is: the link compares the board with what it has sent, so nothing is queued for a slow connection, and
//! a new connection starts by comparing afresh.

use super::spool::Spool;
use crate::protocol::frame::{JOURNAL_ENTRIES_MAX, JournalEntry};
use crate::protocol::ids::DeliveryId;
use crate::protocol::outcome::Outcome;
use crate::protocol::state::State;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio_util::sync::CancellationToken;

/// Where a delivery stands.
#[derive(Clone, Debug)]
pub enum Phase {
    /// On its way into the journal: not acknowledged, not to be told to anybody.
    Arriving,
    /// In the journal; waits for a slot.
    Accepted,
    /// Its start is in the journal.
    Running,
    /// Its outcome is in the journal.
    Ended(Outcome),
}

/// What is known of one delivery.
#[derive(Clone, Debug)]
pub struct Line {
    /// Which.
    pub delivery: DeliveryId,
    /// Where it stands.
    pub phase: Phase,
    /// Its output; none: there is none (yet).
    pub spool: Option<Arc<Spool>>,
    /// Cancelled when somebody wants it ended.
    pub cancel: CancellationToken,
    /// The server does not want its outcome.
    pub discard: bool,
}

/// The board. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Lines>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    next: u64,
    // By arrival: the order in which waiting deliveries start and reports are sent.
    by_arrival: BTreeMap<u64, Line>,
    arrivals: HashMap<DeliveryId, u64>,
}

/// What [`Board::arrive`] found.
#[derive(Debug)]
pub enum Arrival {
    /// A new line, `Arriving`.
    New(CancellationToken),
    /// It was there.
    Known(Phase),
    /// There is no room for more.
    Full,
}

impl Board {
    // A panic while it is held leaves whole lines: each change is one assignment.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever compares.
    pub fn ring(&self) {
        self.shared.bell.notify_waiters();
    }

    /// Ends at the next ring. A ring is heard from this call on: call it before looking.
    pub fn listen(&self) -> Notified<'_> {
        self.shared.bell.notified()
    }

    /// Adds a line for a dispatched delivery, unless it is there or [`JOURNAL_ENTRIES_MAX`] are.
    pub fn arrive(&self, delivery: DeliveryId) -> Arrival {
        let mut lines = self.lines();
        if let Some(line) = lines.get(delivery) {
            return Arrival::Known(line.phase.clone());
        }
        if lines.by_arrival.len() >= JOURNAL_ENTRIES_MAX {
            return Arrival::Full;
        }
        Arrival::New(lines.add(delivery, Phase::Arriving, None))
    }

    /// Adds a line for a delivery that the journal held when the agent started.
    pub fn recover(&self, delivery: DeliveryId, phase: Phase, spool: Option<Arc<Spool>>) -> CancellationToken {
        self.lines().add(delivery, phase, spool)
    }

    /// Writes down a phase that is in the journal, and rings.
    pub fn set_phase(&self, delivery: DeliveryId, phase: Phase) {
        self.change(delivery, |line| line.phase = phase);
    }

    /// Hangs up the output of a run that begins.
    pub fn set_spool(&self, delivery: DeliveryId, spool: Arc<Spool>) {
        self.change(delivery, |line| line.spool = Some(spool));
    }

    /// Notes that the server does not want the outcome.
    pub fn set_discard(&self, delivery: DeliveryId) {
        self.change(delivery, |line| line.discard = true);
    }

    fn change(&self, delivery: DeliveryId, change: impl FnOnce(&mut Line)) {
        if let Some(line) = self.lines().get_mut(delivery) {
            change(line);
        }
        self.ring();
    }

    /// Takes the line off. What the journal keeps is a tombstone.
    pub fn remove(&self, delivery: DeliveryId) {
        let mut lines = self.lines();
        if let Some(arrival) = lines.arrivals.remove(&delivery) {
            lines.by_arrival.remove(&arrival);
        }
        drop(lines);
        self.ring();
    }

    /// One line as it is now.
    pub fn line(&self, delivery: DeliveryId) -> Option<Line> {
        self.lines().get(delivery).cloned()
    }

    /// All deliveries, by arrival.
    pub fn deliveries(&self) -> Vec<DeliveryId> {
        self.lines().by_arrival.values().map(|line| line.delivery).collect()
    }

    /// Waits until nothing is arriving any more: what is on its way into the journal belongs into the next `hello`, or
    /// the server would take it for never received. Fetching and journaling have limits, so this has one too.
    pub async fn settled(&self) {
        loop {
            let heard = self.listen();
            let arriving = |line: &Line| matches!(line.phase, Phase::Arriving);
            if !self.lines().by_arrival.values().any(arriving) {
                return;
            }
            heard.await;
        }
    }

    /// What `hello` says: all lines but those that are still arriving.
    pub fn journal(&self) -> Vec<JournalEntry> {
        let state = |phase: &Phase| match phase {
            Phase::Arriving => None,
            Phase::Accepted => Some(State::Accepted),
            Phase::Running => Some(State::Running),
            Phase::Ended(outcome) => Some(outcome.state),
        };
        let lines = self.lines();
        let entries = lines
            .by_arrival
            .values()
            .filter_map(|line| state(&line.phase).map(|state| JournalEntry { delivery: line.delivery, state }));
        entries.take(JOURNAL_ENTRIES_MAX).collect()
    }
}

impl Lines {
    fn get(&self, delivery: DeliveryId) -> Option<&Line> {
        self.by_arrival.get(self.arrivals.get(&delivery)?)
    }

    fn get_mut(&mut self, delivery: DeliveryId) -> Option<&mut Line> {
        self.by_arrival.get_mut(self.arrivals.get(&delivery)?)
    }

    fn add(&mut self, delivery: DeliveryId, phase: Phase, spool: Option<Arc<Spool>>) -> CancellationToken {
        let cancel = CancellationToken::new();
        let line = Line { delivery, phase, spool, cancel: cancel.clone(), discard: false };
        self.by_arrival.insert(self.next, line);
        self.arrivals.insert(delivery, self.next);
        self.next += 1;
        cancel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_arrives_once_and_is_told_only_when_it_is_journaled() {
        let board = Board::default();
        let id = DeliveryId::new();
        assert!(matches!(board.arrive(id), Arrival::New(_)));
        assert!(matches!(board.arrive(id), Arrival::Known(Phase::Arriving)));
        assert!(board.journal().is_empty());
        board.set_phase(id, Phase::Accepted);
        assert_eq!(board.journal(), [JournalEntry { delivery: id, state: State::Accepted }]);
        board.remove(id);
        assert!(board.line(id).is_none() && board.deliveries().is_empty());
    }

    #[test]
    fn there_is_room_for_as_many_as_hello_can_tell() {
        let board = Board::default();
        for _ in 0..JOURNAL_ENTRIES_MAX {
            assert!(matches!(board.arrive(DeliveryId::new()), Arrival::New(_)));
        }
        assert!(matches!(board.arrive(DeliveryId::new()), Arrival::Full));
    }
}
