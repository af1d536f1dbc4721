//! The record of who did what: written with what it records, never changed, and checked by whoever reads it.

use crate::harness::api::Api;
use crate::harness::cli::{good, run, run_with, verb};
use crate::harness::process::ServerProcess;
use crate::harness::raw_agent::Identity;
use crate::harness::server::TestServer;
use postrider::protocol::audit::{AuditResponse, ChainCheck};
use postrider::protocol::ids::AgentId;
use postrider::secret::{hex, sha256};
use postrider::store::enqueue::{AUDIT_AGENTS_MAX, AUDIT_SPEC_BYTES_MAX};
use postrider::store::handle::DATABASE_FILE;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// All rows of the audit, by small pages, checked.
async fn rows(api: &Api) -> Vec<Value> {
    let (mut rows, mut after, mut check) = (Vec::new(), 0, ChainCheck::default());
    loop {
        let reply = api.call("GET", &format!("/api/audit?after={after}&limit=3"), Value::Null).await;
        let page: AuditResponse = serde_json::from_slice(&reply.body).unwrap();
        page.rows.iter().for_each(|row| check.take(row).unwrap());
        rows.extend(reply.json()["rows"].as_array().unwrap().clone());
        match page.next {
            Some(next) => after = next,
            None => return rows,
        }
    }
}

/// Does one of everything that an owner can do.
async fn one_of_each(api: &Api) {
    let agent = Identity::enroll(api, "web-1").await;
    let token = api.call("POST", "/api/tokens", json!({ "name": "ann", "role": "technician" })).await.json();
    let body = json!({ "command": "echo ä", "note": "ticket 1" });
    let command = api.submit("web-1", body).await;
    api.call("POST", &format!("/api/commands/{}/cancel", command["id"].as_str().unwrap()), Value::Null).await;
    api.call("DELETE", &format!("/api/tokens/{}", token["id"].as_str().unwrap()), Value::Null).await;
    let join = api.call("POST", "/api/join", json!({})).await.json();
    api.call("DELETE", &format!("/api/join/{}", join["id"].as_str().unwrap()), Value::Null).await;
    assert_eq!(api.call("DELETE", &format!("/api/agents/{}", agent.id), Value::Null).await.status, 200);
}

#[tokio::test]
async fn everything_that_is_done_is_in_it() {
    let server = TestServer::start().await;
    one_of_each(&server.api).await;
    let rows = rows(&server.api).await;
    let told: Vec<_> =
        rows.iter().map(|row| (row["actor"].as_str().unwrap(), row["action"].as_str().unwrap())).collect();
    let expected = [
        ("server (first start)", "token.create"),
        ("owner", "join.create"),
        ("join string", "agent.enroll"),
        ("owner", "token.create"),
        ("owner", "command.submit"),
        ("owner", "command.cancel"),
        ("owner", "token.revoke"),
        ("owner", "join.create"),
        ("owner", "join.revoke"),
        ("owner", "agent.revoke"),
    ];
    assert_eq!(told, expected);
    assert!(rows[1..].iter().all(|row| row["outcome"] == "done" && row["peer"].is_string()), "{rows:?}");
    // Newest first, for people.
    let newest = server.api.get("/api/audit?before=9&limit=2").await;
    assert_eq!(newest["rows"], json!([rows[7], rows[6]]));
    assert_eq!(newest["next"], 7);
    assert_eq!(server.api.get("/api/audit?before=1").await, json!({ "rows": [], "next": null }));
    assert_eq!(server.api.get("/api/audit?after=10").await, json!({ "rows": [], "next": null }));
    server.stop().await;
}

#[tokio::test]
async fn a_submission_is_told_in_full_and_within_limits() {
    let server = TestServer::start().await;
    let api = &server.api;
    let join = api.call("POST", "/api/join", json!({ "uses": 100 })).await.json()["join"].as_str().unwrap().to_owned();
    let mut ids = Vec::new();
    for number in 0..=AUDIT_AGENTS_MAX {
        ids.push(Identity::enroll_with(api, &join, &format!("web-{number}")).await.id.to_string());
    }
    let small = api.submit("web-0", json!({ "command": "echo ä", "note": "ticket 1" })).await;
    let long = json!({ "command": "ä".repeat(AUDIT_SPEC_BYTES_MAX), "targets": { "all": true }, "confirm": AUDIT_AGENTS_MAX + 1 });
    let large = api.call("POST", "/api/commands", long).await.json();
    let rows = rows(api).await;
    let [first, second] = &rows[rows.len() - 2..] else { panic!("{rows:?}") };
    assert_eq!(first["target"], small["id"]);
    let spec_sha256 = |spec: &Value| postrider::protocol::audit::text_hash(spec.as_str().unwrap());
    let expected = json!({
        "spec_sha256": spec_sha256(&small["spec"]), "spec": small["spec"], "note": "ticket 1",
        "agents": [{ "id": ids[0], "name": "web-0" }], "agent_count": 1, "held": false, "targets": "agents",
        "agents_sha256": hex(&sha256(ids[0].parse::<AgentId>().unwrap().as_bytes())),
    });
    assert_eq!(first["detail"], expected);
    let detail = &second["detail"];
    assert_eq!((&detail["cut"], &detail["agent_count"]), (&json!(true), &json!(AUDIT_AGENTS_MAX + 1)));
    assert_eq!(detail["targets"], "all");
    assert_eq!(detail["agents"].as_array().unwrap().len(), AUDIT_AGENTS_MAX);
    assert_eq!(detail["spec_sha256"], spec_sha256(&large["spec"]));
    let kept = detail["spec"].as_str().unwrap();
    assert!(kept.len() <= AUDIT_SPEC_BYTES_MAX && kept.len() > AUDIT_SPEC_BYTES_MAX - 4);
    assert!(large["spec"].as_str().unwrap().starts_with(kept));
    server.stop().await;
}

