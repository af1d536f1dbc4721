//! Processes that stand still for a while, as in a suspend, and go on.

use crate::harness::agent::TestAgent;
use crate::harness::api::{events, id};
use crate::harness::eventually::{PATIENCE, PAUSE, eventually};
use crate::harness::process::ServerProcess;
use crate::harness::runs::Runs;
use crate::harness::server::TestServer;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

/// This test takes two minutes: the agent stands still until the server has given up one of its commands.
#[tokio::test]
async fn an_agent_that_stood_still_for_two_minutes_comes_back_with_the_truth() {
    let folder = TempDir::new().unwrap();
    let (runs, server) = (Runs::new(folder.path()), TestServer::start().await);
    let api = server.api.clone();
    let agent = TestAgent::start(&api, "web-1").await;
    let submit = async |name: &str, line: String, timeout_s: u64| {
        let command = api.submit("web-1", json!({ "command": line, "timeout_s": timeout_s })).await;
        (name.to_owned(), id(&command))
    };
    let thirty_seconds = |name: &str| runs.line(name, &format!("sleep 30; {}", runs.line(&format!("{name}-end"), "")));
    let mut commands = Vec::new();
    // The server calls a run lost a minute after its timeout.
    for (name, timeout_s) in [("given-up", 60), ("long", 120), ("slot-3", 120), ("slot-4", 120)] {
        commands.push(submit(name, thirty_seconds(name), timeout_s).await);
        api.until(&commands.last().unwrap().1, &["running"]).await;
    }
    commands.push(submit("waiting", runs.line("waiting", ""), 300).await);
    api.until(&commands[4].1, &["accepted"]).await;

    agent.process.signal("STOP");
    let stopped = Instant::now();
    // The first goes out before anybody knows; the others wait for it to come back.
    commands.push(submit("sent", runs.line("sent", ""), 300).await);
    api.until_online("web-1", false).await;
    eventually("it was evicted for its silence", || async {
        let shown = api.get("/api/agents/web-1").await;
        (shown["last_close"]["reason"] == "pong_timeout").then_some(())
    })
    .await;
    println!("evicted after {:.1} s", stopped.elapsed().as_secs_f32());
    for name in ["queued-1", "queued-2"] {
        commands.push(submit(name, runs.line(name, ""), 300).await);
    }
    // The agent stands still, its commands do not.
    eventually("the run goes on", || async { (runs.count("long-end") == 1).then_some(()) }).await;
    let given_up = commands[0].1.clone();
    while api.command(&given_up).await["state"] != "lost" {
        assert!(stopped.elapsed() < 4 * PATIENCE, "a run without a report for so long is lost");
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(api.command(&commands[1].1).await["state"], "running", "its time is not over");

    println!("the agent goes on after {:.1} s", stopped.elapsed().as_secs_f32());
    agent.process.signal("CONT");
    for (name, command) in &commands {
        let ended = api.until(command, &["succeeded"]).await;
        assert_eq!(runs.count(name), 1, "{name}: {ended}");
        println!("{name}: {:?}, {} ms", events(&ended), ended["deliveries"][0]["duration_ms"]);
    }
    let replaced = events(&api.command(&given_up).await);
    assert_eq!(replaced, ["queued", "dispatched", "accepted", "running", "lost", "succeeded"]);
    eventually("the agent forgot all", || async { (agent.held() == 0).then_some(()) }).await;
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_stands_still_is_left_and_found_again() {
    let folder = TempDir::new().unwrap();
    let runs = Runs::new(folder.path());
    let server = ServerProcess::start(&folder.path().join("server"), 0).await;
    let agent = TestAgent::start(&server.api, "web-1").await;
    let go = folder.path().join("go");
    let line = runs.line_until("running", &go);
    let running = id(&server.api.submit("web-1", json!({ "command": line, "timeout_s": 300 })).await);
    server.api.until(&running, &["running"]).await;

    server.process.signal("STOP");
    let stopped = Instant::now();
    std::fs::write(&go, "").unwrap();
    let body = json!({ "command": runs.line("meanwhile", "") });
    let submitting = server.api.try_submit("web-1", "meanwhile", &body);
    let standing = async {
        eventually("the agent notices", || async { agent.process.printed().contains("server_silent").then_some(()) })
            .await;
        println!("the agent left after {:.1} s", stopped.elapsed().as_secs_f32());
        server.process.signal("CONT");
    };
    let (answered, ()) = futures_util::future::join(submitting, standing).await;
    // What it had taken in before it stood still may have met its deadline: then it is asked again under the same key.
    let answered = match answered {
        Some(answered) => Some(answered),
        None => server.api.try_submit("web-1", "meanwhile", &body).await,
    };
    let meanwhile = id(&answered.expect("an answer after all"));
    for (name, command) in [("running", &running), ("meanwhile", &meanwhile)] {
        let ended = server.api.until(command, &["succeeded"]).await;
        assert_eq!(runs.count(name), 1, "{ended}");
    }
}
