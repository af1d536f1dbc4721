//! One identity, one journal: copies of an agent's data folder, older states of it and deleted journals are told apart,
//! named, and never run what another may have run.

use crate::harness::agent::TestAgent;
use crate::harness::api::{events, id};
use crate::harness::cli::good;
use crate::harness::eventually::eventually;
use crate::harness::lane::Flow;
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::raw_agent::{Identity, RawAgent, close_code, dial, success};
use crate::harness::server::TestServer;
use futures_util::SinkExt;
use postrider::protocol::close::CloseReason;
use postrider::protocol::frame::{AgentFrame, JournalEntry, JournalVerdict, ServerFrame, encode};
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::state::State;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

fn kept(agent: &RawAgent) -> Vec<bool> {
    match &agent.welcome {
        ServerFrame::Welcome { journal, .. } => journal.iter().map(|verdict: &JournalVerdict| verdict.keep).collect(),
        _ => unreachable!("checked at connect"),
    }
}

fn delivery(command: &serde_json::Value) -> DeliveryId {
    command["deliveries"][0]["id"].as_str().unwrap().parse().unwrap()
}

/// How often each command ran, by the file that all copies append their numbers to.
fn runs(file: &Path, command: usize) -> usize {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| **line == command.to_string()).count()
}

#[tokio::test]
async fn what_was_given_to_one_copy_is_not_offered_to_another() {
    let server = TestServer::start().await;
    let original = Identity::enroll(&server.api, "web-1").await;
    drop(RawAgent::connect(&server.api, &original).await);
    let copy = original.copy();
    let mut first = RawAgent::connect(&server.api, &original).await;
    assert!(server.api.get("/api/agents/web-1").await["clash_ms"].is_null(), "the same journal comes again");
    let taken = server.api.submit("web-1", json!({ "command": "true" })).await;
    // It journals it; its word of that does not arrive.
    assert_eq!(first.dispatched().await.0, delivery(&taken));

    let mut second = RawAgent::connect(&server.api, &copy).await;
    assert_eq!(close_code(&mut first.socket).await, Some(CloseReason::Superseded.code()));
    let lost = server.api.command(&id(&taken)).await;
    assert_eq!(events(&lost), ["queued", "dispatched", "lost"]);
    assert!(lost["deliveries"][0]["reason"].as_str().unwrap().contains("copied"), "{lost}");
    assert!(server.api.get("/api/agents/web-1").await["clash_ms"].is_i64());
    let listed = good(server.data.path(), &["agents"]).await.out();
    assert!(listed.contains("clash"), "{listed}");
    let shown = good(server.data.path(), &["agents", "show", "web-1"]).await.out();
    assert!(shown.contains("was copied") && shown.contains("enroll each host anew"), "{shown}");
    // What is new goes to whoever is there.
    let next = server.api.submit("web-1", json!({ "command": "true" })).await;
    assert_eq!(second.dispatched().await.0, delivery(&next));

    // The other comes back: it runs what it was given, and that is the truth.
    let journal = vec![JournalEntry { delivery: delivery(&taken), state: State::Running }];
    let mut first = RawAgent::connect_with(&server.api, &original, journal).await;
    assert_eq!(kept(&first), [true]);
    first.send(&AgentFrame::Finished { delivery: delivery(&taken), outcome: success() }).await;
    server.api.until(&id(&taken), &["succeeded"]).await;
    assert_eq!(events(&server.api.command(&id(&next)).await), ["queued", "dispatched", "lost"]);
    server.stop().await;
}

/// A connection that the agent has given up may still deliver what it said.
#[tokio::test]
async fn a_hello_that_comes_after_a_later_connections_is_too_late() {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let (mut early, nonce, server_id) = dial(server.api.address()).await;
    let hello = identity.hello(&nonce, server_id, Vec::new());
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let command = server.api.run("web-1", "true").await;
    let (delivery, _) = agent.dispatched().await;
    early.send(Message::text(encode(&hello))).await.unwrap();
    assert_eq!(close_code(&mut early).await, Some(CloseReason::Superseded.code()));
    agent.complete(delivery).await;
    server.api.until(&command, &["succeeded"]).await;
    let shown = server.api.get("/api/agents/web-1").await;
    assert_eq!((&shown["epoch"], &shown["clash_ms"]), (&json!(agent.epoch()), &json!(null)));
    server.stop().await;
}

