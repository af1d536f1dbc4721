//! What reaches a supervising child: its launch, orders, deaths of children, and that the command takes more text.
//!
//! One thread waits for all of it; nothing here blocks but [`Inbox::launch`] and [`Inbox::wait`].

use super::control::{Cause, Launch, Order, Report, Word};
use super::hand_over::{self, FILES_MAX};
use super::ready;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use signal_hook::consts::SIGCHLD;
use std::io::{self, ErrorKind, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ChildStdin;
use std::time::Duration;

/// Largest launch line, in bytes: a specification, and its escapes in JSON.
const LAUNCH_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;
/// What may wait to become whole orders, in bytes: an order is a word and some numbers, and what comes in one breath with the
/// launch is less than is read at once. Who says more is no agent.
const ORDERS_BYTES_MAX: usize = 2 * READ_BYTES;

/// The files that a supervising child waits for.
#[derive(Debug)]
pub struct Inbox {
    control: UnixStream,
    /// Whether the agent may still say something.
    open: bool,
    /// What it has said and nobody has read: a word that is not whole yet.
    said: Vec<u8>,
    /// The files that came with it.
    files: Vec<OwnedFd>,
    /// The latest launch.
    run: u64,
    deaths: PipeReader,
    text: Option<Text>,
}

/// What the command has not taken of its standard input.
#[derive(Debug)]
struct Text {
    pipe: ChildStdin,
    text: String,
    written: usize,
}

impl Inbox {
    /// From now on no death of a child is missed.
    ///
    /// # Errors
    /// No file descriptors are to be had.
    pub fn new(control: UnixStream) -> io::Result<Self> {
        let (deaths, teller) = io::pipe()?;
        // It writes a byte for each SIGCHLD. A command does not inherit handlers.
        signal_hook::low_level::pipe::register(SIGCHLD, teller)?;
        Ok(Self { control, open: true, said: Vec::new(), files: Vec::new(), run: 0, deaths, text: None })
    }

    /// Waits for the next launch and its files: the command's standard output and error. None: the agent has gone.
    ///
    /// # Errors
    /// It is no agent.
    pub fn launch(&mut self) -> io::Result<Option<(Launch, [OwnedFd; FILES_MAX])>> {
        self.text = None;
        loop {
            match self.word() {
                None if !self.hear(LAUNCH_BYTES_MAX)? => return Ok(None),
                None => {}
                Some(word) => {
                    // An order here came too late for the last run.
                    if let Word::Launch(launch) = word? {
                        self.run = launch.run;
                        let files = std::mem::take(&mut self.files).try_into();
                        let files = files.map_err(|_| io::Error::other("a launch comes with two files"))?;
                        return Ok(Some((*launch, files)));
                    }
                }
            }
        }
    }

    /// Says something to the agent.
    ///
    /// # Errors
    /// It has gone.
    pub fn report(&mut self, report: &Report) -> io::Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        self.control.write_all(&line)
    }

    /// Gives the command this text and then the end of its standard input, as it takes it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn feed(&mut self, pipe: ChildStdin, text: String) -> io::Result<()> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        self.text = Some(Text { pipe, text, written: 0 });
        Ok(())
    }

    /// Waits for something to happen, at most for `longest`; a child that died since the last call has happened. Returns
    /// what the agent orders. One that has gone orders the end at once.
    pub fn wait(&mut self, longest: Duration) -> Vec<Order> {
        let agent = self.open.then(|| (self.control.as_fd(), PollFlags::POLLIN));
        let deaths = Some((self.deaths.as_fd(), PollFlags::POLLIN));
        let text = self.text.as_ref().map(|text| (text.pipe.as_fd(), PollFlags::POLLOUT));
        // An order may have come in one breath with the launch.
        let longest = if self.said.contains(&b'\n') { Duration::ZERO } else { longest };
        let [agent, deaths, text] = ready::wait([agent, deaths, text], longest);
        if deaths {
            // Bytes that are left wake once more, for nothing.
            let _ = self.deaths.read(&mut [0; 64]);
        }
        if text && self.text.as_mut().is_some_and(Text::is_over) {
            self.text = None;
        }
        let gone = agent && !self.hear(ORDERS_BYTES_MAX).unwrap_or(false);
        let mut orders = self.orders();
        if gone {
            self.open = false;
            orders.push(Order { run: self.run, end: Cause::Stop, grace_ms: 0 });
        }
        orders
    }

    /// Reads what the agent says, up to `most` bytes that are no whole word. False: it has gone.
    fn hear(&mut self, most: usize) -> io::Result<bool> {
        let mut bytes = [0; READ_BYTES];
        match hand_over::receive(&self.control, &mut bytes, &mut self.files) {
            Ok(0) => Ok(false),
            Ok(count) if self.said.len() + count <= most => {
                self.said.extend_from_slice(&bytes[..count]);
                Ok(true)
            }
            Ok(_) => Err(io::Error::other("that is more than an agent says")),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The next of what it said, if it is whole.
    fn word(&mut self) -> Option<serde_json::Result<Word>> {
        let length = self.said.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.said.drain(..=length).collect();
        Some(serde_json::from_slice(&line))
    }

    /// What it said about this run.
    fn orders(&mut self) -> Vec<Order> {
        let mut orders = Vec::new();
        while let Some(word) = self.word() {
            match word {
                Ok(Word::End(order)) if order.run == self.run => orders.push(order),
                _ => {}
            }
        }
        orders
    }
}

impl Text {
    /// Writes what the command takes now. True: that was all, or it takes no more, which is none of our business.
    fn is_over(&mut self) -> bool {
        match self.pipe.write(&self.text.as_bytes()[self.written..]) {
            Ok(count) => self.written += count,
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
        self.written == self.text.len()
    }
}
