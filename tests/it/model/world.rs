//! The real store, the agents around it, and the rows that it must hold.

use super::agent::Agent;
use super::rows::{Row, Rows};
use super::steps::Step;
use postrider::clock::Clock;
use postrider::protocol::access::Role;
use postrider::protocol::ids::{AgentId, CommandId};
use postrider::protocol::name::Tags;
use postrider::protocol::scope::Scope;
use postrider::protocol::spec::Spec;
use postrider::protocol::state::State;
use postrider::store::agents::RevokeAgent;
use postrider::store::approval::ApproveCommand;
use postrider::store::audit::Actor;
use postrider::store::brake::Brake;
use postrider::store::cancel::Cancel;
use postrider::store::disk::DiskLimits;
use postrider::store::enqueue::{Enqueue, Selector};
use postrider::store::enroll::Enroll;
use postrider::store::error::StoreError;
use postrider::store::handle::{Committed, Counter, DATABASE_FILE, Store, StoreThread};
use postrider::store::joins::CreateJoin;
use postrider::store::op::{Close, Operation};
use postrider::store::reap::Reap;
use postrider::store::retain::Retain;
use postrider::store::tokens::CreateToken;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Agents of a world.
pub const AGENTS: usize = 3;
const MINUTE_MS: i64 = 60_000;
/// Retention, in milliseconds: below the longest expiry, so that what is too old may still be open.
const HISTORY_MS: i64 = 100 * MINUTE_MS;
/// A moment of the model is never this close to something due, in milliseconds: the wall clock goes on meanwhile.
pub const CLEARANCE_MS: i64 = 20_000;

/// How many operations each group had that wrote something.
type Groups = Arc<Mutex<Vec<usize>>>;

struct Counted(Groups);

impl Counter for Counted {
    fn committed(&self, commit: Committed) {
        self.0.lock().unwrap().push(commit.operations);
    }

    fn moved(&self, _: State) {}
    fn accepted(&self, _: i64) {}
}

/// What the model knows of an agent's row.
#[derive(Clone, Debug)]
pub struct Enrolled {
    pub id: AgentId,
    pub seq: i64,
    pub epoch: u64,
    /// The latest for which the agent said that it is ready.
    pub ready_epoch: u64,
    /// The number of the connection whose hello was taken last; 0 after a start.
    pub challenge: u32,
    pub revoked: bool,
}

/// What the model knows of a command.
#[derive(Clone, Debug)]
pub struct Command {
    pub id: CommandId,
    pub created_ms: i64,
    /// A second person has to approve it.
    pub needs_approval: bool,
    /// And has.
    pub approved: bool,
}

/// Everything.
pub struct World {
    pub rows: Rows,
    pub agents: Vec<Agent>,
    pub enrolled: Vec<Enrolled>,
    pub commands: Vec<Command>,
    /// How many audit rows of each action there must be.
    pub audited: BTreeMap<&'static str, u64>,
    /// The server's wall clock.
    pub now_ms: i64,
    pub store: Store,
    pub runtime: Runtime,
    thread: Option<StoreThread>,
    clock: Clock,
    pub actor: Actor,
    /// A second person.
    second: Actor,
    folder: TempDir,
    /// The groups committed so far.
    pub groups: Groups,
}

fn open(folder: &TempDir, clock: &Clock, groups: &Groups) -> (Store, StoreThread) {
    let limits = DiskLimits { ballast_bytes: 4096, free_bytes_min: 0, ..DiskLimits::default() };
    Store::open(folder.path(), clock.clone(), limits, Box::new(Counted(Arc::clone(groups)))).unwrap()
}

impl World {
    /// A store with enrolled agents and a token.
    pub fn new() -> Self {
        Self::new_in(TempDir::new().unwrap())
    }