#[tokio::test]
async fn what_several_copies_hold_is_started_by_none_of_them() {
    let server = TestServer::start().await;
    let original = Identity::enroll(&server.api, "web-1").await;
    let stale = original.copy();
    let mut agent = RawAgent::connect(&server.api, &original).await;
    let mut entries = Vec::new();
    for state in [State::Accepted, State::Interrupted, State::Succeeded] {
        let command = server.api.submit("web-1", json!({ "command": "true" })).await;
        let (delivery, _) = agent.dispatched().await;
        agent.send(&AgentFrame::Accepted { delivery }).await;
        server.api.until(&id(&command), &["accepted"]).await;
        entries.push((id(&command), JournalEntry { delivery, state }));
    }
    drop(agent);
    let journal: Vec<_> = entries.iter().map(|(_, entry)| *entry).collect();
    let mut copy = RawAgent::connect_with(&server.api, &stale, journal).await;
    assert_eq!(kept(&copy), [false, false, true]);
    copy.send(&AgentFrame::Finished { delivery: entries[2].1.delivery, outcome: success() }).await;
    server.api.until(&entries[2].0, &["succeeded"]).await;
    for (command, _) in &entries[..2] {
        assert_eq!(server.api.command(command).await["state"], "lost");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_does_not_say_that_it_is_ready_is_given_nothing_and_closed() {
    let server = TestServer::start_with(|config| config.keepalive.accept_timeout = Duration::from_secs(2)).await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let command = server.api.run("web-1", "true").await;
    let address = server.api.url.trim_start_matches("http://");
    let mut agent = RawAgent::welcomed(address, &identity, Vec::new()).await;
    assert_eq!(close_code(&mut agent.socket).await, Some(CloseReason::AcceptTimeout.code()));
    assert_eq!(events(&server.api.command(&command).await), ["queued"]);
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    assert_eq!(agent.dispatched().await.1, 1);
    server.stop().await;
}

/// Its acks vanish, so that the server cannot know what it has; then it loses its journal.
#[tokio::test]
async fn an_agent_whose_journal_is_deleted_runs_nothing_again() {
    let server = TestServer::start().await;
    let proxy = Proxy::start(server.api.url.trim_start_matches("http://")).await;
    let reply =
        server.api.call("POST", "/api/join", json!({ "server_url": format!("http://{}", proxy.address) })).await;
    let mut agent = TestAgent::launch(reply.json()["join"].as_str().unwrap(), "web-1");
    eventually("web-1 is online", || async {
        let agent = server.api.call("GET", "/api/agents/web-1", json!(null)).await;
        (agent.status == 200 && agent.json()["online"] == true).then_some(())
    })
    .await;
    let ran = agent.data.join("ran");
    let known = server.api.run("web-1", &format!("echo 0 >> {}; sleep 600", ran.display())).await;
    server.api.until(&known, &["running"]).await;
    proxy.set(|faults| faults.to_server.flow = Flow::Vanish);
    let doubted = server.api.run("web-1", &format!("echo 1 >> {}", ran.display())).await;
    eventually("it has run", || async { (runs(&ran, 1) == 1).then_some(()) }).await;
    agent.process.kill();
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        let _ = std::fs::remove_file(agent.data.join(name));
    }
    proxy.set(|faults| {
        faults.heal();
        faults.cut(Cut::Fin);
    });
    agent.restart("web-1");
    let known = server.api.until(&known, &["lost"]).await;
    assert_eq!(events(&known), ["queued", "dispatched", "accepted", "running", "lost"]);
    let doubted = server.api.until(&doubted, &["lost"]).await;
    assert_eq!(events(&doubted), ["queued", "dispatched", "lost"]);
    // It goes on with what is new.
    let next = server.api.run("web-1", &format!("echo 2 >> {}", ran.display())).await;
    server.api.until(&next, &["succeeded"]).await;
    assert_eq!([0, 1, 2].map(|command| runs(&ran, command)), [1, 1, 1]);
    assert!(server.api.get("/api/agents/web-1").await["clash_ms"].is_i64());
    server.stop().await;
}

/// Two processes with one identity, as after cloning a disk: they take turns, and no command runs in both.
async fn two_copies(copy_first: bool) {
    let server = TestServer::start().await;
    let mut original = TestAgent::start(&server.api, "web-1").await;
    let ran = server.data.path().join("ran");
    let line = |number: usize, rest: &str| format!("echo {number} >> {}{rest}", ran.display());
    // Four that run and two that wait for a slot; long enough to be found by both.
    let mut commands = Vec::new();
    for number in 0..6 {
        commands
            .push(server.api.run("web-1", &line(number, if number < 4 { "; sleep 600" } else { "; sleep 15" })).await);
    }
    for (number, command) in commands.iter().enumerate() {
        server.api.until(command, &[if number < 4 { "running" } else { "accepted" }]).await;
    }
    original.process.kill();
    let folder = original.copy_of_data();
    let _copy = if copy_first {
        let copy = TestAgent::on_copy(folder, "web-1");
        server.api.until_online("web-1", true).await;
        original.restart("web-1");
        copy
    } else {
        original.restart("web-1");
        server.api.until_online("web-1", true).await;
        TestAgent::on_copy(folder, "web-1")
    };
    // They take turns: at least twice.
    let first = server.api.get("/api/agents/web-1").await["epoch"].as_u64().unwrap();
    eventually("they took turns", || async {
        let agent = server.api.get("/api/agents/web-1").await;
        (agent["epoch"].as_u64().unwrap() >= first + 2).then_some(())
    })
    .await;
    for number in 6..26 {
        commands.push(server.api.run("web-1", &line(number, "")).await);
    }
    for (number, command) in commands.iter().enumerate() {
        server.api.until(command, &["succeeded", "interrupted", "lost"]).await;
        assert!(runs(&ran, number) <= 1, "command {number} ran in both");
    }
    // One that is lost because it may run in the other may still end well.
    for (number, command) in commands.iter().enumerate() {
        let ended = server.api.command(command).await;
        assert!(ended["state"] != "succeeded" || runs(&ran, number) == 1, "{ended}");
        assert!(number >= 4 || ended["state"] != "succeeded", "it was killed: {ended}");
    }
    assert!(server.api.get("/api/agents/web-1").await["clash_ms"].is_i64());
    server.stop().await;
}

#[tokio::test]
async fn a_cloned_agent_is_named_and_runs_nothing_of_the_originals() {
    two_copies(true).await;
}

#[tokio::test]
async fn an_agent_whose_clone_comes_later_runs_nothing_twice() {
    two_copies(false).await;
}
