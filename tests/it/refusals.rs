//! Who was refused what is in the audit: with a name where there is one, and never more than fits.

use crate::harness::api::Api;
use crate::harness::eventually::eventually;
use crate::harness::operators::operator;
use crate::harness::raw_agent::{Identity, close_code, dial, enrollment, fresh_key};
use crate::harness::server::TestServer;
use futures_util::SinkExt;
use postrider::protocol::close::CloseReason;
use postrider::protocol::frame::encode;
use postrider::server::refusals::{KEYS_MAX, ROWS_MAX, ROWS_OF_ALL_MAX};
use postrider::store::audit::{Actor, Refuse};
use postrider::store::handle::DATABASE_FILE;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::Path;
use tokio_tungstenite::tungstenite::Message;

/// A refused row: actor, token, peer, action, target, detail.
type Refused = (String, Option<String>, Option<String>, String, Option<String>, Value);

fn refused(data: &Path) -> Vec<Refused> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let conn = Connection::open_with_flags(data.join(DATABASE_FILE), flags).unwrap();
    let sql = "SELECT actor, token_id, peer, action, target, detail FROM audit WHERE outcome = 'refused' ORDER BY seq";
    let mut statement = conn.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| {
        let detail: String = row.get(5)?;
        let detail = serde_json::from_str(&detail).unwrap();
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, detail))
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

/// Waits until there are so many refused rows: they are written behind the answer.
async fn after(data: &Path, rows: usize) -> Vec<Refused> {
    eventually(&format!("{rows} refused attempts in the audit"), || async {
        let found = refused(data);
        (found.len() >= rows).then_some(found)
    })
    .await
}

fn stranger(api: &Api) -> Api {
    Api { url: api.url.clone(), token: "prt_wrong".to_owned() }
}

#[tokio::test]
async fn what_was_refused_is_told_with_who_and_what() {
    let server = TestServer::start().await;
    let (api, data) = (&server.api, server.data.path());
    let made = api.call("POST", "/api/tokens", json!({ "name": "vera", "role": "viewer" })).await.json();
    let vera = Api { url: api.url.clone(), token: made["token"].as_str().unwrap().to_owned() };
    let unknown = "01928c3e-5a70-7e63-9f0a-3c1f0d6b2a11";
    let secret = json!({ "command": "echo hunter2" });
    let tries: [(&Api, &str, String, Value, u16); 9] = [
        (&stranger(api), "GET", "/api/commands".to_owned(), Value::Null, 401),
        (&vera, "POST", "/api/agents/web-9/command".to_owned(), secret.clone(), 403),
        (&vera, "DELETE", format!("/api/tokens/{unknown}"), Value::Null, 403),
        (api, "DELETE", format!("/api/tokens/{unknown}"), Value::Null, 404),
        (api, "POST", "/api/agents/we%20b%0a%1b%5b31m..%2f%E2%80%AE/command".to_owned(), secret, 404),
        (api, "POST", "/api/commands".to_owned(), json!({ "command": "x", "targets": { "agents": ["web-8"] } }), 404),
        (api, "POST", "/api/tokens".to_owned(), json!({ "name": "vera", "role": "viewer" }), 409),
        (api, "POST", "/api/../etc/passwd%00%ff".to_owned(), Value::Null, 404),
        (&stranger(api), "POST", "/api/enroll".to_owned(), enrollment(&api.join().await, &fresh_key(), "x"), 403),
    ];
    for (number, (who, method, path, mut body, status)) in tries.into_iter().enumerate() {
        if path == "/api/enroll" {
            body["secret"] = "nonsense".into();
        }
        assert_eq!(who.call(method, &path, body).await.status, status, "{method} {path}");
        after(data, number + 1).await;
    }
    // None of these is a refusal.
    for (method, path) in [("GET", "/api/agents/web-9"), ("POST", "/api/agents"), ("GET", "/nowhere")] {
        assert!(api.call(method, path, Value::Null).await.status.is_client_error());
    }
    assert_eq!(api.call("POST", "/api/commands", json!({ "command": "" })).await.status, 422);
    let rows = refused(data);
    let told: Vec<_> =
        rows.iter().map(|(who, _, _, what, on, detail)| (&**who, &**what, on.as_deref(), detail)).collect();
    let detail = |code: &str, status: u16, asked: Option<&str>| match asked {
        Some(asked) => json!({ "code": code, "status": status, "asked": asked }),
        None => json!({ "code": code, "status": status }),
    };
    let body_named = "no agent is known as \"web-8\"; GET /api/agents lists them";
    let expected = [
        ("nobody", "GET /api/commands", None, detail("unauthorized", 401, None)),
        ("vera", "POST /api/agents/{agent}/command", None, detail("role_too_low", 403, Some("web-9"))),
        ("vera", "DELETE /api/tokens/{id}", Some(unknown), detail("role_too_low", 403, None)),
        ("owner", "DELETE /api/tokens/{id}", Some(unknown), detail("not_found", 404, None)),
        ("owner", "POST /api/agents/{agent}/command", None, detail("no_such_agent", 404, Some("we b  [31m../ "))),
        ("owner", "POST /api/commands", None, detail("no_such_agent", 404, Some(body_named))),
        ("owner", "POST /api/tokens", None, detail("conflict", 409, None)),
        ("nobody", "POST none", None, detail("no_such_route", 404, Some("/api/../etc/passwd \u{fffd}"))),
        ("nobody", "POST /api/enroll", None, detail("join_refused", 403, None)),
    ];
    for (told, expected) in told.iter().zip(&expected) {
        assert_eq!((told.0, told.1, told.2, told.3), (expected.0, expected.1, expected.2, &expected.3));
    }
    assert_eq!(told.len(), expected.len());
    assert_eq!(rows[1].1.as_deref(), made["id"].as_str(), "the token that was not enough");
    assert!(rows.iter().all(|row| row.2.as_deref().is_some_and(|peer| peer.starts_with("127.0.0.1:"))));
    assert!(!format!("{rows:?}").contains("hunter2"), "bodies stay out of it");
    server.stop().await;
}

