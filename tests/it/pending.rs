//! Who may come in, and when: what a join string puts on its agents, one use that two want, and agents that wait for
//! somebody's approval.

use crate::harness::agent::TestAgent;
use crate::harness::api::{Api, Reply};
use crate::harness::cli::{good, run};
use crate::harness::eventually::eventually;
use crate::harness::raw_agent::{Identity, RawAgent, close_code, dial, enrollment, fresh_key};
use crate::harness::server::TestServer;
use futures_util::SinkExt;
use postrider::protocol::close::CloseReason;
use postrider::protocol::frame::encode;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

async fn join(api: &Api, body: Value) -> Reply {
    api.call("POST", "/api/join", body).await
}

async fn join_string(api: &Api, body: Value) -> String {
    let reply = join(api, body).await;
    assert_eq!(reply.status, 201, "{:?}", String::from_utf8_lossy(&reply.body));
    reply.json()["join"].as_str().unwrap().to_owned()
}

/// Another token of this server.
async fn token(api: &Api, body: Value) -> Api {
    let made = api.call("POST", "/api/tokens", body).await;
    assert_eq!(made.status, 201, "{:?}", String::from_utf8_lossy(&made.body));
    Api { url: api.url.clone(), token: made.json()["token"].as_str().unwrap().to_owned() }
}

async fn enroll(api: &Api, join: &str, name: &str, tags: Value) -> Reply {
    let mut body = enrollment(join, &fresh_key(), name);
    body["tags"] = tags;
    api.call("POST", "/api/enroll", body).await
}

/// Says hello with the right key; answers the close code.
async fn refused_hello(api: &Api, identity: &Identity) -> Option<u16> {
    let (mut socket, nonce, id) = dial(api.address()).await;
    socket.send(Message::text(encode(&identity.hello(&nonce, id, Vec::new())))).await.unwrap();
    close_code(&mut socket).await
}

async fn submit(api: &Api, targets: Value) -> Reply {
    api.call("POST", "/api/commands", json!({ "command": "true", "targets": targets })).await
}

