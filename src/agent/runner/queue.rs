//! The runner: gives each accepted delivery its turn, its process and its end.
//!
//! One task a delivery, from its acceptance to its outcome in the journal. Slots are a fair semaphore and starts a fair
//! lock, so turns come in order of arrival. Each step is in the journal before it is on the board: a start before the process, an outcome
//! before the report. When the journal cannot be written the task waits and tries again; nothing is told meanwhile.

use super::control::{Cause, GRACE, GRACE_AT_STOP, Launch, Supervisor};
use super::drain::End;
use super::process::{Orders, Process};
use super::report::{INTERRUPTED, outcome};
use super::starts::Starts;
use crate::agent::board::{Board, Phase};
use crate::agent::journal::{Held, JournalError, Op};
use crate::agent::journal_thread::Journal;
use crate::agent::server_time::ServerTime;
use crate::agent::spool::{self, Spool};
use crate::backoff::Backoff;
use crate::crash;
use crate::protocol::ids::DeliveryId;
use crate::protocol::outcome::Outcome;
use crate::protocol::spec::{OUTPUT_BYTES_MAX, Spec};
use crate::protocol::state::State;
use crate::tasks::Tasks;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// Between tries to write a journal that cannot be written: a full disk is not emptied faster by asking.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest of these waits: an outcome must not be told much later than it can be.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Longest sleep towards an expiry, after which it is looked at again: the host may have slept too.
const EXPIRY_LOOK: Duration = Duration::from_secs(60);
/// A command that runs longer has the next one's supervising child born beside it. Sooner, the birth would compete with
/// short commands, which are over by then; later, the next command could come and find none.
const SPARE_AFTER: Duration = Duration::from_millis(20);

/// The runner. Clones share it.
#[derive(Clone, Debug)]
pub struct Runner {
    /// Where everything stands.
    pub board: Board,
    /// The same on disk.
    pub journal: Journal,
    /// The server's clock.
    pub time: ServerTime,
    /// The tasks of this agent; their token stops the runner.
    pub tasks: Tasks,
    /// All but the check of an upgrade is refused.
    pub upgrade_check: bool,
    spool_folder: Arc<PathBuf>,
    supervisor: Arc<Supervisor>,
    slots: Arc<Semaphore>,
    slots_max: u32,
    // Held by who waits for a start: nobody overtakes.
    starts: Arc<tokio::sync::Mutex<Starts>>,
    spare: Arc<Mutex<Option<Supervising>>>,
}

/// A supervising child for the next command.
#[derive(Debug)]
enum Supervising {
    /// It is being born.
    Coming(JoinHandle<io::Result<Process>>),
    /// It has run one, of which nothing is left.
    Waiting(Process),
}

/// The right to run, and a supervising child. The slot is free again when this is dropped.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
    process: Supervising,
}

enum Turn {
    Go(Slot),
    Ended(Outcome),
    Stopped,
}

impl Runner {
    /// A runner with so many slots and starts.
    pub fn new(
        journal: Journal,
        spool_folder: PathBuf,
        supervisor: Supervisor,
        slots: usize,
        starts: Starts,
        tasks: Tasks,
    ) -> Self {
        Self {
            board: Board::default(),
            journal,
            time: ServerTime::default(),
            tasks,
            upgrade_check: false,
            spool_folder: Arc::new(spool_folder),
            supervisor: Arc::new(supervisor),
            slots: Arc::new(Semaphore::new(slots)),
            slots_max: u32::try_from(slots).unwrap_or(u32::MAX),
            starts: Arc::new(tokio::sync::Mutex::new(starts)),
            spare: Arc::default(),
        }
    }

    /// A slot, if one is free, the next start is, too, and nobody waits for either.
    pub fn free_slot(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        take(&mut *self.starts.try_lock().ok()?).ok()?;
        Some(self.slot(permit))
    }

    /// All slots, once no command runs. Until they are given back, what is accepted waits. None: the agent stops.
    pub async fn quiet(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is fair: those who come later wait behind us.
        Arc::clone(&self.slots).acquire_many_owned(self.slots_max).await.ok()
    }

    /// Takes the spare supervising child, or begins a birth: it goes on while the journal is written.
    fn slot(&self, permit: OwnedSemaphorePermit) -> Slot {
        Slot { _permit: permit, process: self.spare().take().unwrap_or_else(|| self.birth()) }
    }

