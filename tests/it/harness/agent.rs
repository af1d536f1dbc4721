//! A real agent as a process.

use super::api::Api;
use super::process::{Process, postrider};
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
}

fn spawn(data: &Path, name: &str, join: Option<&str>) -> Process {
    let mut command = postrider();
    command.arg("agent").arg("--data").arg(data).arg("--name").arg(name);
    if let Some(join) = join {
        command.env("POSTRIDER_JOIN", join);
    }
    Process::spawn(command, data.with_extension("log"))
}

impl TestAgent {
    /// Enrolls at `api`'s server under `name` and waits until it is online.
    pub async fn start(api: &Api, name: &str) -> Self {
        let agent = Self::launch(&api.join().await, name);
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
        let folder = TempDir::new().unwrap();
        let data = folder.path().join("agent");
        Self { process: spawn(&data, name, Some(join)), data, _folder: folder }
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
        Self { process: spawn(&data, name, None), data, _folder: folder }
    }

    /// Starts it again after its end.
    pub fn restart(&mut self, name: &str) {
        self.process.kill();
        self.process = spawn(&self.data, name, None);
    }
}
