//! A server and two agents as processes, any of which may die, and a file to which every run appends its name.

use super::agent::TestAgent;
use super::api::{Api, ENDS, id};
use super::eventually::{PATIENCE, PAUSE, eventually};
use super::process::ServerProcess;
use super::runs::Runs;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::time::Instant;

/// The agent that dies.
pub const VICTIM: &str = "web-1";
/// The one that has nothing to do with it.
pub const OTHER: &str = "web-2";
/// Scenes at a time: they mostly wait.
pub const AT_ONCE: usize = 8;
/// The story of a command that was sent once and ran.
pub const ONCE: &[&str] = &["queued", "dispatched", "accepted", "running", "succeeded"];
/// Commands that an agent runs at once.
const SLOTS: usize = 4;

/// The processes, and what they were asked to do.
pub struct Scene {
    /// What it is about, for messages.
    what: String,
    folder: TempDir,
    /// What ran.
    pub runs: Runs,
    /// The server.
    pub server: ServerProcess,
    /// [`VICTIM`].
    pub victim: TestAgent,
    /// [`OTHER`].
    pub other: TestAgent,
    /// Names and ids of all commands that were answered.
    submitted: Vec<(String, String)>,
}

impl Scene {
    /// Both agents are enrolled and online.
    pub async fn start(what: impl Into<String>) -> Self {
        let folder = TempDir::new().unwrap();
        let server = ServerProcess::start(&folder.path().join("server"), 0).await;
        let victim = TestAgent::start(&server.api, VICTIM).await;
        let other = TestAgent::start(&server.api, OTHER).await;
        let runs = Runs::new(folder.path());
        Self { what: what.into(), folder, runs, server, victim, other, submitted: Vec::new() }
    }

