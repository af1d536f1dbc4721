//! A look at an agent's outbox that does not wait.

use postrider::clock::Moment;
use postrider::protocol::ids::DeliveryId;
use postrider::store::outbox::Claim;
use std::collections::HashSet;

/// For a session that begins at `now_ms`, and was asked to cancel nothing yet.
pub fn look(now_ms: i64, agent_seq: i64, epoch: u64, window: usize, in_flight: &HashSet<DeliveryId>) -> Claim {
    Claim {
        agent_seq,
        epoch,
        window,
        in_flight: in_flight.clone(),
        cancelled: HashSet::new(),
        since: Moment::now(now_ms),
        parks: false,
    }
}
