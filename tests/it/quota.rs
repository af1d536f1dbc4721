//! The disk's quota: submissions are refused with the reason, and what was taken before still gets its outcome.

use crate::harness::api::id;
use crate::harness::eventually::eventually;
use crate::harness::raw_agent::{Identity, RawAgent};
use crate::harness::server::TestServer;
use serde_json::{Value, json};

#[tokio::test]
async fn over_the_quota_nothing_new_is_taken_and_everything_taken_is_finished() {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let (first, second) = (server.api.run("web-1", "true").await, server.api.run("web-1", "true").await);
    let bearer = format!("Bearer {}", server.api.token);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "ticket-7")];
    let body = json!({ "command": "true" }).to_string().into_bytes();
    let third = server.api.request("POST", "/api/agents/web-1/command", &headers, body.clone()).await;
    let data = server.stop().await;

    let server = TestServer::start_in(data, |config| config.disk.quota_bytes = 1).await.unwrap();
    let red = eventually("readiness is red", || async {
        let reply = server.api.call("GET", "/readyz", Value::Null).await;
        (reply.status == 503).then_some(reply)
    })
    .await;
    assert!(red.json()["status"].as_str().unwrap().contains("quota"), "{:?}", red.json());
    assert_eq!(server.api.get("/healthz").await["status"], "ok");
    for (path, body) in [
        ("/api/agents/web-1/command", json!({ "command": "true" })),
        ("/api/commands", json!({ "command": "true", "targets": { "all": true } })),
    ] {
        let reply = server.api.call("POST", path, body).await;
        assert_eq!(reply.problem(), (507, "storage_full".to_owned()), "{path}");
        assert!(reply.json()["detail"].as_str().unwrap().contains("quota"), "{:?}", reply.json());
        assert!(reply.headers.contains_key("retry-after"));
    }
    // A submission that was taken before is answered as before.
    let again = server.api.request("POST", "/api/agents/web-1/command", &headers, body).await;
    assert_eq!((again.status.as_u16(), id(&again.json())), (200, id(&third.json())));

    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let dispatched = [agent.dispatched().await.0, agent.dispatched().await.0, agent.dispatched().await.0];
    for (command, delivery) in [&first, &second].into_iter().zip(dispatched) {
        agent.complete(delivery).await;
        server.api.until(command, &["succeeded"]).await;
    }
    let cancel = format!("/api/commands/{}/cancel", id(&third.json()));
    assert_eq!(server.api.call("POST", &cancel, Value::Null).await.status, 202);
    drop(agent);
    let server = server.restart().await;
    assert_eq!(server.api.get("/readyz").await["status"], "ok");
    server.api.run("web-1", "true").await;
    server.stop().await;
}