#[tokio::test]
async fn agents_that_are_turned_away_are_told() {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let elsewhere = TestServer::start().await;
    let other = Identity::enroll(&elsewhere.api, "web-2").await;
    assert_eq!(server.api.call("DELETE", "/api/agents/web-1", Value::Null).await.status, 200);
    for (number, (who, reason)) in
        [(&identity, CloseReason::Revoked), (&other, CloseReason::Unauthorized)].into_iter().enumerate()
    {
        let (mut socket, nonce, id) = dial(server.api.address()).await;
        socket.send(Message::text(encode(&who.hello(&nonce, id, Vec::new())))).await.unwrap();
        assert_eq!(close_code(&mut socket).await, Some(reason.code()));
        let rows = after(server.data.path(), number + 1).await;
        let (name, _, peer, action, target, detail) = &rows[number];
        assert_eq!((name.as_str(), action.as_str()), ("nobody", "GET /agent/ws"));
        assert_eq!(target.as_deref(), Some(who.id.to_string().as_str()));
        assert_eq!(detail, &json!({ "code": reason.as_str() }));
        assert!(peer.is_some());
    }
    server.stop().await;
    elsewhere.stop().await;
}

#[tokio::test]
async fn a_token_in_the_wrong_place_is_told_without_it() {
    let server = TestServer::start().await;
    let (api, data) = (&server.api, server.data.path());
    let vic = operator(api, "vic", json!({ "role": "viewer" })).await.api;
    for (api, method, path) in [
        (&vic, "DELETE", format!("/api/tokens/{}", api.token)),
        (api, "DELETE", format!("/api/tokens/{}", api.token)),
        (api, "POST", format!("/api/nothing/{}", api.token)),
        (api, "POST", format!("/api/nothing/%70rt_{}", &api.token[4..])),
        (api, "GET", format!("/api/agents?token={}", api.token)),
    ] {
        let reply = api.call(method, &path, Value::Null).await;
        assert!(reply.status.is_client_error(), "{method} {path}");
        let text = String::from_utf8(reply.body).unwrap();
        assert!(!text.contains(&server.api.token[4..]), "{text}");
    }
    let rows = after(data, 5).await;
    assert_eq!(rows.last().unwrap().5["code"], "token_in_query");
    let told = format!("{rows:?}");
    assert!(told.contains("prt_[redacted]") && !told.contains(&server.api.token[4..]), "{told}");
    server.stop().await;
}

