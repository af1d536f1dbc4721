//! Connections between the model's agents and the store: ordered frames each way, until they break.

use postrider::protocol::frame::JournalEntry;
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::outcome::Outcome;
use std::collections::{HashSet, VecDeque};

/// A frame to the agent.
#[derive(Clone, Debug)]
pub enum ToAgent {
    /// With the session's epoch, the server's time and, for each entry of the hello's journal, whether to keep it and where output goes on.
    Welcome {
        epoch: u64,
        server_ms: i64,
        verdicts: Vec<(DeliveryId, bool, u64)>,
    },
    /// With the specification's expiry.
    Dispatch {
        delivery: DeliveryId,
        not_after_ms: i64,
    },
    Cancel(DeliveryId),
    Stored(DeliveryId),
}

/// A frame to the server.
#[derive(Clone, Debug)]
pub enum ToServer {
    /// The epoch is in the journal.
    Ready,
    Accepted(DeliveryId),
    Started(DeliveryId),
    /// So many bytes of standard output from this position on.
    Output(DeliveryId, u64, usize),
    Finished(DeliveryId, Outcome),
}

/// One direction.
#[derive(Clone, Debug)]
pub struct Pipe<T> {
    frames: VecDeque<T>,
    broken: bool,
}

impl<T> Pipe<T> {
    fn new() -> Self {
        Self { frames: VecDeque::new(), broken: false }
    }

    /// Into a broken pipe everything goes and nothing arrives.
    pub fn send(&mut self, frame: T) {
        if !self.broken {
            self.frames.push_back(frame);
        }
    }

    pub fn receive(&mut self) -> Option<T> {
        self.frames.pop_front()
    }

    /// The first `left` frames on their way still arrive.
    pub fn cut(&mut self, left: usize) {
        self.frames.truncate(left);
        self.broken = true;
    }

    /// Whether the reader has read all that ever arrives.
    pub fn has_ended(&self) -> bool {
        self.broken && self.frames.is_empty()
    }
}

/// A connection, from the hello on.
#[derive(Clone, Debug)]
pub struct Link {
    /// Which of the agent's connections.
    pub number: u32,
    /// What the hello said.
    pub last_epoch: u64,
    pub journal: Vec<JournalEntry>,
    /// None: the server has not taken the hello yet.
    pub epoch: Option<u64>,
    /// The server has left it.
    pub over: bool,
    /// What the session's writer remembers.
    pub in_flight: HashSet<DeliveryId>,
    pub cancelled: HashSet<DeliveryId>,
    pub down: Pipe<ToAgent>,
    pub up: Pipe<ToServer>,
}

impl Link {
    pub fn new(number: u32, last_epoch: u64, journal: Vec<JournalEntry>) -> Self {
        Self {
            number,
            last_epoch,
            journal,
            epoch: None,
            over: false,
            in_flight: HashSet::new(),
            cancelled: HashSet::new(),
            down: Pipe::new(),
            up: Pipe::new(),
        }
    }

    /// The server reads and writes nothing more here; what it has written may still arrive.
    pub fn leave(&mut self) {
        self.over = true;
        self.down.cut(usize::MAX);
        self.up.cut(0);
    }

    /// Nothing has broken.
    pub fn is_whole(&self) -> bool {
        !self.over && !self.down.broken && !self.up.broken
    }
}
