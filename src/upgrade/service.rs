//! Stopping and starting the server: by its unit, or by a program where there is no systemd.

use super::error::UpgradeError;
use crate::cli::text::clean;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// How long a stop may take: longer than the unit's own limit, after which the server is killed.
const STOP_MAX: Duration = Duration::from_secs(60);
/// How long a question may take.
const ASK_MAX: Duration = Duration::from_secs(10);
/// So many lines of the server's log go into an error.
const LOG_LINES: usize = 12;

/// What stops and starts the server.
#[derive(Clone, Debug)]
pub enum Service {
    /// A unit of systemd.
    Unit(String),
    /// `PROGRAM stop` returns when the server has ended, or was not there; `PROGRAM start` when it has been started.
    Program(PathBuf),
}

impl Service {
    /// Stops the server, which drains.
    ///
    /// # Errors
    /// [`UpgradeError::Service`].
    pub async fn stop(&self) -> Result<(), UpgradeError> {
        let stopped = match self {
            Self::Unit(unit) => run("systemctl", &["stop", unit], STOP_MAX).await,
            Self::Program(program) => run(program, &["stop"], STOP_MAX).await,
        };
        stopped.map(drop).map_err(|why| UpgradeError::Service(format!("the server cannot be stopped: {why}")))
    }

    /// Starts it. With a unit it is ready then, or has failed; it is given `longest`.
    ///
    /// # Errors
    /// [`UpgradeError::Service`], with the end of its log.
    pub async fn start(&self, longest: Duration) -> Result<(), UpgradeError> {
        let started = match self {
            Self::Unit(unit) => {
                // A unit that has failed too often may be started again.
                let _ = run("systemctl", &["reset-failed", unit], ASK_MAX).await;
                run("systemctl", &["start", unit], longest).await
            }
            Self::Program(program) => run(program, &["start"], longest).await,
        };
        match started {
            Ok(_) => Ok(()),
            Err(why) => {
                let log = self.last_words().await;
                Err(UpgradeError::Service(format!("the server did not start: {why}{log}")))
            }
        }
    }

    /// The executable that runs now, if that can be told.
    pub async fn running(&self) -> Option<PathBuf> {
        let Self::Unit(unit) = self else { return None };
        let shown = run("systemctl", &["show", "--property=MainPID", "--value", unit], ASK_MAX).await.ok()?;
        let pid: u32 = String::from_utf8(shown.stdout).ok()?.trim().parse().ok()?;
        // It works after the file was replaced, too.
        (pid != 0).then(|| PathBuf::from(format!("/proc/{pid}/exe")))
    }

    /// The end of the server's log, a line each, or nothing.
    pub async fn last_words(&self) -> String {
        let Self::Unit(unit) = self else { return String::new() };
        let lines = LOG_LINES.to_string();
        let asked = ["--unit", unit, "--lines", &lines, "--output", "cat", "--no-pager"];
        let Ok(output) = run("journalctl", &asked, ASK_MAX).await else { return String::new() };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(|line| format!("\n  {}", clean(line))).collect()
    }
}

/// Runs a program to its end.
///
/// # Errors
/// Why it failed, in its own words.
pub async fn run(program: impl AsRef<std::ffi::OsStr>, args: &[&str], longest: Duration) -> Result<Output, String> {
    let mut command = Command::new(&program);
    command.args(args);
    finish(command, longest).await
}

/// The same for a command that is more than words.
///
/// # Errors
/// Why it failed, in its own words.
pub async fn finish(mut command: Command, longest: Duration) -> Result<Output, String> {
    let shown = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // A Ctrl-C in the terminal is not for what is half-way.
    #[cfg(unix)]
    command.process_group(0);
    let output = match timeout(longest, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("{shown}: {error}")),
        Err(_) => return Err(format!("{shown} did not end within {} s", longest.as_secs())),
    };
    if output.status.success() {
        return Ok(output);
    }
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let said: Vec<String> = said.lines().map(clean).collect();
    Err(if said.is_empty() { format!("{shown}: {}", output.status) } else { said.join("\n") })
}
