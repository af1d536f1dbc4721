//! The real binary as a process that can be killed at any moment.

use super::api::Api;
use super::eventually::eventually;
use super::server::owner_token;
use postrider::protocol::ids::ServerId;
use postrider::protocol::login::LoginString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Names the point at which a debug build dies.
pub const CRASH_AT: &str = "POSTRIDER_CRASH_AT";

/// The binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_postrider")
}

/// A command of the binary without the environment's settings.
pub fn postrider() -> Command {
    let mut command = Command::new(binary());
    for name in [
        "POSTRIDER_SERVER",
        "POSTRIDER_TOKEN",
        "POSTRIDER_DATA",
        "POSTRIDER_JOIN",
        "POSTRIDER_LOG",
        "POSTRIDER_LOG_FORMAT",
        CRASH_AT,
    ] {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", "/nonexistent").env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

/// A child that does not outlive its test.
pub struct Process {
    child: Child,
    /// Its standard output and error.
    pub log: PathBuf,
}

impl Process {
    /// Starts `command`, with its output in `log`.
    pub fn spawn(mut command: Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().unwrap(), log }
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for its end; answers the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        eventually("the process ended", || {
            let status = self.child.try_wait().unwrap();
            async move { status }
        })
        .await
        .code()
    }

    /// Whether it has ended, however.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Whether it has ended; it died as after `kill -9` then.
    pub fn has_died(&mut self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let Some(status) = self.child.try_wait().unwrap() else { return false };
        assert_eq!(status.signal(), Some(9), "{status}: {}", self.printed());
        true
    }

    /// What it has printed.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The address of a server, or its login string where it has pins.
pub fn known_by(url: String, data: &Path) -> String {
    let Ok(pins) = std::fs::read_to_string(data.join("pins")) else { return url };
    let pins = pins.lines().map(|pin| pin.parse().unwrap()).collect();
    LoginString { url, server_id: ServerId::new(), pins }.encode()
}

/// A server as a process.
pub struct ServerProcess {
    /// The process.
    pub process: Process,
    /// A client with the owner's token.
    pub api: Api,
}

impl ServerProcess {
    /// Starts one on `data`, on a free port or on the given one, and waits until it listens.
    pub async fn start(data: &Path, port: u16) -> Self {
        Self::start_until(data, port, None).await
    }

    /// The same for one that dies at this crash point, if there is one.
    pub async fn start_until(data: &Path, port: u16, crash_at: Option<&str>) -> Self {
        let mut command = postrider();
        command.envs(crash_at.map(|point| (CRASH_AT, point)));
        command.arg("serve").arg("--data").arg(data).arg("--listen").arg(format!("127.0.0.1:{port}"));
        let _ = std::fs::remove_file(data.join("listen"));
        Self::attach(Process::spawn(command, data.with_extension("log")), data).await
    }

    /// Takes over a server that was just started on `data`, and waits until it listens.
    pub async fn attach(process: Process, data: &Path) -> Self {
        let url = eventually("the server listens", || async {
            std::fs::read_to_string(data.join("listen")).ok().map(|url| url.trim().to_owned())
        })
        .await;
        Self { process, api: Api { url: known_by(url, data), token: owner_token(data) } }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.api.url.rsplit(':').next().unwrap().parse().unwrap()
    }
}