    /// The HTTP interface. It stays the same over restarts.
    pub fn api(&self) -> &Api {
        &self.server.api
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Kills the server and starts it again on the same port.
    pub async fn restart_server(&mut self, crash_at: Option<&str>) {
        let port = self.server.port();
        self.server.process.kill();
        self.server = ServerProcess::start_until(&self.file("server"), port, crash_at).await;
    }

    /// The same, and waits until both agents have come back.
    pub async fn arm_server(&mut self, crash_at: Option<&str>) {
        self.restart_server(crash_at).await;
        for agent in [VICTIM, OTHER] {
            self.api().until_online(agent, true).await;
        }
    }

    /// Kills the victim, starts it again and waits until it has come back.
    pub async fn arm_victim(&mut self, crash_at: Option<&str>) {
        let before = self.epoch().await;
        self.victim.restart_until(VICTIM, crash_at);
        self.until_newer_than(before).await;
    }

    /// The number of the victim's newest session.
    pub async fn epoch(&self) -> u64 {
        self.api().get(&format!("/api/agents/{VICTIM}")).await["epoch"].as_u64().unwrap()
    }

    /// Waits until the victim is online in a newer session than this.
    pub async fn until_newer_than(&self, epoch: u64) {
        eventually(&format!("{}: {VICTIM} came back", self.what), || async {
            let agent = self.api().get(&format!("/api/agents/{VICTIM}")).await;
            (agent["online"] == true && agent["epoch"].as_u64() > Some(epoch)).then_some(())
        })
        .await;
    }

    /// Submits once; none: it was not answered.
    pub async fn try_submit(&mut self, agent: &str, name: &str, rest: &str) -> Option<String> {
        let line = self.runs.line(name, rest);
        self.try_submit_line(agent, name, &line).await
    }

    async fn try_submit_line(&mut self, agent: &str, name: &str, line: &str) -> Option<String> {
        let body = json!({ "command": line, "timeout_s": 60 });
        let command = id(&self.api().try_submit(agent, name, &body).await?);
        if !self.submitted.contains(&(name.to_owned(), command.clone())) {
            self.submitted.push((name.to_owned(), command.clone()));
        }
        Some(command)
    }

    /// Submits until it is answered, under one idempotency key.
    pub async fn submit(&mut self, agent: &str, name: &str, rest: &str) -> String {
        let line = self.runs.line(name, rest);
        self.submit_line(agent, name, &line).await
    }

    async fn submit_line(&mut self, agent: &str, name: &str, line: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(command) = self.try_submit_line(agent, name, line).await {
                return command;
            }
            assert!(Instant::now() < until, "{}: {name} is not taken", self.what);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Fills all of the victim's slots with commands that run until they are [`released`](Self::release).
    pub async fn block(&mut self) {
        for number in 0..SLOTS {
            let name = format!("blocker-{number}");
            let line = self.runs.line_until(&name, &self.file(&format!("go-{name}")));
            let command = self.submit_line(VICTIM, &name, &line).await;
            self.api().until(&command, &["running"]).await;
        }
    }

    /// Lets so many blockers end.
    pub fn release(&self, blockers: usize) {
        for number in 0..blockers {
            std::fs::write(self.file(&format!("go-blocker-{number}")), "").unwrap();
        }
    }

    /// Waits until the victim has this command in its journal and has said so, or has died.
    pub async fn until_accepted_or_dead(&mut self, command: &str) {
        let api = self.api().clone();
        eventually(&format!("{}: accepted, or dead", self.what), || {
            let (api, dead) = (api.clone(), self.victim.process.has_died());
            async move { (dead || api.command(command).await["state"] == "accepted").then_some(()) }
        })
        .await;
    }

    /// Waits for the victim's death.
    pub async fn victim_died(&mut self) {
        let (what, process) = (format!("{}: {VICTIM} dies", self.what), &mut self.victim.process);
        eventually(&what, || std::future::ready(process.has_died().then_some(()))).await;
    }

    /// Waits for the server's death.
    pub async fn server_died(&mut self) {
        let (what, process) = (format!("{}: the server dies", self.what), &mut self.server.process);
        eventually(&what, || std::future::ready(process.has_died().then_some(()))).await;
    }

    /// Waits until server and victim have died once each, starts each again as soon as it has, and repeats the
    /// submission that the server may not have answered. What a victim's death makes unnecessary at the server comes
    /// with a second command.
    pub async fn both_died(&mut self, name: &str, rest: &str) {
        let (mut server, mut victim) = (false, false);
        let until = Instant::now() + PATIENCE;
        while !(server && victim) {
            if !server && self.server.process.has_died() {
                server = true;
                self.restart_server(None).await;
                self.submit(VICTIM, name, rest).await;
                self.submit(VICTIM, "second", rest).await;
            }
            if !victim && self.victim.process.has_died() {
                victim = true;
                self.victim.restart(VICTIM);
                self.try_submit(VICTIM, "second", rest).await;
            }
            let what = &self.what;
            assert!(Instant::now() < until, "{what}: server dead: {server}, {VICTIM} dead: {victim}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// With all processes there again: waits until everything that was answered has ended and the agents have
    /// forgotten it, and checks what must be true of all of it; answers it by name.
    pub async fn ended(&mut self) -> BTreeMap<String, Value> {
        let what = self.what.clone();
        // They go on.
        for (agent, name) in [(VICTIM, "victim-goes-on"), (OTHER, "other-goes-on")] {
            let command = self.submit(agent, name, "").await;
            self.api().until(&command, &["succeeded"]).await;
        }
        let listed = self.api().get("/api/commands?limit=1000").await;
        let listed: Vec<String> = listed["commands"].as_array().unwrap().iter().map(id).collect();
        assert_eq!(listed.len(), self.submitted.len(), "{what}: each submission is one command");
        let mut commands = BTreeMap::new();
        for (name, command) in &self.submitted {
            assert!(listed.contains(command), "{what}: {name} was answered and is gone");
            let command = self.api().until(command, ENDS).await;
            self.runs.check(&what, name, &command);
            commands.insert(name.clone(), command);
        }
        eventually(&format!("{what}: the agents forgot all"), || async {
            (self.victim.held() + self.other.held() == 0).then_some(())
        })
        .await;
        commands
    }
}
