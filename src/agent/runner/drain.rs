//! Following a command from the agent's side: output into the spool, reports from the supervising child.
//!
//! One thread polls the two pipes and the control socket. It reads whether or not anybody can be told: a slow or
//! absent server never holds up a process. After the process has ended, its output is read to the end; where a process
//! that it left behind keeps a pipe open, until it is quiet for a moment.

use super::control::{KILL_MAX, REPORT_BYTES_MAX, Report};
use super::{ready, tree};
use crate::agent::spool::Spool;
use crate::protocol::output::Stream;
use nix::poll::PollFlags;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Read at once from a pipe, in bytes: what a Linux pipe holds.
const READ_BYTES: usize = 64 * 1024;
/// After the process's end an open pipe that stays silent this long is given up: whoever holds it is a background
/// process. Shorter could cut output of a pipeline's last member.
const QUIET: Duration = Duration::from_millis(250);
/// And one that does not stop talking is given up after this long.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// How much later than it should a supervising child may report before it is taken for stuck.
const SUPERVISOR_EXTRA: Duration = Duration::from_secs(15);

/// How a command ended, as far as it is known.
#[derive(Debug, Default)]
pub struct End {
    /// The last report; none: the supervising child died without one.
    pub report: Option<Report>,
    /// The process, if it was started.
    pub pid: Option<i32>,
    /// A background process kept the output open.
    pub left_running: bool,
    /// Why output could not be kept.
    pub output_error: Option<String>,
    /// The supervising child did not answer in time.
    pub supervisor_late: bool,
}

impl End {
    /// It never ran.
    pub fn not_started(reason: String) -> Self {
        Self { report: Some(Report::NotStarted { reason }), ..Self::default() }
    }

    /// Nothing is left of it, and its supervising child takes the next command.
    pub fn is_clean(&self) -> bool {
        matches!(self.report, Some(Report::Ended { again: true, .. })) && !self.left_running && !self.supervisor_late
    }

    /// Without its supervising child only the group can be found.
    pub fn kill_what_can_be_found(&self) {
        if let Some(pid) = self.pid {
            tree::kill_group(pid);
        }
    }
}

struct Pipe {
    stream: Stream,
    file: Option<File>,
}

/// Reads until the command has ended and its output too. `patience` is how long it may take, its timeout and grace.
pub fn drain(
    control: &UnixStream,
    stdout: OwnedFd,
    stderr: OwnedFd,
    patience: Duration,
    spool: &Spool,
    progress: impl Fn(),
) -> End {
    let mut pipes = [
        Pipe { stream: Stream::Stdout, file: Some(File::from(stdout)) },
        Pipe { stream: Stream::Stderr, file: Some(File::from(stderr)) },
    ];
    let mut reports = Reports { control: Some(control), line: Vec::new() };
    let mut end = End::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut ended_at: Option<Instant> = None;
    // Before the end: when the child is late. After it: when an open pipe is given up.
    let mut due = Instant::now() + patience + KILL_MAX + SUPERVISOR_EXTRA;
    loop {
        let ready = wait(&pipes, &reports, due);
        for pipe in pipes.iter_mut().filter(|pipe| ready.has(pipe.stream)) {
            if pipe.pump(&mut buffer, spool, &mut end) {
                progress();
                if let Some(ended_at) = ended_at {
                    due = (Instant::now() + QUIET).min(ended_at + QUIET_MAX);
                }
            }
        }
        if ready.control && reports.read(&mut end) && ended_at.is_none() {
            let now = Instant::now();
            ended_at = Some(now);
            due = now + QUIET;
            if end.report.is_none() {
                end.kill_what_can_be_found();
            }
        }
        let open = pipes.iter().any(|pipe| pipe.file.is_some());
        match ended_at {
            Some(_) if !open => return end,
            Some(_) if Instant::now() >= due => {
                end.left_running = true;
                return end;
            }
            None if Instant::now() >= due => {
                end.supervisor_late = true;
                return end;
            }
            _ => {}
        }
    }
}

#[derive(Default)]
struct Ready {
    stdout: bool,
    stderr: bool,
    control: bool,
}

impl Ready {
    fn has(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }
}

fn wait(pipes: &[Pipe; 2], reports: &Reports<'_>, due: Instant) -> Ready {
    let [stdout, stderr] = pipes;
    let sources: [Option<BorrowedFd<'_>>; 3] = [
        stdout.file.as_ref().map(AsFd::as_fd),
        stderr.file.as_ref().map(AsFd::as_fd),
        reports.control.map(AsFd::as_fd),
    ];
    let sources = sources.map(|source| source.map(|fd| (fd, PollFlags::POLLIN)));
    let [stdout, stderr, control] = ready::wait(sources, due.saturating_duration_since(Instant::now()));
    Ready { stdout, stderr, control }
}

impl Pipe {
    /// Moves what there is into the spool. True: there was something.
    fn pump(&mut self, buffer: &mut [u8], spool: &Spool, end: &mut End) -> bool {
        let Some(file) = &mut self.file else { return false };
        match file.read(buffer) {
            Ok(0) => {
                self.file = None;
                false
            }
            Ok(count) => {
                if let Err(error) = spool.append(self.stream, &buffer[..count]) {
                    end.output_error.get_or_insert(format!("{} could not be kept: {error}", self.stream));
                }
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => false,
            Err(_) => {
                self.file = None;
                false
            }
        }
    }
}

struct Reports<'a> {
    control: Option<&'a UnixStream>,
    line: Vec<u8>,
}

impl Reports<'_> {
    /// Reads what there is. True: no more reports come.
    fn read(&mut self, end: &mut End) -> bool {
        let Some(mut control) = self.control else { return true };
        let mut bytes = [0; 512];
        let count = match control.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return false,
            Err(_) => 0,
        };
        if count == 0 || self.line.len() > REPORT_BYTES_MAX {
            self.control = None;
            return true;
        }
        self.line.extend_from_slice(&bytes[..count]);
        while let Some(length) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=length).collect();
            match serde_json::from_slice(&line) {
                Ok(Report::Started { pid }) => end.pid = Some(pid),
                Ok(report) => {
                    end.report = Some(report);
                    self.control = None;
                    return true;
                }
                Err(_) => {}
            }
        }
        false
    }
}
