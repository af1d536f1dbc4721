//! The supervising child: one small process for each command, which starts it, ends it and tells how it ended.
//!
//! It exists so that every descendant of a command belongs to that command (see `runner::tree`), and so that a command
//! never outlives its agent unseen: the end of the control socket is the end of the whole tree. The timeout is kept
//! here, not in the agent. What a command leaves running when it ends by itself is left alone.
//!
//! Threads block in one call each (reap, orders, standard input); the main thread waits for their events.

use super::runner::control::{Cause, KILL_MAX, Launch, Order, Report};
use super::runner::{program, tree};
use nix::unistd::Pid;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Events that may wait: a tree that loses many orphans at once blocks the reaping thread, nothing else.
const EVENTS_MAX: usize = 64;
/// Largest launch line, in bytes: a specification, and its escapes in JSON.
const LAUNCH_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Stack of the helping threads, in bytes: they call one function each.
const STACK_BYTES: usize = 128 * 1024;
/// Between two rounds of killing: what was born between look and kill is found in the next round.
const KILL_ROUND: Duration = Duration::from_millis(10);

enum Event {
    Reaped(tree::Reaped),
    TreeGone,
    Order(Order),
    AgentGone,
}

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
    let mut control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    tree::become_root()?;
    let mut orders = BufReader::new(control.try_clone()?);
    let mut line = Vec::new();
    (&mut orders).take(LAUNCH_BYTES_MAX).read_until(b'\n', &mut line)?;
    let launch: Launch = serde_json::from_slice(&line)?;
    let mut child = match program::start(&launch.spec, &launch.secrets, tree::prepare) {
        Ok(child) => child,
        Err(reason) => return report(&mut control, &Report::NotStarted { reason }),
    };
    let started = Instant::now();
    let leader = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let run = Run { leader, started, timeout: Duration::from_millis(launch.spec.timeout_ms) };
    let ended = match watch(&mut child, &launch, &mut control, orders) {
        Ok(events) => run.follow(&events, Duration::from_millis(launch.grace_ms)),
        // The agent died at this very moment, or there are no threads to be had: leave nothing behind.
        Err(_) => run.abandon(),
    };
    // The agent may be gone; there is nobody else to tell.
    let _ = report(&mut control, &ended);
    Ok(())
}

/// Everything between the birth of the command and the watch over it.
fn watch(
    child: &mut Child,
    launch: &Launch,
    control: &mut UnixStream,
    orders: BufReader<UnixStream>,
) -> io::Result<Receiver<Event>> {
    release_output()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    report(control, &Report::Started { pid })?;
    tree::outlast_signals()?;
    let (sender, events) = sync_channel(EVENTS_MAX);
    feed(child, launch)?;
    let reaping = sender.clone();
    helper("orders", move || listen(orders, &sender))?;
    // Last: who else reaps would take the end of the command from `abandon`.
    helper("reap", move || reap(&reaping))?;
    Ok(events)
}

fn report(control: &mut UnixStream, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    control.write_all(&line)
}

/// Lets go of the command's pipes: the agent sees their end when the command's own processes are gone.
fn release_output() -> io::Result<()> {
    let nothing = OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&nothing)?;
    nix::unistd::dup2_stderr(&nothing)?;
    Ok(())
}

fn helper(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(body).map(drop)
}

fn feed(child: &mut Child, launch: &Launch) -> io::Result<()> {
    let (Some(mut pipe), Some(text)) = (child.stdin.take(), launch.spec.stdin.clone()) else { return Ok(()) };
    helper("stdin", move || {
        // A command that does not read to the end is none of our business.
        let _ = pipe.write_all(text.as_bytes());
    })
}

fn reap(events: &SyncSender<Event>) {
    while let Some(reaped) = tree::reap() {
        if events.send(Event::Reaped(reaped)).is_err() {
            return;
        }
    }
    let _ = events.send(Event::TreeGone);
}

fn listen(orders: BufReader<UnixStream>, events: &SyncSender<Event>) {
    for line in orders.lines().map_while(Result::ok) {
        if let Ok(order) = serde_json::from_str(&line)
            && events.send(Event::Order(order)).is_err()
        {
            return;
        }
    }
    let _ = events.send(Event::AgentGone);
}

struct Run {
    leader: Pid,
    started: Instant,
    timeout: Duration,
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
    fn follow(&self, events: &Receiver<Event>, grace: Duration) -> Report {
        let mut ending: Option<Ending> = None;
        let mut leader_end: Option<LeaderEnd> = None;
        loop {
            let due = ending.as_ref().map_or(self.started + self.timeout, |ending| ending.kill_at);
            match events.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(Event::Reaped(reaped)) => {
                    if leader_end.is_none() && self.is_leader(&reaped) {
                        let end = self.end_of(&reaped);
                        if ending.is_none() {
                            return self.ended(None, Some(end), 0);
                        }
                        leader_end = Some(end);
                    }
                }
                Ok(Event::TreeGone) => return self.ended(ending.as_ref(), leader_end, 0),
                Ok(Event::Order(order)) => {
                    self.order(&mut ending, order.end, Duration::from_millis(order.grace_ms));
                }
                Ok(Event::AgentGone) => self.order(&mut ending, Cause::Stop, Duration::ZERO),
                Err(RecvTimeoutError::Timeout) => match &mut ending {
                    None => self.order(&mut ending, Cause::Timeout, grace),
                    Some(begun) => {
                        if let Some(unkilled) = self.kill_round(begun) {
                            return self.ended(Some(begun), leader_end, unkilled);
                        }
                    }
                },
                // The helpers are gone, which only a bug does: leave nothing behind.
                Err(RecvTimeoutError::Disconnected) => return self.abandon(),
            }
        }
    }

    /// Kills everything without the helpers.
    fn abandon(&self) -> Report {
        let give_up_at = Instant::now() + KILL_MAX;
        let mut left = tree::kill_all(self.leader);
        while left > 0 && Instant::now() < give_up_at {
            std::thread::sleep(KILL_ROUND);
            // The dead must be reaped to be no longer counted.
            while tree::reap_one() {}
            left = tree::kill_all(self.leader);
        }
        let stopped = Ending { cause: Cause::Stop, kill_at: give_up_at, give_up_at: None };
        self.ended(Some(&stopped), None, left)
    }

    fn is_leader(&self, reaped: &tree::Reaped) -> bool {
        reaped.pid == self.leader || (reaped.pid.as_raw() == 0 && !tree::is_alive(self.leader))
    }

    fn end_of(&self, reaped: &tree::Reaped) -> LeaderEnd {
        LeaderEnd { exit_code: reaped.exit_code, signal: reaped.signal, after: self.started.elapsed() }
    }

    /// The first order sends the polite signal; a later one can only shorten the grace. A process that has ended by
    /// itself is not ended again: its true outcome is on its way.
    fn order(&self, ending: &mut Option<Ending>, cause: Cause, grace: Duration) {
        let kill_at = Instant::now() + grace;
        match ending {
            Some(begun) => begun.kill_at = begun.kill_at.min(kill_at),
            None if tree::is_alive(self.leader) => {
                tree::terminate(self.leader);
                *ending = Some(Ending { cause, kill_at, give_up_at: None });
            }
            None => {}
        }
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
        let leader = leader.unwrap_or(LeaderEnd { after: self.started.elapsed(), ..LeaderEnd::default() });
        Report::Ended {
            cause: ending.map(|ending| ending.cause),
            exit_code: leader.exit_code,
            signal: leader.signal,
            duration_ms: u64::try_from(leader.after.as_millis()).unwrap_or(u64::MAX),
            unkilled,
        }
    }
}
