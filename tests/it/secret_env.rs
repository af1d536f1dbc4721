//! Secrets in commands: the command sees them, and nothing keeps them.

use crate::harness::agent::TestAgent;
use crate::harness::api::{Api, ENDS, events, id};
use crate::harness::cli::{good, run_with, verb};
use crate::harness::eventually::eventually;
use crate::harness::process::{Process, ServerProcess, postrider};
use crate::harness::raw_agent::{Identity, RawAgent};
use crate::harness::server::{TestServer, owner_token};
use postrider::protocol::frame::ServerFrame;
use postrider::protocol::secret_env::SECRETS_BYTES_MAX;
use postrider::secret::sha256;
use postrider::store::handle::DATABASE_FILE;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// Nobody else has this text. Long, so that a page of its own may hold it.
fn secret() -> String {
    "p0strider-hunter2-".repeat(100)
}

/// What to look for: a piece of it.
const PIECE: &[u8] = b"hunter2-p0strider";

/// The command tells what it saw without telling it.
const TELL: &str = "printf %s \"$TOKEN\" | sha256sum";

fn told() -> String {
    format!("{}  -\n", postrider::secret::hex(&sha256(secret().as_bytes())))
}

async fn stdout(api: &Api, command: &str) -> String {
    String::from_utf8(api.output(command, "stdout").await).unwrap()
}

fn has_piece(bytes: &[u8]) -> bool {
    bytes.windows(PIECE.len()).any(|window| window == PIECE)
}

/// The files of a folder that have the secret in clear.
fn found_in(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(found_in(&path));
        } else if std::fs::read(&path).is_ok_and(|bytes| has_piece(&bytes)) {
            found.push(path.display().to_string());
        }
    }
    found
}

fn nowhere_in(folder: &Path, when: &str) {
    assert_eq!(found_in(folder), Vec::<String>::new(), "{when}");
}

