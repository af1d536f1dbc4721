//! Links that lie: the half-open agent is evicted, nobody else notices, and its command runs when it is back.

use crate::harness::agent::TestAgent;
use crate::harness::api::id;
use crate::harness::lane::{Direction, Flow};
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::raw_agent::{Identity, RawAgent};
use crate::harness::server::TestServer;
use futures_util::{SinkExt, StreamExt};
use postrider::protocol::frame::{AgentFrame, encode};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

/// With the default settings, so it takes up to 20 s.
#[tokio::test]
async fn an_agent_whose_frames_arrive_but_ours_vanish_is_evicted_and_nobody_else_notices() {
    let server = TestServer::start().await;
    let proxy = Proxy::start(server.api.address()).await;
    let _healthy = TestAgent::start(&server.api, "healthy").await;
    let identity = Identity::enroll(&server.api, "half-open").await;
    let agent = RawAgent::connect_to(&proxy.address, &identity, Vec::new()).await;
    server.api.until_online("half-open", true).await;

    proxy.set(|faults| faults.to_client.flow = Flow::Vanish);
    let broken = Instant::now();
    // Its own frames go on arriving all the time.
    let (mut sink, mut stream) = agent.socket.split();
    let chatter = async {
        let facts = encode(&AgentFrame::Facts { facts: json!({ "hostname": "half-open" }) });
        loop {
            tokio::select! {
                _ = stream.next() => {}
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    if sink.send(Message::text(facts.clone())).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    };
    let command = server.api.run("half-open", "true").await;
    let eviction = async {
        server.api.until_online("half-open", false).await;
        println!("evicted {:.1} s after the link broke", broken.elapsed().as_secs_f64());
    };
    let ((), round_trips) = tokio::select! {
        evicted = server.api.meanwhile("healthy", eviction) => evicted,
        () = chatter => unreachable!("it never ends"),
    };
    assert!(round_trips > 10, "the other agent was served meanwhile");
    assert_eq!(server.api.last_close("half-open").await, "pong_timeout");
    assert_eq!(
        server.api.command(&command).await["state"],
        "queued",
        "what was dispatched into the void is still ours"
    );

    // It comes back while the old link is still broken.
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let (delivery, attempt) = agent.dispatched().await;
    assert_eq!(attempt, 2);
    agent.complete(delivery).await;
    server.api.until(&command, &["succeeded"]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_real_agent_behind_a_dead_link_comes_back_and_runs_what_waited() {
    let server = TestServer::start_with(|config| {
        config.keepalive.ping_interval = Duration::from_millis(200);
        config.keepalive.pong_timeout = Duration::from_millis(500);
    })
    .await;
    let proxy = Proxy::start(server.api.address()).await;
    let _agent = TestAgent::start_behind(&server.api, "far", &proxy).await;
    for direction in [Direction::ToClient, Direction::ToServer] {
        proxy.set(|faults| faults.lane_mut(direction).flow = Flow::Vanish);
        let command = server.api.run("far", "echo back").await;
        server.api.until_online("far", false).await;
        assert_eq!(server.api.command(&command).await["state"], "queued");
        proxy.set(|faults| {
            faults.heal();
            faults.cut(Cut::Fin);
        });
        server.api.until(&command, &["succeeded"]).await;
        assert_eq!(server.api.output(&command, "stdout").await, b"back\n");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_never_reads_is_evicted_and_keeps_its_outbox() {
    let server = TestServer::start_with(|config| {
        config.keepalive.ping_interval = Duration::from_millis(500);
        config.keepalive.pong_timeout = Duration::from_secs(2);
    })
    .await;
    let identity = Identity::enroll(&server.api, "deaf").await;
    let agent = RawAgent::connect(&server.api, &identity).await;
    let line = format!("true {}", "x".repeat(30_000));
    for _ in 0..4 {
        let submissions = (0..16).map(|_| server.api.run("deaf", &line));
        futures_util::future::join_all(submissions).await;
    }
    server.api.until_online("deaf", false).await;
    assert_eq!(server.api.get("/api/agents/deaf").await["outbox"], 64, "nothing it did not accept has left");
    drop(agent);
    server.stop().await;
}

#[tokio::test]
async fn a_row_that_another_process_writes_is_delivered_too() {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let first = server.api.submit("web-1", json!({ "command": "true" })).await;
    let (delivery, _) = agent.dispatched().await;
    agent.complete(delivery).await;
    // A copy of the rows, by hand, as an operator's shell would.
    let conn = rusqlite::Connection::open(server.data.path().join("postrider.db")).unwrap();
    conn.execute_batch(
        "INSERT INTO commands (id, created_ms, token_seq, spec, timeout_ms, not_after_ms, output_bytes_max)
             SELECT randomblob(16), created_ms, token_seq, spec, timeout_ms, not_after_ms, output_bytes_max FROM commands;
         INSERT INTO deliveries (id, command_seq, agent_seq, due_ms)
             SELECT randomblob(16), last_insert_rowid(), agent_seq, not_after_ms FROM deliveries d, commands c
             WHERE c.seq = d.command_seq;",
    )
    .unwrap();
    let (second, attempt) = agent.dispatched().await;
    assert_ne!(second, delivery);
    assert_eq!(attempt, 1);
    agent.complete(second).await;
    assert_eq!(server.api.command(&id(&first)).await["state"], "succeeded");
    server.stop().await;
}
