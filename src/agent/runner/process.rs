//! One command from start to end: its supervising child, the orders to it, and what came of it.

use super::control::{Cause, Launch, Order, Supervisor, Word};
use super::drain::{End, drain};
use super::hand_over;
use crate::agent::spool::Spool;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::sync::oneshot;

/// A supervising child that waits for a command. Dropped, it goes.
#[derive(Debug)]
pub struct Process {
    control: UnixStream,
    child: Child,
    /// What it ran so far.
    run: u64,
}

/// The way to end a command. Does not keep it alive.
#[derive(Debug)]
pub struct Orders {
    control: UnixStream,
    run: u64,
}

impl Process {
    /// Starts the supervising child. It runs nothing yet, so this may go on while the journal is still being written.
    /// Blocks for the time of a process's birth.
    ///
    /// # Errors
    /// No process or no file descriptors are to be had, or the program is gone.
    pub fn prepare(supervisor: &Supervisor) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let mut command = Command::new(&supervisor.program);
        command.args(&supervisor.args).arg0("postrider");
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        // `command` holds the other end of the socket and goes here, or the end of the child would not be seen.
        Ok(Self { control, child, run: 0 })
    }

    /// Whether the supervising child lives.
    pub fn is_waiting(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The way to end the command that [`Process::run`] runs next.
    ///
    /// # Errors
    /// No file descriptors are to be had.
    pub fn orders(&self) -> io::Result<Orders> {
        Ok(Orders { control: self.control.try_clone()?, run: self.run })
    }

    /// Runs the command to its end and tells it through `ended`, with this process if it takes another command; otherwise waits
    /// until the supervising child is reaped. Blocks: call it on a thread for that. `told` goes when the child has its
    /// launch, before which it takes no orders; `progress` is called after each piece of output.
    pub fn run(
        mut self,
        launch: Launch,
        spool: &Spool,
        progress: impl Fn(),
        told: oneshot::Sender<()>,
        ended: oneshot::Sender<(End, Option<Self>)>,
    ) {
        let patience = Duration::from_millis(launch.spec.timeout_ms.saturating_add(launch.grace_ms));
        let end = match self.launch(Launch { run: self.run, ..launch }) {
            Ok([stdout, stderr]) => {
                // Whoever waits for it may have gone.
                let _ = told.send(());
                drain(&self.control, stdout, stderr, patience, spool, progress)
            }
            Err(error) => End::not_started(format!("its supervising process took no launch: {error}")),
        };
        if end.supervisor_late {
            let _ = self.child.kill();
            end.kill_what_can_be_found();
        }
        // The agent may be going down; then the journal tells it at the next start.
        if end.is_clean() {
            self.run += 1;
            let _ = ended.send((end, Some(self)));
        } else {
            let _ = ended.send((end, None));
        }
    }

    /// Tells the child what to run; returns the ends of its standard output and error.
    fn launch(&self, launch: Launch) -> io::Result<[OwnedFd; 2]> {
        let (stdout, its_stdout) = io::pipe()?;
        let (stderr, its_stderr) = io::pipe()?;
        let line = line(&Word::Launch(Box::new(launch)))?;
        hand_over::send(&self.control, &line, [its_stdout.as_fd(), its_stderr.as_fd()])?;
        Ok([stdout.into(), stderr.into()])
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Sent or not, there are no more orders: what still waits for its launch goes at once.
        let _ = self.control.shutdown(Shutdown::Write);
        let _ = self.child.wait();
    }
}

fn line(word: &Word) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    Ok(line)
}

impl Orders {
    /// Asks for the end of the command. Asking again can only shorten the grace.
    ///
    /// # Errors
    /// It has ended.
    pub fn end(&self, cause: Cause, grace: Duration) -> io::Result<()> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let line = line(&Word::End(Order { run: self.run, end: cause, grace_ms }))?;
        (&self.control).write_all(&line)
    }
}
