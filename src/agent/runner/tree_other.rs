//! A command's process tree where there is no subreaper: its process group. What left the group is out of reach.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes this process the root of the tree to come: its own session without a terminal.
///
/// # Errors
/// What the kernel says.
pub fn become_root() -> Result<(), Errno> {
    match nix::unistd::setsid() {
        Ok(_) | Err(Errno::EPERM) => Ok(()),
        Err(error) => Err(error),
    }
}

/// From now on signals that stop a service do not end this process. Call it after the command was spawned (it would
/// inherit the mask).
///
/// # Errors
/// What the kernel says.
pub fn outlast_signals() -> Result<(), Errno> {
    service_signals().thread_block()
}

/// The opposite: for what has no work any more, and before the next command is spawned.
///
/// # Errors
/// What the kernel says.
pub fn heed_signals() -> Result<(), Errno> {
    service_signals().thread_unblock()
}

fn service_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect()
}

/// Puts the command into its own process group.
pub fn prepare(command: &mut Command) {
    command.process_group(0);
}

/// Whether the process has not been reaped.
pub fn is_alive(pid: Pid) -> bool {
    nix::sys::signal::kill(pid, None).is_ok()
}

/// How a reaped process ended.
#[derive(Clone, Copy, Debug)]
pub struct Reaped {
    /// Which.
    pub pid: Pid,
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// What a look at the children finds.
#[derive(Clone, Copy, Debug)]
pub enum Look {
    /// One had ended and is reaped; there may be more.
    Reaped(Reaped),
    /// None has ended.
    Alive,
    /// There are none.
    Gone,
}

/// Looks for a child that has ended. Does not wait.
pub fn look() -> Look {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => {
                return Look::Reaped(Reaped { pid, exit_code: Some(code), signal: None });
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                return Look::Reaped(Reaped { pid, exit_code: None, signal: Some(signal as i32) });
            }
            Ok(WaitStatus::StillAlive) => return Look::Alive,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Look::Gone,
        }
    }
}

/// The polite signal to the group.
pub fn terminate(leader: Pid) {
    let _ = killpg(leader, Signal::SIGTERM);
}

/// Kills the group. Returns 1 if there was one.
pub fn kill_all(leader: Pid) -> u32 {
    u32::from(killpg(leader, Signal::SIGKILL).is_ok())
}

/// Kills a group whose supervising child has died.
pub fn kill_group(leader: i32) {
    let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
}
