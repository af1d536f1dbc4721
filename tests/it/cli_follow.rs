//! Following a command: leaving it, a reader that goes away, a server that goes away.

use crate::harness::agent::TestAgent;
use crate::harness::api::id;
use crate::harness::cli::{Ended, good, run, verb};
use crate::harness::eventually::eventually;
use crate::harness::process::{Process, ServerProcess};
use crate::harness::server::TestServer;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;

/// A command that says that it has begun, waits for a file and says that it is over.
struct Gated {
    folder: TempDir,
}

impl Gated {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn gate(&self) -> PathBuf {
        self.folder.path().join("gate")
    }

    fn line(&self, code: i32) -> String {
        let gate = self.gate();
        format!("echo begun; while [ ! -e {} ]; do sleep 0.05; done; echo over; exit {code}", gate.display())
    }

    fn open(&self) {
        std::fs::write(self.gate(), "").unwrap();
    }

    /// Starts a verb on the server's host, with both streams in one log.
    fn start(&self, data: &Path, args: &[&str]) -> Process {
        Process::spawn(verb(data, args), self.folder.path().join("log"))
    }
}

async fn until_printed(process: &Process, text: &str) {
    eventually(&format!("{text:?} printed"), || async { process.printed().contains(text).then_some(()) }).await;
}

#[tokio::test]
async fn ctrl_c_leaves_the_command_running_and_says_how_to_come_back() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let data = server.data.path();
    for signal in ["INT", "TERM"] {
        let gated = Gated::new();
        let mut follower = gated.start(data, &["run", "web-1", "--", &gated.line(0)]);
        until_printed(&follower, "begun\n").await;
        follower.signal(signal);
        assert_eq!(follower.ended().await, Some(130), "{}", follower.printed());
        let newest = server.api.get("/api/commands?limit=1").await;
        let command = id(&newest["commands"][0]);
        assert_eq!(newest["commands"][0]["state"], "running", "{newest}");
        for advice in [format!("postrider output {command} --follow"), format!("postrider cancel {command}")] {
            assert!(follower.printed().contains(&advice), "{}", follower.printed());
        }
        gated.open();
        // As advised.
        let again = good(data, &["output", &command, "--follow"]).await;
        assert_eq!(again.out(), "begun\nover\n");
        assert_eq!(server.api.command(&command).await["state"], "succeeded");
    }
    server.stop().await;
}

#[tokio::test]
async fn following_again_gives_the_commands_exit_code() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let data = server.data.path();
    let gated = Gated::new();
    let command = id(&server.api.submit("web-1", json!({ "command": gated.line(9) })).await);
    let follower = gated.start(data, &["output", &command, "-f"]);
    until_printed(&follower, "begun\n").await;
    gated.open();
    let mut follower = follower;
    assert_eq!(follower.ended().await, Some(9), "{}", follower.printed());
    assert_eq!(follower.printed(), "begun\nover\n");
    let after = run(data, &["output", &command, "-f"]).await;
    assert_eq!((after.code, after.out().as_str()), (Some(9), "begun\nover\n"), "{after:?}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_waited_for_is_said() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server.api, "web-1").await;
    agent.process.kill();
    server.api.until_online("web-1", false).await;
    let gated = Gated::new();
    let mut follower = gated.start(server.data.path(), &["run", "web-1", "--", "echo at last"]);
    until_printed(&follower, "web-1: queued, agent offline since").await;
    until_printed(&follower, "expires in").await;
    agent.restart("web-1");
    assert_eq!(follower.ended().await, Some(0), "{}", follower.printed());
    assert!(follower.printed().ends_with("at last\n"), "{}", follower.printed());
    server.stop().await;
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_verb_without_a_panic_and_not_the_command() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let lines = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done";
    for words in [&["run", "web-1", "--", lines][..], &["agents"], &["run", "web-1", "--json", "--", lines]] {
        let mut command = verb(server.data.path(), words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().await.unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), &b""[..]), "{words:?}");
    }
    let newest = server.api.get("/api/commands?limit=1").await;
    server.api.until(&id(&newest["commands"][0]), &["succeeded"]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_server_killed_and_started_again_under_a_follower_costs_nothing() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let gated = Gated::new();
    let mut follower = verb(&data, &["run", "web-1", "--", &gated.line(5)]);
    follower.stdout(Stdio::piped()).stderr(Stdio::piped());
    let follower = tokio::process::Command::from(follower).kill_on_drop(true).spawn().unwrap();
    let running = eventually("it runs", || async {
        let running = server.api.get("/api/commands?state=running").await;
        running["commands"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    eventually("its first line is stored", || async {
        (server.api.output(&running, "stdout").await == b"begun\n").then_some(())
    })
    .await;
    let mut in_json = gated.start(&data, &["output", &running, "--follow", "--json"]);
    until_printed(&in_json, "\"output\"").await;
    server.process.kill();
    gated.open();
    let server = ServerProcess::start(&data, server.port()).await;
    assert_eq!(in_json.ended().await, Some(5), "{}", in_json.printed());
    // Neither is anything told twice: five transitions, two pieces of output.
    for (event, count) in [("transition", 5), ("output", 2)] {
        let told = in_json.printed().matches(&format!("{{\"event\":\"{event}\"")).count();
        assert_eq!(told, count, "{event}: {}", in_json.printed());
    }
    let output = follower.wait_with_output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let ended = Ended { code: output.status.code(), stdout: output.stdout, stderr };
    assert_eq!((ended.code, ended.out().as_str()), (Some(5), "begun\nover\n"), "{ended:?}");
    assert!(ended.stderr.contains("connecting again") && ended.stderr.contains("connected again"), "{ended:?}");
    let command = server.api.command(&running).await;
    assert_eq!(command["deliveries"][0]["attempt"], 1, "{command}");
}

#[tokio::test]
async fn a_submission_waits_for_a_server_that_restarts() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    let port = server.port();
    let _agent = TestAgent::start(&server.api, "web-1").await;
    server.process.kill();
    let mut run = Process::spawn(verb(&data, &["run", "web-1", "--", "echo here"]), folder.path().join("run"));
    eventually("the first try was refused", || async { run.printed().contains("not submitted yet").then_some(()) })
        .await;
    let _server = ServerProcess::start(&data, port).await;
    assert_eq!(run.ended().await, Some(0), "{}", run.printed());
    assert!(run.printed().contains("here\n"), "{}", run.printed());
}
