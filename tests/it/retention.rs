//! Retention: what is over the limits and has ended goes, with everything that belongs to it.

use crate::harness::api::Api;
use crate::harness::raw_agent::{Identity, RawAgent};
use crate::harness::server::TestServer;
use postrider::store::retain::{HISTORY_BYTES_MAX, HISTORY_MS_MAX, RETAIN_MAX, Retain};
use serde_json::Value;

async fn retain(server: &TestServer, history_ms_max: i64, history_bytes_max: u64) -> u64 {
    server.running.app().store.write(Retain { history_ms_max, history_bytes_max }).await.unwrap()
}

async fn status(api: &Api, path: &str) -> u16 {
    api.call("GET", path, Value::Null).await.status.as_u16()
}

/// A server with an ended command and one in each state that has not ended.
async fn with_history() -> (TestServer, String, Vec<String>) {
    use postrider::protocol::frame::AgentFrame;
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "a").await;
    Identity::enroll(&server.api, "b").await;
    let ended = server.api.run("a", "true").await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let delivery = agent.dispatched().await.0;
    agent.complete(delivery).await;
    let running = server.api.run("a", "true").await;
    let delivery = agent.dispatched().await.0;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    agent.send(&AgentFrame::Started { delivery }).await;
    server.api.until(&running, &["running"]).await;
    let accepted = server.api.run("a", "true").await;
    let delivery = agent.dispatched().await.0;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    server.api.until(&accepted, &["accepted"]).await;
    let queued = server.api.run("b", "true").await;
    (server, ended, vec![running, accepted, queued])
}

#[tokio::test]
async fn old_commands_go_when_they_have_ended() {
    let (server, ended, open) = with_history().await;
    assert_eq!(retain(&server, HISTORY_MS_MAX, HISTORY_BYTES_MAX).await, 0, "nothing is old");
    // Less than the life of what waits, so that only retention acts.
    server.clock.set_offset_ms(3_600_000);
    assert_eq!(retain(&server, 3_700_000, HISTORY_BYTES_MAX).await, 0);
    assert_eq!(status(&server.api, &format!("/api/commands/{ended}")).await, 200);
    assert_eq!(retain(&server, 3_500_000, HISTORY_BYTES_MAX).await, 1);
    for path in ["", "/output", "/events"] {
        assert_eq!(status(&server.api, &format!("/api/commands/{ended}{path}")).await, 404, "{path}");
    }
    for command in &open {
        assert_eq!(status(&server.api, &format!("/api/commands/{command}")).await, 200);
    }
    assert_eq!(server.api.get("/api/commands").await["commands"].as_array().unwrap().len(), open.len());
    assert_eq!(retain(&server, 3_500_000, HISTORY_BYTES_MAX).await, 0);
    server.stop().await;
}

#[tokio::test]
async fn over_its_size_the_oldest_that_have_ended_go() {
    let (server, ended, open) = with_history().await;
    assert_eq!(retain(&server, HISTORY_MS_MAX, 1).await, 1);
    assert_eq!(status(&server.api, &format!("/api/commands/{ended}")).await, 404);
    for command in &open {
        assert_eq!(status(&server.api, &format!("/api/commands/{command}")).await, 200);
    }
    server.stop().await;
}

#[tokio::test]
async fn one_clean_up_takes_a_bounded_number_the_oldest_first() {
    let server = TestServer::start().await;
    Identity::enroll(&server.api, "a").await;
    let mut commands = Vec::new();
    for _ in 0..=RETAIN_MAX {
        let command = server.api.run("a", "true").await;
        server.api.call("POST", &format!("/api/commands/{command}/cancel"), Value::Null).await;
        commands.push(command);
    }
    assert_eq!(retain(&server, HISTORY_MS_MAX, 1).await, u64::from(RETAIN_MAX));
    let left = server.api.get("/api/commands").await;
    assert_eq!(
        (left["commands"].as_array().unwrap().len(), &left["commands"][0]["id"]),
        (1, &commands.pop().unwrap().into())
    );
    assert_eq!(retain(&server, HISTORY_MS_MAX, 1).await, 1);
    server.stop().await;
}