    fn birth(&self) -> Supervising {
        let supervisor = Arc::clone(&self.supervisor);
        Supervising::Coming(spawn_blocking(move || Process::prepare(&supervisor)))
    }

    fn spare(&self) -> MutexGuard<'_, Option<Supervising>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a supervising child ready for the next command: its birth takes as long as all else together. Called when
    /// nobody waits for it: after a command, or while a long one runs.
    pub fn lay_in_spare(&self) {
        let mut spare = self.spare();
        if spare.is_none() && !self.tasks.stop_token().is_cancelled() {
            *spare = Some(self.birth());
        }
    }

    /// Keeps a supervising child that can take the next command.
    fn keep(&self, process: Process) {
        let mut spare = self.spare();
        if spare.is_none() && !self.tasks.stop_token().is_cancelled() {
            *spare = Some(Supervising::Waiting(process));
        } else {
            // It goes, and is waited for.
            drop(spawn_blocking(move || drop(process)));
        }
    }

    async fn supervising(&self, found: Supervising) -> io::Result<(Process, Orders)> {
        let mut process = found.born().await?;
        if !process.is_waiting() {
            // Somebody killed it. It had been given nothing, so another one may.
            process = self.birth().born().await?;
        }
        let orders = process.orders()?;
        Ok((process, orders))
    }

    /// Takes over what the journal held when the agent started. What ran then is `interrupted`; what waited waits for
    /// the first `welcome`, which says whether it is still wanted and what time it is. Returns when the journal says
    /// so too, or the agent is asked to stop.
    pub async fn recover(&self, held: Vec<Held>) {
        for entry in held {
            let delivery = entry.delivery;
            let spec = Spec::parse(&entry.spec);
            let bytes_max = spec.as_ref().map_or(OUTPUT_BYTES_MAX, |spec| spec.output_bytes_max);
            let (outcome, fresh) = match (entry.outcome, spec) {
                (Some(outcome), _) => (outcome, false),
                (None, spec) if entry.running => {
                    let mut outcome = Outcome::without_run(State::Interrupted, INTERRUPTED);
                    if spec.is_ok() {
                        [outcome.stdout, outcome.stderr] = Spool::salvage(&self.spool_folder, delivery, bytes_max);
                    }
                    (outcome, true)
                }
                (None, Ok(spec)) => {
                    let cancel = self.board.recover(delivery, Phase::Accepted, None);
                    self.admit(delivery, Launch::new(spec, entry.secrets), cancel, None);
                    continue;
                }
                // A newer build accepted it, and this one cannot read it.
                (None, Err(why)) => (Outcome::without_run(State::Refused, why.to_string()), true),
            };
            if fresh && !self.write_surely(delivery, Op::Finish(delivery, outcome.clone())).await {
                return;
            }
            let spool = Spool::reopen(&self.spool_folder, delivery, bytes_max, &outcome);
            self.board.recover(delivery, Phase::Ended(outcome), Some(Arc::new(spool)));
        }
        let known = self.board.deliveries();
        if let Err(why) = spool::sweep(&self.spool_folder, &known) {
            warn!("left-over output cannot be removed: {why}; the next start tries again");
        }
    }

    /// Runs an accepted delivery when its turn comes. With a slot its start is in the journal already.
    pub fn admit(&self, delivery: DeliveryId, launch: Launch, cancel: CancellationToken, slot: Option<Slot>) {
        let runner = self.clone();
        self.tasks.spawn("delivery", async move { runner.see_through(delivery, launch, cancel, slot).await });
    }

    async fn see_through(&self, delivery: DeliveryId, launch: Launch, cancel: CancellationToken, slot: Option<Slot>) {
        let turn = match slot {
            Some(slot) => Turn::Go(slot),
            None => self.wait_for_turn(delivery, &launch.spec, &cancel).await,
        };
        let outcome = match turn {
            Turn::Stopped => return,
            Turn::Ended(outcome) => outcome,
            Turn::Go(slot) => self.execute(delivery, launch, slot, &cancel).await,
        };
        self.finish(delivery, outcome).await;
        self.lay_in_spare();
    }