#[tokio::test]
async fn who_looks_beyond_a_scope_is_told() {
    let server = TestServer::start().await;
    let ann = operator(&server.api, "ann", json!({ "role": "viewer", "scope": { "site": ["berlin"] } })).await.api;
    Identity::enroll(&server.api, "m-1").await;
    assert_eq!(ann.call("GET", "/api/agents/m-1", Value::Null).await.status, 404);
    let rows = after(server.data.path(), 1).await;
    let (who, _, _, action, _, detail) = &rows[0];
    assert_eq!((who.as_str(), action.as_str(), &detail["asked"]), ("ann", "GET /api/agents/{agent}", &json!("m-1")));
    server.stop().await;
}

#[tokio::test]
async fn a_flood_is_counted_and_not_written_row_by_row() {
    let server = TestServer::start().await;
    let (vic, data) = (operator(&server.api, "vic", json!({ "role": "viewer" })).await.api, server.data.path());
    for _ in 0..ROWS_MAX + 7 {
        assert_eq!(vic.call("GET", "/api/join", Value::Null).await.status, 403);
    }
    // Another code has rows of its own.
    assert_eq!(vic.call("POST", "/nowhere", Value::Null).await.status, 404);
    let rows = after(data, ROWS_MAX as usize + 1).await;
    assert_eq!(rows.len(), ROWS_MAX as usize + 1);
    let app = server.running.app();
    app.refusals.count(&app.store).await;
    let rows = refused(data);
    assert_eq!(rows.len(), ROWS_MAX as usize + 2);
    let (who, _, peer, action, target, detail) = rows.last().unwrap();
    assert_eq!((who.as_str(), peer.as_deref(), action.as_str()), ("vic", Some("127.0.0.1"), "and more"));
    assert_eq!((target, detail), (&None, &json!({ "code": "role_too_low", "count": 7 })));
    // A fresh minute has fresh room, and what is counted when the server stops is not lost.
    for _ in 0..ROWS_MAX + 1 {
        assert_eq!(vic.call("GET", "/api/join", Value::Null).await.status, 403);
    }
    let data = server.stop().await;
    let rows = refused(data.path());
    assert_eq!(rows.len(), 2 * ROWS_MAX as usize + 3);
    assert_eq!(rows.last().unwrap().5, json!({ "code": "role_too_low", "count": 1 }));
}

#[tokio::test]
async fn a_flood_from_everywhere_is_bounded_too() {
    const ADDRESSES: u32 = 5_000;
    const EACH: u32 = 3;
    let server = TestServer::start().await;
    let app = server.running.app();
    for number in 0..ADDRESSES * EACH {
        let from = IpAddr::from((0x0a00_0000 + number % ADDRESSES).to_be_bytes());
        let refuse = Refuse {
            actor: Actor::nobody("nobody", Some(from.to_string())),
            action: "GET /api/agents".to_owned(),
            target: None,
            detail: json!({ "code": "unauthorized", "status": 401 }),
        };
        app.refusals.note(&app.store, from, "unauthorized", refuse);
    }
    app.refusals.count(&app.store).await;
    let rows = refused(server.data.path());
    assert!(rows.len() <= ROWS_OF_ALL_MAX as usize + KEYS_MAX + 1, "{}", rows.len());
    let counted: u64 = rows.iter().filter_map(|row| row.5["count"].as_u64()).sum();
    let written = rows.iter().filter(|row| row.5["count"].is_null()).count();
    assert_eq!(counted + written as u64, u64::from(ADDRESSES * EACH), "all of them are told");
    let rest = rows.iter().find(|row| row.5["code"] == "various").unwrap();
    assert_eq!((&rest.2, rest.5["count"].as_u64() > Some(10_000)), (&None, true));
    server.stop().await;
}
