//! An agent that follows the protocol. Its journal survives its death; what it only remembers does not.

use super::links::{Link, ToAgent, ToServer};
use postrider::protocol::frame::JournalEntry;
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::outcome::{Outcome, StreamSummary};
use postrider::protocol::state::State;
use std::collections::{HashMap, HashSet};

/// A line of the journal.
#[derive(Clone, Debug)]
pub struct Entry {
    pub delivery: DeliveryId,
    pub state: State,
    pub outcome: Option<Outcome>,
    /// The server let go of it: a tombstone.
    pub stored: bool,
    pub not_after_ms: i64,
    /// What its process wrote.
    pub written: u64,
}

/// An agent.
#[derive(Debug, Default)]
pub struct Agent {
    pub journal: Vec<Entry>,
    /// The latest epoch in the journal.
    last_epoch: u64,
    /// How often each delivery was started: what really happened, which nobody may forget.
    pub starts: HashMap<DeliveryId, u32>,
    pub links: Vec<Link>,
    /// The connection that it uses.
    pub link: Option<u32>,
    links_made: u32,
    memory: Memory,
}

/// What dies with the process.
#[derive(Debug, Default)]
struct Memory {
    welcomed: bool,
    cancel: HashSet<DeliveryId>,
    discard: HashSet<DeliveryId>,
    /// Output sent on this connection.
    sent: HashMap<DeliveryId, u64>,
    /// The server's time at the latest welcome, and the time passed since.
    time_ms: Option<i64>,
}

impl Agent {
    /// Gives up what it has and says hello anew.
    pub fn connect(&mut self) {
        self.disconnect();
        self.links_made += 1;
        let held = self.journal.iter().filter(|entry| !entry.stored);
        let journal = held.map(|entry| JournalEntry { delivery: entry.delivery, state: entry.state }).collect();
        self.links.push(Link::new(self.links_made, self.last_epoch, journal));
        self.link = Some(self.links_made);
    }

    fn disconnect(&mut self) {
        if let Some(link) = self.own_link() {
            // What it has sent may still arrive; it reads nothing more.
            link.up.cut(usize::MAX);
        }
        self.link = None;
        self.memory.welcomed = false;
        self.memory.sent.clear();
    }

    fn own_link(&mut self) -> Option<&mut Link> {
        let number = self.link?;
        self.links.iter_mut().find(|link| link.number == number)
    }

    /// The process is killed and starts again: what ran is interrupted.
    pub fn die(&mut self) {
        self.disconnect();
        self.memory = Memory::default();
        for entry in self.journal.iter_mut().filter(|entry| entry.state == State::Running) {
            end(entry, Outcome::without_run(State::Interrupted, "the agent went down"));
        }
    }

    pub fn pass(&mut self, ms: i64) {
        self.memory.time_ms = self.memory.time_ms.map(|time_ms| time_ms + ms);
    }

    /// Reads one frame, if one has arrived. False: there was nothing to do.
    pub fn read(&mut self) -> bool {
        let Some(link) = self.own_link() else { return false };
        let Some(frame) = link.down.receive() else {
            let ended = link.down.has_ended();
            if ended {
                self.disconnect();
            }
            return ended;
        };
        match frame {
            ToAgent::Welcome { epoch, server_ms, verdicts } => self.welcome(epoch, server_ms, verdicts),
            ToAgent::Dispatch { delivery, not_after_ms } => self.take_in(delivery, not_after_ms),
            ToAgent::Cancel(delivery) => {
                self.memory.cancel.insert(delivery);
                self.drop_cancelled();
            }
            ToAgent::Stored(delivery) => self.forget(delivery),
        }
        true
    }

    fn welcome(&mut self, epoch: u64, server_ms: i64, verdicts: Vec<(DeliveryId, bool, u64)>) {
        self.memory.time_ms = Some(server_ms);
        self.memory.welcomed = true;
        self.last_epoch = epoch;
        self.say(ToServer::Ready);
        for (delivery, keep, stdout_from) in verdicts {
            self.memory.sent.insert(delivery, stdout_from);
            if !keep {
                self.memory.discard.insert(delivery);
                self.memory.cancel.insert(delivery);
                self.forget(delivery);
            }
        }
        self.drop_cancelled();
        for delivery in self.journal.iter().map(|entry| entry.delivery).collect::<Vec<_>>() {
            self.tell(delivery);
        }
    }

    fn take_in(&mut self, delivery: DeliveryId, not_after_ms: i64) {
        if !self.journal.iter().any(|entry| entry.delivery == delivery) {
            let state = State::Accepted;
            self.journal.push(Entry { delivery, state, outcome: None, stored: false, not_after_ms, written: 0 });
            self.drop_cancelled();
        }
        self.tell(delivery);
    }

