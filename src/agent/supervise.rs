//! The supervising child: a small process which starts a command, ends it and tells how it ended. It has one command at a
//! time, and takes another one only if nothing at all is left of the last.
//!
//! It exists so that every descendant of a command belongs to that command (see `runner::tree`), and so that a command
//! never outlives its agent unseen: the end of the control socket is the end of the whole tree. The timeout is kept
//! here, not in the agent. What a command leaves running when it ends by itself is left alone.
//!
//! One thread does it all: it reaps, then waits for whatever comes first (`runner::inbox`), and acts.

use super::runner::control::{Cause, KILL_MAX, Launch, Report};
use super::runner::inbox::Inbox;
use super::runner::{program, tree};
use nix::unistd::Pid;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::{Duration, Instant};

/// Between two rounds of killing: what was born between look and kill is found in the next round.
const KILL_ROUND: Duration = Duration::from_millis(10);

/// The body of the hidden verb `supervise`. Returns the exit code, which nobody needs: reports go over the socket.
pub fn main() -> i32 {
    match supervise() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("postrider supervise is started by the agent, for its own use: {error}");
            1
        }
    }
}

fn supervise() -> io::Result<()> {
    // A copy that the command does not inherit; its own standard input takes the place of the original.
    let mut inbox = Inbox::new(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))?;
    tree::become_root()?;
    let nothing = OpenOptions::new().write(true).open("/dev/null")?;
    while let Some((launch, output)) = inbox.launch()? {
        if !run(launch, output, &nothing, &mut inbox)? {
            break;
        }
        // One that came meanwhile ends this process now. The agent finds that before it gives it anything.
        tree::heed_signals()?;
    }
    Ok(())
}

/// Runs one command to its end. True: nothing is left of it.
fn run(mut launch: Launch, output: [OwnedFd; 2], nothing: impl AsFd, inbox: &mut Inbox) -> io::Result<bool> {
    nix::unistd::dup2_stdout(&output[0])?;
    nix::unistd::dup2_stderr(&output[1])?;
    drop(output);
    let mut child = match program::start(&launch.spec, &launch.secrets, tree::prepare) {
        Ok(child) => child,
        Err(reason) => return inbox.report(&Report::NotStarted { reason }).map(|()| false),
    };
    let started = Instant::now();
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let timeout = Duration::from_millis(launch.spec.timeout_ms);
    let run = Run { leader: Pid::from_raw(pid), started, timeout, grace: Duration::from_millis(launch.grace_ms) };
    // If the agent died at this very moment, its silence will tell.
    let _ = inbox.report(&Report::Started { pid });
    let ending = match settle(&mut child, launch.spec.stdin.take(), nothing, inbox) {
        Ok(()) => None,
        // Leave nothing behind.
        Err(_) => run.end(Cause::Stop, Duration::ZERO),
    };
    let ended = run.follow(ending, inbox);
    // The agent may be gone; there is nobody else to tell.
    let told = inbox.report(&ended).is_ok();
    Ok(told && matches!(ended, Report::Ended { again: true, .. }))
}

/// What is left to do for a command that has been born.
fn settle(child: &mut Child, text: Option<String>, nothing: impl AsFd, inbox: &mut Inbox) -> io::Result<()> {
    // Lets go of the command's pipes: the agent sees their end when the command's own processes are gone.
    nix::unistd::dup2_stdout(&nothing)?;
    nix::unistd::dup2_stderr(&nothing)?;
    tree::outlast_signals()?;
    match (child.stdin.take(), text) {
        (Some(pipe), Some(text)) => inbox.feed(pipe, text),
        _ => Ok(()),
    }
}

struct Run {
    leader: Pid,
    started: Instant,
    timeout: Duration,
    /// From the polite signal to the kill at the timeout.
    grace: Duration,
}

