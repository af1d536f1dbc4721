//! A server and agents as children of this process, in a temporary folder: for the demo and the load generator.
//!
//! Each child's standard input is a pipe that we hold: when it ends, by our will or by our death, the child stops.
//! So nothing is left behind, not even after `kill -9` of this process.

use super::access;
use super::client::ApiClient;
use super::error::CliError;
use super::text::clean;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long the server may take to come up: its first start makes a database and keys.
const START_MAX: Duration = Duration::from_secs(20);
/// How long children may take to stop by themselves before they are killed.
const STOP_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// The server's name among the children.
const SERVER: &str = "server";
/// How much of a log is shown when a child fails, in lines.
const LOG_LINES: usize = 20;

/// One child.
#[derive(Debug)]
struct Part {
    name: String,
    child: Child,
    log: PathBuf,
}

/// The folder and the children in it, the server first.
#[derive(Debug)]
pub struct Site {
    folder: TempDir,
    program: PathBuf,
    parts: Vec<Part>,
}

impl Site {
    /// An empty one, in a folder whose name begins with `prefix` in `parent`.
    ///
    /// # Errors
    /// [`CliError::Child`].
    pub fn new(prefix: &str, parent: &Path) -> Result<Self, CliError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let folder = builder.tempdir_in(parent).map_err(|error| failed("cannot make a temporary folder", &error))?;
        let program = std::env::current_exe().map_err(|error| failed("cannot find our own program", &error))?;
        Ok(Self { folder, program, parts: Vec::new() })
    }

    /// This program's path.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The server's data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("server")
    }

    /// Starts the server with these flags and waits until it answers.
    ///
    /// # Errors
    /// [`CliError::Child`] with the end of its log.
    pub async fn start_server(&mut self, flags: &[&str]) -> Result<ApiClient, CliError> {
        let data = self.data();
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--data").arg(&data).arg("--exit-with-stdin").args(flags);
        self.start(SERVER, command)?;
        let late = Instant::now() + START_MAX;
        loop {
            if let Ok(client) = access::of_folder(&data)
                && client.get_bytes("/healthz", super::error::About::Agents).await.is_ok()
            {
                return Ok(client);
            }
            self.check()?;
            if Instant::now() > late {
                return Err(self.gave_up(0, &format!("the server did not come up within {} s", START_MAX.as_secs())));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the server: in order, or as a crash would. The agents stay.
    pub async fn end_server(&mut self, crash: bool) {
        let Some(at) = self.parts.iter().position(|part| part.name == SERVER) else { return };
        let mut part = self.parts.remove(at);
        drop(part.child.stdin.take());
        if crash || timeout(STOP_MAX, part.child.wait()).await.is_err() {
            // Fails for one that has ended, which is as well.
            let _ = part.child.kill().await;
        }
    }

    /// Starts an agent with these flags. The join string goes through the environment: arguments are for everyone to see.
    ///
    /// # Errors
    /// [`CliError::Child`].
    pub fn start_agent(&mut self, name: &str, flags: &[&str], join: &str) -> Result<(), CliError> {
        let mut command = Command::new(&self.program);
        command.arg("agent").arg("--data").arg(self.folder.path().join(name)).args(["--name", name]);
        command.args(flags).arg("--exit-with-stdin").env("POSTRIDER_JOIN", join);
        self.start(name, command)
    }

    fn start(&mut self, name: &str, mut command: Command) -> Result<(), CliError> {
        let log = self.folder.path().join(format!("{name}.log"));
        let cannot = |error: std::io::Error| failed(&format!("cannot start {name}"), &error);
        let file = std::fs::File::create(&log).map_err(cannot)?;
        let copy = file.try_clone().map_err(cannot)?;
        command.stdin(Stdio::piped()).stdout(file).stderr(copy).kill_on_drop(true);
        // Of the caller's surroundings nothing may decide where our parts live.
        command.env_remove("POSTRIDER_DATA").env_remove("POSTRIDER_SERVER").env_remove("POSTRIDER_TOKEN");
        // A Ctrl-C in the terminal is ours to act on, in our order.
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn().map_err(cannot)?;
        let at = if name == SERVER { 0 } else { self.parts.len() };
        self.parts.insert(at, Part { name: name.to_owned(), child, log });
        Ok(())
    }

    /// Whether all children are still there.
    ///
    /// # Errors
    /// [`CliError::Child`] with the end of the log of one that is not.
    pub fn check(&mut self) -> Result<(), CliError> {
        for index in 0..self.parts.len() {
            let part = &mut self.parts[index];
            if let Ok(Some(status)) = part.child.try_wait() {
                let what = format!("{} ended: {status}", part.name);
                return Err(self.gave_up(index, &what));
            }
        }
        Ok(())
    }

    /// An error about the child at `index`, with the end of its log.
    pub fn gave_up(&self, index: usize, what: &str) -> CliError {
        let Some(part) = self.parts.get(index) else { return CliError::Child(what.to_owned()) };
        let log = std::fs::read(&part.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let tail: String =
            lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| format!("\n  {}", clean(line))).collect();
        if tail.is_empty() {
            CliError::Child(format!("{what}; it said nothing"))
        } else {
            CliError::Child(format!("{what}; the end of its log:{tail}"))
        }
    }

    /// Stops the agents, then the server, and removes the folder. `hurry` ends the patience.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        let parts = &mut self.parts;
        let gently = async {
            // Agents first, so that their last words are still heard.
            for range in [1..parts.len().max(1), 0..parts.len().min(1)] {
                let Some(parts) = parts.get_mut(range) else { continue };
                parts.iter_mut().for_each(|part| drop(part.child.stdin.take()));
                for part in parts {
                    // The exit code does not matter any more.
                    let _ = part.child.wait().await;
                }
            }
        };
        tokio::select! {
            _ = timeout(STOP_MAX, gently) => {}
            () = hurry => {}
        }
        for part in &mut self.parts {
            // Fails for one that has ended, which is as well.
            let _ = part.child.kill().await;
        }
        let path = self.folder.path().to_owned();
        if let Err(error) = self.folder.close() {
            super::out::note(&format!("postrider: {} could not be removed: {error}", path.display()));
        }
    }
}

fn failed(what: &str, error: &std::io::Error) -> CliError {
    CliError::Child(format!("{what}: {error}"))
}