async fn audited(api: &TestServer, action: &str) -> i64 {
    let conn = rusqlite::Connection::open(api.data.path().join("postrider.db")).unwrap();
    conn.query_row("SELECT count(*) FROM audit WHERE action = ?1", [action], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_join_strings_tags_are_on_its_agents_whatever_they_say() {
    let server = TestServer::start().await;
    let api = &server.api;
    let made = join(api, json!({ "site": "berlin", "tags": { "role": "web" }, "uses": 9 })).await.json();
    assert_eq!(
        (&made["tags"], &made["approve"], &made["uses_max"]),
        (&json!({ "role": "web", "site": "berlin" }), &json!(false), &json!(9))
    );
    let string = made["join"].as_str().unwrap();
    let own = json!({ "site": "munich", "rack": "7" });
    assert_eq!(enroll(api, string, "web-1", own).await.status, 201);
    let shown = api.get("/api/agents/web-1").await;
    assert_eq!(shown["tags"], json!({ "role": "web", "site": "berlin", "rack": "7" }));
    assert_eq!((&shown["join_id"], &shown["pending"]), (&made["id"], &json!(false)));
    assert!(shown["enrolled_from"].as_str().unwrap().starts_with("127.0.0.1:"), "{shown}");
    // The limit is that of both together, and a refusal takes no use.
    let many: serde_json::Map<String, Value> = (0..31).map(|n| (format!("k{n}"), json!("v"))).collect();
    let reply = enroll(api, string, "web-2", Value::Object(many)).await;
    assert_eq!(reply.problem(), (409, "conflict".to_owned()));
    assert!(reply.json()["detail"].as_str().unwrap().contains("33 tags"), "{:?}", reply.json());
    assert_eq!(api.get("/api/join").await["joins"][0]["uses"], 1);
    for (bad, field) in [
        (json!({ "site": "berlin", "tags": { "site": "munich" } }), "site"),
        (json!({ "site": "a b" }), "tags"),
        (json!({ "tags": { "": "x" } }), "tags"),
    ] {
        let reply = join(api, bad).await;
        assert_eq!((reply.problem(), reply.json()["field"].clone()), ((422, "invalid_field".to_owned()), json!(field)));
    }
    assert_eq!(join(api, json!({ "site": "berlin", "tags": { "site": "berlin" } })).await.status, 201);
    // One use and a day, if nothing is said.
    let plain = join(api, json!({})).await.json();
    let life = plain["expires_ms"].as_i64().unwrap() - plain["created_ms"].as_i64().unwrap();
    assert!(plain["uses_max"] == 1 && (life - 86_400_000).abs() < 60_000, "{plain}");
    server.stop().await;
}

#[tokio::test]
async fn an_owner_with_a_scope_makes_and_sees_join_strings_of_it_only() {
    let server = TestServer::start().await;
    let api = &server.api;
    let scope = json!({ "site": ["berlin", "potsdam"] });
    let ann = token(api, json!({ "name": "ann", "role": "owner", "scope": scope })).await;
    let elsewhere = join(api, json!({ "site": "munich" })).await.json();
    for outside in [json!({}), json!({ "site": "munich" }), json!({ "tags": { "role": "web" } })] {
        let reply = join(&ann, outside).await;
        assert_eq!(reply.problem(), (403, "too_weak".to_owned()));
        assert!(reply.json()["detail"].as_str().unwrap().contains("site=berlin,potsdam"), "{:?}", reply.json());
    }
    let inside = join(&ann, json!({ "site": "berlin", "tags": { "role": "web" } })).await.json();
    let listed = ann.get("/api/join").await["joins"].clone();
    assert_eq!(listed.as_array().unwrap().iter().map(|join| &join["id"]).collect::<Vec<_>>(), [&inside["id"]]);
    let path = |join: &Value| format!("/api/join/{}", join["id"].as_str().unwrap());
    assert_eq!(ann.call("DELETE", &path(&elsewhere), Value::Null).await.problem(), (404, "not_found".to_owned()));
    assert_eq!(ann.call("DELETE", &path(&inside), Value::Null).await.status, 200);
    assert_eq!(enroll(api, elsewhere["join"].as_str().unwrap(), "web-1", json!({})).await.status, 201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_agents_with_one_use_at_the_same_moment_one_gets_in() {
    let server = TestServer::start().await;
    let api = &server.api;
    const ROUNDS: usize = 60;
    for round in 0..ROUNDS {
        let string = api.join().await;
        let (left, right) =
            tokio::join!(enroll(api, &string, "left", json!({})), enroll(api, &string, "right", json!({})));
        let (winner, loser) = if left.status == 201 { (left, right) } else { (right, left) };
        assert_eq!(winner.status, 201, "round {round}");
        assert_eq!(loser.problem(), (403, "join_refused".to_owned()), "round {round}");
        assert!(loser.json()["detail"].as_str().unwrap().contains("used up"), "{:?}", loser.json());
    }
    assert_eq!(api.get("/api/agents?limit=1000").await["agents"].as_array().unwrap().len(), ROUNDS);
    server.stop().await;
}

#[tokio::test]
async fn a_pending_agent_is_given_nothing_until_somebody_approves_it() {
    let mut server = TestServer::start().await;
    let api = server.api.clone();
    let string = join_string(&api, json!({ "approve": true, "site": "berlin", "uses": 2 })).await;
    let key = fresh_key();
    let answer = api.call("POST", "/api/enroll", enrollment(&string, &key, "web-1")).await.json();
    assert_eq!(answer["pending"], true, "{answer}");
    assert_eq!(api.call("POST", "/api/enroll", enrollment(&string, &key, "web-1")).await.json(), answer, "asked again");
    let second = Identity::enroll_with(&api, &string, "web-2").await;

    assert_eq!(refused_hello(&api, &second).await, Some(CloseReason::Pending.code()));
    let shown = api.get("/api/agents/web-2").await;
    assert_eq!((&shown["pending"], &shown["online"], &shown["epoch"]), (&json!(true), &json!(false), &json!(0)));
    assert!(shown["connected_ms"].is_null() && shown["last_close"].is_null(), "no session began: {shown}");
    let named = submit(&api, json!({ "agents": ["web-2"] })).await;
    assert_eq!(named.problem(), (409, "conflict".to_owned()));
    assert!(named.json()["detail"].as_str().unwrap().contains("postrider agents approve"), "{:?}", named.json());
    assert_eq!(
        submit(&api, json!({ "tags": { "site": "berlin" } })).await.problem(),
        (422, "invalid_field".to_owned())
    );

    // A restart changes nothing about it; the approval does, once.
    server = server.restart().await;
    let api = server.api.clone();
    assert_eq!(refused_hello(&api, &second).await, Some(CloseReason::Pending.code()));
    let technician = token(&api, json!({ "name": "tom", "role": "technician" })).await;
    let munich = token(&api, json!({ "name": "mia", "role": "owner", "scope": { "site": ["munich"] } })).await;
    let path = "/api/agents/web-2/approve";
    assert_eq!(technician.call("POST", path, json!({})).await.problem(), (403, "role_too_low".to_owned()));
    assert_eq!(munich.call("POST", path, json!({})).await.problem(), (404, "no_such_agent".to_owned()));
    assert_eq!(refused_hello(&api, &second).await, Some(CloseReason::Pending.code()));
    for _ in 0..2 {
        let approved = api.call("POST", path, json!({})).await;
        assert_eq!((approved.status.as_u16(), approved.json()["pending"].clone()), (200, json!(false)));
    }
    assert_eq!(audited(&server, "agent.approve").await, 1);
    let mut agent = RawAgent::connect(&api, &second).await;
    assert_eq!(agent.epoch(), 1);
    let command = submit(&api, json!({ "tags": { "site": "berlin" } })).await.json();
    assert_eq!(command["deliveries"].as_array().unwrap().len(), 1, "web-1 still waits: {command}");
    let (delivery, _) = agent.dispatched().await;
    agent.complete(delivery).await;

    // One that waits can be revoked, and never comes in.
    assert_eq!(api.call("DELETE", "/api/agents/web-1", Value::Null).await.status, 200);
    assert_eq!(api.call("POST", "/api/agents/web-1/approve", json!({})).await.problem().0, 404);
    server.stop().await;
}

#[tokio::test]
async fn a_stranger_with_a_name_that_is_taken_makes_it_mean_nobody_else() {
    let server = TestServer::start().await;
    let api = &server.api;
    let real = Identity::enroll(api, "web-1").await;
    let string = join_string(api, json!({ "approve": true })).await;
    let stranger = Identity::enroll_with(api, &string, "web-1").await;
    let command = api.submit("web-1", json!({ "command": "true" })).await;
    assert_eq!(command["deliveries"][0]["agent_id"], real.id.to_string());
    // Whoever takes something away says whom.
    let revoked = api.call("DELETE", "/api/agents/web-1", Value::Null).await;
    assert_eq!(revoked.problem(), (409, "ambiguous_name".to_owned()));
    let candidates = revoked.json()["candidates"].clone();
    assert_eq!((&candidates[0]["pending"], &candidates[1]["pending"]), (&Value::Null, &json!(true)), "{candidates}");
    // The name of one that waits is that one's, where it is about waiting.
    let approved = api.call("POST", "/api/agents/web-1/approve", json!({})).await.json();
    assert_eq!((&approved["id"], &approved["pending"]), (&json!(stranger.id.to_string()), &json!(false)));
    let ambiguous = api.call("POST", "/api/agents/web-1/command", json!({ "command": "true" })).await;
    assert_eq!(ambiguous.problem(), (409, "ambiguous_name".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn a_real_agent_says_what_it_waits_for_and_comes_in_when_it_is_approved() {
    let server = TestServer::start().await;
    let data = server.data.path();
    let made = good(data, &["join", "create", "--site", "berlin", "--tag", "role=web", "--approve"]).await;
    assert!(made.stderr.contains("wait for approval"), "{}", made.stderr);
    let mut agent = TestAgent::launch(made.out().trim(), "web-1");
    let id = eventually("it has enrolled", || async {
        let listed = server.api.get("/api/agents").await;
        listed["agents"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    eventually("it says what it waits for", || async {
        let log = agent.process.printed();
        let cure = format!("web-1 waits for approval at {}: `postrider agents approve {id}`", server.api.url);
        (log.contains(&cure) && log.contains("asking again in 1")).then_some(())
    })
    .await;
    let listed = good(data, &["agents"]).await;
    assert!(listed.out().contains("pending") && listed.out().contains("role=web site=berlin"), "{}", listed.out());
    let join_id = server.api.get("/api/join").await["joins"][0]["id"].as_str().unwrap().to_owned();
    assert!(listed.stderr.contains(&format!("postrider agents approve {id}")), "{}", listed.stderr);
    assert!(listed.stderr.contains(" from 127.0.0.1:") && listed.stderr.contains(&join_id), "{}", listed.stderr);
    let shown = good(data, &["agents", "show", "web-1"]).await.out();
    assert!(shown.contains("pending: `postrider agents approve") && shown.contains(&join_id), "{shown}");
    let refused = run(data, &["run", "web-1", "--", "true"]).await;
    assert!(refused.code == Some(125) && refused.stderr.contains("agents approve"), "{refused:?}");
    let strings = good(data, &["join", "list"]).await.out();
    assert!(strings.contains("role=web site=berlin") && strings.contains("needed"), "{strings}");

    let approved = good(data, &["agents", "approve", "web-1"]).await;
    assert!(approved.stderr.contains("web-1 is approved"), "{}", approved.stderr);
    server.api.until_online("web-1", true).await;
    server.api.round_trip("web-1", "true").await;
    agent.process.kill();
    server.stop().await;
}

#[tokio::test]
async fn no_join_string_sends_secrets_over_a_wire_in_clear() {
    let server = TestServer::start().await;
    for (url, status) in [("http://msp.example:7717", 422), ("http://127.0.0.1:7", 201), ("https://msp.example", 201)] {
        let reply = server.api.call("POST", "/api/join", json!({ "server_url": url })).await;
        assert_eq!(reply.status, status, "{url}: {:?}", String::from_utf8_lossy(&reply.body));
    }
    server.stop().await;
}
