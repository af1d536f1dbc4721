//! Links that are cut, and agents that answer pings but nothing else.

use crate::harness::agent::TestAgent;
use crate::harness::api::id;
use crate::harness::eventually::eventually;
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::raw_agent::{Identity, RawAgent, close_code};
use crate::harness::server::TestServer;
use postrider::protocol::close::CloseReason;
use postrider::protocol::frame::AgentFrame;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_real_agent_comes_back_by_itself_when_its_link_was_cut() {
    let server = TestServer::start().await;
    let proxy = Proxy::start(server.api.address()).await;
    let _agent = TestAgent::start_behind(&server.api, "web-1", &proxy).await;
    let first = server.api.get("/api/agents/web-1").await;
    let gate = server.data.path().join("gate");
    let line = format!("echo begun; while [ ! -e {} ]; do sleep 0.05; done; echo over", gate.display());
    let running = server.api.run("web-1", &line).await;
    server.api.until(&running, &["running"]).await;
    proxy.set(|faults| faults.cut(Cut::Fin));
    let back = eventually("web-1 is back", || async {
        let shown = server.api.get("/api/agents/web-1").await;
        (shown["online"] == true && shown["epoch"] != first["epoch"]).then_some(shown)
    })
    .await;
    assert_eq!(back["last_close"]["reason"], "connection_lost", "{back}");
    std::fs::write(&gate, "").unwrap();
    let ended = server.api.until(&running, &["succeeded"]).await;
    assert_eq!(ended["deliveries"][0]["attempt"], 1, "it was not dispatched again: {ended}");
    assert_eq!(server.api.output(&running, "stdout").await, b"begun\nover\n");
    server.stop().await;
}

#[tokio::test]
async fn an_agent_whose_link_breaks_again_and_again_keeps_coming_back_soon() {
    let server = TestServer::start().await;
    let proxy = Proxy::start(server.api.address()).await;
    let made = server.api.call("POST", "/api/join", json!({ "server_url": format!("http://{}", proxy.address) })).await;
    let agent = TestAgent::launch(made.json()["join"].as_str().unwrap(), "web-1");
    // Each session ends as soon as it has begun. Doubling all the way, the last waits would be up to 64 s.
    let waits = || {
        let printed = agent.process.printed();
        let waits = printed.split("trying again in ").skip(1);
        waits.map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect::<Vec<f32>>()
    };
    for epoch in 1..=8 {
        let welcomed = format!("epoch={epoch}\n");
        eventually("another session", || async { agent.process.printed().contains(&welcomed).then_some(()) }).await;
        proxy.set(|faults| faults.cut(Cut::Fin));
        eventually("it noticed", || async { (waits().len() == epoch).then_some(()) }).await;
    }
    assert!(waits().iter().all(|wait| *wait <= 4.0), "{:?}", waits());
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_answers_pings_but_takes_nothing_is_evicted() {
    let server = TestServer::start_with(|config| {
        config.keepalive.accept_timeout = Duration::from_millis(200);
    })
    .await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let command = server.api.submit("web-1", json!({ "command": "true" })).await;
    assert_eq!(close_code(&mut agent.socket).await, Some(CloseReason::AcceptTimeout.code()));
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let (delivery, attempt) = agent.dispatched().await;
    assert_eq!(attempt, 2);
    agent.send(&AgentFrame::Accepted { delivery }).await;
    server.api.until(&id(&command), &["accepted"]).await;
    server.stop().await;
}
