//! The journal's thread: owns the connection, turns what has queued up into one transaction and at most one fsync.
//!
//! On a full disk it gives up its ballast: outcomes must get into the journal, and the command that makes room too.

use super::journal::{Done, Held, JournalError, Op, held, last_epoch, open, write};
use super::place::place;
use crate::ballast::Ballast;
use rusqlite::Connection;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

/// Operations that may wait: more than all slots and a whole window can ask for at once. Who finds it full waits.
const QUEUE_OPS_MAX: usize = 512;
/// Operations of one transaction: bounds how long the first waits for the last.
const BATCH_OPS_MAX: usize = 128;

/// Size of the ballast, in bytes: room for the journal of some dozens of commands and for their output. A larger one is
/// a burden on small endpoints, a smaller one may be gone before anybody has made room.
const BALLAST_BYTES: u64 = 4 * 1024 * 1024;
/// How often it is seen to that the ballast is there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The way to the journal's thread. Clones share it; the thread ends when the last is dropped.
#[derive(Clone, Debug)]
pub struct Journal {
    queue: mpsc::Sender<Request>,
}

/// What a journal held when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The way to it.
    pub journal: Journal,
    /// What the server has not let go of.
    pub held: Vec<Held>,
    /// The latest epoch in it; 0: none that counts.
    pub last_epoch: u64,
}

#[derive(Debug)]
struct Request {
    op: Op,
    answer: oneshot::Sender<Result<Done, JournalError>>,
}

impl Journal {
    /// Opens the journal and starts its thread. Blocks for a moment: call it before there is anything to hold up.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(path: &Path) -> Result<Opened, JournalError> {
        let mut ballast = Ballast::new(path.parent().unwrap_or(path), BALLAST_BYTES);
        ballast.make_room_to_start();
        let connection = open(path)?;
        let last_epoch = last_epoch(&connection, &place(path))?;
        let held = held(&connection)?;
        let (queue, requests) = mpsc::channel(QUEUE_OPS_MAX);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || serve(connection, &mut ballast, requests))
            .map_err(|error| JournalError::Sql(error.to_string()))?;
        Ok(Opened { journal: Self { queue }, held, last_epoch })
    }

    /// Writes `op` and returns once it is on disk; what may be lost (see [`Op`]), once it is in the file.
    ///
    /// # Errors
    /// [`JournalError::Full`], [`JournalError::Sql`]: nothing of it is written. [`JournalError::Closed`].
    pub async fn write(&self, op: Op) -> Result<Done, JournalError> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Request { op, answer }).await.map_err(|_| JournalError::Closed)?;
        answered.await.map_err(|_| JournalError::Closed)?
    }
}

fn serve(mut connection: Connection, ballast: &mut Ballast, mut requests: mpsc::Receiver<Request>) {
    ballast.make(0);
    let mut looked = Instant::now();
    while let Some(first) = requests.blocking_recv() {
        if looked.elapsed() >= LOOK_EVERY {
            ballast.make(0);
            looked = Instant::now();
        }
        let mut batch = vec![first];
        while batch.len() < BATCH_OPS_MAX
            && let Ok(request) = requests.try_recv()
        {
            batch.push(request);
        }
        let ops: Vec<&Op> = batch.iter().map(|request| &request.op).collect();
        let written = match write(&mut connection, &ops) {
            Err(JournalError::Full) if ballast.give_up() => write(&mut connection, &ops),
            written => written,
        };
        match written {
            Ok(done) => batch.into_iter().zip(done).for_each(|(request, done)| answer(request, Ok(done))),
            // One bad operation must not take the others with it.
            Err(_) if batch.len() > 1 => {
                for request in batch {
                    let alone = write(&mut connection, &[&request.op]).map(|mut done| done.remove(0));
                    answer(request, alone);
                }
            }
            Err(why) => batch.into_iter().for_each(|request| answer(request, Err(why.clone()))),
        }
    }
    if let Err((_, error)) = connection.close() {
        error!("the journal did not close well: {error}; the next start puts it right");
    }
}

fn answer(request: Request, result: Result<Done, JournalError>) {
    // Whoever asked may be gone; what is written is written.
    let _ = request.answer.send(result);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::journal::Entry;
    use crate::protocol::ids::DeliveryId;
    use crate::protocol::secret_env::SecretEnv;

    #[tokio::test]
    async fn many_writers_are_all_answered_after_the_commit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let Opened { journal, held: none, last_epoch } = Journal::open(&path).unwrap();
        assert!(none.is_empty() && last_epoch == 0);
        let writes = (0..100).map(|_| {
            journal.write(Op::Accept {
                delivery: DeliveryId::new(),
                attempt: 1,
                spec: Vec::new(),
                secrets: SecretEnv::default(),
                not_after_ms: 1,
                entry: Entry::Waiting,
            })
        });
        for done in futures_util::future::join_all(writes).await {
            assert_eq!(done.unwrap(), Done::Written);
        }
        assert_eq!(held(&open(&path).unwrap()).unwrap().len(), 100);
    }
}
