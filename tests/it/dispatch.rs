//! The main job: submit, dispatch, run, outcome; and what survives restarts and kills.

use crate::harness::agent::TestAgent;
use crate::harness::api::{events, id};
use crate::harness::eventually::eventually;
use crate::harness::process::ServerProcess;
use crate::harness::raw_agent::{Identity, RawAgent};
use crate::harness::server::TestServer;
use postrider::protocol::frame::{AgentFrame, JournalEntry};
use postrider::protocol::state::State;
use serde_json::json;
use tempfile::TempDir;

#[tokio::test]
async fn a_command_runs_and_its_whole_story_is_kept() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let command = server.api.run("web-1", "echo out; echo err >&2; exit 3").await;
    let command = server.api.until(&command, &["failed"]).await;
    assert_eq!(command["deliveries"][0]["exit_code"], 3);
    assert_eq!(events(&command), ["queued", "dispatched", "accepted", "running", "failed"]);
    assert_eq!(server.api.output(&id(&command), "stdout").await, b"out\n");
    assert_eq!(server.api.output(&id(&command), "stderr").await, b"err\n");
    server.stop().await;
}

#[tokio::test]
async fn a_submission_to_an_offline_agent_survives_kill_9_and_runs_when_it_comes() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    let mut agent = TestAgent::start(&server.api, "laptop").await;
    agent.process.kill();
    server.api.until_online("laptop", false).await;
    let command = server.api.run("laptop", "echo it ran").await;
    server.process.kill();
    let server = ServerProcess::start(&data, server.port()).await;
    assert_eq!(server.api.command(&command).await["state"], "queued");
    agent.restart("laptop");
    server.api.until(&command, &["succeeded"]).await;
    assert_eq!(server.api.output(&command, "stdout").await, b"it ran\n");
}

#[tokio::test]
async fn a_server_restarted_during_a_run_gets_the_outcome() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let gate = folder.path().join("gate");
    let line = format!("echo begun; while [ ! -e {} ]; do sleep 0.05; done; echo over", gate.display());
    let command = server.api.run("web-1", &line).await;
    server.api.until(&command, &["running"]).await;
    server.process.kill();
    std::fs::write(&gate, "").unwrap();
    let server = ServerProcess::start(&data, server.port()).await;
    let ended = server.api.until(&command, &["succeeded"]).await;
    assert_eq!(ended["deliveries"][0]["attempt"], 1, "it was dispatched once: {ended}");
    assert_eq!(server.api.output(&command, "stdout").await, b"begun\nover\n");
}

#[tokio::test]
async fn an_agent_killed_during_a_run_reports_interrupted_and_does_not_run_it_again() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server.api, "web-1").await;
    let runs = agent.data.with_file_name("runs");
    let line = format!("echo run >> {}; sleep 600", runs.display());
    let command = server.api.submit("web-1", json!({ "command": line, "timeout_s": 3600 })).await;
    server.api.until(&id(&command), &["running"]).await;
    eventually("the command wrote", || async { runs.exists().then_some(()) }).await;
    agent.restart("web-1");
    let ended = server.api.until(&id(&command), &["interrupted"]).await;
    assert!(ended["deliveries"][0]["reason"].is_string(), "{ended}");
    assert_eq!(std::fs::read_to_string(&runs).unwrap(), "run\n");
    server.stop().await;
}

#[tokio::test]
async fn five_thousand_commands_for_an_offline_agent_all_run_in_order_when_it_comes() {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "slow").await;
    let mut last = String::new();
    for _ in 0..50 {
        let submissions = (0..100).map(|_| server.api.run("slow", "true"));
        last = futures_util::future::join_all(submissions).await.pop().unwrap();
    }
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let mut seen = Vec::new();
    for _ in 0..5000 {
        let (delivery, attempt) = agent.dispatched().await;
        assert_eq!(attempt, 1);
        seen.push(delivery);
        agent.send(&AgentFrame::Accepted { delivery }).await;
        let outcome = crate::harness::raw_agent::success();
        agent.send(&AgentFrame::Finished { delivery, outcome }).await;
    }
    let mut distinct = seen.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 5000, "nothing is dispatched twice on one connection");
    // Ids are made one after the other in the order of the outbox.
    assert_eq!(distinct, seen, "the oldest goes first");
    server.api.until(&last, &["succeeded"]).await;
    eventually("the outbox is empty", || async {
        (server.api.get("/api/agents/slow").await["outbox"] == 0).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn a_cancel_on_the_heels_of_its_submission_never_lies() {
    let server = TestServer::start().await;
    let agent = TestAgent::start(&server.api, "web-1").await;
    let runs = agent.data.with_file_name("runs");
    for number in 0..150 {
        let line = format!("echo {number} >> {}", runs.display());
        let command = server.api.run("web-1", &line).await;
        // Some cancels come before the dispatch, some on its way, some while it starts, some after the end.
        for _ in 0..number % 5 {
            server.api.command(&command).await;
        }
        let cancel = server.api.call("POST", &format!("/api/commands/{command}/cancel"), json!({})).await;
        assert_eq!(cancel.status, 202);
        let ended = server.api.until(&command, &["cancelled", "succeeded"]).await;
        let ran = std::fs::read_to_string(&runs).unwrap_or_default().lines().any(|line| line == number.to_string());
        match (cancel.json()["cancelled"].as_u64(), ended["state"].as_str()) {
            (Some(1), state) => assert!(state == Some("cancelled") && !ran, "never sent, so never run: {ended}"),
            (_, Some("succeeded")) => assert!(ran, "{ended}"),
            // Killed before or after it wrote: the agent's word.
            (_, state) => assert_eq!(state, Some("cancelled"), "{ended}"),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_lost_because_the_server_was_away() {
    let server = TestServer::start().await;
    // An hour ago an agent accepted this; then the server was down until now.
    server.clock.set_offset_ms(-3_600_000);
    let identity = Identity::enroll(&server.api, "web-1").await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let command = server.api.run("web-1", "true").await;
    let (delivery, _) = agent.dispatched().await;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    server.api.until(&command, &["accepted"]).await;
    drop(agent);
    let server = server.restart().await;
    // The reaper has had its turn when a row of its own has expired.
    let other = server.api.submit("web-1", json!({ "command": "true", "ttl_s": 0.001 })).await;
    server.api.until(&id(&other), &["expired"]).await;
    assert_eq!(server.api.command(&command).await["state"], "accepted");
    let entry = JournalEntry { delivery, state: State::Accepted };
    let mut agent = RawAgent::connect_with(&server.api, &identity, vec![entry]).await;
    agent.complete(delivery).await;
    assert_eq!(server.api.command(&command).await["state"], "succeeded");
    server.stop().await;
}
