//! Join strings that are used up, expired, revoked or unknown, and requests at the agents' door that are no agents.

use crate::harness::api::{Api, Reply};
use crate::harness::raw_agent::{enrollment, fresh_key};
use crate::harness::server::TestServer;
use postrider::protocol::frame::SUBPROTOCOL;
use postrider::protocol::join::JoinString;
use postrider::secret::Secret;
use serde_json::{Value, json};

async fn enroll(api: &Api, body: Value) -> Reply {
    api.call("POST", "/api/enroll", body).await
}

fn refused(reply: &Reply, why: &str) {
    assert_eq!(reply.problem(), (403, "join_refused".to_owned()));
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(why) && detail.contains("postrider join create"), "{detail}");
}

#[tokio::test]
async fn a_join_string_is_good_for_as_many_agents_as_it_says() {
    let server = TestServer::start().await;
    let api = &server.api;
    let made = api.call("POST", "/api/join", json!({ "uses": 2 })).await.json();
    let join = made["join"].as_str().unwrap();
    let (first, second) = (fresh_key(), fresh_key());
    let enrolled = enroll(api, enrollment(join, &first, "web-1")).await;
    assert_eq!(enrolled.status, 201);
    // The same key is the same agent, though the answer may have been lost: no use is taken.
    let again = enroll(api, enrollment(join, &first, "web-1")).await;
    assert_eq!(again.status, 201);
    assert_eq!(again.json(), enrolled.json());
    assert_eq!(enroll(api, enrollment(join, &second, "web-2")).await.status, 201);
    refused(&enroll(api, enrollment(join, &fresh_key(), "web-3")).await, "used up");
    // Used up, it still tells its agents who they are.
    assert_eq!(enroll(api, enrollment(join, &first, "web-1")).await.json(), enrolled.json());
    // With another join string the key is a conflict, and takes none of its uses.
    let other = api.join().await;
    assert_eq!(enroll(api, enrollment(&other, &first, "web-1")).await.problem(), (409, "conflict".to_owned()));
    assert_eq!(enroll(api, enrollment(&other, &fresh_key(), "web-3")).await.status, 201);
    let agents = api.get("/api/agents").await;
    assert_eq!(agents["agents"].as_array().unwrap().len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn an_expired_a_revoked_and_an_unknown_join_string_are_refused() {
    let server = TestServer::start().await;
    let api = &server.api;
    let mut unknown = JoinString::decode(&api.join().await).unwrap();
    unknown.secret = Secret::generate("");
    refused(&enroll(api, enrollment(&unknown.encode(), &fresh_key(), "web-1")).await, "not known");
    let made = api.call("POST", "/api/join", json!({})).await.json();
    let (join, id) = (made["join"].as_str().unwrap(), made["id"].as_str().unwrap());
    for _ in 0..2 {
        assert_eq!(api.call("DELETE", &format!("/api/join/{id}"), Value::Null).await.status, 200);
    }
    refused(&enroll(api, enrollment(join, &fresh_key(), "web-1")).await, "revoked");
    let made = api.call("POST", "/api/join", json!({ "expires_s": 3600 })).await.json();
    let join = made["join"].as_str().unwrap();
    server.clock.set_offset_ms(3_600_001);
    refused(&enroll(api, enrollment(join, &fresh_key(), "web-1")).await, "expired");
    assert_eq!(api.get("/api/agents").await["agents"], json!([]));
    // The secret is in no list.
    assert!(api.get("/api/join").await["joins"].as_array().unwrap().iter().all(|join| join.get("join").is_none()));
    server.stop().await;
}

#[tokio::test]
async fn a_revoked_agents_key_does_not_come_back() {
    let server = TestServer::start().await;
    let api = &server.api;
    let made = api.call("POST", "/api/join", json!({ "uses": 5 })).await.json();
    let (join, key) = (made["join"].as_str().unwrap(), fresh_key());
    assert_eq!(enroll(api, enrollment(join, &key, "web-1")).await.status, 201);
    assert_eq!(api.call("DELETE", "/api/agents/web-1", Value::Null).await.status, 200);
    assert_eq!(enroll(api, enrollment(join, &key, "web-1")).await.problem(), (409, "conflict".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn the_agents_door_opens_to_websockets_of_our_protocol_only() {
    let server = TestServer::start().await;
    let good = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", SUBPROTOCOL),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let request = |headers: Vec<(&'static str, &'static str)>| {
        let api = server.api.clone();
        async move { api.request("GET", "/agent/ws", &headers, Vec::new()).await }
    };
    for left_out in good {
        let headers = good.into_iter().filter(|header| *header != left_out).collect();
        let reply = request(headers).await;
        assert_eq!(reply.problem(), (400, "not_websocket".to_owned()), "without {left_out:?}");
        assert!(reply.json()["detail"].as_str().unwrap().contains(SUBPROTOCOL));
    }
    for (name, value) in [("sec-websocket-protocol", "postrider.v0, chat"), ("sec-websocket-version", "8")] {
        let headers = good.into_iter().map(|header| if header.0 == name { (name, value) } else { header }).collect();
        assert_eq!(request(headers).await.problem(), (400, "not_websocket".to_owned()), "{name}: {value}");
    }
    assert_eq!(request(good.to_vec()).await.status, 101);
    server.stop().await;
}
