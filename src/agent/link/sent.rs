//! What this connection has told the server of each delivery, compared with the board: the difference is what to send.

use crate::agent::board::{Line, Phase};
use crate::agent::spool::Spool;
use crate::protocol::frame::{ACCEPTED_AGAIN_SECS, AgentFrame, JournalEntry, JournalVerdict};
use crate::protocol::ids::DeliveryId;
use crate::protocol::outcome::Outcome;
use crate::protocol::output::Stream;
use crate::protocol::state::State;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Read from the spool at once, in bytes: some frames' worth.
const BLOCK_BYTES: u64 = 32 * 1024;
const ACCEPTED_AGAIN: Duration = Duration::from_secs(ACCEPTED_AGAIN_SECS);

/// What was told of one delivery.
#[derive(Debug, Default)]
struct Told {
    accepted: Option<Instant>,
    started: bool,
    finished: bool,
    stdout_from: u64,
    stderr_from: u64,
}

/// Output to send.
#[derive(Debug)]
pub struct Block {
    /// Whose.
    pub delivery: DeliveryId,
    /// Which stream.
    pub stream: Stream,
    /// From where.
    pub offset: u64,
    /// How much at most.
    pub bytes: usize,
    /// Where it lies.
    pub spool: Arc<Spool>,
}

/// The next thing to send of a delivery.
#[derive(Debug)]
pub enum Step {
    /// A control frame; it counts as sent.
    Frame(AgentFrame),
    /// Output; tell what was sent with [`Sent::advance`].
    Block(Block),
}

/// What this connection has told of all deliveries.
#[derive(Debug, Default)]
pub struct Sent {
    told: HashMap<DeliveryId, Told>,
}

impl Sent {
    /// What `hello` told, and from where the server wants the output.
    pub fn after_hello(told: &[JournalEntry], verdicts: &[JournalVerdict], now: Instant) -> Self {
        let from: HashMap<DeliveryId, &JournalVerdict> =
            verdicts.iter().map(|verdict| (verdict.delivery, verdict)).collect();
        let told = told.iter().map(|entry| {
            let verdict = from.get(&entry.delivery);
            let told = Told {
                accepted: Some(now),
                started: entry.state != State::Accepted,
                finished: false,
                stdout_from: verdict.map_or(0, |verdict| verdict.stdout_from),
                stderr_from: verdict.map_or(0, |verdict| verdict.stderr_from),
            };
            (entry.delivery, told)
        });
        Self { told: told.collect() }
    }

    /// Everything of this delivery is to be told again, but for its output.
    pub fn again(&mut self, delivery: DeliveryId) {
        if let Some(told) = self.told.get_mut(&delivery) {
            (told.accepted, told.started, told.finished) = (None, false, false);
        }
    }

    /// Forgets deliveries that are off the board.
    pub fn keep_only(&mut self, deliveries: &[DeliveryId]) {
        if self.told.len() > deliveries.len() {
            let kept: std::collections::HashSet<_> = deliveries.iter().collect();
            self.told.retain(|delivery, _| kept.contains(delivery));
        }
    }

    /// When an `accepted` is to be repeated: the earliest of all lines that still wait is not before this.
    pub fn accepted_again_at(&self) -> Option<Instant> {
        let waiting = self.told.values().filter(|told| !told.started && !told.finished);
        waiting.filter_map(|told| told.accepted).min().map(|at| at + ACCEPTED_AGAIN)
    }

    /// The next thing to send of this line; none: the server knows all there is.
    pub fn step(&mut self, line: &Line, now: Instant) -> Option<Step> {
        if matches!(line.phase, Phase::Arriving) {
            return None;
        }
        let delivery = line.delivery;
        let told = self.told.entry(delivery).or_default();
        if line.discard {
            // As good as told: nothing of it is due.
            told.finished = true;
            return None;
        }
        let waits = matches!(line.phase, Phase::Accepted);
        if told.accepted.is_none_or(|at| waits && now >= at + ACCEPTED_AGAIN) {
            told.accepted = Some(now);
            return Some(Step::Frame(AgentFrame::Accepted { delivery }));
        }
        if !told.started && has_started(&line.phase) {
            told.started = true;
            return Some(Step::Frame(AgentFrame::Started { delivery }));
        }
        if let Some(spool) = &line.spool
            && let Some(block) = told.block(delivery, spool)
        {
            return Some(Step::Block(block));
        }
        match &line.phase {
            Phase::Ended(outcome) if !told.finished => {
                told.finished = true;
                Some(Step::Frame(AgentFrame::Finished { delivery, outcome: outcome.clone() }))
            }
            _ => None,
        }
    }

    /// The output of this stream is sent up to here.
    pub fn advance(&mut self, delivery: DeliveryId, stream: Stream, to: u64) {
        if let Some(told) = self.told.get_mut(&delivery) {
            *told.from(stream) = to;
        }
    }
}

impl Told {
    fn from(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.stdout_from,
            Stream::Stderr => &mut self.stderr_from,
        }
    }

    /// The stream that is further behind goes first.
    fn block(&mut self, delivery: DeliveryId, spool: &Arc<Spool>) -> Option<Block> {
        let order = if self.stderr_from < self.stdout_from {
            [Stream::Stderr, Stream::Stdout]
        } else {
            [Stream::Stdout, Stream::Stderr]
        };
        order.into_iter().find_map(|stream| {
            let (offset, there) = spool.available(stream, *self.from(stream))?;
            let bytes = usize::try_from(there.min(BLOCK_BYTES)).unwrap_or(0);
            Some(Block { delivery, stream, offset, bytes, spool: Arc::clone(spool) })
        })
    }
}

fn has_started(phase: &Phase) -> bool {
    match phase {
        Phase::Arriving | Phase::Accepted => false,
        Phase::Running => true,
        Phase::Ended(Outcome { state, duration_ms, .. }) => {
            duration_ms.is_some()
                || matches!(state, State::Succeeded | State::Failed | State::TimedOut | State::Interrupted)
        }
    }
}
