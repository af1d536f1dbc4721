//! Bells: wake-ups that carry no data.
//!
//! A board is a fixed array of wake-ups, indexed by a row number. There is no map, no registration and no lock
//! that outlives the ring, so ringing can neither block nor fail. Two rows may share a slot: the price is a spare
//! look at the database. A lost ring costs latency, never delivery: whoever waits also polls.

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Slots of a board. More slots mean fewer spare polls; each costs about 32 bytes, once.
pub const BELL_SLOTS: usize = 4096;

/// A fixed array of wake-ups.
#[derive(Debug)]
pub struct BellBoard {
    slots: Box<[Notify]>,
}

impl Default for BellBoard {
    fn default() -> Self {
        Self { slots: (0..BELL_SLOTS).map(|_| Notify::new()).collect() }
    }
}

impl BellBoard {
    fn slot(&self, row: i64) -> &Notify {
        // Row numbers are handed out one by one, so they spread evenly without a hash.
        let index = row.rem_euclid(BELL_SLOTS as i64);
        &self.slots[usize::try_from(index).unwrap_or(0)]
    }

    /// Wakes everybody who listens for `row`. Call it after the commit, or the woken find nothing.
    pub fn ring(&self, row: i64) {
        self.slot(row).notify_waiters();
    }

    /// Wakes everybody: the database changed without us.
    pub fn ring_all(&self) {
        for slot in &self.slots {
            slot.notify_waiters();
        }
    }

    /// A future that ends at the next ring for `row`.
    ///
    /// A ring is heard from this call on, even before the future is first polled (tokio's `Notify` counts
    /// `notify_waiters` from the creation of the future). Call it *before* looking at the database.
    pub fn listen(&self, row: i64) -> Notified<'_> {
        self.slot(row).notified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ring_between_listen_and_await_is_heard() {
        let board = BellBoard::default();
        let heard = board.listen(7);
        board.ring(7);
        heard.await;
        let heard = board.listen(-8);
        board.ring_all();
        heard.await;
    }
}