/// A command that is being ended.
struct Ending {
    cause: Cause,
    /// The next round of killing.
    kill_at: Instant,
    /// When to stop killing; set by the first round.
    give_up_at: Option<Instant>,
}

#[derive(Clone, Copy, Default)]
struct LeaderEnd {
    exit_code: Option<i32>,
    signal: Option<i32>,
    after: Duration,
}

impl Run {
    fn follow(&self, mut ending: Option<Ending>, inbox: &mut Inbox) -> Report {
        let mut leader_end: Option<LeaderEnd> = None;
        loop {
            // Before the first wait, too, and one a turn: many that die at once hold up neither order nor timeout.
            let look = tree::look();
            match &look {
                tree::Look::Reaped(reaped) if leader_end.is_none() && self.is_leader(reaped) => {
                    let end = self.end_of(reaped);
                    if ending.is_none() {
                        return self.ended(None, Some(end), 0);
                    }
                    leader_end = Some(end);
                }
                tree::Look::Gone => return self.ended(ending.as_ref(), leader_end, 0),
                tree::Look::Reaped(_) | tree::Look::Alive => {}
            }
            let due = ending.as_ref().map_or(self.started + self.timeout, |ending| ending.kill_at);
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                match &mut ending {
                    None => ending = self.end(Cause::Timeout, self.grace),
                    Some(begun) => {
                        if let Some(unkilled) = self.kill_round(begun) {
                            return self.ended(Some(begun), leader_end, unkilled);
                        }
                    }
                }
            }
            let longest = if matches!(look, tree::Look::Alive) { left } else { Duration::ZERO };
            for order in inbox.wait(longest) {
                let grace = Duration::from_millis(order.grace_ms);
                match &mut ending {
                    // It can only shorten the grace.
                    Some(begun) => begun.kill_at = begun.kill_at.min(Instant::now() + grace),
                    None => ending = self.end(order.end, grace),
                }
            }
        }
    }

    fn is_leader(&self, reaped: &tree::Reaped) -> bool {
        reaped.pid == self.leader || (reaped.pid.as_raw() == 0 && !tree::is_alive(self.leader))
    }

    fn end_of(&self, reaped: &tree::Reaped) -> LeaderEnd {
        LeaderEnd { exit_code: reaped.exit_code, signal: reaped.signal, after: self.started.elapsed() }
    }

    /// Sends the polite signal. A process that has ended by itself is not ended again: its true outcome is on its way.
    fn end(&self, cause: Cause, grace: Duration) -> Option<Ending> {
        tree::is_alive(self.leader).then(|| {
            tree::terminate(self.leader);
            Ending { cause, kill_at: Instant::now() + grace, give_up_at: None }
        })
    }

    /// Kills what there is. Some: it has been tried for too long, and so many are left.
    fn kill_round(&self, begun: &mut Ending) -> Option<u32> {
        let now = Instant::now();
        let left = tree::kill_all(self.leader);
        let give_up_at = *begun.give_up_at.get_or_insert(now + KILL_MAX);
        begun.kill_at = now + KILL_ROUND;
        (now >= give_up_at).then_some(left)
    }

    fn ended(&self, ending: Option<&Ending>, leader: Option<LeaderEnd>, unkilled: u32) -> Report {
        let again = ending.is_none() && leader.is_some() && is_childless();
        let leader = leader.unwrap_or(LeaderEnd { after: self.started.elapsed(), ..LeaderEnd::default() });
        Report::Ended {
            cause: ending.map(|ending| ending.cause),
            exit_code: leader.exit_code,
            signal: leader.signal,
            duration_ms: u64::try_from(leader.after.as_millis()).unwrap_or(u64::MAX),
            unkilled,
            again,
        }
    }
}

/// Whether no process is left, but such as are not ours to reap.
fn is_childless() -> bool {
    loop {
        match tree::look() {
            tree::Look::Reaped(_) => {}
            tree::Look::Alive => return false,
            tree::Look::Gone => return true,
        }
    }
}
