//! An agent whose disk is full: it takes what it can write down, loses nothing and tells the truth.

use crate::harness::agent::TestAgent;
use crate::harness::api::{Api, id};
use crate::harness::eventually::eventually;
use crate::harness::runs::Runs;
use crate::harness::server::TestServer;
use crate::harness::small_disk::SmallDisk;
use serde_json::json;
use tempfile::TempDir;

const NAME: &str = "full";

/// A server, an agent whose folder and log are on a small disk, and one elsewhere.
struct Scene {
    server: TestServer,
    agent: TestAgent,
    _other: TestAgent,
    runs: Runs,
    folder: TempDir,
    disk: SmallDisk,
}

impl Scene {
    async fn start() -> Option<Self> {
        let disk = SmallDisk::mount(32)?;
        let folder = TempDir::new().unwrap();
        let server = TestServer::start().await;
        let agent = TestAgent::start_in(TempDir::new_in(disk.path()).unwrap(), &server.api, NAME).await;
        let other = TestAgent::start(&server.api, "other").await;
        Some(Self { agent, _other: other, runs: Runs::new(folder.path()), server, folder, disk })
    }

    fn api(&self) -> &Api {
        &self.server.api
    }

    async fn submit(&self, agent: &str, name: &str, rest: &str) -> String {
        self.api().run(agent, &self.runs.line(name, rest)).await
    }

    /// Fills the disk so that not even the ballast is left.
    async fn fill_to_the_brim(&self) {
        eventually("there is ballast", || async {
            self.submit(NAME, "any", "").await;
            self.agent.data.join("ballast").exists().then_some(())
        })
        .await;
        self.disk.fill(0);
        let last = self.submit(NAME, "the-last-that-fits", "").await;
        self.api().until(&last, &["succeeded"]).await;
        assert!(!self.agent.data.join("ballast").exists(), "it was given up for that command");
        self.disk.fill(0);
    }

    /// Waits until the agent has said that it cannot write down the end of this command.
    async fn waits_for_the_journal(&self, command: &str) {
        let delivery = self.api().command(command).await["deliveries"][0]["id"].as_str().unwrap().to_owned();
        let said = "the delivery waits for the journal";
        let is_it = |line: &str| line.contains(said) && line.contains(&delivery);
        eventually(said, || async { self.agent.process.printed().lines().any(is_it).then_some(()) }).await;
    }

    async fn went_well(&self, name: &str, command: &str) {
        let ended = self.api().until(command, &["succeeded"]).await;
        assert_eq!(self.runs.count(name), 1, "{ended}");
    }
}

#[tokio::test]
async fn an_agent_whose_disk_is_full_still_runs_the_command_that_makes_room() {
    let Some(scene) = Scene::start().await else { return };
    scene.disk.fill(0);
    let rest = format!("rm {}", scene.disk.filler().display());
    let cure = scene.submit(NAME, "cure", &rest).await;
    scene.went_well("cure", &cure).await;
    // With room again the ballast is made again.
    eventually("the ballast is there again", || async {
        scene.submit(NAME, "next", "").await;
        scene.agent.data.join("ballast").exists().then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_starts_on_a_full_disk() {
    let Some(mut scene) = Scene::start().await else { return };
    scene.agent.process.signal("TERM");
    assert_eq!(scene.agent.process.ended().await, Some(0));
    scene.disk.fill(0);
    scene.agent.restart(NAME);
    let command = scene.submit(NAME, "started", "").await;
    scene.went_well("started", &command).await;
}

#[tokio::test]
async fn an_agent_that_cannot_write_its_journal_takes_nothing_and_nothing_is_lost() {
    let Some(scene) = Scene::start().await else { return };
    scene.fill_to_the_brim().await;
    let names = ["a", "b", "c"];
    let mut commands = Vec::new();
    for name in names {
        commands.push(scene.submit(NAME, name, "").await);
    }
    eventually("the agent leaves with the reason", || async {
        let agent = scene.api().get(&format!("/api/agents/{NAME}")).await;
        (agent["last_close"]["reason"] == "agent_storage").then_some(())
    })
    .await;
    let other = scene.submit("other", "other", "").await;
    scene.went_well("other", &other).await;
    for (name, command) in names.iter().zip(&commands) {
        assert_eq!((scene.api().command(command).await["state"].as_str(), scene.runs.count(name)), (Some("queued"), 0));
    }
    scene.disk.free();
    for (name, command) in names.iter().zip(&commands) {
        scene.went_well(name, command).await;
    }
}

#[tokio::test]
async fn an_outcome_that_cannot_be_journaled_is_kept_until_it_can_be_or_is_not_known() {
    let Some(mut scene) = Scene::start().await else { return };
    let mut commands = Vec::new();
    let go = |name: &str| scene.folder.path().join(name);
    let [kept, unknown] = ["kept", "unknown"].map(go);
    for (name, go) in [("kept", &kept), ("unknown", &unknown)] {
        let body = json!({ "command": scene.runs.line_until(name, go) });
        commands.push(id(&scene.api().submit(NAME, body).await));
        scene.api().until(commands.last().unwrap(), &["running"]).await;
    }
    scene.fill_to_the_brim().await;
    std::fs::write(&kept, "").unwrap();
    scene.waits_for_the_journal(&commands[0]).await;
    assert_eq!(scene.api().command(&commands[0]).await["state"], "running", "what is not journaled is not told");
    scene.disk.free();
    scene.went_well("kept", &commands[0]).await;

    // The only one who knows it dies.
    scene.fill_to_the_brim().await;
    std::fs::write(&unknown, "").unwrap();
    scene.waits_for_the_journal(&commands[1]).await;
    scene.agent.restart(NAME);
    scene.disk.free();
    let ended = scene.api().until(&commands[1], &["interrupted"]).await;
    assert_eq!(scene.runs.count("unknown"), 1, "{ended}");
}

#[tokio::test]
async fn output_that_fills_the_disk_is_dropped_and_the_outcome_is_true() {
    let Some(scene) = Scene::start().await else { return };
    scene.disk.fill(200 * 1024);
    let command = scene.submit(NAME, "loud", "head -c 1000000 /dev/zero | tr '\\0' x; exit 3").await;
    let ended = scene.api().until(&command, &["failed"]).await;
    let delivery = &ended["deliveries"][0];
    assert_eq!((&delivery["exit_code"], scene.runs.count("loud")), (&json!(3), 1), "{ended}");
    assert!(delivery["reason"].as_str().unwrap().contains("stdout could not be kept"), "{ended}");
    assert_eq!(delivery["stdout"]["bytes"], 1_000_000, "{ended}");
    let kept = scene.api().output(&command, "stdout").await;
    assert!((1..1_000_000).contains(&kept.len()) && kept.iter().all(|byte| *byte == b'x'), "{}", kept.len());
}
