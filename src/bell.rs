//! Bells: wake-ups that carry no data.
//!
//! A board is a fixed array of wake-ups, indexed by a hash of an id. There is no map, no registration and no
//! lock that outlives the ring, so ringing can neither block nor fail. Two ids may share a slot: the price is a
//! spare look at the database. A lost ring costs latency, never delivery: whoever waits also polls.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Slots of a board. More slots mean fewer spare polls; each costs about 32 bytes, once.
pub const BELL_SLOTS: usize = 4096;

/// A fixed array of wake-ups.
#[derive(Debug)]
pub struct BellBoard {
    slots: Box<[Notify]>,
    hasher: RandomState,
}

impl Default for BellBoard {
    fn default() -> Self {
        Self { slots: (0..BELL_SLOTS).map(|_| Notify::new()).collect(), hasher: RandomState::new() }
    }
}

impl BellBoard {
    fn slot(&self, id: &[u8; 16]) -> &Notify {
        let slots = self.slots.len() as u64;
        let index = usize::try_from(self.hasher.hash_one(id) % slots).unwrap_or(0);
        &self.slots[index]
    }

    /// Wakes everybody who listens for `id`. Call it after the commit, or the woken find nothing.
    pub fn ring(&self, id: &[u8; 16]) {
        self.slot(id).notify_waiters();
    }

    /// Wakes everybody: the database changed without us.
    pub fn ring_all(&self) {
        for slot in &self.slots {
            slot.notify_waiters();
        }
    }

    /// A future that ends at the next ring for `id`.
    ///
    /// A ring is heard from this call on, even before the future is first polled (tokio's `Notify` counts
    /// `notify_waiters` from the creation of the future). Call it *before* looking at the database.
    pub fn listen(&self, id: &[u8; 16]) -> Notified<'_> {
        self.slot(id).notified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ring_between_listen_and_await_is_heard() {
        let board = BellBoard::default();
        let heard = board.listen(&[7; 16]);
        board.ring(&[7; 16]);
        heard.await;
        let heard = board.listen(&[8; 16]);
        board.ring_all();
        heard.await;
    }
}