#[tokio::test]
async fn only_an_owner_without_a_scope_reads_it() {
    let server = TestServer::start().await;
    let api = &server.api;
    for (name, role, scope, code) in [
        ("vera", "viewer", json!({}), "role_too_low"),
        ("tim", "technician", json!({}), "role_too_low"),
        ("otto", "owner", json!({ "site": ["berlin"] }), "scope_too_narrow"),
    ] {
        let body = json!({ "name": name, "role": role, "scope": scope });
        let made = api.call("POST", "/api/tokens", body).await.json();
        let other = Api { url: api.url.clone(), token: made["token"].as_str().unwrap().to_owned() };
        assert_eq!(other.call("GET", "/api/audit", Value::Null).await.problem(), (403, code.to_owned()), "{name}");
    }
    for wrong in ["after=x", "limit=0", "limit=1001", "after=1&before=2", "seq=1"] {
        assert_eq!(api.call("GET", &format!("/api/audit?{wrong}"), Value::Null).await.problem().0, 422, "{wrong}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_database_itself_refuses_to_change_a_row() {
    let data = TestServer::start().await.stop().await;
    let conn = Connection::open(data.path().join(DATABASE_FILE)).unwrap();
    for sql in ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "DELETE FROM audit WHERE seq = 1"] {
        assert!(conn.execute(sql, []).unwrap_err().to_string().contains("audit rows are never"), "{sql}");
    }
}

/// Runs `tamper` on the database of a stopped server.
fn tamper(data: &Path, sql: &str) {
    let conn = Connection::open(data.join(DATABASE_FILE)).unwrap();
    conn.execute_batch("DROP TRIGGER audit_is_never_changed; DROP TRIGGER audit_is_never_deleted;").unwrap();
    conn.execute_batch(sql).unwrap();
}

/// The head that the server's log named at its start, and the one that `verify` prints.
fn logged_head(log: &str) -> String {
    let line = log.lines().rfind(|line| line.contains("the audit's head is ")).unwrap();
    line.rsplit(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn whoever_tampered_with_it_is_found_out() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    one_of_each(&server.api).await;
    let out = good(&data, &["audit", "verify"]).await.out();
    let head = out.lines().find_map(|line| line.strip_prefix("head ")).unwrap().to_owned();
    assert!(out.starts_with("10 rows") && head.starts_with("10:"), "{out}");
    assert_eq!(run(&data, &["audit", "verify", "--head", &head]).await.code, Some(0));
    let exported = folder.path().join("before.jsonl");
    good(&data, &["audit", "export", exported.to_str().unwrap()]).await;
    server.process.signal("TERM");
    server.process.ended().await;
    let whole = std::fs::read(data.join(DATABASE_FILE)).unwrap();
    let cases = [
        ("UPDATE audit SET actor = 'somebody' WHERE seq = 5", "row 5 was changed"),
        ("UPDATE audit SET detail = replace(detail, 'ticket 1', 'ticket 2') WHERE seq = 5", "row 5 was changed"),
        ("UPDATE audit SET peer = NULL WHERE seq = 2", "row 2 was changed"),
        ("UPDATE audit SET hash = zeroblob(32) WHERE seq = 10", "row 10 was changed"),
        ("DELETE FROM audit WHERE seq = 7", "row 7 is missing"),
        ("DELETE FROM audit WHERE seq = 1", "row 1 is missing"),
        ("DELETE FROM audit WHERE seq = 4; UPDATE audit SET seq = seq - 1 WHERE seq > 4", "row 4 was changed"),
        // Only a head from elsewhere tells these.
        ("DELETE FROM audit WHERE seq > 8", "there are only 8"),
        ("DELETE FROM audit", "there are only 0"),
    ];
    for (sql, told) in cases {
        std::fs::write(data.join(DATABASE_FILE), &whole).unwrap();
        tamper(&data, sql);
        let mut server = ServerProcess::start(&data, 0).await;
        let ended = run(&data, &["audit", "verify", "--head", &head]).await;
        assert_eq!((ended.code, ended.stdout.len()), (Some(1), 0), "{sql}: {ended:?}");
        assert!(ended.stderr.contains(told), "{sql}: {}", ended.stderr);
        // Nor does a file that was exported before go on with it; it stays whole.
        let ended = run(&data, &["audit", "export", exported.to_str().unwrap()]).await;
        if told.contains("only") {
            assert_eq!(ended.code, Some(1), "{sql}: {ended:?}");
        }
        assert_eq!(run(&data, &["audit", "verify", exported.to_str().unwrap(), "--head", &head]).await.code, Some(0));
        server.process.signal("TERM");
        server.process.ended().await;
    }
    // A chain that was made anew holds together, and is not the one whose head was noted.
    std::fs::write(data.join(DATABASE_FILE), &whole).unwrap();
    tamper(&data, "DELETE FROM audit");
    let server = ServerProcess::start(&data, 0).await;
    for number in 0..12 {
        server.api.call("POST", "/api/tokens", json!({ "name": format!("t{number}"), "role": "viewer" })).await;
    }
    assert_eq!(run(&data, &["audit", "verify"]).await.code, Some(0));
    let ended = run(&data, &["audit", "verify", "--head", &head, "--json"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.objects()[0]["broken"].as_str().unwrap().contains("row 10 is not the one that was noted"));
    assert_eq!(run(&data, &["audit", "export", exported.to_str().unwrap()]).await.code, Some(1));
}

#[tokio::test]
async fn the_head_is_in_the_log_of_each_start() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    one_of_each(&server.api).await;
    let head = good(&data, &["audit", "verify", "--json"]).await.objects()[0]["head"].as_str().unwrap().to_owned();
    server.process.signal("TERM");
    server.process.ended().await;
    let server = ServerProcess::start(&data, 0).await;
    assert_eq!(logged_head(&server.process.printed()), head);
}

#[tokio::test]
async fn an_export_grows_with_the_chain_and_overwrites_nothing() {
    let server = TestServer::start().await;
    let (api, data) = (&server.api, server.data.path());
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("audit.jsonl");
    let path = file.to_str().unwrap();
    let export = ["audit", "export", path];
    good(data, &export).await;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    one_of_each(api).await;
    let ended = good(data, &export).await;
    assert!(ended.stderr.starts_with("9 rows added; head 10:"), "{}", ended.stderr);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, good(data, &["audit", "export"]).await.out(), "the same as to standard output");
    assert_eq!(text.lines().count(), 10);
    assert!(good(data, &["audit", "verify", path]).await.out().starts_with("10 rows"));
    // A line that an interrupted export left is written anew; a line more is none of ours.
    std::fs::write(&file, &text[..text.len() - 5]).unwrap();
    assert_eq!(run(data, &["audit", "verify", path]).await.code, Some(1));
    good(data, &export).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    for other in ["not ours".to_owned(), format!("{text}{{}}\n"), text.replacen("token.create", "token.create2", 1)] {
        std::fs::write(&file, &other).unwrap();
        let ended = run(data, &export).await;
        assert_eq!(ended.code, Some(125), "{ended:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), other, "it is left as it is");
    }
    assert_eq!(run(data, &["audit", "export", folder.path().to_str().unwrap()]).await.code, Some(125));
    assert_eq!(run(data, &["audit", "verify", "/nonexistent"]).await.code, Some(125));
    server.stop().await;
}

#[tokio::test]
async fn people_read_the_newest_last() {
    let server = TestServer::start().await;
    let data = server.data.path();
    one_of_each(&server.api).await;
    server.api.call("DELETE", "/api/agents/web%1b%5b31m", Value::Null).await;
    crate::harness::eventually::eventually("the refusal is written", || async {
        (server.api.get("/api/audit?after=10").await["rows"] != json!([])).then_some(())
    })
    .await;
    let out = good(data, &["audit"]).await.out();
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 12, "{out}");
    assert!(lines[0].starts_with("time") && lines[0].trim_end().ends_with("detail"));
    assert!(lines[5].contains("command.submit") && lines[5].contains("web-1: echo ä"), "{out}");
    assert!(lines[11].contains("refused") && lines[11].contains("web [31m"), "{out}");
    assert!(!out.contains('\u{1b}'));
    let objects = good(data, &["audit", "--limit", "2", "--json"]).await.objects();
    assert_eq!((objects[0]["seq"].as_i64(), objects[1]["seq"].as_i64()), (Some(10), Some(11)));
    let mut wrong = verb(data, &["audit", "verify"]);
    wrong.env("POSTRIDER_TOKEN", "prt_wrong");
    assert_eq!(run_with(wrong, b"").await.code, Some(125));
    assert_eq!(run(data, &["audit", "verify", "--head", "7"]).await.code, Some(2));
    server.stop().await;
}