/// How many commands the server keeps secrets for.
fn kept(data: &Path) -> u32 {
    let conn = Connection::open_with_flags(data.join(DATABASE_FILE), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    conn.query_row("SELECT count(*) FROM secrets", [], |row| row.get(0)).unwrap()
}

fn with_secret(line: &str) -> Value {
    json!({ "command": line, "secret_env": { "TOKEN": secret() } })
}

#[tokio::test]
async fn the_command_sees_it_and_nothing_keeps_it() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    // All that can be logged is, and lies in the same folder.
    let mut serve = postrider();
    serve.arg("serve").arg("--data").arg(&data).args(["--listen", "127.0.0.1:0"]).env("POSTRIDER_LOG", "trace");
    let mut server = ServerProcess::attach(Process::spawn(serve, folder.path().join("server.log")), &data).await;
    let api = server.api.clone();
    let mut agent = postrider();
    agent.arg("agent").arg("--data").arg(folder.path().join("agent")).args(["--name", "web-1"]);
    agent.env("POSTRIDER_JOIN", api.join().await).env("POSTRIDER_LOG", "trace");
    let mut agent = Process::spawn(agent, folder.path().join("agent.log"));
    eventually("the agent enrolled", || async {
        (api.call("GET", "/api/agents/web-1", Value::Null).await.status == 200).then_some(())
    })
    .await;
    // The command line takes it from its environment. The agent's processes have it in no argument.
    let look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c hunter2-p0[s]trider; ";
    let mut run = verb(&data, &["run", "web-1", "--secret-env", "TOKEN", "--json", "--", &format!("{look}{TELL}")]);
    run.env("TOKEN", secret());
    let ended = run_with(run, b"").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let command = ended.objects().pop().unwrap();
    let (command, shown) = (id(&command), ended.out() + &ended.stderr);
    assert_eq!(stdout(&api, &command).await, format!("0\n{}", told()));
    assert!(!has_piece(shown.as_bytes()));
    let spec = api.command(&command).await["spec"].as_str().unwrap().to_owned();
    assert!(spec.contains(r#""secret_env":["TOKEN"]"#), "{spec}");
    for args in [&["show", "--json", &command][..], &["show", &command], &["audit", "export"], &["commands", "--json"]]
    {
        let out = good(&data, args).await.out();
        assert!(out.contains("TOKEN") && !has_piece(out.as_bytes()), "{args:?}");
    }
    assert!(good(&data, &["show", &command]).await.out().contains("\nsecret_env TOKEN (not kept)\n"));
    assert_eq!(kept(&data), 0);
    // Not even before the write-ahead logs are emptied.
    nowhere_in(folder.path(), "while both run");
    agent.signal("TERM");
    agent.ended().await;
    server.process.signal("TERM");
    server.process.ended().await;
    nowhere_in(folder.path(), "when both have stopped");
    let log = std::fs::read_to_string(folder.path().join("server.log")).unwrap();
    assert!(log.contains("DEBUG"), "the log says all that it can");
}

#[tokio::test]
async fn it_waits_sealed_for_an_agent_that_is_offline() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let server = ServerProcess::start(&data, 0).await;
    let (port, mut server) = (server.port(), server);
    let mut agent = TestAgent::start(&server.api, "web-1").await;
    agent.process.kill();
    let command = id(&server.api.submit("web-1", with_secret(TELL)).await);
    assert_eq!(kept(&data), 1);
    nowhere_in(&data, "while it waits");
    server.process.signal("TERM");
    server.process.ended().await;
    nowhere_in(&data, "between two starts");
    let server = ServerProcess::start(&data, port).await;
    agent.restart("web-1");
    server.api.until(&command, &["succeeded"]).await;
    assert_eq!(stdout(&server.api, &command).await, told());
    assert_eq!(kept(&data), 0);
    nowhere_in(&data, "after its end");
    nowhere_in(&agent.data, "after its end");
}

#[tokio::test]
async fn an_agent_that_crashes_before_the_start_still_has_it_and_then_no_more() {
    let server = TestServer::start().await;
    let api = &server.api;
    let mut agent = TestAgent::start(api, "web-1").await;
    let go = agent.runs();
    for _ in 0..4 {
        let blocker = api.run("web-1", &format!("until [ -e {} ]; do sleep 0.05; done", go.display())).await;
        api.until(&blocker, &["running"]).await;
    }
    let waits = id(&api.submit("web-1", with_secret(TELL)).await);
    let cancelled = id(&api.submit("web-1", with_secret("true")).await);
    api.until(&waits, &["accepted"]).await;
    api.until(&cancelled, &["accepted"]).await;
    assert_eq!(kept(server.data.path()), 0, "the agents have it");
    assert!(!found_in(&agent.data).is_empty(), "a crash must not lose it");
    api.call("POST", &format!("/api/commands/{cancelled}/cancel"), Value::Null).await;
    api.until(&cancelled, &["cancelled"]).await;
    agent.process.kill();
    assert!(!found_in(&agent.data).is_empty());
    // What ran is interrupted, so there are slots.
    agent.restart("web-1");
    api.until(&waits, &["succeeded"]).await;
    assert_eq!(stdout(api, &waits).await, told());
    nowhere_in(&agent.data, "after its end, with the agent running");
    std::fs::write(&go, "").unwrap();
    server.stop().await;
}

#[tokio::test]
async fn each_agent_gets_it_and_the_last_one_ends_it() {
    let server = TestServer::start().await;
    let api = &server.api;
    let agent = TestAgent::start(api, "web-1").await;
    let raw = Identity::enroll(api, "web-2").await;
    let third = Identity::enroll(api, "web-3").await;
    let mut body = with_secret(TELL);
    body["targets"] = json!({ "all": true });
    body["confirm"] = json!(3);
    let command = id(&api.call("POST", "/api/commands", body).await.json());
    eventually("web-1 has run it", || async {
        let command = api.command(&command).await;
        (command["deliveries"][0]["state"] == "succeeded").then_some(())
    })
    .await;
    assert_eq!(kept(server.data.path()), 1, "two agents have not got it yet");
    // An agent of another make: the frame has it.
    let mut connection = RawAgent::connect(api, &raw).await;
    let delivery = loop {
        if let ServerFrame::Dispatch { delivery, secrets, .. } = connection.next().await {
            assert_eq!(secrets.expose().collect::<Vec<_>>(), [("TOKEN", secret().as_str())]);
            assert!(!has_piece(format!("{secrets:?}").as_bytes()));
            break delivery;
        }
    };
    connection.complete(delivery).await;
    assert_eq!(kept(server.data.path()), 1);
    // Revoking the last one ends what waits for it.
    assert_eq!(api.call("DELETE", &format!("/api/agents/{}", third.id), Value::Null).await.status, 200);
    assert_eq!(kept(server.data.path()), 0);
    drop(agent);
    let data = server.stop().await;
    nowhere_in(data.path(), "after the last end");
}

#[tokio::test]
async fn every_end_in_the_outbox_ends_it() {
    let server = TestServer::start().await;
    let api = &server.api;
    let _agent = Identity::enroll(api, "web-1").await;
    let cancelled = id(&api.submit("web-1", with_secret("true")).await);
    let mut short = with_secret("true");
    short["ttl_s"] = json!(60);
    let expired = id(&api.submit("web-1", short).await);
    assert_eq!(kept(server.data.path()), 2);
    api.call("POST", &format!("/api/commands/{cancelled}/cancel"), Value::Null).await;
    assert_eq!(kept(server.data.path()), 1);
    server.clock.set_offset_ms(61_000);
    api.until(&expired, &["expired"]).await;
    assert_eq!(kept(server.data.path()), 0);
    server.stop().await;
}

#[tokio::test]
async fn with_another_seal_key_the_delivery_ends_and_says_why() {
    let server = TestServer::start().await;
    let agent = Identity::enroll(&server.api, "web-1").await;
    let command = id(&server.api.submit("web-1", with_secret("true")).await);
    let data = server.stop().await;
    std::fs::write(data.path().join("seal.key"), "ab".repeat(32)).unwrap();
    let server = TestServer::start_in(data, |_| {}).await.unwrap();
    let api = &server.api;
    let after = id(&api.submit("web-1", with_secret("true")).await);
    let mut connection = RawAgent::connect(api, &agent).await;
    let (delivery, _) = connection.dispatched().await;
    connection.complete(delivery).await;
    api.until(&after, &["succeeded"]).await;
    let command = api.until(&command, ENDS).await;
    let delivery = &command["deliveries"][0];
    assert_eq!(delivery["state"], "cancelled", "{command}");
    assert!(delivery["reason"].as_str().unwrap().contains("seal.key"), "{command}");
    assert_eq!(events(&command).last().unwrap(), "cancelled");
    assert_eq!(kept(server.data.path()), 0);
    server.stop().await;
}

#[tokio::test]
async fn wrong_ones_are_refused_without_their_values() {
    let server = TestServer::start().await;
    let api = &server.api;
    Identity::enroll(api, "web-1").await;
    let spec = |names: Value| {
        let not_after_ms = server.clock.now_ms() + 60_000;
        json!({ "v": 1, "command": "x", "secret_env": names, "timeout_ms": 1, "not_after_ms": not_after_ms })
            .to_string()
    };
    let many: serde_json::Map<_, _> = (0..17).map(|number| (format!("N{number}"), secret().into())).collect();
    let value = secret();
    let cases = [
        ("a text", json!({ "command": "x", "secret_env": value }), "secret_env"),
        ("a list", json!({ "command": "x", "secret_env": [value] }), "secret_env"),
        ("an object in it", json!({ "command": "x", "secret_env": { "A": { "B": value } } }), "secret_env"),
        ("too many", json!({ "command": "x", "secret_env": many }), "secret_env"),
        (
            "too long",
            json!({ "command": "x", "secret_env": { "A": value.repeat(SECRETS_BYTES_MAX / 1000) } }),
            "secret_env",
        ),
        ("a NUL", json!({ "command": "x", "secret_env": { "A": format!("{value}\0") } }), "secret_env"),
        ("no name", json!({ "command": "x", "secret_env": { "": value } }), "secret_env"),
        ("= in a name", json!({ "command": "x", "secret_env": { "A=B": value } }), "secret_env"),
        ("in env too", json!({ "command": "x", "env": { "A": "" }, "secret_env": { "A": value } }), "secret_env"),
        (
            "a name without a value",
            json!({ "spec": spec(json!(["A", "B"])), "secret_env": { "A": value } }),
            "secret_env",
        ),
        ("no values", json!({ "spec": spec(json!(["A"])) }), "secret_env"),
        ("a value without a name", json!({ "spec": spec(json!([])), "secret_env": { "A": value } }), "secret_env"),
        ("a name twice", json!({ "spec": spec(json!(["A", "A"])), "secret_env": { "A": value } }), "spec"),
        ("another field", json!({ "command": 7, "secret_env": { "A": value } }), "command"),
    ];
    for (what, body, field) in cases {
        let reply = api.call("POST", "/api/agents/web-1/command", body).await;
        assert_eq!((reply.problem().0, reply.json()["field"].as_str()), (422, Some(field)), "{what}: {}", reply.json());
        assert!(!has_piece(&reply.body), "{what}");
    }
    assert_eq!(api.get("/api/commands").await["commands"], json!([]));
    let good = json!({ "spec": spec(json!(["B", "A"])), "secret_env": { "A": value, "B": "" } });
    let taken = api.submit("web-1", good.clone()).await;
    assert_eq!(taken["spec"], good["spec"], "byte for byte");
    server.stop().await;
}

#[tokio::test]
async fn a_repetition_is_known_by_a_mark_that_helps_nobody_to_guess() {
    let server = TestServer::start().await;
    let api = &server.api;
    Identity::enroll(api, "web-1").await;
    let submit = async |pin: &str| {
        let bearer = format!("Bearer {}", api.token);
        let body = json!({ "command": "true", "secret_env": { "PIN": pin } }).to_string().into_bytes();
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", "k")];
        (api.request("POST", "/api/agents/web-1/command", &headers, body.clone()).await, body)
    };
    let (first, body) = submit("1234").await;
    assert_eq!(first.status, 201);
    let (again, _) = submit("1234").await;
    assert_eq!((again.status.as_u16(), &again.json()["id"]), (200, &first.json()["id"]));
    assert_eq!(submit("1235").await.0.problem(), (409, "idempotency_key_reused".to_owned()));
    let data = server.stop().await;
    let hash: Vec<u8> = Connection::open(data.path().join(DATABASE_FILE))
        .unwrap()
        .query_row("SELECT idempotency_hash FROM commands", [], |row| row.get(0))
        .unwrap();
    assert_eq!(hash.len(), 32);
    assert_ne!(hash, sha256(&[b"web-1\0", &body[..]].concat()));
    // The same key still knows it after a restart.
    let server = TestServer::start_in(data, |_| {}).await.unwrap();
    let api = Api { url: server.api.url.clone(), token: owner_token(server.data.path()) };
    let bearer = format!("Bearer {}", api.token);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "k")];
    assert_eq!(api.request("POST", "/api/agents/web-1/command", &headers, body).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn the_command_line_takes_no_value_from_its_arguments() {
    let server = TestServer::start().await;
    let data = server.data.path();
    let run =
        async |args: &[&str]| run_with(verb(data, &[&["run", "web-1"], args, &["--", "true"]].concat()), b"").await;
    let ended = run(&["--secret-env", "TOKEN=hunter2"]).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("name alone"), "{}", ended.stderr);
    // There is no terminal to ask on here, or `setsid` would be needed to be without one.
    let mut alone = std::process::Command::new("setsid");
    alone.arg("--wait").arg(crate::harness::process::binary());
    alone.args(["run", "web-1", "--secret-env", "POSTRIDER_TEST_UNSET", "--", "true"]).env("POSTRIDER_DATA", data);
    let ended = run_with(alone, b"").await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("POSTRIDER_TEST_UNSET is not set"), "{}", ended.stderr);
    server.stop().await;
}
