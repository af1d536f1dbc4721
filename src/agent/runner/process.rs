//! One command from start to end: its supervising child, the orders to it, and what came of it.

use super::control::{Cause, Launch, Order, Supervisor};
use super::drain::{End, drain};
use crate::agent::spool::Spool;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::sync::oneshot;

/// A supervising child that waits for its command. Dropped, it goes without having run one.
#[derive(Debug)]
pub struct Process {
    control: UnixStream,
    child: Child,
}

/// The way to end a command. Does not keep it alive.
#[derive(Debug)]
pub struct Orders {
    control: UnixStream,
}

impl Process {
    /// Starts the supervising child. It runs nothing yet, so this may go on while the journal is still being written.
    /// Blocks for the time of a process's birth.
    ///
    /// # Errors
    /// No process or no file descriptors are to be had, or the program is gone.
    pub fn prepare(supervisor: &Supervisor) -> io::Result<(Self, Orders)> {
        let (control, theirs) = UnixStream::pair()?;
        let orders = Orders { control: control.try_clone()? };
        let mut command = Command::new(&supervisor.program);
        command.args(&supervisor.args).arg0("postrider");
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn()?;
        // `command` holds the other end of the socket and goes here, or the end of the child would not be seen.
        Ok((Self { control, child }, orders))
    }

    /// Whether the supervising child lives.
    pub fn is_waiting(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Runs the command to its end and tells it through `ended`; then waits until the supervising child is reaped.
    /// Blocks: call it on a thread for that. `told` goes when the child has its launch, before which it takes no
    /// orders; `progress` is called after each piece of output.
    pub fn run(
        mut self,
        launch: &Launch,
        spool: &Spool,
        progress: impl Fn(),
        told: oneshot::Sender<()>,
        ended: oneshot::Sender<End>,
    ) {
        let end = match (self.child.stdout.take(), self.child.stderr.take()) {
            (Some(stdout), Some(stderr)) => match tell(&self.control, launch) {
                Ok(()) => {
                    // Whoever waits for it may have gone.
                    let _ = told.send(());
                    drain(&self.control, stdout.into(), stderr.into(), launch, spool, progress)
                }
                Err(error) => End::not_started(format!("its supervising process ended at once: {error}")),
            },
            _ => End::not_started("its supervising process has no pipes".to_owned()),
        };
        if end.supervisor_late {
            let _ = self.child.kill();
            end.kill_what_can_be_found();
        }
        // The agent may be going down; then the journal tells it at the next start.
        let _ = ended.send(end);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Sent or not, there are no more orders: what still waits for its launch goes at once.
        let _ = self.control.shutdown(Shutdown::Write);
        let _ = self.child.wait();
    }
}

fn tell(mut control: &UnixStream, launch: &Launch) -> io::Result<()> {
    let mut line = serde_json::to_vec(launch)?;
    line.push(b'\n');
    control.write_all(&line)
}

impl Orders {
    /// Asks for the end of the command. Asking again can only shorten the grace.
    ///
    /// # Errors
    /// It has ended.
    pub fn end(&self, cause: Cause, grace: Duration) -> io::Result<()> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let mut line = serde_json::to_vec(&Order { end: cause, grace_ms })?;
        line.push(b'\n');
        (&self.control).write_all(&line)
    }
}
