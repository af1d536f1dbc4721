//! A command's process tree on Linux: every descendant, also those that left the group or the session.
//!
//! The supervising child is a subreaper, so whatever loses its parent becomes its child: the tree below it is the
//! command's, whole, and nothing else's.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes this process the root of the tree to come: its own session without a terminal, and a subreaper.
///
/// # Errors
/// What the kernel says.
pub fn become_root() -> Result<(), Errno> {
    // Already a session's leader (started by hand): as good.
    match nix::unistd::setsid() {
        Ok(_) | Err(Errno::EPERM) => {}
        Err(error) => return Err(error),
    }
    nix::sys::prctl::set_child_subreaper(true)
}

/// From now on signals that stop a service do not end this process: it ends when its work is done. Call it after the
/// command was spawned (it would inherit the mask).
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

/// Whether the process has not ended. A zombie has.
pub fn is_alive(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
}

/// How a reaped process ended.
#[derive(Clone, Copy, Debug)]
pub struct Reaped {
    /// Which; 0: not known.
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

/// Looks for a child that has ended, inherited ones too. Does not wait.
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
            // Ended by a real-time signal, for which `nix` has no name: it is reaped, but not told who it was.
            Err(Errno::EINVAL) => return Look::Reaped(Reaped { pid: Pid::from_raw(0), exit_code: None, signal: None }),
            Err(_) => return Look::Gone,
        }
    }
}

/// The polite signal to the whole tree.
pub fn terminate(leader: Pid) {
    signal_all(leader, Signal::SIGTERM);
}

/// Kills the whole tree as it is now; what was born meanwhile is for the next call. Returns how many there were.
pub fn kill_all(leader: Pid) -> u32 {
    signal_all(leader, Signal::SIGKILL)
}

/// Kills a group whose supervising child has died: all that can be found without it.
pub fn kill_group(leader: i32) {
    let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
}

fn signal_all(leader: Pid, signal: Signal) -> u32 {
    let tree = descendants();
    // The group at once, so that its members do not see each other die one by one.
    let group_has_it = is_alive(leader) && killpg(leader, signal).is_ok();
    for pid in &tree {
        let in_group = nix::unistd::getpgid(Some(*pid)).is_ok_and(|group| group == leader);
        // Twice would run a shell's trap twice.
        if !(group_has_it && in_group) {
            let _ = kill(*pid, signal);
        }
        // A stopped process acts on the signal only when somebody continues it.
        let _ = kill(*pid, Signal::SIGCONT);
    }
    u32::try_from(tree.len()).unwrap_or(u32::MAX)
}

/// All living descendants of this process.
fn descendants() -> BTreeSet<Pid> {
    let mut found = BTreeSet::new();
    let mut parents = vec![nix::unistd::getpid()];
    while let Some(parent) = parents.pop() {
        for child in children(parent) {
            if found.insert(child) {
                parents.push(child);
            }
        }
    }
    found
}

fn children(parent: Pid) -> Vec<Pid> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{parent}/task")) else { return Vec::new() };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        let text = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
    }
    found
}
