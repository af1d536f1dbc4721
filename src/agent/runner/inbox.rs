//! What reaches a supervising child: its launch, orders, deaths of children, and that the command takes more text.
//!
//! One thread waits for all of it; nothing here blocks but [`Inbox::launch`] and [`Inbox::wait`].

use super::control::{Cause, Launch, Order, Report};
use super::ready;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use signal_hook::consts::SIGCHLD;
use std::io::{self, BufRead, BufReader, ErrorKind, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ChildStdin;
use std::time::Duration;

/// Largest launch line, in bytes: a specification, and its escapes in JSON.
const LAUNCH_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// What may wait to become whole orders, in bytes: an order is a word and a number, and what comes with the launch is less
/// than the buffer of its reader. Who says more is no agent.
const SAID_BYTES_MAX: usize = 16 * 1024;

/// The files that a supervising child waits for.
#[derive(Debug)]
pub struct Inbox {
    control: UnixStream,
    /// Whether the agent may still say something.
    open: bool,
    /// What it has said and nobody has read: an order that is not whole yet.
    said: Vec<u8>,
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
        Ok(Self { control, open: true, said: Vec::new(), deaths, text: None })
    }

    /// Waits for what the agent says first.
    ///
    /// # Errors
    /// It went without a word, or is no agent.
    pub fn launch(&mut self) -> io::Result<Launch> {
        let mut reader = BufReader::new(&self.control);
        let mut line = Vec::new();
        (&mut reader).take(LAUNCH_BYTES_MAX).read_until(b'\n', &mut line)?;
        self.said = reader.buffer().to_vec();
        Ok(serde_json::from_slice(&line)?)
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
        let gone = agent && !self.hear();
        let mut orders = self.orders();
        if gone {
            self.open = false;
            orders.push(Order { end: Cause::Stop, grace_ms: 0 });
        }
        orders
    }

    /// Reads what the agent says. False: it has gone.
    fn hear(&mut self) -> bool {
        let mut bytes = [0; 512];
        match self.control.read(&mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                self.said.extend_from_slice(&bytes[..count]);
                self.said.len() <= SAID_BYTES_MAX
            }
            Err(error) => error.kind() == ErrorKind::Interrupted,
        }
    }

    /// The whole lines of what it said.
    fn orders(&mut self) -> Vec<Order> {
        let mut orders = Vec::new();
        while let Some(length) = self.said.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.said.drain(..=length).collect();
            orders.extend(serde_json::from_slice::<Order>(&line));
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
