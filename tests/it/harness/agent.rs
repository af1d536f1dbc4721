//! A real agent as a process.

use super::api::Api;
use super::process::{CRASH_AT, Process, postrider};
use super::proxy::Proxy;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// An agent process and its folder.
pub struct TestAgent {
    /// The process.
    pub process: Process,
    /// Its data folder.
    pub data: PathBuf,
    _folder: TempDir,
    // Elsewhere: the data folder's disk may be full.
    log: TempDir,
}

fn spawn(data: &Path, log: &Path, name: &str, join: Option<&str>, crash_at: Option<&str>) -> Process {
    spawn_with(data, log, name, join, crash_at, &[])
}

fn spawn_with(
    data: &Path,
    log: &Path,
    name: &str,
    join: Option<&str>,
    crash_at: Option<&str>,
    flags: &[&str],
) -> Process {
    let mut command = postrider();
    command.envs(crash_at.map(|point| (CRASH_AT, point)));
    command.arg("agent").arg("--data").arg(data).arg("--name").arg(name).args(flags);
    if let Some(join) = join {
        command.env("POSTRIDER_JOIN", join);
    }
    Process::spawn(command, log.join("agent.log"))
}

impl TestAgent {
    /// Enrolls at `api`'s server under `name` and waits until it is online.
    pub async fn start(api: &Api, name: &str) -> Self {
        Self::start_in(TempDir::new().unwrap(), api, name).await
    }

    /// The same in this folder.
    pub async fn start_in(folder: TempDir, api: &Api, name: &str) -> Self {
        let agent = Self::launch_in(folder, &api.join().await, name);
        agent.online(api, name).await;
        agent
    }

    /// The same for one that knows the server's address as the proxy's.
    pub async fn start_behind(api: &Api, name: &str, proxy: &Proxy) -> Self {
        let body = json!({ "server_url": format!("http://{}", proxy.address) });
        let join = api.call("POST", "/api/join", body).await.json();
        let agent = Self::launch(join["join"].as_str().unwrap(), name);
        agent.online(api, name).await;
        agent
    }

    /// The same with these flags.
    pub async fn start_with(api: &Api, name: &str, flags: &[&str]) -> Self {
        let (folder, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let data = folder.path().join("agent");
        let process = spawn_with(&data, log.path(), name, Some(&api.join().await), None, flags);
        let agent = Self { process, data, _folder: folder, log };
        agent.online(api, name).await;
        agent
    }

    async fn online(&self, api: &Api, name: &str) {
        super::eventually::eventually(&format!("{name} enrolled and online"), || async {
            let reply = api.call("GET", &format!("/api/agents/{name}"), Value::Null).await;
            (reply.status == 200 && reply.json()["online"] == true).then_some(())
        })
        .await;
    }

    /// A file beside its folder, for commands that tell of their runs.
    pub fn runs(&self) -> PathBuf {
        self.data.with_file_name("runs")
    }

    /// The lines of that file.
    pub fn told(&self) -> Vec<String> {
        std::fs::read_to_string(self.runs()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Starts one with this join string and waits for nothing.
    pub fn launch(join: &str, name: &str) -> Self {
        Self::launch_in(TempDir::new().unwrap(), join, name)
    }

    fn launch_in(folder: TempDir, join: &str, name: &str) -> Self {
        let (data, log) = (folder.path().join("agent"), TempDir::new().unwrap());
        Self { process: spawn(&data, log.path(), name, Some(join), None), data, _folder: folder, log }
    }

    /// Copies the data folder as it is now, as a cloned disk would; starts nothing.
    pub fn copy_of_data(&self) -> TempDir {
        let folder = TempDir::new().unwrap();
        let copy = folder.path().join("agent");
        assert!(Command::new("cp").arg("-a").args([&self.data, &copy]).status().unwrap().success());
        folder
    }

    /// Starts one on a folder that has a copy of a data folder, and waits for nothing.
    pub fn on_copy(folder: TempDir, name: &str) -> Self {
        let data = folder.path().join("agent");
        let log = TempDir::new().unwrap();
        Self { process: spawn(&data, log.path(), name, None, None), data, _folder: folder, log }
    }

    /// Starts it again after its end.
    pub fn restart(&mut self, name: &str) {
        self.restart_until(name, None);
    }

    /// The same for one that dies at this crash point, if there is one.
    pub fn restart_until(&mut self, name: &str, crash_at: Option<&str>) {
        self.process.kill();
        self.process = spawn(&self.data, self.log.path(), name, None, crash_at);
    }

    /// How many deliveries its journal holds that the server has not let go of.
    pub fn held(&self) -> u32 {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let journal = rusqlite::Connection::open_with_flags(self.data.join("journal.db"), flags).unwrap();
        journal.query_row("SELECT count(*) FROM deliveries WHERE stored = 0", [], |row| row.get(0)).unwrap()
    }
}
