//! The store: the handle that the rest of the server holds.

use super::bearers::Bearers;
use super::commit::{Committer, Job, QUEUE_MAX, Touched};
use super::disk::{Disk, DiskLimits};
use super::error::StoreError;
use super::migrate::{MigrateError, migrate};
use super::op::{Done, Operation};
use super::parked::Parked;
use super::pool::{BUSY_TIMEOUT, READERS, ReadOnly, make_private, open_writer, use_wal};
use super::session::recover;
use crate::bell::BellBoard;
use crate::clock::Clock;
use crate::protocol::ids::ServerId;
use crate::protocol::state::State;
use rusqlite::{Connection, OptionalExtension};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// The database's file name in the data folder.
pub const DATABASE_FILE: &str = "postrider.db";

/// A group that was committed.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    /// How many operations.
    pub operations: usize,
    /// How many rows they wrote.
    pub rows: u64,
    /// How long it took.
    pub took: Duration,
}

/// Counts what was committed. The server puts its metrics behind it.
pub trait Counter: Send + Sync {
    /// A group was committed.
    fn committed(&self, commit: Committed);
    /// A delivery moved to this state.
    fn moved(&self, state: State);
    /// A delivery was accepted this long after its commit, in milliseconds.
    fn accepted(&self, after_ms: i64);
}

/// What the committing thread tells the rest of the process.
pub struct Watch {
    /// Rings for an agent's row number when its outbox, cancellations or standing changed.
    pub agents: BellBoard,
    /// Rings for a command's row number when there is something new to show.
    pub commands: BellBoard,
    /// Rings for a command's row number when a delivery of it ended.
    pub ends: BellBoard,
    /// Rings for a token's row number when its row changed: what was begun with it looks again.
    pub tokens: BellBoard,
    /// Cancelled when the database cannot go on.
    pub fatal: CancellationToken,
    counter: Box<dyn Counter>,
    words: Mutex<Words>,
    token_changes: AtomicU64,
}

#[derive(Default)]
struct Words {
    fatal: Option<String>,
    refusal: Option<String>,
}

impl Watch {
    fn words(&self) -> std::sync::MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often tokens' rows may have changed so far. What was read of them at another count may be old.
    pub fn token_changes(&self) -> u64 {
        self.token_changes.load(Ordering::Acquire)
    }

    /// Tokens' rows may have changed: what is known of them is read anew.
    pub fn tokens_changed(&self) {
        self.token_changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Rings and counts for a committed group, if it wrote anything.
    pub fn committed(&self, written: Option<Committed>, touched: &Touched) {
        // Before the bells, or the woken would find what was known; and before the answers.
        if !touched.tokens.is_empty() {
            self.tokens_changed();
        }
        touched.agents.iter().for_each(|agent| self.agents.ring(*agent));
        touched.commands.iter().for_each(|command| self.commands.ring(*command));
        touched.ends.iter().for_each(|command| self.ends.ring(*command));
        touched.tokens.iter().for_each(|token| self.tokens.ring(*token));
        if let Some(commit) = written {
            self.counter.committed(commit);
        }
        touched.states.iter().for_each(|state| self.counter.moved(*state));
        touched.accept_ms.iter().for_each(|after_ms| self.counter.accepted(*after_ms));
    }

    /// The database cannot go on.
    pub fn set_fatal(&self, why: String) {
        let mut words = self.words();
        if words.fatal.is_none() {
            tracing::error!("the database cannot go on: {why}");
            words.fatal = Some(why);
        }
        self.fatal.cancel();
    }

    /// Why the database cannot go on, if it cannot.
    pub fn fatal_reason(&self) -> Option<String> {
        self.words().fatal.clone()
    }

    /// Why submissions are refused; none: they are taken.
    pub fn set_refusal(&self, why: Option<String>) {
        self.words().refusal = why;
    }

    /// Why submissions are refused, if they are.
    pub fn refusal(&self) -> Option<String> {
        self.words().refusal.clone()
    }
}

/// A handle to the database. Clones share it.
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    pool: r2d2::Pool<ReadOnly>,
    readers: Arc<Semaphore>,
    /// Good tokens.
    pub(super) bearers: Arc<Bearers>,
    /// Bells and standing.
    pub watch: Arc<Watch>,
    /// The wall clock.
    pub clock: Clock,
    /// Which database this is.
    pub server_id: ServerId,
}

/// Waits for the committing thread's end, which the operation `Close` brings about.
pub struct StoreThread(JoinHandle<()>);

impl StoreThread {
    /// Waits for the last commit and checkpoint. Blocks.
    pub fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the database thread panicked");
        }
    }
}

/// A commit that is waited for.
pub struct Reply<O> {
    receiver: oneshot::Receiver<Result<Done, StoreError>>,
    kind: PhantomData<fn() -> O>,
}

impl<O: Operation> Reply<O> {
    /// The operation's answer, after its commit.
    ///
    /// # Errors
    /// The operation's; [`StoreError::Closed`] when the thread has ended.
    pub async fn done(self) -> Result<O::Answer, StoreError> {
        let done = self.receiver.await.map_err(|_| StoreError::Closed)??;
        O::answer(done).ok_or(StoreError::Closed)
    }
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is not one that this build can use.
    #[error("{path}: {source}")]
    Migrate {
        /// The file.
        path: String,
        /// Why not.
        source: MigrateError,
    },
    /// SQLite cannot open or read it.
    #[error("{path}: {message}")]
    Sqlite {
        /// The file.
        path: String,
        /// Why not.
        message: String,
    },
}

