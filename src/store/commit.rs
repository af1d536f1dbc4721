//! The one thread that owns the write connection.
//!
//! What has queued up is one transaction and one fsync (group commit): no lingering, the fsync itself is the
//! batching window. One operation that fails does not take the others along: if it had written something, the group is
//! rolled back and applied again with a savepoint around each operation, which costs too much to be done always. Each is
//! answered only after the commit. Bells ring after the commit, or the woken would find nothing.

use super::disk::Disk;
use super::error::StoreError;
use super::handle::{Committed, Watch};
use super::op::{Apply, Done, Op};
use super::parked::Parked;
use crate::clock::{Clock, Moment};
use crate::crash;
use crate::protocol::state::State;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// Operations that may wait for the write connection. Each is at most a request body; beyond it submissions are
/// answered 503 and sessions stop reading their sockets.
pub const QUEUE_MAX: usize = 4096;
/// Most operations in one transaction. More gains little throughput and adds to each one's latency.
pub const BATCH_MAX: usize = 512;

/// An operation that waits for its commit.
#[derive(Debug)]
pub struct Job {
    /// What to do.
    pub op: Op,
    /// Where to answer. A caller that has gone changes nothing.
    pub reply: oneshot::Sender<Result<Done, StoreError>>,
    /// Another one of the same sender follows at once: it is waited for, to be in the same group.
    pub more: bool,
}

/// Whom to wake after a commit, and what to count.
#[derive(Debug, Default)]
pub struct Touched {
    /// Agents whose outbox, cancellations or standing changed.
    pub agents: BTreeSet<i64>,
    /// Agents whose parked look is to look again. Their bells do not ring.
    pub nudged: BTreeSet<i64>,
    /// Commands that have something new to show.
    pub commands: BTreeSet<i64>,
    /// Commands with a delivery that ended.
    pub ends: BTreeSet<i64>,
    /// Tokens whose row changed, but for its last use.
    pub tokens: BTreeSet<i64>,
    /// States that deliveries moved to.
    pub states: Vec<State>,
    /// For how long deliveries had been committed when they were accepted, in milliseconds.
    pub accept_ms: Vec<i64>,
    /// The data version seen last; survives the groups.
    pub data_version: Option<i64>,
    /// The store is to be closed after this group.
    pub close: bool,
}

impl Touched {
    /// A crash point of the groups that moved a delivery; the others come all the time.
    fn crash_point(&self, name: &str) {
        if !self.states.is_empty() {
            crash::point(name);
        }
    }

    fn clear(&mut self) {
        let data_version = self.data_version;
        *self = Self { data_version, ..Self::default() };
    }
}

/// What can be undone by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    /// The whole group.
    Group,
    /// Each operation: it has a savepoint.
    Each,
}

/// The thread's belongings.
pub struct Committer {
    /// The write connection.
    pub conn: Connection,
    /// The wall clock.
    pub clock: Clock,
    /// Bells and counters.
    pub watch: Arc<Watch>,
    /// Quota and ballast.
    pub disk: Disk,
    /// Claims that wait.
    pub parked: Parked,
}

