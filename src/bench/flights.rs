//! Commands under way: where those who submit and those who answer meet.
//!
//! Each submitter has one slot. A command names its slot, so an agent of ours knows whom to tell what became of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Which command of which submitter. A command carries it as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    slot: u32,
    turn: u32,
}

impl Mark {
    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        let (slot, turn) = word.split_once('.')?;
        Some(Self { slot: slot.parse().ok()?, turn: turn.parse().ok()? })
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.slot, self.turn)
    }
}

/// What became of a command.
#[derive(Clone, Copy, Debug)]
pub struct Landed {
    /// The last of its agents took it.
    pub journaled: Instant,
    /// The last of its outcomes was stored: its agent was told so.
    pub stored: Instant,
}

#[derive(Debug, Default)]
struct Flight {
    turn: u32,
    to_journal: u32,
    to_store: u32,
    journaled: Option<Instant>,
    landed: Option<oneshot::Sender<Landed>>,
}

/// All slots.
#[derive(Debug)]
pub struct Flights {
    slots: Box<[Mutex<Flight>]>,
}

impl Flights {
    /// One slot a submitter.
    pub fn new(submitters: u32) -> Self {
        Self { slots: (0..submitters).map(|_| Mutex::default()).collect() }
    }

    fn flight(&self, slot: u32) -> Option<MutexGuard<'_, Flight>> {
        Some(self.slots.get(slot as usize)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A command with so many deliveries sets out. What was in the slot before is given up.
    pub fn begin(&self, slot: u32, deliveries: u32) -> (Mark, oneshot::Receiver<Landed>) {
        let (landed, receiver) = oneshot::channel();
        let Some(mut flight) = self.flight(slot) else { return (Mark { slot, turn: 0 }, receiver) };
        let turn = flight.turn.wrapping_add(1);
        *flight = Flight { turn, to_journal: deliveries, to_store: deliveries, journaled: None, landed: Some(landed) };
        (Mark { slot, turn }, receiver)
    }

    /// An agent took a delivery of it.
    pub fn journaled(&self, mark: Mark) {
        let Some(mut flight) = self.flight(mark.slot).filter(|flight| flight.turn == mark.turn) else { return };
        flight.to_journal = flight.to_journal.saturating_sub(1);
        if flight.to_journal == 0 {
            flight.journaled.get_or_insert_with(Instant::now);
        }
    }

    /// An outcome of it was stored.
    pub fn stored(&self, mark: Mark) {
        let Some(mut flight) = self.flight(mark.slot).filter(|flight| flight.turn == mark.turn) else { return };
        flight.to_store = flight.to_store.saturating_sub(1);
        if flight.to_store == 0
            && let Some((landed, journaled)) = flight.landed.take().zip(flight.journaled)
        {
            // Whoever has given up is not there to hear it.
            let _ = landed.send(Landed { journaled, stored: Instant::now() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_has_landed_with_its_last_outcome_and_an_earlier_one_counts_for_nothing() {
        let flights = Flights::new(2);
        let (old, given_up) = flights.begin(1, 1);
        let (mark, mut landed) = flights.begin(1, 2);
        assert!(given_up.await.is_err());
        assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
        for told in [old, mark, mark] {
            assert!(landed.try_recv().is_err());
            flights.journaled(told);
            flights.stored(told);
        }
        let landed = landed.await.unwrap();
        assert!(landed.journaled <= landed.stored);
    }
}
