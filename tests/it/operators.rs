//! Operators' tokens: what each may do, whom it reaches, and how soon it is good for nothing.

use crate::harness::agent::TestAgent;
use crate::harness::api::{Api, id};
use crate::harness::cli::{good, run};
use crate::harness::eventually::eventually;
use crate::harness::operators::{audited, enroll_at, operator, with_token};
use crate::harness::process::{Process, ServerProcess, postrider};
use crate::harness::server::{TestServer, owner_token};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use postrider::http_client::{HttpClient, ServerUrl};
use postrider::protocol::ids::{AgentId, CommandId, TokenId};
use postrider::tls::Trust;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A server with an agent in each of two cities.
async fn two_cities() -> TestServer {
    let server = TestServer::start().await;
    enroll_at(&server.api, "b-1", "berlin").await;
    enroll_at(&server.api, "m-1", "munich").await;
    server
}

fn berlin(role: &str) -> Value {
    json!({ "role": role, "scope": { "site": ["berlin"] } })
}

#[tokio::test]
async fn what_is_no_good_token_opens_nothing() {
    let server = two_cities().await;
    let revoked = operator(&server.api, "gone", json!({ "role": "owner" })).await;
    let expired = operator(&server.api, "old", json!({ "role": "owner", "expires_s": 60 })).await;
    let command = server.api.run("b-1", "true").await;
    assert_eq!(expired.api.call("GET", "/api/agents", Value::Null).await.status, 200);
    assert_eq!(server.api.call("DELETE", &format!("/api/tokens/{}", revoked.id), Value::Null).await.status, 200);
    server.clock.set_offset_ms(61_000);
    let good = format!("Bearer {}", server.api.token);
    let headers: [(&str, String); 4] = [
        ("authorization", String::new()),
        ("authorization", format!("Basic {}", server.api.token)),
        ("authorization", format!("Bearer {}", revoked.api.token)),
        ("authorization", format!("Bearer {}", expired.api.token)),
    ];
    for (name, value) in &headers {
        for (method, path) in [
            ("GET", "/api/commands".to_owned()),
            ("POST", "/api/agents/b-1/command".to_owned()),
            ("GET", format!("/api/commands/{command}/events")),
            ("POST", format!("/api/commands/{command}/cancel")),
            ("GET", "/api/tokens".to_owned()),
            ("POST", "/api/session".to_owned()),
        ] {
            let reply = server.api.request(method, &path, &[(name, value)], b"{}".to_vec()).await;
            let problem = reply.problem();
            // After twenty failures the address is locked out; nothing of it is let in before or after.
            assert!(
                problem == (401, "unauthorized".to_owned()) || problem == (429, "locked_out".to_owned()),
                "{method} {path} {value}: {problem:?}"
            );
        }
    }
    assert_eq!(server.api.request("GET", "/api/commands", &[("authorization", &good)], vec![]).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn outside_of_its_scope_a_token_finds_nothing_and_cannot_tell_that_there_is_something() {
    let server = two_cities().await;
    let owner = &server.api;
    let ann = operator(owner, "ann", berlin("technician")).await.api;
    let theirs = owner.run("m-1", "echo secret").await;
    let ours = ann.run("b-1", "true").await;
    let both = json!({ "command": "true", "targets": { "all": true }, "confirm": 2 });
    let both = id(&owner.call("POST", "/api/commands", both).await.json());

    let munich = owner.get("/api/agents/m-1").await["id"].as_str().unwrap().to_owned();
    let unknown_agent = AgentId::new().to_string();
    let unknown_command = CommandId::new().to_string();
    // What is there, what is not, method, and where.
    let same = [
        (munich.as_str(), unknown_agent.as_str(), "GET", "/api/agents/KEY"),
        ("m-1", "m-9", "GET", "/api/agents/KEY"),
        (&munich, &unknown_agent, "POST", "/api/agents/KEY/command"),
        ("m-1", "m-9", "POST", "/api/agents/KEY/command"),
        ("m-1", "m-9", "GET", "/api/commands?agent=KEY"),
        (&theirs, &unknown_command, "GET", "/api/commands/KEY"),
        (&theirs, &unknown_command, "GET", "/api/commands/KEY/output"),
        (&theirs, &unknown_command, "GET", "/api/commands/KEY/events"),
        (&theirs, &unknown_command, "POST", "/api/commands/KEY/cancel"),
        (&theirs, &unknown_command, "GET", "/api/commands?before=KEY"),
        (&munich, &unknown_agent, "GET", "/api/agents?after=KEY"),
    ];
    for (there, not_there, method, path) in same {
        let mut texts = Vec::new();
        for key in [there, not_there] {
            let body = if path.ends_with("/command") { json!({ "command": "true" }) } else { Value::Null };
            let reply = ann.call(method, &path.replace("KEY", key), body).await;
            assert_eq!(reply.status, 404, "{method} {path} {key}");
            let request_id = reply.json()["request_id"].as_str().unwrap().to_owned();
            let text = String::from_utf8(reply.body).unwrap();
            texts.push(text.replace(&request_id, "ID").replace(key, "KEY"));
        }
        assert_eq!(texts[0], texts[1], "{method} {path}");
    }
    let named = json!({ "command": "true", "targets": { "agents": ["m-1"] } });
    assert_eq!(ann.call("POST", "/api/commands", named).await.problem(), (404, "no_such_agent".to_owned()));
    let tagged = json!({ "command": "true", "targets": { "tags": { "site": "munich" } } });
    assert_eq!(ann.call("POST", "/api/commands", tagged).await.problem(), (422, "invalid_field".to_owned()));

    // Lists and history have what is in the scope alone; of a command to all, the deliveries that are.
    let names = |value: &Value| -> Vec<String> {
        value["agents"].as_array().unwrap().iter().map(|agent| agent["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&ann.get("/api/agents").await), ["b-1"]);
    let history = ann.get("/api/commands").await;
    let ids: Vec<String> = history["commands"].as_array().unwrap().iter().map(id).collect();
    assert_eq!(ids, [both.clone(), ours.clone()]);
    assert_eq!(ann.command(&both).await["deliveries"].as_array().unwrap().len(), 1);
    assert_eq!(owner.command(&both).await["deliveries"].as_array().unwrap().len(), 2);
    // All means all that it reaches.
    let all = json!({ "command": "true", "targets": { "all": true }, "confirm": 1 });
    let all = ann.call("POST", "/api/commands", all).await.json();
    assert_eq!(all["deliveries"].as_array().unwrap().len(), 1, "{all}");
    assert_eq!(ann.call("POST", &format!("/api/commands/{both}/cancel"), Value::Null).await.status, 202);
    assert_eq!(owner.command(&both).await["deliveries"].as_array().unwrap().len(), 2);
    let states: Vec<Value> =
        owner.command(&both).await["deliveries"].as_array().unwrap().iter().map(|d| d["state"].clone()).collect();
    assert!(states.contains(&json!("cancelled")) && states.contains(&json!("queued")), "{states:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_role_that_is_too_low_is_told_so() {
    let server = two_cities().await;
    let viewer = operator(&server.api, "vic", json!({ "role": "viewer" })).await;
    let technician = operator(&server.api, "tom", json!({ "role": "technician" })).await;
    let command = server.api.run("b-1", "true").await;
    let needs_technician =
        [("POST", "/api/agents/b-1/command".to_owned()), ("POST", format!("/api/commands/{command}/cancel"))];
    let needs_owner = [
        ("GET", "/api/tokens".to_owned()),
        ("POST", "/api/tokens".to_owned()),
        ("DELETE", format!("/api/tokens/{}", viewer.id)),
        ("POST", format!("/api/tokens/{}/totp", technician.id)),
        ("PUT", format!("/api/tokens/{}/totp", technician.id)),
        ("DELETE", format!("/api/tokens/{}/totp", technician.id)),
        ("POST", "/api/join".to_owned()),
        ("DELETE", "/api/agents/b-1".to_owned()),
    ];
    for (method, path) in needs_technician.iter().chain(&needs_owner) {
        let reply = viewer.api.call(method, path, json!({})).await;
        assert_eq!(reply.problem(), (403, "role_too_low".to_owned()), "{method} {path}");
    }
    for (method, path) in &needs_owner {
        let reply = technician.api.call(method, path, json!({})).await;
        assert_eq!(reply.problem(), (403, "role_too_low".to_owned()), "{method} {path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn no_token_makes_a_stronger_one_or_sees_beyond_its_scope() {
    let server = two_cities().await;
    let owner = &server.api;
    let hour = json!({ "role": "owner", "scope": { "site": ["berlin", "munich"] }, "expires_s": 3600 });
    let boss = operator(owner, "boss", hour).await;
    let make = async |name: &str, rest: Value| {
        let mut body = rest;
        body["name"] = json!(name);
        boss.api.call("POST", "/api/tokens", body).await
    };
    let too_strong = [
        ("reaches all", json!({ "role": "viewer", "scope": {} })),
        ("another site", json!({ "role": "viewer", "scope": { "site": ["berlin", "paris"] } })),
        ("another key", json!({ "role": "viewer", "scope": { "customer": ["acme"] } })),
        ("longer", json!({ "role": "viewer", "scope": { "site": ["berlin"] }, "expires_s": 7200 })),
    ];
    for (what, body) in too_strong {
        assert_eq!(make("x", body).await.problem(), (403, "too_weak".to_owned()), "{what}");
    }
    let wrong = [json!({ "site": [] }), json!({ "site": "berlin" }), json!({ "a b": ["c"] }), json!(["site"])];
    for scope in wrong {
        let reply = make("x", json!({ "role": "viewer", "scope": scope })).await;
        assert_eq!(reply.problem(), (422, "invalid_field".to_owned()), "{scope}");
    }
    // Left out, it is the maker's.
    let same = make("same", json!({ "role": "owner" })).await.json();
    assert_eq!(same["scope"], json!({ "site": ["berlin", "munich"] }));
    assert!(same["expires_ms"].is_i64() && same["created_by"] == "boss", "{same}");
    let clerk = operator(&boss.api, "clerk", json!({ "role": "owner", "scope": { "site": ["berlin"] } })).await;

    let names = async |api: &Api| -> Vec<String> {
        let tokens = api.get("/api/tokens").await;
        tokens["tokens"].as_array().unwrap().iter().map(|token| token["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(owner).await, ["clerk", "same", "boss", "owner"]);
    assert_eq!(names(&boss.api).await, ["clerk", "same", "boss"]);
    assert_eq!(names(&clerk.api).await, ["clerk"]);
    let unknown = TokenId::new().to_string();
    let mut texts = Vec::new();
    for key in [&boss.id, &unknown] {
        let reply = clerk.api.call("DELETE", &format!("/api/tokens/{key}"), Value::Null).await;
        assert_eq!(reply.status, 404);
        let request_id = reply.json()["request_id"].as_str().unwrap().to_owned();
        texts.push(String::from_utf8(reply.body).unwrap().replace(&request_id, "ID").replace(key.as_str(), "KEY"));
    }
    assert_eq!(texts[0], texts[1]);
    // Its own it may revoke, and those inside; the last owner's that reaches all nobody may.
    let first = owner.get("/api/tokens").await["tokens"][3]["id"].as_str().unwrap().to_owned();
    let last = owner.call("DELETE", &format!("/api/tokens/{first}"), Value::Null).await;
    assert_eq!(last.problem(), (409, "conflict".to_owned()));
    assert_eq!(boss.api.call("DELETE", &format!("/api/tokens/{}", clerk.id), Value::Null).await.status, 200);
    assert_eq!(clerk.api.call("GET", "/api/agents", Value::Null).await.status, 401);
    server.stop().await;
}

#[tokio::test]
async fn a_token_in_the_address_is_refused_before_anything_else() {
    let server = TestServer::start().await;
    let token = &server.api.token;
    let cases = [
        format!("/api/agents?token={token}"),
        format!("/api/agents?access_token={token}"),
        format!("/api/agents?limit=1&Authorization=Bearer%20{token}"),
        format!("/api/agents?%74oken={token}"),
        format!("/api/agents?key={token}"),
        format!("/healthz?token={token}"),
        format!("/nothing?token={token}"),
        "/api/agents?token".to_owned(),
    ];
    for path in cases {
        let reply = server.api.call("GET", &path, Value::Null).await;
        assert_eq!(reply.problem(), (400, "token_in_query".to_owned()), "{path}");
        assert!(!String::from_utf8_lossy(&reply.body).contains(token.as_str()));
    }
    server.stop().await;
}

#[tokio::test]
async fn the_last_use_of_a_token_is_known_to_the_minute() {
    let server = TestServer::start().await;
    let ann = operator(&server.api, "ann", json!({ "role": "viewer" })).await.api;
    let listed = || async { server.api.get("/api/tokens").await["tokens"][0].clone() };
    assert!(listed().await.get("used_ms").is_none(), "not used yet");
    for _ in 0..20 {
        ann.get("/api/agents").await;
    }
    let used = eventually("the use is noted", || async {
        let token = listed().await;
        token["used_ms"].as_i64().map(|at| (at, token["used_from"].clone()))
    })
    .await;
    assert_eq!((used.0 % 60_000, &used.1), (0, &json!("127.0.0.1")));
    server.clock.set_offset_ms(120_000);
    ann.get("/api/agents").await;
    eventually("the later use is noted", || async { (listed().await["used_ms"].as_i64()? > used.0).then_some(()) })
        .await;
    server.stop().await;
}

#[tokio::test]
async fn a_lost_owners_token_is_replaced_at_a_start() {
    let folder = tempfile::TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    let first = owner_token(&data);
    server.process.kill();
    for number in 2..4 {
        let _ = std::fs::remove_file(data.join("listen"));
        let mut command = postrider();
        command.args(["serve", "--listen", "127.0.0.1:0", "--new-owner-token", "--data"]).arg(&data);
        let mut server = ServerProcess::attach(Process::spawn(command, data.with_extension("log")), &data).await;
        let fresh = owner_token(&data);
        assert_ne!(fresh, first);
        let tokens = server.api.get("/api/tokens").await;
        assert_eq!(tokens["tokens"][0]["name"], format!("owner-{number}"));
        assert!(tokens["tokens"][0].get("created_by").is_none());
        with_token(&server.api, &first).get("/api/tokens").await;
        let printed = server.process.printed();
        assert!(printed.contains("stay good until they are revoked") && !printed.contains(&fresh), "{printed}");
        server.process.kill();
    }
    let rows = audited(&data, "token.create");
    assert_eq!(rows.last().unwrap().0, "server (new owner token)", "{rows:?}");
}

/// An open event stream.
struct Open {
    body: Incoming,
    _client: HttpClient,
}

impl Open {
    async fn start(api: &Api, command: &str) -> Self {
        let mut client = HttpClient::connect(&ServerUrl::parse(&api.url).unwrap(), &Trust::default()).await.unwrap();
        let bearer = format!("Bearer {}", api.token);
        let path = format!("/api/commands/{command}/events");
        let headers = [("authorization", bearer.as_str())];
        let response = client.open(Method::GET, &path, &headers, Default::default(), Duration::ZERO).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut open = Self { body: response.into_body(), _client: client };
        assert!(open.piece().await.unwrap().contains("queued"));
        open
    }

    async fn piece(&mut self) -> Option<String> {
        let frame =
            tokio::time::timeout(Duration::from_secs(60), self.body.frame()).await.expect("it goes on or ends")?;
        Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
    }

    /// Everything up to the end.
    async fn rest(mut self) -> String {
        let mut all = String::new();
        while let Some(piece) = self.piece().await {
            all.push_str(&piece);
        }
        all
    }
}

#[tokio::test]
async fn a_revoked_tokens_streams_and_waits_end_at_once_and_the_others_go_on() {
    let server = two_cities().await;
    let ann = operator(&server.api, "ann", json!({ "role": "technician" })).await;
    let bob = operator(&server.api, "bob", json!({ "role": "technician" })).await;
    let command = server.api.run("b-1", "true").await;
    let (cut, mut kept) = (Open::start(&ann.api, &command).await, Open::start(&bob.api, &command).await);
    let waiter = ann.api.call("POST", "/api/agents/b-1/command?wait=300", json!({ "command": "true" }));
    let revoke = async {
        eventually("the submission that waits is in", || async {
            let commands = server.api.get("/api/commands").await;
            (commands["commands"].as_array()?.len() == 2).then_some(())
        })
        .await;
        let at = Instant::now();
        assert_eq!(server.api.call("DELETE", &format!("/api/tokens/{}", ann.id), Value::Null).await.status, 200);
        assert_eq!(cut.rest().await, "", "it says nothing more");
        println!("a revoked token's event stream ended {:?} after the request to revoke it", at.elapsed());
        at
    };
    let (waited, at) = tokio::join!(waiter, revoke);
    println!("its stream and its wait had both ended after {:?}", at.elapsed());
    assert_eq!(waited.problem(), (401, "unauthorized".to_owned()));
    let again = ann.api.call("GET", &format!("/api/commands/{command}/events"), Value::Null).await;
    assert_eq!(again.problem(), (401, "unauthorized".to_owned()));
    // What was asked stands; and the other's stream hears of the end.
    let _agent = TestAgent::start(&server.api, "b-2").await;
    assert_eq!(server.api.call("POST", &format!("/api/commands/{command}/cancel"), Value::Null).await.status, 202);
    assert!(kept.piece().await.is_some_and(|piece| piece.contains("cancelled")));
    server.stop().await;
}

#[tokio::test]
async fn an_expired_tokens_streams_and_waits_end_by_themselves() {
    let server = two_cities().await;
    let command = server.api.run("b-1", "true").await;
    let ann = operator(&server.api, "ann", json!({ "role": "technician", "expires_s": 3 })).await.api;
    let made = Instant::now();
    let stream = Open::start(&ann, &command).await;
    let waiter = ann.call("POST", "/api/agents/b-1/command?wait=300", json!({ "command": "true" }));
    let (rest, waited) = tokio::join!(stream.rest(), waiter);
    println!("the stream and the wait of a token of 3 s ended after {:?}", made.elapsed());
    assert_eq!(rest, "");
    assert_eq!(waited.problem(), (401, "unauthorized".to_owned()));
    assert_eq!(ann.call("GET", "/api/agents", Value::Null).await.status, 401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_that_begins_after_a_revocation_was_answered_is_served() {
    let server = TestServer::start().await;
    for round in 0..3 {
        let ann = operator(&server.api, &format!("ann-{round}"), json!({ "role": "owner" })).await;
        let opened = ann.api.call("POST", "/api/session", json!({ "kind": "bearer" })).await.json();
        let session = with_token(&ann.api, opened["token"].as_str().unwrap());
        let (served, revoked) = (AtomicU32::new(0), AtomicBool::new(false));
        let ask = async |api: &Api| {
            loop {
                let after = revoked.load(Ordering::SeqCst);
                let status = api.call("GET", "/api/session", Value::Null).await.status;
                assert!(!(after && status == 200), "served after it was revoked");
                // One failure each: more would lock the address out.
                if status != 200 {
                    return;
                }
                served.fetch_add(1, Ordering::SeqCst);
            }
        };
        let revoke = async {
            eventually("they are served", || async { (served.load(Ordering::SeqCst) > 100).then_some(()) }).await;
            let reply = server.api.call("DELETE", &format!("/api/tokens/{}", ann.id), Value::Null).await;
            assert_eq!(reply.status, 200);
            revoked.store(true, Ordering::SeqCst);
            for api in [&ann.api, &session] {
                assert_eq!(api.call("GET", "/api/session", Value::Null).await.status, 401);
            }
        };
        tokio::join!(ask(&ann.api), ask(&ann.api), ask(&session), ask(&session), revoke);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_another_process_revokes_or_widens_is_read_anew() {
    let server = two_cities().await;
    let ann = operator(&server.api, "ann", berlin("viewer")).await.api;
    let agents = async || {
        let reply = ann.call("GET", "/api/agents", Value::Null).await;
        (reply.status == 200).then(|| reply.json()["agents"].as_array().unwrap().len())
    };
    assert_eq!(agents().await, Some(1));
    let conn = rusqlite::Connection::open(server.data.path().join("postrider.db")).unwrap();
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    conn.execute("UPDATE tokens SET scope = '{}' WHERE name = 'ann'", []).unwrap();
    eventually("it reaches both", || async { (agents().await == Some(2)).then_some(()) }).await;
    conn.execute("UPDATE tokens SET revoked_ms = 1 WHERE name = 'ann'", []).unwrap();
    eventually("it is good no longer", || async { agents().await.is_none().then_some(()) }).await;
    server.stop().await;
}

#[tokio::test]
async fn the_command_line_makes_tokens_for_sites_and_lists_them() {
    let server = two_cities().await;
    let data = server.data.path();
    let args = ["tokens", "create", "ann", "--role", "technician", "--site", "berlin", "--site", "munich"];
    let made = good(data, &[&args[..], &["--scope", "role=web", "--json"]].concat()).await.objects();
    assert_eq!(made[0]["scope"], json!({ "role": ["web"], "site": ["berlin", "munich"] }));
    good(data, &["tokens", "create", "bob", "--role", "viewer"]).await;
    let list = good(data, &["tokens", "list"]).await.out();
    let line = |name: &str| list.lines().find(|line| line.contains(name)).unwrap().to_owned();
    assert!(line("ann").contains("role=web site=berlin,munich") && line("ann").contains("never"), "{list}");
    assert!(line("bob").contains(" all ") && line("the server").contains("127.0.0.1"), "{list}");
    let rows = good(data, &["tokens", "list", "--json"]).await.objects();
    assert_eq!((&rows[0]["created_by"], &rows[0]["totp"]), (&json!("owner"), &json!(false)));
    let bad = run(data, &["tokens", "create", "eve", "--role", "viewer", "--scope", "berlin"]).await;
    assert_eq!(bad.code, Some(2), "{bad:?}");
    server.stop().await;
}
