//! What each operation makes of the deliveries and what it answers, as PROTOCOL.md has it, without a database.

use postrider::protocol::frame::JournalEntry;
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::state::State;
use postrider::store::progress::Progress;
use postrider::store::session::START_GRACE_MS;
use postrider::store::transition::LOST_GRACE_MS;
use std::collections::HashSet;

/// A delivery.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: DeliveryId,
    pub agent: usize,
    pub command: usize,
    pub state: State,
    pub attempt: u32,
    pub in_doubt: bool,
    /// Until somebody approves its command.
    pub held: bool,
    pub cancel: bool,
    pub due_ms: i64,
    pub timeout_ms: i64,
    pub not_after_ms: i64,
    /// The server gave it its end without the agent.
    pub by_server: bool,
}

impl Row {
    /// It has not ended.
    pub fn is_open(&self) -> bool {
        !self.state.is_terminal()
    }

    fn is_final(&self) -> bool {
        self.state.is_terminal() && self.state != State::Lost
    }

    fn end(&mut self, state: State, by_server: bool) {
        (self.state, self.in_doubt, self.held, self.by_server) = (state, false, false, by_server);
    }

    fn hold(&mut self, state: State, now_ms: i64) {
        (self.state, self.in_doubt, self.held) = (state, false, false);
        self.due_ms = now_ms + self.timeout_ms + LOST_GRACE_MS;
    }
}

/// All deliveries, in order of submission.
#[derive(Clone, Debug, Default)]
pub struct Rows(pub Vec<Row>);

/// What a look must find: the rows to dispatch, whether there are more, and whom to ask for a cancel.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    pub rows: Vec<DeliveryId>,
    pub more: bool,
    pub cancels: Vec<DeliveryId>,
}

impl Rows {
    /// One of them.
    pub fn get(&self, id: DeliveryId) -> Option<&Row> {
        self.0.iter().find(|row| row.id == id)
    }

    fn of(&mut self, agent: usize) -> impl Iterator<Item = &mut Row> {
        self.0.iter_mut().filter(move |row| row.agent == agent)
    }

    /// Cancelled now, asked for, ended before; and whether any of it is new.
    pub fn cancel(&mut self, command: usize) -> ([u64; 3], bool) {
        let (mut answer, mut new) = ([0; 3], false);
        for row in self.0.iter_mut().filter(|row| row.command == command) {
            let which = match row.state {
                State::Queued if !row.in_doubt => {
                    row.end(State::Cancelled, true);
                    new = true;
                    0
                }
                State::Queued | State::Accepted | State::Running => {
                    new |= !row.cancel;
                    row.cancel = true;
                    1
                }
                _ => 2,
            };
            answer[which] += 1;
        }
        (answer, new)
    }

    pub fn look(&mut self, agent: usize, window: usize, in_flight: &HashSet<DeliveryId>, now_ms: i64) -> Look {
        let held = |row: &&mut Row| matches!(row.state, State::Accepted | State::Running);
        let room = window.saturating_sub(self.of(agent).filter(held).count() + in_flight.len());
        let cancels = self.of(agent).filter(held).filter(|row| row.cancel).map(|row| row.id).collect();
        let free = |row: &&mut Row| {
            row.state == State::Queued
                && !row.held
                && !row.cancel
                && row.due_ms > now_ms
                && !in_flight.contains(&row.id)
        };
        let more = self.of(agent).filter(free).count() > room;
        let mut rows = Vec::new();
        for row in self.of(agent).filter(free).take(room) {
            row.attempt += 1;
            row.in_doubt = true;
            rows.push(row.id);
        }
        Look { rows, more, cancels }
    }

    fn reported(&mut self, agent: usize, id: DeliveryId) -> Result<&mut Row, Progress> {
        match self.of(agent).find(|row| row.id == id) {
            None => Err(Progress::Unknown),
            Some(row) if row.state == State::Queued && row.attempt == 0 => Err(Progress::NotDispatched),
            Some(row) => Ok(row),
        }
    }