    async fn wait_for_turn(&self, delivery: DeliveryId, spec: &Spec, cancel: &CancellationToken) -> Turn {
        let stop = self.tasks.stop_token();
        let slot = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            () = cancel.cancelled() => Some(Err(cancelled_before())),
            () = self.expired(spec) => Some(Err(expired())),
            slot = self.next_slot() => slot.map(Ok),
        };
        let slot = match slot {
            None => return Turn::Stopped,
            Some(Err(outcome)) => return Turn::Ended(outcome),
            Some(Ok(slot)) => slot,
        };
        if !self.write_surely(delivery, Op::Start(delivery)).await {
            return Turn::Stopped;
        }
        self.board.set_phase(delivery, Phase::Running);
        Turn::Go(slot)
    }

    async fn next_slot(&self) -> Option<Slot> {
        self.time.known().await;
        let permit = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        self.next_start().await;
        Some(self.slot(permit))
    }

    /// Waits for a start and takes it.
    async fn next_start(&self) {
        let mut starts = self.starts.lock().await;
        while let Err(left) = take(&mut starts) {
            tokio::time::sleep(left).await;
        }
    }

    /// Whether the specification's time is over, by the server's clock.
    pub fn is_expired(&self, spec: &Spec) -> bool {
        self.time.now_ms().is_some_and(|now_ms| now_ms > spec.not_after_ms)
    }

    async fn expired(&self, spec: &Spec) {
        self.time.known().await;
        while !self.is_expired(spec) {
            let left_ms = spec.not_after_ms.saturating_sub(self.time.now_ms().unwrap_or_default()).saturating_add(1);
            let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or_default());
            tokio::time::sleep(left.min(EXPIRY_LOOK)).await;
        }
    }

    /// Runs the command. Its start is in the journal.
    async fn execute(&self, delivery: DeliveryId, launch: Launch, slot: Slot, cancel: &CancellationToken) -> Outcome {
        if cancel.is_cancelled() {
            return cancelled_before();
        }
        if self.tasks.stop_token().is_cancelled() {
            return Outcome::without_run(State::Interrupted, "the agent was stopped before it could start");
        }
        let Slot { _permit, process } = slot;
        crash::point("agent.started");
        let (process, orders) = match self.supervising(process).await {
            Ok(prepared) => prepared,
            Err(error) => return not_started(&format!("its supervising process could not be started: {error}")),
        };
        let spool = Arc::new(Spool::new(&self.spool_folder, delivery, launch.spec.output_bytes_max));
        self.board.set_spool(delivery, Arc::clone(&spool));
        let (sender, ended) = oneshot::channel();
        let (teller, told) = oneshot::channel();
        let (board, output, launched) = (self.board.clone(), Arc::clone(&spool), launch.clone());
        // Its end comes through the channel; the thread stays until a supervising child that goes is reaped.
        drop(spawn_blocking(move || process.run(launched, &output, || board.ring(), teller, sender)));
        // An order must not overtake the launch. It is not told when the child is gone; then there is nobody to order.
        let _ = told.await;
        crash::point("agent.spawned");
        let mut end = pin!(self.follow(&orders, ended, cancel));
        let (end, process) = match tokio::time::timeout(SPARE_AFTER, &mut end).await {
            Ok(end) => end,
            Err(_) => {
                self.lay_in_spare();
                end.await
            }
        };
        if let Some(process) = process {
            self.keep(process);
        }
        crash::point("agent.ended");
        spool.settle();
        outcome(end, &launch.spec, &spool)
    }

    /// Waits for the end; passes on the wish to end it, once each.
    async fn follow(
        &self,
        orders: &Orders,
        ended: oneshot::Receiver<(End, Option<Process>)>,
        cancel: &CancellationToken,
    ) -> (End, Option<Process>) {
        let stop = self.tasks.stop_token();
        let mut ended = ended;
        let (mut cancelled, mut stopped) = (false, false);
        loop {
            let asked = tokio::select! {
                // No answer: its thread has panicked, and the socket's end has ended the command.
                end = &mut ended => return end.unwrap_or_default(),
                () = cancel.cancelled(), if !cancelled => (Cause::Cancel, GRACE),
                () = stop.cancelled(), if !stopped => (Cause::Stop, GRACE_AT_STOP),
            };
            match asked.0 {
                Cause::Cancel => cancelled = true,
                _ => stopped = true,
            }
            // It fails when the command has just ended: then its end is on the way.
            let _ = orders.end(asked.0, asked.1);
        }
    }

    async fn finish(&self, delivery: DeliveryId, outcome: Outcome) {
        if !self.write_surely(delivery, Op::Finish(delivery, outcome.clone())).await {
            return;
        }
        crash::point("agent.outcome");
        let discard = self.board.line(delivery).is_some_and(|line| line.discard);
        self.board.set_phase(delivery, Phase::Ended(outcome));
        if discard {
            self.forget(delivery).await;
        }
    }

    /// Writes until it is written. False: the agent stops and it could not be; the journal then tells the truth at the
    /// next start.
    async fn write_surely(&self, delivery: DeliveryId, op: Op) -> bool {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let Err(why) = self.journal.write(op.clone()).await else { return true };
            let wait = backoff.next(Some(RETRY_FIRST));
            let wait_s = wait.as_secs_f32();
            error!(%delivery, "the delivery waits for the journal: {why}; make room on its disk; trying again in {wait_s:.0} s");
            if self.tasks.stop_token().run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return self.journal.write(op).await.is_ok();
            }
        }
    }

    /// Asks for the end of a delivery. False: it is not known.
    pub fn cancel(&self, delivery: DeliveryId) -> bool {
        let Some(line) = self.board.line(delivery) else { return false };
        line.cancel.cancel();
        true
    }

    /// The server wants no report of it: what has not started does not start, not even after a crash; what has ended is
    /// forgotten.
    ///
    /// # Errors
    /// [`JournalError`]: it may still start after a crash.
    pub async fn let_go(&self, delivery: DeliveryId) -> Result<(), JournalError> {
        self.board.set_discard(delivery);
        match self.board.line(delivery).map(|line| (line.phase, line.cancel)) {
            Some((Phase::Accepted | Phase::Arriving, cancel)) => {
                cancel.cancel();
                // A tombstone at once: after a crash it is neither started nor told.
                self.journal.write(Op::Finish(delivery, cancelled_before())).await?;
                self.journal.write(Op::Forget(delivery)).await?;
            }
            Some((Phase::Ended(_), _)) => self.forget(delivery).await,
            Some((Phase::Running, _)) | None => {}
        }
        Ok(())
    }

    /// Forgets an ended delivery, but for its tombstone.
    pub async fn forget(&self, delivery: DeliveryId) {
        match self.board.line(delivery) {
            Some(line) if matches!(line.phase, Phase::Ended(_)) => {}
            _ => return,
        }
        // It stays on the board then, is told again in the next `hello`, and forgotten then.
        if let Err(why) = self.journal.write(Op::Forget(delivery)).await {
            warn!(%delivery, "the delivery cannot be forgotten now: {why}; the next connection tries again");
            return;
        }
        crash::point("agent.forgotten");
        self.board.remove(delivery);
        let folder = Arc::clone(&self.spool_folder);
        let removed = tokio::task::spawn_blocking(move || spool::remove(&folder, delivery)).await;
        if let Ok(Err(why)) = removed {
            warn!(%delivery, "the delivery's output cannot be removed: {why}; the next start tries again");
        }
    }
}

impl Supervising {
    async fn born(self) -> io::Result<Process> {
        match self {
            Self::Coming(birth) => birth.await.map_err(io::Error::other).flatten(),
            Self::Waiting(process) => Ok(process),
        }
    }
}

/// Takes a start, or says how long until the next one.
fn take(starts: &mut Starts) -> Result<(), Duration> {
    starts.take(Instant::now()).map_err(|held_up| {
        if held_up.is_new {
            let limit = starts.per_minute();
            warn!("{limit} starts a minute are reached (--starts-per-minute): what comes next waits for its turn");
        }
        held_up.left
    })
}

fn not_started(reason: &str) -> Outcome {
    Outcome::without_run(State::Failed, reason)
}

/// The outcome of what was cancelled in time.
pub fn cancelled_before() -> Outcome {
    Outcome::without_run(State::Cancelled, "cancelled before it started")
}

/// The outcome of what came or waited too long.
pub fn expired() -> Outcome {
    Outcome::without_run(State::Expired, "its time to start was over before it could start")
}
