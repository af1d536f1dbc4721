//! Sessions of operators: a token for a cookie that foreign pages cannot use, or for a bearer that ends by itself.

use crate::harness::api::Reply;
use crate::harness::eventually::eventually;
use crate::harness::operators::{Browser, audited, enroll_at, operator, with_token};
use crate::harness::server::TestServer;
use postrider::server::limits::LOGINS_BURST;
use serde_json::{Value, json};

fn unauthorized(reply: &Reply, code: &str) {
    assert_eq!(reply.problem(), (401, code.to_owned()));
}

#[tokio::test]
async fn a_cookie_is_good_for_everything_its_token_is_but_not_for_foreign_pages() {
    let server = TestServer::start().await;
    enroll_at(&server.api, "b-1", "berlin").await;
    let reply = server.api.call("POST", "/api/session", Value::Null).await;
    assert_eq!(reply.status, 201);
    let cookie = reply.headers["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("__Host-postrider=prs_"), "{cookie}");
    assert!(cookie.ends_with("; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=28800"), "{cookie}");
    let body = reply.json();
    assert_eq!((&body["name"], &body["role"], &body["scope"]), (&json!("owner"), &json!("owner"), &json!({})));
    assert!(body.get("token").is_none() && body["expires_ms"].as_i64().unwrap() > server.clock.now_ms());
    assert!(!String::from_utf8_lossy(&reply.body).contains("prs_"), "only the cookie has it");

    let browser = Browser::login(&server.api, json!({})).await;
    let seen = browser.send("GET", "/api/session", &[], Value::Null).await;
    assert!(seen.status == 200 && seen.headers.get("set-cookie").is_none());
    assert_eq!(seen.json()["csrf"], browser.csrf.as_str());
    assert_eq!(browser.send("GET", "/api/agents", &[], Value::Null).await.status, 200);
    let line = json!({ "command": "true" });
    let submitted = browser.call("POST", "/api/agents/b-1/command", line.clone()).await;
    assert_eq!(submitted.status, 201);
    let command = submitted.json()["id"].as_str().unwrap().to_owned();
    let cancelled = browser.call("POST", &format!("/api/commands/{command}/cancel"), Value::Null).await;
    assert_eq!(cancelled.status, 202);
    let events = browser.send("GET", &format!("/api/commands/{command}/events"), &[], Value::Null).await;
    assert!(events.status == 200 && String::from_utf8_lossy(&events.body).contains("event:end"));
    let made = browser.call("POST", "/api/tokens", json!({ "name": "ann", "role": "viewer" })).await;
    assert_eq!(made.status, 201, "making tokens is allowed, with what foreign pages do not have");

    let other = Browser::login(&server.api, json!({})).await;
    let (own, host) = (browser.csrf.as_str(), server.api.url.as_str());
    let wrong: [&[(&str, &str)]; 7] = [
        &[],
        &[("origin", host)],
        &[("x-postrider-csrf", "")],
        &[("x-postrider-csrf", &other.csrf)],
        &[("x-postrider-csrf", own), ("origin", "http://evil.example")],
        &[("x-postrider-csrf", own), ("origin", "null")],
        &[("x-postrider-csrf", own), ("origin", "http://127.0.0.1:1")],
    ];
    for headers in wrong {
        for (method, path) in [("POST", "/api/agents/b-1/command"), ("DELETE", "/api/session"), ("POST", "/api/tokens")]
        {
            let reply = browser.send(method, path, headers, line.clone()).await;
            assert_eq!(reply.problem(), (403, "csrf".to_owned()), "{method} {path} {headers:?}");
        }
    }
    // Without an origin it is no browser; the secret is enough.
    let reply = browser.send("POST", "/api/agents/b-1/command", &[("x-postrider-csrf", own)], line.clone()).await;
    assert_eq!(reply.status, 201);
    // A bearer goes before a cookie, good or not.
    let ann = format!("Bearer {}", made.json()["token"].as_str().unwrap());
    let reply = browser.send("POST", "/api/agents/b-1/command", &[("authorization", &ann)], line.clone()).await;
    assert_eq!(reply.problem(), (403, "role_too_low".to_owned()));
    let reply = browser.send("GET", "/api/agents", &[("authorization", "Bearer x")], Value::Null).await;
    unauthorized(&reply, "unauthorized");
    // The cookie's secret is no bearer.
    let secret = browser.cookie.split_once('=').unwrap().1;
    let reply = with_token(&server.api, secret).call("GET", "/api/agents", Value::Null).await;
    unauthorized(&reply, "session_ended");
    server.stop().await;
}

#[tokio::test]
async fn a_session_ends_by_its_user_by_rest_by_age_and_by_a_restart() {
    let server = TestServer::start().await;
    let browser = Browser::login(&server.api, json!({})).await;
    let agents = async |browser: &Browser| browser.send("GET", "/api/agents", &[], Value::Null).await;
    assert_eq!(browser.call("DELETE", "/api/session", Value::Null).await.status, 200);
    unauthorized(&agents(&browser).await, "session_ended");
    let rows = audited(server.data.path(), "session.create");
    assert_eq!((rows.len(), rows[0].0.as_str()), (1, "owner"));
    assert_eq!(audited(server.data.path(), "session.end").len(), 1);

    let half_hour = 30 * 60_000;
    let resting = Browser::login(&server.api, json!({})).await;
    server.clock.set_offset_ms(half_hour - 1000);
    assert_eq!(agents(&resting).await.status, 200);
    server.clock.set_offset_ms(2 * half_hour - 2000);
    assert_eq!(agents(&resting).await.status, 200, "a request makes it last");
    server.clock.set_offset_ms(3 * half_hour);
    unauthorized(&agents(&resting).await, "session_ended");

    let busy = Browser::login(&server.api, json!({})).await;
    let third = 20 * 60_000;
    for thirds in 1..24 {
        server.clock.set_offset_ms(3 * half_hour + thirds * third);
        assert_eq!(agents(&busy).await.status, 200, "{thirds}");
    }
    server.clock.set_offset_ms(3 * half_hour + 24 * third + 1000);
    unauthorized(&agents(&busy).await, "session_ended");

    server.clock.set_offset_ms(0);
    let last = Browser::login(&server.api, json!({})).await;
    let port = server.api.address().to_owned();
    let data = server.stop().await;
    let server = TestServer::start_in(data, |config| config.listen = port.parse().unwrap()).await.unwrap();
    unauthorized(&agents(&last).await, "session_ended");
    server.stop().await;
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_opens_no_other() {
    let server = TestServer::start().await;
    enroll_at(&server.api, "b-1", "berlin").await;
    let ann = operator(&server.api, "ann", json!({ "role": "technician", "scope": { "site": ["paris"] } })).await;
    let browser = Browser::login(&ann.api, json!({})).await;
    let reply = ann.api.call("POST", "/api/session", json!({ "kind": "bearer" })).await;
    assert!(reply.status == 201 && reply.headers.get("set-cookie").is_none());
    let body = reply.json();
    assert!(body.get("csrf").is_none() && body["scope"] == json!({ "site": ["paris"] }), "{body}");
    let bearer = with_token(&ann.api, body["token"].as_str().unwrap());
    assert!(bearer.token.starts_with("prs_"));
    // It reaches what the token reaches, and needs nothing beside.
    let run = bearer.call("POST", "/api/agents/b-1/command", json!({ "command": "true" })).await;
    assert_eq!(run.problem(), (404, "no_such_agent".to_owned()));
    unauthorized(&bearer.call("POST", "/api/session", Value::Null).await, "unauthorized");
    unauthorized(&browser.call("POST", "/api/session", Value::Null).await, "unauthorized");
    // No session ends later than its token.
    let brief = operator(&server.api, "brief", json!({ "role": "viewer", "expires_s": 60 })).await.api;
    let session = brief.call("POST", "/api/session", json!({ "kind": "bearer" })).await.json();
    assert!(session["expires_ms"].as_i64().unwrap() <= server.clock.now_ms() + 60_000, "{session}");
    server.clock.set_offset_ms(61_000);
    let over = with_token(&brief, session["token"].as_str().unwrap()).call("GET", "/api/agents", Value::Null).await;
    unauthorized(&over, "session_ended");
    server.stop().await;
}

#[tokio::test]
async fn revoking_a_token_ends_its_sessions_and_what_they_hold_open() {
    let server = TestServer::start().await;
    enroll_at(&server.api, "b-1", "berlin").await;
    let ann = operator(&server.api, "ann", json!({ "role": "technician" })).await;
    let browser = Browser::login(&ann.api, json!({})).await;
    let session = ann.api.call("POST", "/api/session", json!({ "kind": "bearer" })).await.json();
    let bearer = with_token(&ann.api, session["token"].as_str().unwrap());
    let command = bearer.run("b-1", "true").await;
    let path = format!("/api/commands/{command}/events");
    let logged_out = Browser::login(&ann.api, json!({})).await;
    let streams = [&browser, &logged_out].map(|browser| browser.send("GET", &path, &[], Value::Null));
    let [by_cookie, of_logged_out] = streams;
    let by_bearer = bearer.call("GET", &path, Value::Null);
    let ends = async {
        // All three are open: each has made its first read.
        eventually("the streams are open", || async {
            let metrics = server.api.request("GET", "/metrics", &[], Vec::new()).await;
            let text = String::from_utf8(metrics.body).unwrap();
            let line = r#"postrider_http_requests_total{route="/api/commands/{id}/events",status="200"} 3"#;
            text.contains(line).then_some(())
        })
        .await;
        assert_eq!(logged_out.call("DELETE", "/api/session", Value::Null).await.status, 200);
        assert_eq!(server.api.call("DELETE", &format!("/api/tokens/{}", ann.id), Value::Null).await.status, 200);
    };
    let (by_cookie, of_logged_out, by_bearer, ()) = tokio::join!(by_cookie, of_logged_out, by_bearer, ends);
    for reply in [&by_cookie, &of_logged_out, &by_bearer] {
        let text = String::from_utf8_lossy(&reply.body);
        assert!(reply.status == 200 && text.contains("queued") && !text.contains("event:end"), "{text}");
    }
    unauthorized(&browser.send("GET", "/api/agents", &[], Value::Null).await, "session_ended");
    unauthorized(&bearer.call("GET", "/api/agents", Value::Null).await, "session_ended");
    server.stop().await;
}

#[tokio::test]
async fn a_token_opens_only_so_many_sessions() {
    let server = TestServer::start().await;
    let vic = operator(&server.api, "vic", json!({ "role": "viewer" })).await.api;
    for api in [&vic, &server.api] {
        let mut refused = 0;
        for _ in 0..LOGINS_BURST + 5 {
            let reply = api.call("POST", "/api/session", Value::Null).await;
            if reply.status != 201 {
                assert_eq!(reply.problem(), (429, "too_many_requests".to_owned()));
                refused += 1;
            }
        }
        assert!(refused > 0, "its audit rows would fill the disk");
        assert_eq!(api.call("GET", "/api/agents", Value::Null).await.status, 200);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_token_tells_who_it_is() {
    let server = TestServer::start().await;
    let ann = operator(&server.api, "ann", json!({ "role": "viewer", "expires_s": 600 })).await;
    let me = ann.api.get("/api/session").await;
    assert_eq!((me["name"].as_str(), me["token_id"].as_str()), (Some("ann"), Some(ann.id.as_str())));
    assert!(me.get("csrf").is_none() && me.get("token").is_none() && me["expires_ms"].is_i64());
    let end = ann.api.call("DELETE", "/api/session", Value::Null).await;
    assert_eq!(end.problem(), (404, "not_found".to_owned()));
    let wrong = ann.api.call("POST", "/api/session", json!({ "kind": "cake" })).await;
    assert_eq!(wrong.problem(), (422, "invalid_field".to_owned()));
    server.stop().await;
}