    fn forget(&mut self, delivery: DeliveryId) {
        let mut entries = self.journal.iter_mut();
        if let Some(entry) = entries.find(|entry| entry.delivery == delivery && entry.outcome.is_some()) {
            entry.stored = true;
        }
    }

    /// What waits and is not wanted any more does not start.
    fn drop_cancelled(&mut self) {
        let memory = &self.memory;
        let waits = |entry: &&mut Entry| entry.state == State::Accepted && memory.cancel.contains(&entry.delivery);
        let mut ended = Vec::new();
        for entry in self.journal.iter_mut().filter(waits) {
            end(entry, Outcome::without_run(State::Cancelled, "before it started"));
            entry.stored = memory.discard.contains(&entry.delivery);
            ended.push(entry.delivery);
        }
        ended.into_iter().for_each(|delivery| self.tell(delivery));
    }

    fn say(&mut self, frame: ToServer) {
        if self.memory.welcomed
            && let Some(link) = self.own_link()
        {
            link.up.send(frame);
        }
    }

    /// Says where a delivery stands, output first.
    fn tell(&mut self, delivery: DeliveryId) {
        let entry = self.journal.iter().find(|entry| entry.delivery == delivery);
        let Some(entry) = entry.filter(|entry| !entry.stored && self.memory.welcomed).cloned() else { return };
        match (entry.state, entry.outcome) {
            (State::Accepted, _) => self.say(ToServer::Accepted(delivery)),
            (State::Running, _) => self.say(ToServer::Started(delivery)),
            (_, Some(outcome)) => {
                self.say_output(delivery, entry.written);
                self.say(ToServer::Finished(delivery, outcome));
            }
            (state, None) => panic!("{delivery} is {state} without an outcome"),
        }
    }

    fn say_output(&mut self, delivery: DeliveryId, written: u64) {
        let sent = self.memory.sent.insert(delivery, written).unwrap_or(0);
        if sent < written {
            self.say(ToServer::Output(delivery, sent, usize::try_from(written - sent).unwrap()));
        }
    }

    /// A slot is free: the oldest that waits starts, or is too late. Before the first welcome nothing does.
    pub fn start(&mut self) -> bool {
        let Some(time_ms) = self.memory.time_ms else { return false };
        let Some(entry) = self.journal.iter_mut().find(|entry| entry.state == State::Accepted) else { return false };
        let delivery = entry.delivery;
        if time_ms > entry.not_after_ms {
            end(entry, Outcome::without_run(State::Expired, "too late"));
        } else {
            entry.state = State::Running;
            *self.starts.entry(delivery).or_default() += 1;
        }
        self.tell(delivery);
        true
    }

    /// A process writes.
    pub fn print(&mut self) {
        if let Some(entry) = self.journal.iter_mut().find(|entry| entry.state == State::Running) {
            entry.written += 7;
            let (delivery, written) = (entry.delivery, entry.written);
            if self.memory.welcomed {
                self.say_output(delivery, written);
            }
        }
    }

    /// A process ends, somehow.
    pub fn end(&mut self, how: u8) -> bool {
        let running: Vec<_> = self.journal.iter_mut().filter(|entry| entry.state == State::Running).collect();
        let count = running.len();
        let Some(entry) = running.into_iter().nth(usize::from(how) % count.max(1)) else { return false };
        let cancelled = self.memory.cancel.contains(&entry.delivery);
        let state = match how % 4 {
            _ if cancelled => State::Cancelled,
            0 | 1 => State::Succeeded,
            2 => State::Failed,
            _ => State::TimedOut,
        };
        let mut outcome = Outcome::without_run(state, "");
        outcome.exit_code = match state {
            State::Succeeded => Some(0),
            State::Failed => Some(3),
            _ => None,
        };
        end(entry, outcome);
        entry.stored = self.memory.discard.contains(&entry.delivery);
        let delivery = entry.delivery;
        self.tell(delivery);
        true
    }

    /// Says again what waits.
    pub fn repeat(&mut self) {
        let waiting = self.journal.iter().filter(|entry| entry.state == State::Accepted);
        for delivery in waiting.map(|entry| entry.delivery).collect::<Vec<_>>() {
            self.tell(delivery);
        }
    }
}

fn end(entry: &mut Entry, mut outcome: Outcome) {
    entry.state = outcome.state;
    outcome.stdout = StreamSummary { bytes: entry.written, dropped: 0 };
    entry.outcome = Some(outcome);
}
