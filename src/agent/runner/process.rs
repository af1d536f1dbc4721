//! One command from start to end: its supervising child, the orders to it, and what came of it.

use super::control::{Cause, Launch, Order, Supervisor};
use super::drain::{End, drain};
use crate::agent::spool::Spool;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::sync::oneshot;

/// A command that is about to be started.
#[derive(Debug)]
pub struct Process {
    ours: UnixStream,
    theirs: UnixStream,
}

/// The way to end a command. Does not keep it alive.
#[derive(Debug)]
pub struct Orders {
    control: UnixStream,
}

impl Process {
    /// Makes the control socket.
    ///
    /// # Errors
    /// No file descriptors are left.
    pub fn new() -> io::Result<(Self, Orders)> {
        let (ours, theirs) = UnixStream::pair()?;
        let orders = Orders { control: ours.try_clone()? };
        Ok((Self { ours, theirs }, orders))
    }

    /// Runs the command to its end and tells it through `ended`; then waits until the supervising child is reaped.
    /// Blocks: call it on a thread for that. `progress` is called after each piece of output.
    pub fn run(
        self,
        supervisor: &Supervisor,
        launch: &Launch,
        spool: &Spool,
        progress: impl Fn(),
        ended: oneshot::Sender<End>,
    ) {
        let mut command = Command::new(&supervisor.program);
        command.args(&supervisor.args).arg0("postrider");
        command.stdin(Stdio::from(OwnedFd::from(self.theirs))).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                let why =
                    format!("its supervising process {} could not be started: {error}", supervisor.program.display());
                let _ = ended.send(End::not_started(why));
                return;
            }
        };
        // It holds the other end of the socket: as long as it lives, the end of the child would not be seen.
        drop(command);
        let end = match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), Some(stderr)) => {
                let end = match tell(&self.ours, launch) {
                    Ok(()) => drain(&self.ours, stdout.into(), stderr.into(), launch, spool, progress),
                    Err(error) => End::not_started(format!("its supervising process ended at once: {error}")),
                };
                if end.supervisor_late {
                    let _ = child.kill();
                    end.kill_what_can_be_found();
                }
                end
            }
            _ => End::not_started("its supervising process has no pipes".to_owned()),
        };
        drop(self.ours);
        // The agent may be going down; then the journal tells it at the next start.
        let _ = ended.send(end);
        let _ = child.wait();
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