impl Committer {
    /// Takes groups until the store is closed or the database cannot go on.
    pub fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut touched = Touched::default();
        while self.take(&mut jobs, &mut batch) {
            self.disk.look(&self.conn, &self.watch);
            let (begun, changes) = (Instant::now(), self.conn.total_changes());
            let results = self.commit(&mut batch, &mut touched);
            let fatal = match &results {
                Ok(_) => {
                    touched.crash_point("store.committed");
                    // A group that changed nothing, such as a look that found nothing, needs no fsync and is not counted.
                    let (operations, rows) = (batch.len(), self.conn.total_changes() - changes);
                    let written = (rows > 0).then(|| Committed { operations, rows, took: begun.elapsed() });
                    self.watch.committed(written, &touched);
                    None
                }
                Err(StoreError::Fatal(why)) => Some(why.clone()),
                Err(_) => None,
            };
            match results {
                Ok(results) => {
                    // The last first: a claim that was woken comes last and has the longest way to go, and whoever queued
                    // several operations and waits for the first finds all of them answered.
                    for (job, result) in batch.drain(..).zip(results).rev() {
                        if let Some(job) = self.parked.keep(job, &result, &touched) {
                            let _ = job.reply.send(result);
                        }
                    }
                }
                Err(error) => {
                    for job in batch.drain(..) {
                        let _ = job.reply.send(Err(error.clone()));
                    }
                }
            }
            if let Some(why) = fatal {
                self.watch.set_fatal(why);
                return;
            }
            if touched.close {
                break;
            }
        }
        self.close();
    }

    /// Takes what has queued up, or waits for it. False: nothing will come any more.
    fn take(&mut self, jobs: &mut mpsc::Receiver<Job>, batch: &mut Vec<Job>) -> bool {
        self.parked.due(batch);
        if batch.is_empty() {
            jobs.blocking_recv_many(batch, BATCH_MAX);
        }
        while batch.len() < BATCH_MAX
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        // Its sender may have been interrupted by us.
        while batch.last().is_some_and(|job| job.more)
            && let Some(job) = jobs.blocking_recv()
        {
            batch.push(job);
        }
        !batch.is_empty()
    }

    /// One group: as a whole; on a full disk again after the ballast is given up; and at last one by one, so that
    /// what needs no space still gets through.
    fn commit(
        &mut self,
        batch: &mut Vec<Job>,
        touched: &mut Touched,
    ) -> Result<Vec<Result<Done, StoreError>>, StoreError> {
        match self.transaction(batch, touched) {
            Err(StoreError::Full) => {}
            other => return other,
        }
        if self.disk.give_up_ballast(&self.watch) {
            match self.transaction(batch, touched) {
                Err(StoreError::Full) => {}
                other => return other,
            }
        }
        let mut results = Vec::with_capacity(batch.len());
        let mut all = Touched { data_version: touched.data_version, ..Touched::default() };
        let mut jobs = std::mem::take(batch).into_iter();
        while let Some(job) = jobs.next() {
            let mut alone = vec![job];
            let applied = self.transaction(&mut alone, touched);
            let count = alone.len();
            batch.append(&mut alone);
            match applied {
                Ok(mut some) => {
                    results.append(&mut some);
                    all.agents.append(&mut touched.agents);
                    all.commands.append(&mut touched.commands);
                    all.ends.append(&mut touched.ends);
                    all.tokens.append(&mut touched.tokens);
                    all.states.append(&mut touched.states);
                    all.accept_ms.append(&mut touched.accept_ms);
                    all.close |= touched.close;
                }
                Err(StoreError::Fatal(why)) => {
                    batch.extend(jobs);
                    return Err(StoreError::Fatal(why));
                }
                Err(error) => results.extend((0..count).map(|_| Err(error.clone()))),
            }
        }
        *touched = all;
        Ok(results)
    }

    fn transaction(
        &mut self,
        jobs: &mut Vec<Job>,
        touched: &mut Touched,
    ) -> Result<Vec<Result<Done, StoreError>>, StoreError> {
        match self.attempt(jobs, touched, Guard::Group)? {
            Some(results) => Ok(results),
            None => Ok(self.attempt(jobs, touched, Guard::Each)?.unwrap_or_default()),
        }
    }

    /// One transaction. None: it was rolled back, because an operation failed that only a savepoint could undo.
    fn attempt(
        &mut self,
        jobs: &mut Vec<Job>,
        touched: &mut Touched,
        guard: Guard,
    ) -> Result<Option<Vec<Result<Done, StoreError>>>, StoreError> {
        touched.clear();
        let data_version = touched.data_version;
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let results = self.apply_all(jobs, touched, guard).and_then(|results| {
            if results.is_some() {
                touched.crash_point("store.before_commit");
                self.conn.prepare_cached("COMMIT")?.execute([])?;
            }
            Ok(results)
        });
        if !matches!(results, Ok(Some(_))) {
            // Who looked outside has told nobody yet.
            touched.data_version = data_version;
            if !self.conn.is_autocommit() {
                self.conn.execute_batch("ROLLBACK")?;
            }
        }
        results
    }

    fn apply_all(
        &mut self,
        jobs: &mut Vec<Job>,
        touched: &mut Touched,
        guard: Guard,
    ) -> Result<Option<Vec<Result<Done, StoreError>>>, StoreError> {
        let now = Moment::now(self.clock.now_ms());
        let quota = self.disk.refusal();
        let mut results = Vec::with_capacity(jobs.len());
        loop {
            if results.len() == jobs.len() {
                // Whoever waits for what this group did looks in the same commit.
                self.parked.wake(touched, jobs);
            }
            let Some(job) = jobs.get(results.len()) else { return Ok(Some(results)) };
            if guard == Guard::Each {
                self.conn.prepare_cached("SAVEPOINT op")?.execute([])?;
            }
            let (changes, counted) = (self.conn.total_changes(), (touched.states.len(), touched.accept_ms.len()));
            let mut apply = Apply { conn: &self.conn, now_ms: now.wall_ms, now, touched, quota };
            let result = job.op.apply(&mut apply);
            match &result {
                Ok(_) => {}
                // These end the whole transaction (https://sqlite.org/lang_transaction.html, "automatically rolled back").
                Err(error @ (StoreError::Full | StoreError::Fatal(_) | StoreError::Busy)) => return Err(error.clone()),
                Err(_) if self.conn.is_autocommit() => return Err(StoreError::Full),
                Err(_) => {
                    // Spare rings do no harm; spare counts would.
                    touched.states.truncate(counted.0);
                    touched.accept_ms.truncate(counted.1);
                    match guard {
                        Guard::Each => {
                            self.conn.prepare_cached("ROLLBACK TO op")?.execute([])?;
                        }
                        // Most fail before they write: refused, not found, fenced off.
                        Guard::Group if self.conn.total_changes() == changes => {}
                        Guard::Group => return Ok(None),
                    }
                }
            }
            if guard == Guard::Each {
                self.conn.prepare_cached("RELEASE op")?.execute([])?;
            }
            results.push(result);
        }
    }

    fn close(&self) {
        // The WAL goes into the database and is emptied; a failure costs only the next start's recovery.
        if let Err(error) = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!(%error, "the last checkpoint failed; the next start will do it");
        }
    }
}