impl Store {
    /// Opens the database in `folder`, makes or migrates it, and starts the committing thread.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        folder: &Path,
        clock: Clock,
        limits: DiskLimits,
        counter: Box<dyn Counter>,
    ) -> Result<(Self, StoreThread), OpenError> {
        let path = folder.join(DATABASE_FILE);
        let shown = || path.display().to_string();
        let sqlite = |error: &dyn std::fmt::Display| OpenError::Sqlite { path: shown(), message: error.to_string() };
        let disk = Disk::new(folder, limits);
        make_private(&path).map_err(|error| sqlite(&error))?;
        let mut conn = open_writer(&path).map_err(|error| sqlite(&error))?;
        migrate(&mut conn).map_err(|source| OpenError::Migrate { path: shown(), source })?;
        use_wal(&conn).map_err(|error| sqlite(&error))?;
        let server_id = server_id(&conn, clock.now_ms()).map_err(|error| sqlite(&error))?;
        recover(&conn, clock.now_ms()).map_err(|error| sqlite(&error))?;
        let pool = r2d2::Pool::builder()
            .max_size(READERS)
            .test_on_check_out(false)
            .connection_timeout(BUSY_TIMEOUT)
            .build(ReadOnly { path: path.clone() })
            .map_err(|error| sqlite(&error))?;
        let watch = Arc::new(Watch {
            agents: BellBoard::default(),
            commands: BellBoard::default(),
            ends: BellBoard::default(),
            tokens: BellBoard::default(),
            fatal: CancellationToken::new(),
            counter,
            words: Mutex::default(),
            token_changes: AtomicU64::new(0),
        });
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let committer =
            Committer { conn, clock: clock.clone(), watch: Arc::clone(&watch), disk, parked: Parked::default() };
        let guard = watch.fatal.clone().drop_guard();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                committer.run(queue);
                // Reached in order or after a fatal error; a panic drops the guard instead, which is fatal too.
                drop(guard.disarm());
            })
            .map_err(|error| sqlite(&error))?;
        let readers = Arc::new(Semaphore::new(READERS as usize));
        Ok((Self { jobs, pool, readers, bearers: Arc::default(), watch, clock, server_id }, StoreThread(thread)))
    }

    /// Queues an operation if there is room, and waits for its commit. For requests: they can be told to come again.
    ///
    /// # Errors
    /// [`StoreError::Busy`] without room; the operation's own.
    pub async fn try_write<O: Operation>(&self, operation: O) -> Result<O::Answer, StoreError> {
        let (job, reply) = job(operation);
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        reply.done().await
    }

    /// Queues an operation if there is room, and waits for nothing. False: there is none.
    pub fn offer<O: Operation>(&self, operation: O) -> bool {
        self.jobs.try_send(job(operation).0).is_ok()
    }

    /// Queues an operation, waiting for room, and returns before its commit. For sessions: waiting there slows one
    /// agent's socket only. Operations queued one after the other are applied in that order.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn queue<O: Operation>(&self, operation: O) -> Result<Reply<O>, StoreError> {
        let (job, reply) = job(operation);
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        Ok(reply)
    }

    /// Queues operations, waiting for room for all of them; applied in their order, and in one commit unless others come
    /// between them.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn queue_all(&self, jobs: Vec<Job>) -> Result<(), StoreError> {
        let permits = self.jobs.reserve_many(jobs.len()).await.map_err(|_| StoreError::Closed)?;
        let last = jobs.len().saturating_sub(1);
        for (number, (permit, job)) in permits.zip(jobs).enumerate() {
            permit.send(Job { more: number < last, ..job });
        }
        Ok(())
    }

    /// Queues an operation, waiting for room, and waits for its commit.
    ///
    /// # Errors
    /// The operation's own; [`StoreError::Closed`].
    pub async fn write<O: Operation>(&self, operation: O) -> Result<O::Answer, StoreError> {
        self.queue(operation).await?.done().await
    }

    /// Runs `read` on a read-only connection and a blocking thread.
    ///
    /// # Errors
    /// `read`'s own; [`StoreError::Busy`] when no connection can be had.
    pub(super) async fn read<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        // As many permits as connections: nobody blocks a thread to wait for one.
        let permit = Arc::clone(&self.readers).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let pool = self.pool.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let conn = pool.get().map_err(|_| StoreError::Busy)?;
            read(&conn)
        });
        let result = task.await.map_err(|error| StoreError::Sql(error.to_string()))?;
        if let Err(StoreError::Fatal(why)) = &result {
            self.watch.set_fatal(why.clone());
        }
        result
    }
}

/// An operation for [`Store::queue_all`], and its commit to wait for.
pub fn job<O: Operation>(operation: O) -> (Job, Reply<O>) {
    let (reply, receiver) = oneshot::channel();
    (Job { op: operation.into_op(), reply, more: false }, Reply { receiver, kind: PhantomData })
}

fn server_id(conn: &Connection, now_ms: i64) -> rusqlite::Result<ServerId> {
    let found: Option<[u8; 16]> = conn.query_row("SELECT id FROM server", [], |row| row.get(0)).optional()?;
    if let Some(id) = found {
        return Ok(ServerId::from_bytes(id));
    }
    let id = ServerId::new();
    conn.execute("INSERT INTO server (one, id, created_ms) VALUES (1, ?1, ?2)", (id.as_bytes(), now_ms))?;
    Ok(id)
}
