//! Requests that cannot be taken: each is a problem document that names what is wrong, and changes nothing.

use crate::harness::api::{Api, Reply, id};
use crate::harness::raw_agent::{Identity, enrollment, fresh_key};
use crate::harness::server::TestServer;
use postrider::protocol::http::{BODY_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, NOTE_BYTES_MAX};
use postrider::protocol::ids::{AgentId, CommandId};
use postrider::protocol::spec::SPEC_BYTES_MAX;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ONE: &str = "/api/agents/web-1/command";
const MANY: &str = "/api/commands";

/// A server that knows one agent, which is not connected.
async fn server_with_agent() -> TestServer {
    let server = TestServer::start().await;
    Identity::enroll(&server.api, "web-1").await;
    server
}

async fn send(api: &Api, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let bearer = format!("Bearer {}", api.token);
    let headers = [&[("authorization", bearer.as_str())], headers].concat();
    api.request("POST", path, &headers, body.to_vec()).await
}

/// The answer is 422 and names this field.
fn names_field(what: &str, reply: &Reply, field: &str) {
    assert_eq!(reply.problem(), (422, "invalid_field".to_owned()), "{what}: {:?}", reply.json());
    assert_eq!(reply.json()["field"], field, "{what}: {:?}", reply.json());
}

async fn nothing_was_submitted(api: &Api) {
    assert_eq!(api.get("/api/commands").await["commands"], json!([]));
}

/// A token of this role.
async fn with_role(api: &Api, role: &str) -> Api {
    let reply = api.call("POST", "/api/tokens", json!({ "name": role, "role": role })).await;
    assert_eq!(reply.status, 201);
    Api { url: api.url.clone(), token: reply.json()["token"].as_str().unwrap().to_owned() }
}

