//! A release as a child of the installed agent: started, listened to, ended.
//!
//! What two releases have to say to each other is little, because their versions differ: the child is started with the
//! arguments of its parent and a flag; the end of its standard input is the end of its parent; on its standard output it says
//! `proven`. Its standard error goes to ours, and the end of it is kept to tell why it ended.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

/// How much of what it said last is kept, in bytes.
const TAIL_BYTES: usize = 2048;
/// How much of that is told, in characters.
const TOLD_CHARS: usize = 600;
/// How long it may take to end when asked to: its commands are ended first.
const END_MAX: Duration = Duration::from_secs(25);
/// How long what it has said may still be on its way when it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The process.
#[derive(Debug)]
pub struct Child {
    child: tokio::process::Child,
    proven: CancellationToken,
    said: CancellationToken,
    tail: Arc<Mutex<Vec<u8>>>,
    // Its end is our end: kept open, which waiting for the child alone would not do.
    _stdin: Option<ChildStdin>,
}

impl Child {
    /// Starts it with our own arguments and these.
    ///
    /// # Errors
    /// The operating system's.
    #[allow(clippy::disallowed_methods)] // Both tasks end with the child's pipes.
    pub fn start(executable: &Path, flags: &[&str]) -> io::Result<Self> {
        let mut command = Command::new(executable);
        command.args(std::env::args_os().skip(1)).args(flags).arg0("postrider");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A signal from the terminal goes to us; we pass it on, once.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (proven, said) = (CancellationToken::new(), CancellationToken::new());
        let tail = Arc::<Mutex<Vec<u8>>>::default();
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            tokio::spawn(listen(stdout, proven.clone()));
            tokio::spawn(pass_on(stderr, Arc::clone(&tail), said.clone()));
        }
        let stdin = child.stdin.take();
        Ok(Self { child, proven, said, tail, _stdin: stdin })
    }

    /// Cancelled when it says that it has proven itself.
    pub fn proof(&self) -> CancellationToken {
        self.proven.clone()
    }

    /// Whether it has.
    pub fn is_proven(&self) -> bool {
        self.proven.is_cancelled()
    }

    /// Waits for its end. May be dropped while it waits.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end, kills it if it does not, and waits until it has gone.
    pub async fn end(&mut self) {
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended this moment.
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        if tokio::time::timeout(END_MAX, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    /// What it said last, in one line.
    pub async fn last_words(&self) -> String {
        let _ = tokio::time::timeout(LAST_WORDS, self.said.cancelled()).await;
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&tail);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let skip = words.chars().count().saturating_sub(TOLD_CHARS);
        words.chars().skip(skip).collect()
    }
}

async fn listen(stdout: ChildStdout, proven: CancellationToken) {
    let mut lines = BufReader::new(stdout).lines();
    // What is not known comes from a newer release.
    while let Ok(Some(line)) = lines.next_line().await {
        if line == "proven" {
            proven.cancel();
        }
    }
}

async fn pass_on(mut stderr: ChildStderr, tail: Arc<Mutex<Vec<u8>>>, said: CancellationToken) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        // As long as our own log takes it.
        let _ = io::stderr().write_all(&buffer[..read]);
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&buffer[..read]);
        let over = tail.len().saturating_sub(TAIL_BYTES);
        tail.drain(..over);
    }
    said.cancel();
}
