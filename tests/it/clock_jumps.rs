//! The server's clock is set a day forwards or backwards, while real agents are connected.

use crate::harness::agent::TestAgent;
use crate::harness::api::{events, id};
use crate::harness::raw_agent::{Identity, RawAgent};
use crate::harness::runs::Runs;
use crate::harness::server::TestServer;
use postrider::store::reap::Reap;
use serde_json::json;
use tempfile::TempDir;

const DAY_MS: i64 = 86_400_000;

/// Sets the clock, and lets everything happen that is due then.
async fn set(server: &TestServer, offset_ms: i64) {
    server.clock.set_offset_ms(offset_ms);
    server.running.app().store.write(Reap).await.unwrap();
}

#[tokio::test]
async fn a_fresh_command_runs_whatever_was_done_to_the_servers_clock_while_its_agent_was_connected() {
    let folder = TempDir::new().unwrap();
    let (runs, server) = (Runs::new(folder.path()), TestServer::start().await);
    let _agent = TestAgent::start(&server.api, "web-1").await;
    for (number, days) in [-1, 0, 1, -1, 0].into_iter().enumerate() {
        set(&server, days * DAY_MS).await;
        let name = number.to_string();
        let body = json!({ "command": runs.line(&name, ""), "ttl_s": 60 });
        let command = id(&server.api.submit("web-1", body).await);
        let ended = server.api.until(&command, &["succeeded", "expired"]).await;
        assert_eq!((ended["state"].as_str(), runs.count(&name)), (Some("succeeded"), 1), "{days} days: {ended}");
    }
    let agent = server.api.get("/api/agents/web-1").await;
    assert_eq!(agent["last_close"]["reason"], "clock_step", "{agent}");
    server.stop().await;
}

#[tokio::test]
async fn what_waits_on_an_agent_whose_server_was_set_back_still_starts() {
    let folder = TempDir::new().unwrap();
    let (runs, server) = (Runs::new(folder.path()), TestServer::start().await);
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let go = folder.path().join("go");
    for slot in 0..4 {
        let busy = server.api.run("web-1", &runs.line_until(&format!("busy-{slot}"), &go)).await;
        server.api.until(&busy, &["running"]).await;
    }
    // Made with the clock a day behind; the agent's idea of the time comes from before that.
    set(&server, -DAY_MS).await;
    let body = json!({ "command": runs.line("waiting", ""), "ttl_s": 600 });
    let waiting = id(&server.api.submit("web-1", body).await);
    server.api.until(&waiting, &["accepted"]).await;
    std::fs::write(&go, "").unwrap();
    server.api.until(&waiting, &["succeeded"]).await;
    assert_eq!(runs.count("waiting"), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_day_forwards_and_back_ends_only_what_a_day_ends_and_the_truth_replaces_it() {
    let folder = TempDir::new().unwrap();
    let (runs, server) = (Runs::new(folder.path()), TestServer::start().await);
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let offline = Identity::enroll(&server.api, "offline").await;
    let go = folder.path().join("go");
    let history = server.api.run("web-1", &runs.line("history", "")).await;
    server.api.until(&history, &["succeeded"]).await;
    let body = json!({ "command": runs.line_until("running", &go), "timeout_s": 600 });
    let running = id(&server.api.submit("web-1", body).await);
    server.api.until(&running, &["running"]).await;
    let week = id(&server.api.submit("offline", json!({ "command": "true" })).await);
    let hour = id(&server.api.submit("offline", json!({ "command": "true", "ttl_s": 3600 })).await);

    for days in [1, 0] {
        set(&server, days * DAY_MS).await;
        assert_eq!(events(&server.api.command(&week).await), ["queued"], "a week is not over");
        // For the server a day has passed: an hour is over, and a run without a report for a day is lost.
        assert_eq!(events(&server.api.command(&hour).await), ["queued", "expired"]);
        assert_eq!(server.api.command(&running).await["state"], "lost");
        assert_eq!(server.api.command(&history).await["state"], "succeeded", "history is there");
    }
    std::fs::write(&go, "").unwrap();
    server.api.until(&running, &["succeeded"]).await;
    let mut raw = RawAgent::connect(&server.api, &offline).await;
    let (delivery, _) = raw.dispatched().await;
    raw.complete(delivery).await;
    server.api.until(&week, &["succeeded"]).await;
    assert_eq!((runs.count("running"), runs.count("history")), (1, 1));
    server.stop().await;
}

#[tokio::test]
async fn a_day_backwards_and_on_again_ends_nothing() {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let agent = RawAgent::connect(&server.api, &identity).await;
    let before = id(&server.api.submit("web-1", json!({ "command": "true", "ttl_s": 3600 })).await);
    server.api.until(&before, &["queued"]).await;
    drop(agent);
    for offset_ms in [-DAY_MS, 0] {
        set(&server, offset_ms).await;
        assert_eq!(server.api.command(&before).await["state"], "queued");
        assert_eq!(server.api.get("/api/commands").await["commands"].as_array().unwrap().len(), 1);
    }
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let (delivery, _) = agent.dispatched().await;
    agent.complete(delivery).await;
    server.api.until(&before, &["succeeded"]).await;
    server.stop().await;
}