    pub fn accept(&mut self, agent: usize, id: DeliveryId, now_ms: i64) -> Progress {
        match self.reported(agent, id) {
            Err(progress) => progress,
            Ok(row) if row.is_final() => Progress::Ended,
            Ok(row) => {
                if matches!(row.state, State::Queued | State::Accepted) {
                    row.hold(State::Accepted, now_ms);
                }
                Progress::Done
            }
        }
    }

    pub fn start(&mut self, agent: usize, id: DeliveryId, now_ms: i64) -> Progress {
        match self.reported(agent, id) {
            Err(progress) => progress,
            Ok(row) if row.is_final() => Progress::Ended,
            Ok(row) => {
                if matches!(row.state, State::Queued | State::Accepted) {
                    row.hold(State::Running, now_ms);
                }
                Progress::Done
            }
        }
    }

    pub fn output(&mut self, agent: usize, id: DeliveryId) -> Progress {
        match self.reported(agent, id) {
            Err(progress) => progress,
            Ok(row) if row.is_final() => Progress::Ended,
            Ok(_) => Progress::Done,
        }
    }

    pub fn finish(&mut self, agent: usize, id: DeliveryId, end: State) -> Progress {
        match self.reported(agent, id) {
            Err(progress) => progress,
            Ok(row) => {
                if !row.is_final() {
                    row.end(end, false);
                }
                Progress::Done
            }
        }
    }

    /// A hello with this journal, or with one that is not the journal that the server knows; answers which entries are
    /// kept.
    pub fn begin(&mut self, agent: usize, journal: &[JournalEntry], clash: bool, now_ms: i64) -> Vec<bool> {
        let mut kept = Vec::new();
        for entry in journal {
            let Some(row) = self.of(agent).find(|row| row.id == entry.delivery) else {
                kept.push(false);
                continue;
            };
            if clash && !row.is_final() && matches!(entry.state, State::Accepted | State::Interrupted) {
                row.end(State::Lost, true);
                kept.push(false);
                continue;
            }
            kept.push(!row.is_final());
            if row.state == State::Queued {
                row.hold(State::Accepted, now_ms);
            }
            if row.state == State::Accepted && entry.state == State::Running {
                row.hold(State::Running, now_ms);
            }
        }
        for row in self.of(agent).filter(|row| journal.iter().all(|entry| entry.delivery != row.id)) {
            match row.state {
                State::Accepted | State::Running => row.end(State::Lost, true),
                State::Queued if row.in_doubt && clash => row.end(State::Lost, true),
                State::Queued if row.in_doubt => {
                    (row.in_doubt, row.due_ms) = (false, row.not_after_ms);
                    if row.cancel {
                        row.end(State::Cancelled, true);
                    }
                }
                _ => {}
            }
        }
        kept
    }

    pub fn reap(&mut self, now_ms: i64) {
        for row in self.0.iter_mut().filter(|row| row.is_open() && row.due_ms <= now_ms) {
            let doubt_over_ms = row.not_after_ms + row.timeout_ms + LOST_GRACE_MS;
            match row.state {
                State::Queued if !row.in_doubt => row.end(State::Expired, true),
                State::Queued if now_ms < doubt_over_ms => row.due_ms = doubt_over_ms,
                _ => row.end(State::Lost, true),
            }
        }
    }

    /// Deletes the commands that `old` says are over the limit, if all of their deliveries have ended.
    pub fn retain(&mut self, old: impl Fn(usize) -> bool) {
        let open: HashSet<usize> = self.0.iter().filter(|row| row.is_open()).map(|row| row.command).collect();
        self.0.retain(|row| open.contains(&row.command) || !old(row.command));
    }

    pub fn revoke(&mut self, agent: usize) {
        for row in self.of(agent).filter(|row| row.is_open()) {
            let never_left = row.state == State::Queued && !row.in_doubt;
            row.end(if never_left { State::Cancelled } else { State::Lost }, true);
        }
    }

    /// The server starts again.
    pub fn recover(&mut self, now_ms: i64) {
        for row in self.0.iter_mut().filter(|row| row.is_open() && (row.state != State::Queued || row.in_doubt)) {
            row.due_ms = row.due_ms.max(now_ms + START_GRACE_MS);
        }
    }
}