    /// The same in this folder.
    pub fn new_in(folder: TempDir) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (clock, groups) = (Clock::system(), Groups::default());
        let (store, thread) = open(&folder, &clock, &groups);
        let person = |seq, name| Actor { token_seq: Some(seq), ..Actor::nobody(name, None) };
        let (actor, second) = (person(1, "owner"), person(2, "second"));
        let now_ms = clock.now_ms();
        let mut world = Self {
            rows: Rows::default(),
            agents: Vec::new(),
            enrolled: Vec::new(),
            commands: Vec::new(),
            audited: BTreeMap::new(),
            now_ms,
            store,
            runtime,
            thread: Some(thread),
            clock,
            actor,
            second,
            folder,
            groups,
        };
        world.furnish();
        world
    }

    fn furnish(&mut self) {
        let actor = self.actor.clone();
        for (name, hash) in [(self.actor.name.clone(), [7; 32]), (self.second.name.clone(), [6; 32])] {
            self.write(CreateToken {
                actor: Actor::server("test"),
                name,
                role: Role::Owner,
                scope: Scope::default(),
                hash,
                expires_ms: None,
            })
            .unwrap();
        }
        self.write(CreateJoin {
            actor,
            hash: [8; 32],
            uses_max: 9,
            expires_ms: i64::MAX,
            tags: Tags::new(),
            approve: false,
        })
        .unwrap();
        for number in 0..AGENTS {
            let (name, public_key) = (format!("agent-{number}").parse().unwrap(), [u8::try_from(number).unwrap(); 32]);
            let enroll = Enroll { peer: None, secret_hash: [8; 32], public_key, name, tags: BTreeMap::new() };
            let id = self.write(enroll).unwrap().id;
            let seq = self.runtime.block_on(self.store.agent_key(id)).unwrap().unwrap().seq;
            self.enrolled.push(Enrolled { id, seq, epoch: 0, ready_epoch: 0, challenge: 0, revoked: false });
            self.agents.push(Agent::default());
        }
        self.audited = [("token.create", 2), ("join.create", 1), ("agent.enroll", AGENTS as u64)].into();
    }

    pub fn write<O: Operation>(&self, operation: O) -> Result<O::Answer, StoreError> {
        self.set_clock();
        self.runtime.block_on(self.store.write(operation))
    }

    /// The real clock goes on while the model's stands.
    fn set_clock(&self) {
        self.clock.set_offset_ms(0);
        self.clock.set_offset_ms(self.now_ms - self.clock.now_ms());
    }

    /// A read-only look at the file, beside the store.
    pub fn look_inside(&self) -> Connection {
        Connection::open_with_flags(self.file(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
    }

    /// Holds the write lock until it is dropped: what is queued meanwhile is one group, or two.
    pub fn hold(&self) -> Connection {
        let conn = Connection::open(self.file()).unwrap();
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        conn
    }

    /// The database file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join(DATABASE_FILE)
    }

    pub fn step(&mut self, step: &Step) {
        let which = |number: u8| usize::from(number) % AGENTS;
        match *step {
            Step::Enqueue { targets, ttl_minutes, timeout_minutes } => {
                self.enqueue(targets, ttl_minutes * MINUTE_MS, timeout_minutes * MINUTE_MS, false)
            }
            Step::EnqueueHeld { targets, ttl_minutes, timeout_minutes } => {
                self.enqueue(targets, ttl_minutes * MINUTE_MS, timeout_minutes * MINUTE_MS, true)
            }
            Step::Approve(number) => self.approve(number.into()),
            Step::Cancel(number) => self.cancel(number.into()),
            Step::Look(agent) => drop(self.look(which(agent), false)),
            Step::OldLook(agent) => drop(self.look(which(agent), true)),
            Step::Connect(agent) => self.connect(which(agent)),
            Step::Begin(agent) => self.begin(which(agent), false),
            Step::LateBegin(agent) => self.begin(which(agent), true),
            Step::Cut { agent, down, up } => {
                if let Some(link) = self.agents[which(agent)].links.last_mut() {
                    link.down.cut(down.into());
                    link.up.cut(up.into());
                }
            }
            Step::End { agent, older } => self.end(which(agent), older),
            Step::Reconnect(agent) => {
                self.connect(which(agent));
                self.begin(which(agent), false);
                self.agents[which(agent)].read();
                self.read(which(agent), false);
            }
            Step::AgentReads { agent, frames } => {
                for _ in 0..frames {
                    self.agents[which(agent)].read();
                }
            }
            Step::ServerReads { agent, frames } => {
                for _ in 0..frames {
                    self.read(which(agent), false);
                }
            }
            Step::OldReads(agent) => drop(self.read(which(agent), true)),
            Step::Starts(agent) => drop(self.agents[which(agent)].start()),
            Step::Prints(agent) => self.agents[which(agent)].print(),
            Step::Ends { agent, how } => drop(self.agents[which(agent)].end(how)),
            Step::Repeats(agent) => self.agents[which(agent)].repeat(),
            Step::AgentDies(agent) => self.agents[which(agent)].die(),
            Step::Pass(minutes) => {
                let before_ms = self.now_ms;
                self.set_time(before_ms + minutes * MINUTE_MS);
                self.agents.iter_mut().for_each(|agent| agent.pass(self.now_ms - before_ms));
            }
            Step::Jump(minutes) => self.set_time(self.now_ms + minutes * MINUTE_MS),
            Step::Reap => self.reap(),
            Step::Retain => self.retain(),
            Step::Revoke(agent) => self.revoke(which(agent)),
            Step::ServerDies => self.crash(),
            Step::Settle(agent) => self.settle(which(agent), 12),
        }
    }

    fn set_time(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        let close = |at_ms: i64, now_ms: i64| (at_ms - now_ms).abs() < CLEARANCE_MS;
        while self.rows.0.iter().any(|row| close(row.due_ms, self.now_ms))
            || self.rows.0.iter().any(|row| close(row.not_after_ms, self.now_ms))
            || self.commands.iter().any(|command| close(command.created_ms + HISTORY_MS, self.now_ms))
        {
            self.now_ms += 2 * CLEARANCE_MS;
        }
    }

    fn enqueue(&mut self, targets: u8, ttl_ms: i64, timeout_ms: i64, held: bool) {
        let chosen: Vec<usize> =
            (0..AGENTS).filter(|agent| targets & (1 << agent) != 0 && !self.enrolled[*agent].revoked).collect();
        if chosen.is_empty() {
            return;
        }
        let not_after_ms = self.now_ms + ttl_ms;
        let document = format!(r#"{{"v":1,"command":"true","timeout_ms":{timeout_ms},"not_after_ms":{not_after_ms}}}"#);
        let spec = Spec::parse(document.as_bytes()).unwrap();
        let keys = chosen.iter().map(|agent| self.enrolled[*agent].id.to_string()).collect();
        let (actor, targets) = (self.actor.clone(), Selector::Agents(keys));
        let brake = Brake { approve_above: held.then_some(0), ..Brake::default() };
        let (secrets, confirm, idempotency) = (None, None, None);
        let enqueue = Enqueue { actor, targets, document, spec, note: None, secrets, confirm, brake, idempotency };
        let taken = self.write(enqueue).unwrap().command;
        assert_eq!(taken.deliveries.len(), chosen.len());
        let command = self.commands.len();
        assert_eq!(taken.awaits_approval(), held);
        let created_ms = self.now_ms;
        self.commands.push(Command { id: taken.id, created_ms, needs_approval: held, approved: false });
        for (agent, delivery) in chosen.into_iter().zip(taken.deliveries) {
            assert_eq!(delivery.agent_id, self.enrolled[agent].id);
            self.rows.0.push(Row {
                id: delivery.id,
                agent,
                command,
                state: State::Queued,
                attempt: 0,
                in_doubt: false,
                held,
                cancel: false,
                due_ms: not_after_ms,
                timeout_ms,
                not_after_ms,
                by_server: false,
            });
        }
        *self.audited.entry("command.submit").or_default() += 1;
    }

    fn approve(&mut self, number: usize) {
        let Some(number) = number.checked_rem(self.commands.len()) else { return };
        let command = self.commands[number].clone();
        let approve = |actor: &Actor| ApproveCommand { actor: actor.clone(), command: command.id };
        let (own, other) = (self.write(approve(&self.actor)), self.write(approve(&self.second)));
        let of_it = |row: &&mut Row| row.command == number;
        let is_there = self.rows.0.iter_mut().any(|row| of_it(&row));
        match (is_there, command.needs_approval, command.approved) {
            (false, _, _) => assert!(matches!(other, Err(StoreError::NotFound { .. })), "{other:?}"),
            (true, false, _) => assert!(matches!(other, Err(StoreError::Conflict(_))), "{other:?}"),
            (true, true, true) => assert!(!other.unwrap().awaits_approval() && own.is_ok()),
            (true, true, false) => {
                assert!(matches!(own, Err(StoreError::SamePerson { .. })), "{own:?}");
                if !self.rows.0.iter_mut().filter(of_it).any(|row| row.held) {
                    assert!(matches!(other, Err(StoreError::Conflict(_))), "{other:?}");
                    return;
                }
                assert!(!other.unwrap().awaits_approval());
                self.rows.0.iter_mut().filter(of_it).for_each(|row| row.held = false);
                self.commands[number].approved = true;
                *self.audited.entry("command.approve").or_default() += 1;
            }
        }
    }

    fn cancel(&mut self, number: usize) {
        let Some(command) = number.checked_rem(self.commands.len()) else { return };
        let (actor, id) = (self.actor.clone(), self.commands[command].id);
        let answer = self.write(Cancel { actor, command: id });
        if !self.rows.0.iter().any(|row| row.command == command) {
            assert!(matches!(answer, Err(StoreError::NotFound { .. })), "{answer:?}");
            return;
        }
        let response = answer.unwrap().response;
        let (expected, new) = self.rows.cancel(command);
        assert_eq!([response.cancelled, response.requested, response.ended], expected);
        if new {
            *self.audited.entry("command.cancel").or_default() += 1;
        }
    }

    fn reap(&mut self) {
        let due = self.rows.0.iter().filter(|row| row.is_open() && row.due_ms <= self.now_ms).count();
        assert_eq!(self.write(Reap).unwrap().rows as usize, due);
        self.rows.reap(self.now_ms);
    }

    fn retain(&mut self) {
        let retain = Retain { history_ms_max: HISTORY_MS, history_bytes_max: u64::MAX };
        let deleted = self.write(retain).unwrap();
        let before = self.commands_kept();
        let (commands, now_ms) = (&self.commands, self.now_ms);
        self.rows.retain(|command| commands[command].created_ms < now_ms - HISTORY_MS);
        assert_eq!(deleted, (before - self.commands_kept()) as u64);
    }

    fn commands_kept(&self) -> usize {
        self.rows.0.iter().map(|row| row.command).collect::<std::collections::BTreeSet<_>>().len()
    }

    fn revoke(&mut self, agent: usize) {
        let revoke = RevokeAgent { actor: self.actor.clone(), key: self.enrolled[agent].id.to_string() };
        let answer = self.write(revoke);
        if self.enrolled[agent].revoked {
            assert!(matches!(answer, Err(StoreError::NotFound { .. })), "{answer:?}");
            return;
        }
        assert_eq!(answer.unwrap().outbox, 0);
        self.enrolled[agent].revoked = true;
        self.rows.revoke(agent);
        *self.audited.entry("agent.revoke").or_default() += 1;
    }

    /// The files as a kill leaves them, and a new server on them. No connection survives.
    fn crash(&mut self) {
        let copy = TempDir::new().unwrap();
        for suffix in ["", "-wal"] {
            let name = PathBuf::from(format!("{DATABASE_FILE}{suffix}"));
            std::fs::copy(self.folder.path().join(&name), copy.path().join(&name)).unwrap();
        }
        self.close();
        self.folder = copy;
        self.set_clock();
        let (store, thread) = open(&self.folder, &self.clock, &self.groups);
        (self.store, self.thread) = (store, Some(thread));
        self.rows.recover(self.now_ms);
        self.enrolled.iter_mut().for_each(|enrolled| enrolled.challenge = 0);
        for link in self.agents.iter_mut().flat_map(|agent| &mut agent.links) {
            link.leave();
        }
    }

    /// Every agent comes back and everything works: all ends by itself, without waiting for any expiry.
    pub fn heal(&mut self) {
        (0..self.commands.len()).for_each(|command| self.approve(command));
        for agent in (0..AGENTS).filter(|agent| !self.enrolled[*agent].revoked).collect::<Vec<_>>() {
            self.connect(agent);
            self.begin(agent, false);
            self.settle(agent, 10_000);
            let held: Vec<_> = self.agents[agent].journal.iter().filter(|entry| !entry.stored).collect();
            assert!(held.is_empty(), "the server let go of everything: {held:?}");
        }
        self.reap();
    }

    /// No agent is heard of again: all ends by time.
    pub fn wait_out(&mut self) {
        for _ in 0..2 {
            let last_ms = self.rows.0.iter().filter(|row| row.is_open()).map(|row| row.due_ms).max();
            self.set_time(last_ms.unwrap_or(self.now_ms).max(self.now_ms));
            self.reap();
        }
    }

    /// Closes the store in order.
    pub fn close(&mut self) {
        self.write(Close).unwrap();
        self.thread.take().unwrap().join();
    }
}

/// What the model's processes write at each position.
pub fn output_byte(position: u64) -> u8 {
    position.to_le_bytes()[0]
}