#[tokio::test]
async fn a_submission_with_a_wrong_field_is_refused_and_the_field_named() {
    let server = server_with_agent().await;
    let api = &server.api;
    let ready = json!({ "v": 1, "command": "true", "timeout_ms": 1, "not_after_ms": server.clock.now_ms() + 60_000 });
    let (ready, past) = (ready.to_string(), r#"{"v":1,"command":"true","timeout_ms":1,"not_after_ms":5}"#);
    let cases = [
        ("nothing", json!({}), "command"),
        ("an empty command", json!({ "command": "" }), "command"),
        ("a blank command", json!({ "command": " \n\t" }), "command"),
        ("command and argv", json!({ "command": "true", "argv": ["true"] }), "command"),
        ("a command that is a number", json!({ "command": 7 }), "command"),
        ("no arguments", json!({ "argv": [] }), "argv"),
        ("an empty program", json!({ "argv": ["", "x"] }), "argv"),
        ("too many arguments", json!({ "argv": vec!["x"; 1025] }), "argv"),
        ("an argument that is a number", json!({ "argv": ["true", 1] }), "argv[1]"),
        ("argv with a shell", json!({ "argv": ["true"], "shell": "sh" }), "shell"),
        ("an unknown shell", json!({ "command": "true", "shell": "fish" }), "shell"),
        ("spec with command", json!({ "spec": ready, "command": "true" }), "command"),
        ("spec with argv", json!({ "spec": ready, "argv": ["true"] }), "argv"),
        ("spec with a timeout", json!({ "spec": ready, "timeout_s": 5 }), "timeout_s"),
        ("spec with a ttl", json!({ "spec": ready, "ttl_s": 5 }), "ttl_s"),
        ("spec with env", json!({ "spec": ready, "env": {} }), "env"),
        ("a spec that is no JSON", json!({ "spec": "true" }), "spec"),
        ("a spec as an object", json!({ "spec": { "v": 1 } }), "spec"),
        ("a spec whose time is over", json!({ "spec": past }), "spec"),
        ("a timeout of 0", json!({ "command": "true", "timeout_s": 0 }), "timeout_s"),
        ("a negative timeout", json!({ "command": "true", "timeout_s": -1 }), "timeout_s"),
        ("a timeout of more than a day", json!({ "command": "true", "timeout_s": 86_400.001 }), "timeout_s"),
        ("a huge timeout", json!({ "command": "true", "timeout_s": 1e300 }), "timeout_s"),
        ("a timeout in words", json!({ "command": "true", "timeout_s": "60" }), "timeout_s"),
        ("a timeout that is a list", json!({ "command": "true", "timeout_s": [60] }), "timeout_s"),
        ("a ttl of 0", json!({ "command": "true", "ttl_s": 0 }), "ttl_s"),
        ("a negative ttl", json!({ "command": "true", "ttl_s": -0.5 }), "ttl_s"),
        ("a ttl of more than 30 days", json!({ "command": "true", "ttl_s": 30 * 86_400 + 1 }), "ttl_s"),
        ("a huge ttl", json!({ "command": "true", "ttl_s": 1e18 }), "ttl_s"),
        ("a ttl in words", json!({ "command": "true", "ttl_s": "7d" }), "ttl_s"),
        ("a NUL in the command", json!({ "command": "echo a\0b" }), "command"),
        ("a NUL in an argument", json!({ "argv": ["echo", "a\0b"] }), "argv"),
        ("a NUL in a value", json!({ "command": "true", "env": { "A": "a\0b" } }), "env"),
        ("a NUL in a variable's name", json!({ "command": "true", "env": { "A\0": "a" } }), "env"),
        ("a variable without a name", json!({ "command": "true", "env": { "": "a" } }), "env"),
        ("a variable with = in its name", json!({ "command": "true", "env": { "A=B": "a" } }), "env"),
        ("a NUL in the folder", json!({ "command": "true", "cwd": "/\0" }), "cwd"),
        ("an empty folder", json!({ "command": "true", "cwd": "" }), "cwd"),
        ("too much output", json!({ "command": "true", "output_bytes_max": 1_048_577 }), "output_bytes_max"),
        ("negative output", json!({ "command": "true", "output_bytes_max": -1 }), "output_bytes_max"),
        ("a long note", json!({ "command": "true", "note": "n".repeat(NOTE_BYTES_MAX + 1) }), "note"),
        ("an unknown field", json!({ "command": "true", "comand": "false" }), "comand"),
        ("targets for one agent", json!({ "command": "true", "targets": { "all": true } }), "targets"),
        ("a specification over its limit", json!({ "command": "x".repeat(SPEC_BYTES_MAX) }), "spec"),
        ("a ready-made one over its limit", json!({ "spec": " ".repeat(SPEC_BYTES_MAX) + &ready }), "spec"),
    ];
    for (what, body, field) in cases {
        let reply = api.call("POST", ONE, body).await;
        names_field(what, &reply, field);
    }
    nothing_was_submitted(api).await;
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused() {
    let server = server_with_agent().await;
    let cases: [(&str, &[u8]); 10] = [
        ("a shell line", b"echo hello"),
        ("half of it", br#"{"command":"true""#),
        ("two of them", br#"{"command":"true"}{"command":"true"}"#),
        ("something behind it", br#"{"command":"true"} x"#),
        ("no number", br#"{"command":"true","timeout_s":NaN}"#),
        ("no end", br#"{"command":"true","timeout_s":Infinity}"#),
        ("a number that is none", br#"{"command":"true","timeout_s":1e999}"#),
        ("invalid UTF-8 in a value", b"{\"command\":\"\xff\xfe\"}"),
        ("half a character", b"{\"command\":\"\xe2\x82\"}"),
        ("NUL bytes", b"\0\0\0\0"),
    ];
    for (what, body) in cases {
        let reply = send(&server.api, ONE, &[], body).await;
        assert_eq!(reply.problem(), (400, "bad_json".to_owned()), "{what}: {:?}", reply.json());
    }
    // JSON, but no object; the fields in the order of their declaration are no object either.
    for body in ["true", "7", "\"true\"", "null", "[]", "[null, \"true\"]"] {
        names_field(body, &send(&server.api, ONE, &[], body.as_bytes()).await, "body");
    }
    nothing_was_submitted(&server.api).await;
    server.stop().await;
}

/// Sends a request byte by byte as given, reading meanwhile; answers all that came back.
async fn by_hand(api: &Api, request: &[u8]) -> String {
    let stream = TcpStream::connect(api.url.trim_start_matches("http://")).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let mut answer = Vec::new();
    // The server may stop reading when it has seen enough.
    let write = async { to.write_all(request).await.is_ok() };
    let read = async {
        let _ = from.read_to_end(&mut answer).await;
    };
    tokio::join!(write, read);
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_the_caller_hears_it() {
    let server = server_with_agent().await;
    let api = &server.api;
    let body = json!({ "command": "x".repeat(32 * BODY_BYTES_MAX) }).to_string();
    for path in [ONE, MANY, "/api/join", "/api/tokens", "/api/enroll"] {
        let reply = send(api, path, &[], body.as_bytes()).await;
        assert_eq!(reply.problem(), (413, "too_large".to_owned()), "{path}");
    }
    let head = format!(
        "POST {ONE} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n",
        api.token
    );
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(32);
    let answer = by_hand(api, format!("{head}{chunk}0\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("too_large"), "{answer}");
    nothing_was_submitted(api).await;
    server.stop().await;
}

#[tokio::test]
async fn an_agent_must_be_known_and_meant_alone() {
    let server = server_with_agent().await;
    let api = &server.api;
    let long = "x".repeat(5000);
    for key in ["nobody", "web", "WEB-1", "web%00", "a%2Fb", "%ff", "%20", &long, &AgentId::new().to_string()] {
        let cases = [
            ("POST", format!("/api/agents/{key}/command"), json!({ "command": "true" })),
            ("GET", format!("/api/agents/{key}"), Value::Null),
            ("DELETE", format!("/api/agents/{key}"), Value::Null),
        ];
        for (method, path, body) in cases {
            let reply = api.call(method, &path, body).await;
            assert_eq!(reply.problem(), (404, "no_such_agent".to_owned()), "{method} {path}");
            assert!(reply.body.len() < 1000, "the error does not repeat all that it was sent");
        }
    }
    let targets = json!({ "command": "true", "targets": { "agents": ["web-1", "nobody"] } });
    assert_eq!(api.call("POST", MANY, targets).await.problem(), (404, "no_such_agent".to_owned()));

    let second = Identity::enroll(api, "web-1").await;
    for (method, path) in [("POST", ONE), ("GET", "/api/agents/web-1"), ("DELETE", "/api/agents/web-1")] {
        let body = if method == "POST" { json!({ "command": "true" }) } else { Value::Null };
        let reply = api.call(method, path, body).await;
        assert_eq!(reply.problem(), (409, "ambiguous_name".to_owned()));
        let candidates = reply.json()["candidates"].as_array().unwrap().clone();
        assert_eq!(candidates.len(), 2);
        assert!(candidates.iter().any(|candidate| candidate["id"] == second.id.to_string()), "{candidates:?}");
        assert!(candidates.iter().all(|candidate| candidate["name"] == "web-1"), "{candidates:?}");
    }
    nothing_was_submitted(api).await;
    // The id still means one of them.
    api.run(&second.id.to_string(), "true").await;
    server.stop().await;
}

#[tokio::test]
async fn targets_are_exactly_one_kind_and_match_somebody() {
    let server = server_with_agent().await;
    let tag = json!({ "site": "berlin" });
    let cases = [
        ("none", json!({ "command": "true" }), "targets"),
        ("no kind", json!({ "command": "true", "targets": {} }), "targets"),
        ("null", json!({ "command": "true", "targets": null }), "targets"),
        ("no agents", json!({ "command": "true", "targets": { "agents": [] } }), "targets"),
        ("no tags", json!({ "command": "true", "targets": { "tags": {} } }), "targets"),
        ("not all", json!({ "command": "true", "targets": { "all": false } }), "targets"),
        ("two kinds", json!({ "command": "true", "targets": { "all": true, "agents": ["web-1"] } }), "targets"),
        ("two other kinds", json!({ "command": "true", "targets": { "tags": tag, "agents": ["web-1"] } }), "targets"),
        ("not all, but tags", json!({ "command": "true", "targets": { "all": false, "tags": tag } }), "targets"),
        ("a tag nobody has", json!({ "command": "true", "targets": { "tags": tag } }), "targets"),
        ("a tag that is none", json!({ "command": "true", "targets": { "tags": { "a b": "c" } } }), "targets.tags"),
        ("an unknown kind", json!({ "command": "true", "targets": { "sites": ["berlin"] } }), "targets.sites"),
        ("an agent that is a number", json!({ "command": "true", "targets": { "agents": [1] } }), "targets.agents[0]"),
    ];
    for (what, body, field) in cases {
        let reply = server.api.call("POST", MANY, body).await;
        names_field(what, &reply, field);
    }
    nothing_was_submitted(&server.api).await;
    server.stop().await;
}

#[tokio::test]
async fn without_a_good_token_there_is_nothing() {
    let server = server_with_agent().await;
    let api = &server.api;
    let wrong = format!("Bearer {}x", api.token);
    let short = format!("Bearer {}", &api.token[..api.token.len() - 1]);
    let basic = format!("Basic {}", api.token);
    let cases: [Option<&str>; 8] =
        [None, Some(""), Some("Bearer"), Some("Bearer "), Some(&wrong), Some(&short), Some(&basic), Some(&api.token)];
    let calls = [
        ("GET", "/api/commands"),
        ("POST", "/api/commands"),
        ("GET", "/api/agents"),
        ("POST", ONE),
        ("DELETE", "/api/agents/web-1"),
        ("GET", "/api/join"),
        ("POST", "/api/join"),
        ("GET", "/api/tokens"),
        ("POST", "/api/tokens"),
    ];
    for token in cases {
        for (method, path) in calls {
            let headers: Vec<(&str, &str)> = token.map(|token| ("authorization", token)).into_iter().collect();
            let reply = api.request(method, path, &headers, br#"{"command":"true"}"#.to_vec()).await;
            assert_eq!(reply.problem(), (401, "unauthorized".to_owned()), "{token:?} {method} {path}");
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
        }
    }
    nothing_was_submitted(api).await;
    assert_eq!(api.get("/api/agents").await["agents"].as_array().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn each_role_has_its_limits() {
    let server = server_with_agent().await;
    let (viewer, technician) = (with_role(&server.api, "viewer").await, with_role(&server.api, "technician").await);
    let command = technician.run("web-1", "true").await;
    viewer.command(&command).await;
    let cancel = format!("/api/commands/{command}/cancel");
    let cases = [
        (&viewer, "POST", ONE, json!({ "command": "true" })),
        (&viewer, "POST", MANY, json!({ "command": "true", "targets": { "all": true } })),
        (&viewer, "POST", cancel.as_str(), Value::Null),
        (&viewer, "GET", "/api/tokens", Value::Null),
        (&technician, "POST", "/api/join", json!({})),
        (&technician, "GET", "/api/join", Value::Null),
        (&technician, "POST", "/api/tokens", json!({ "name": "eve", "role": "owner" })),
        (&technician, "GET", "/api/tokens", Value::Null),
        (&technician, "DELETE", "/api/agents/web-1", Value::Null),
    ];
    for (api, method, path, body) in cases {
        let reply = api.call(method, path, body).await;
        assert_eq!(reply.problem(), (403, "role_too_low".to_owned()), "{method} {path}");
    }
    assert_eq!(viewer.command(&command).await["state"], "queued");
    assert_eq!(server.api.get("/api/tokens").await["tokens"].as_array().unwrap().len(), 3);
    assert_eq!(technician.call("POST", &cancel, Value::Null).await.status, 202);
    server.stop().await;
}

#[tokio::test]
async fn the_last_owners_token_cannot_be_revoked() {
    let server = TestServer::start().await;
    let tokens = server.api.get("/api/tokens").await;
    let first = format!("/api/tokens/{}", tokens["tokens"][0]["id"].as_str().unwrap());
    let reply = server.api.call("DELETE", &first, Value::Null).await;
    assert_eq!(reply.problem(), (409, "conflict".to_owned()));
    // With a second one the first may go, and the second is then the last.
    let made = server.api.call("POST", "/api/tokens", json!({ "name": "deputy", "role": "owner" })).await.json();
    let deputy = Api { url: server.api.url.clone(), token: made["token"].as_str().unwrap().to_owned() };
    assert_eq!(server.api.call("DELETE", &first, Value::Null).await.status, 200);
    assert_eq!(server.api.call("GET", "/api/tokens", Value::Null).await.status, 401);
    let own = format!("/api/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(deputy.call("DELETE", &own, Value::Null).await.problem(), (409, "conflict".to_owned()));
    deputy.get("/api/tokens").await;
    server.stop().await;
}

#[tokio::test]
async fn unknown_routes_and_methods_are_told_apart() {
    let server = server_with_agent().await;
    let api = &server.api;
    for path in ["/", "/api", "/api/", "/api/nothing", "/api/agents/web-1/commands", "/api/commands/x/y/z", "/admin"] {
        let reply = api.call("GET", path, Value::Null).await;
        assert_eq!(reply.problem(), (404, "no_such_route".to_owned()), "{path}");
    }
    let methods = [
        ("PUT", "/api/commands", "GET, POST"),
        ("DELETE", "/api/join", "GET, POST"),
        ("PATCH", "/api/tokens", "GET, POST"),
        ("POST", "/api/agents", "GET"),
        ("POST", "/api/agents/web-1", "GET, DELETE"),
        ("GET", ONE, "POST"),
        ("GET", "/api/enroll", "POST"),
        ("GET", "/api/commands/x/cancel", "POST"),
        ("POST", "/api/commands/x/output", "GET"),
        ("GET", "/api/join/x", "DELETE"),
        ("DELETE", "/healthz", "GET"),
        ("POST", "/agent/ws", "GET"),
    ];
    for (method, path, allow) in methods {
        let reply = api.call(method, path, Value::Null).await;
        assert_eq!(reply.problem(), (405, "method_not_allowed".to_owned()), "{method} {path}");
        assert_eq!(reply.headers["allow"], allow, "{method} {path}");
    }
    let missing = CommandId::new().to_string();
    for id in [missing.as_str(), "x", "%00", "..", "0"] {
        for rest in ["", "/output", "/events"] {
            let reply = api.call("GET", &format!("/api/commands/{id}{rest}"), Value::Null).await;
            assert_eq!(reply.problem(), (404, "not_found".to_owned()), "{id}{rest}");
        }
        let reply = api.call("POST", &format!("/api/commands/{id}/cancel"), Value::Null).await;
        assert_eq!(reply.problem(), (404, "not_found".to_owned()), "{id}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_parameter_is_named() {
    let server = server_with_agent().await;
    let api = &server.api;
    let command = api.run("web-1", "true").await;
    let cases = [
        ("GET", "/api/commands?limit=0".to_owned(), "limit"),
        ("GET", "/api/commands?limit=1001".to_owned(), "limit"),
        ("GET", "/api/commands?limit=-1".to_owned(), "limit"),
        ("GET", "/api/commands?limit=many".to_owned(), "limit"),
        ("GET", "/api/commands?limit=1&limit=2".to_owned(), "limit"),
        ("GET", "/api/commands?state=dancing".to_owned(), "state"),
        ("GET", "/api/commands?before=x".to_owned(), "before"),
        ("GET", "/api/commands?sort=asc".to_owned(), "sort"),
        ("GET", "/api/agents?limit=0".to_owned(), "limit"),
        ("GET", "/api/agents?tag=berlin".to_owned(), "tag"),
        ("GET", "/api/agents?after=x".to_owned(), "after"),
        ("GET", "/api/agents/web-1?x=1".to_owned(), "x"),
        ("GET", format!("/api/commands/{command}?x=1"), "x"),
        ("GET", format!("/api/commands/{command}/output?stream=stdin"), "stream"),
        ("GET", format!("/api/commands/{command}/output?from=-1"), "from"),
        ("GET", format!("/api/commands/{command}/output?from=99999999999999999999"), "from"),
        ("POST", format!("{ONE}?wait=301"), "wait"),
        ("POST", format!("{ONE}?wait=-1"), "wait"),
        ("POST", format!("{ONE}?wait=1.5"), "wait"),
        ("POST", format!("{ONE}?wait=1&wait=1"), "wait"),
        ("POST", format!("{ONE}?timeout=5"), "timeout"),
    ];
    for (method, path, field) in cases {
        let reply = api.call(method, &path, json!({ "command": "true" })).await;
        names_field(&path, &reply, field);
    }
    let before = format!("/api/commands?before={}", CommandId::new());
    assert_eq!(api.call("GET", &before, Value::Null).await.problem(), (404, "not_found".to_owned()));
    let agent = "/api/commands?agent=nobody";
    assert_eq!(api.call("GET", agent, Value::Null).await.problem(), (404, "no_such_agent".to_owned()));
    let output = format!("/api/commands/{command}/output?agent=nobody");
    assert_eq!(api.call("GET", &output, Value::Null).await.problem(), (404, "not_found".to_owned()));
    // Past the end is no error: nothing is there yet.
    let far = format!("/api/commands/{command}/output?from=9223372036854775807");
    assert_eq!(api.call("GET", &far, Value::Null).await.status, 200);
    let bearer = format!("Bearer {}", api.token);
    let headers = [("authorization", bearer.as_str()), ("last-event-id", "yesterday")];
    let events = api.request("GET", &format!("/api/commands/{command}/events"), &headers, Vec::new()).await;
    names_field("events", &events, "Last-Event-ID");
    assert_eq!(api.get("/api/commands").await["commands"].as_array().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn an_idempotency_key_gives_the_same_command_and_not_another() {
    let server = server_with_agent().await;
    Identity::enroll(&server.api, "web-2").await;
    let api = &server.api;
    let (body, other) = (br#"{"command":"true"}"#, br#"{"command":"false"}"#);
    let key = [("idempotency-key", "ticket-7")];
    let first = send(api, ONE, &key, body).await;
    assert_eq!(first.status, 201);
    let again = send(api, ONE, &key, body).await;
    assert_eq!(again.status, 200);
    assert_eq!(id(&again.json()), id(&first.json()));
    for (path, body) in [(ONE, &other[..]), ("/api/agents/web-2/command", &body[..])] {
        let reply = send(api, path, &key, body).await;
        assert_eq!(reply.problem(), (409, "idempotency_key_reused".to_owned()), "{path}");
    }
    // A key belongs to its token.
    let technician = with_role(api, "technician").await;
    let theirs = send(&technician, ONE, &key, other).await;
    assert_eq!(theirs.status, 201);
    let long = "k".repeat(IDEMPOTENCY_KEY_BYTES_MAX + 1);
    for key in ["", long.as_str(), "\u{e4}"] {
        let reply = send(api, ONE, &[("idempotency-key", key)], body).await;
        names_field(key, &reply, "Idempotency-Key");
    }
    assert_eq!(send(api, ONE, &[("idempotency-key", &long[1..])], body).await.status, 201);
    assert_eq!(api.get("/api/commands").await["commands"].as_array().unwrap().len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn a_ready_made_specification_is_kept_byte_for_byte() {
    let server = server_with_agent().await;
    let spec = format!(
        " {{\n\t\"timeout_ms\" : 1000,\"argv\":[ \"echo\",\"\\u00e4\\/ä\" ] , \"not_after_ms\":{}\r\n,\"v\":1}}  ",
        server.clock.now_ms() + 60_000
    );
    let taken = server.api.submit("web-1", json!({ "spec": spec, "note": "as it is" })).await;
    assert_eq!(taken["spec"], spec);
    assert_eq!(server.api.command(&id(&taken)).await["spec"], spec);
    server.stop().await;
}

#[tokio::test]
async fn enrollments_and_join_strings_with_wrong_fields_are_refused() {
    let server = TestServer::start().await;
    let api = &server.api;
    let (join, key) = (api.join().await, fresh_key());
    let good = enrollment(&join, &key, "web-1");
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    let many: serde_json::Map<String, Value> = (0..33).map(|n| (format!("k{n}"), json!("v"))).collect();
    let cases = [
        ("public_key", json!("")),
        ("public_key", json!("AAAA")),
        ("public_key", json!("!".repeat(43))),
        ("public_key", json!(7)),
        ("name", json!("")),
        ("name", json!("-web")),
        ("name", json!("web 1")),
        ("name", json!("n".repeat(65))),
        ("name", json!(AgentId::new().to_string())),
        ("tags", json!({ "a b": "c" })),
        ("tags", json!({ "a": "" })),
        ("tags", json!(many)),
        ("tags", json!(["a=b"])),
        ("secret", json!(null)),
        ("surprise", json!(1)),
    ];
    for (field, value) in cases {
        let body = with(field, value);
        let reply = api.call("POST", "/api/enroll", body.clone()).await;
        names_field(&body.to_string(), &reply, field);
    }
    let joins = [
        ("uses", json!({ "uses": 0 })),
        ("uses", json!({ "uses": 10_001 })),
        ("uses", json!({ "uses": -1 })),
        ("expires_s", json!({ "expires_s": 0 })),
        ("expires_s", json!({ "expires_s": 1e12 })),
        ("server_url", json!({ "server_url": "msp.example" })),
    ];
    for (field, body) in joins {
        names_field(field, &api.call("POST", "/api/join", body).await, field);
    }
    assert_eq!(api.get("/api/agents").await["agents"], json!([]));
    assert_eq!(api.get("/api/join").await["joins"][0]["uses"], 0);
    server.stop().await;
}
