//! History: what was submitted is found again, once each and in order.

use crate::harness::agent::TestAgent;
use crate::harness::api::{Api, Reply, id};
use crate::harness::eventually::eventually;
use crate::harness::lane::Flow;
use crate::harness::process::{Process, postrider};
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::raw_agent::{Identity, RawAgent, success};
use crate::harness::server::TestServer;
use postrider::protocol::frame::AgentFrame;
use postrider::protocol::ids::{CommandId, DeliveryId};
use postrider::protocol::output::{OutputFrame, Stream};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

/// The ids of a page, and where the next one starts.
async fn page(api: &Api, query: &str) -> (Vec<String>, Option<String>) {
    let page = api.get(&format!("/api/commands{query}")).await;
    let ids = page["commands"].as_array().unwrap().iter().map(id).collect();
    (ids, page["next"].as_str().map(str::to_owned))
}

async fn submit_as(api: &Api, path: &str, key: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {}", api.token);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", key)];
    api.request("POST", path, &headers, body.to_string().into_bytes()).await
}

#[tokio::test]
async fn pages_visit_each_command_once_newest_first_while_new_ones_come() {
    let server = TestServer::start().await;
    let api = &server.api;
    Identity::enroll(api, "laptop").await;
    let mut submitted = Vec::new();
    for _ in 0..25 {
        submitted.push(api.run("laptop", "true").await);
    }
    submitted.reverse();
    assert_eq!(page(api, "").await, (submitted.clone(), None));
    for limit in [1, 7, 24, 25, 26] {
        let (mut seen, mut before) = (Vec::new(), String::new());
        loop {
            let (ids, next) = page(api, &format!("?limit={limit}{before}")).await;
            assert!(ids.len() <= limit && seen.len() < 200, "limit {limit}: {seen:?}");
            seen.extend(ids);
            // Must not turn up on a later page.
            api.run("laptop", "true").await;
            let Some(next) = next else { break };
            assert_eq!(Some(&next), seen.last());
            before = format!("&before={next}");
        }
        assert_eq!(seen[seen.len() - 25..], submitted[..], "limit {limit}: the oldest come last, in order");
        let mut distinct = seen.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), seen.len(), "limit {limit}");
    }
    for (query, status) in [
        ("?limit=0", 422),
        ("?limit=1001", 422),
        ("?limit=-1", 422),
        ("?limit=1&limit=2", 422),
        ("?before=x", 422),
        ("?state=done", 422),
        ("?stat=queued", 422),
        ("?agent=nobody", 404),
        (&format!("?before={}", CommandId::new()), 404),
    ] {
        let reply = api.call("GET", &format!("/api/commands{query}"), Value::Null).await;
        assert_eq!(reply.problem().0, status, "{query}");
    }
    server.stop().await;
}

#[tokio::test]
async fn filters_by_state_and_agent_go_together_and_page() {
    let server = TestServer::start().await;
    let api = &server.api;
    let identity = Identity::enroll(api, "a").await;
    let other = Identity::enroll(api, "b").await;
    let to_all = json!({ "command": "true", "targets": { "all": true }, "confirm": 2 });
    let both = id(&api.call("POST", "/api/commands", to_all).await.json());
    let mut agent = RawAgent::connect(api, &identity).await;
    let delivery = agent.dispatched().await.0;
    agent.complete(delivery).await;
    let done = api.run("a", "true").await;
    let delivery = agent.dispatched().await.0;
    agent.complete(delivery).await;
    drop(agent);
    let waits = api.run("b", "true").await;
    let list = |ids: &[&String]| ids.iter().map(|id| (*id).clone()).collect::<Vec<_>>();
    let cases = [
        (String::new(), list(&[&waits, &done, &both])),
        ("?state=succeeded".to_owned(), list(&[&done, &both])),
        ("?state=queued".to_owned(), list(&[&waits, &both])),
        ("?state=failed".to_owned(), vec![]),
        ("?agent=a".to_owned(), list(&[&done, &both])),
        (format!("?agent={}", other.id), list(&[&waits, &both])),
        ("?agent=b&state=queued".to_owned(), list(&[&waits, &both])),
        ("?agent=a&state=queued".to_owned(), vec![]),
        (format!("?agent=a&state=succeeded&before={done}"), list(&[&both])),
    ];
    for (query, expected) in cases {
        assert_eq!(page(api, &query).await, (expected, None), "{query}");
    }
    assert_eq!(page(api, "?agent=b&limit=1").await, (list(&[&waits]), Some(waits.clone())));
    assert_eq!(page(api, &format!("?agent=b&limit=1&before={waits}")).await, (list(&[&both]), None));
    server.stop().await;
}

#[tokio::test]
async fn waiting_ends_with_the_outcome_or_with_the_time() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    Identity::enroll(&server.api, "laptop").await;
    let call = server.api.call("POST", "/api/agents/web-1/command?wait=300", json!({ "command": "exit 3" }));
    let reply = tokio::time::timeout(Duration::from_secs(100), call).await.expect("it does not wait for the time");
    assert_eq!((reply.status.as_u16(), &reply.json()["state"]), (201, &"failed".into()));
    assert_eq!(reply.json()["deliveries"][0]["exit_code"], 3);
    let reply = server.api.call("POST", "/api/agents/laptop/command?wait=1", json!({ "command": "true" })).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["state"]), (201, &"queued".into()));
    for wait in ["301", "-1", "soon", ""] {
        let path = format!("/api/agents/web-1/command?wait={wait}");
        let reply = server.api.call("POST", &path, json!({ "command": "true" })).await;
        assert_eq!(reply.problem().0, 422, "{wait:?}");
    }
    // A waiting call does not hold up the drain.
    let (api, body) = (server.api.clone(), json!({ "command": "true" }));
    #[allow(clippy::disallowed_methods)] // A test has no drain.
    let waiting = tokio::spawn(async move { api.call("POST", "/api/agents/laptop/command?wait=300", body).await });
    eventually("the second for the laptop is there", || async {
        (page(&server.api, "?agent=laptop").await.0.len() == 2).then_some(())
    })
    .await;
    server.stop().await;
    let reply = waiting.await.unwrap();
    assert_eq!((reply.status.as_u16(), &reply.json()["state"]), (201, &"queued".into()));
}

#[tokio::test]
async fn the_same_key_gives_the_same_command_and_another_body_is_a_conflict() {
    let server = TestServer::start().await;
    let api = &server.api;
    let identity = Identity::enroll(api, "a").await;
    Identity::enroll(api, "b").await;
    let (path, body) = ("/api/agents/a/command", json!({ "command": "true" }));
    let first = submit_as(api, path, "key", &body).await;
    assert_eq!(first.status, 201);
    // At once and many times over: one command.
    let again = futures_util::future::join_all((0..8).map(|_| submit_as(api, path, "key", &body))).await;
    for reply in again {
        assert_eq!((reply.status.as_u16(), id(&reply.json())), (200, id(&first.json())));
    }
    for (path, body) in [
        (path, json!({ "command": "false" })),
        ("/api/agents/b/command", body.clone()),
        ("/api/commands", json!({ "command": "true", "targets": { "agents": ["a"] } })),
    ] {
        assert_eq!(submit_as(api, path, "key", &body).await.problem().0, 409, "{path} {body}");
    }
    let mut agent = RawAgent::connect(api, &identity).await;
    let delivery = agent.dispatched().await.0;
    agent.complete(delivery).await;
    let after = submit_as(api, path, "key", &body).await.json();
    assert_eq!((id(&after), &after["state"]), (id(&first.json()), &"succeeded".into()));
    assert_eq!(submit_as(api, path, "another", &body).await.status, 201);
    assert_eq!(page(api, "").await.0.len(), 2);
    let server = server.restart().await;
    let after = submit_as(&server.api, path, "key", &body).await;
    assert_eq!((after.status.as_u16(), id(&after.json())), (200, id(&first.json())));
    server.stop().await;
}

#[tokio::test]
async fn a_run_whose_answer_was_lost_is_submitted_once() {
    let server = TestServer::start().await;
    Identity::enroll(&server.api, "laptop").await;
    let proxy = Proxy::start(server.api.address()).await;
    proxy.set(|faults| faults.to_client.flow = Flow::Vanish);
    let mut command = postrider();
    command.args(["run", "laptop", "--no-wait", "--server", &format!("http://{}", proxy.address), "--", "true"]);
    command.env("POSTRIDER_TOKEN", &server.api.token);
    let mut submits = Process::spawn(command, server.data.path().join("run.log"));
    let command = eventually("the server has it", || async { page(&server.api, "").await.0.pop() }).await;
    proxy.set(|faults| {
        faults.heal();
        faults.cut(Cut::Fin);
    });
    assert_eq!(submits.ended().await, Some(0), "{}", submits.printed());
    assert!(submits.printed().contains("not submitted yet"), "{}", submits.printed());
    assert!(submits.printed().ends_with(&format!("{command}\n")), "{}", submits.printed());
    assert_eq!(page(&server.api, "").await, (vec![command], None));
    server.stop().await;
}

#[tokio::test]
async fn a_submission_to_many_is_all_or_nothing() {
    let server = TestServer::start().await;
    let api = &server.api;
    for (name, tags) in [("a", json!({ "site": "x", "role": "web" })), ("b", json!({ "site": "x" })), ("c", json!({}))]
    {
        use crate::harness::raw_agent::{enrollment, fresh_key};
        let mut body = enrollment(&api.join().await, &fresh_key(), name);
        body["tags"] = tags;
        assert_eq!(api.call("POST", "/api/enroll", body).await.status, 201);
    }
    let send = |targets: Value| async move {
        let mut body = json!({ "command": "true", "targets": targets });
        if targets["all"] == true {
            body["confirm"] = json!(3);
        }
        api.call("POST", "/api/commands", body).await
    };
    let cases = [
        (json!({ "all": true }), vec!["a", "b", "c"]),
        (json!({ "tags": { "site": "x" } }), vec!["a", "b"]),
        (json!({ "tags": { "site": "x", "role": "web" } }), vec!["a"]),
        (json!({ "agents": ["c", "a"] }), vec!["a", "c"]),
        (json!({ "agents": ["c", "c"] }), vec!["c"]),
    ];
    let count = cases.len();
    for (targets, expected) in cases {
        let reply = send(targets.clone()).await;
        assert_eq!(reply.status, 201, "{targets}");
        let body = reply.json();
        let mut names: Vec<_> =
            body["deliveries"].as_array().unwrap().iter().map(|each| each["agent_name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{targets}");
        assert_eq!(body["states"], json!({ "queued": expected.len() }));
        assert_eq!(body["state"].as_str(), (expected.len() == 1).then_some("queued"));
    }
    for (targets, status) in [
        (json!({ "agents": ["a", "nobody"] }), 404),
        (json!({ "tags": { "site": "y" } }), 422),
        (json!({ "agents": [] }), 422),
        (json!({ "all": false }), 422),
        (json!({ "all": true, "agents": ["a"] }), 422),
        (Value::Null, 422),
    ] {
        assert_eq!(send(targets.clone()).await.problem().0, status, "{targets}");
    }
    assert_eq!(page(api, "").await.0.len(), count, "what is refused leaves nothing");
    assert_eq!(api.get("/api/agents/a").await["outbox"], 4);
    server.stop().await;
}

async fn read_output(api: &Api, command: &str, from: usize) -> (Vec<u8>, String, String) {
    let path = format!("/api/commands/{command}/output?stream=stdout&from={from}");
    let reply = api.call("GET", &path, Value::Null).await;
    assert_eq!(reply.status, 200);
    let header = |name: &str| reply.headers[name].to_str().unwrap().to_owned();
    let (next, ended) = (header("x-postrider-next"), header("x-postrider-ended"));
    (reply.body, next, ended)
}

#[tokio::test]
async fn output_is_read_from_any_position_over_a_gap() {
    let server = TestServer::start().await;
    let api = &server.api;
    let identity = Identity::enroll(api, "a").await;
    let command = api.run("a", "true").await;
    let mut agent = RawAgent::connect(api, &identity).await;
    let delivery = agent.dispatched().await.0;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    agent.send(&AgentFrame::Started { delivery }).await;
    let piece = |delivery: DeliveryId, offset, bytes: &[u8]| {
        Message::binary(OutputFrame { delivery, stream: Stream::Stdout, offset, bytes: bytes.to_vec() }.encode())
    };
    for (offset, bytes) in [(0, &b"abc"[..]), (3, b"def"), (1000, b"uvw"), (1003, b"xyz"), (2, b"REPEATED")] {
        agent.send_message(piece(delivery, offset, bytes)).await;
    }
    eventually("all is stored", || async { (read_output(api, &command, 1000).await.0.len() == 6).then_some(()) }).await;
    let cases: [(usize, &[u8], &str); 9] = [
        // An answer ends where a gap begins.
        (0, b"abcdef", "6"),
        (2, b"cdef", "6"),
        (3, b"def", "6"),
        (6, b"uvwxyz", "1006"),
        (500, b"uvwxyz", "1006"),
        (1001, b"vwxyz", "1006"),
        (1005, b"z", "1006"),
        (1006, b"", "1006"),
        (5000, b"", "5000"),
    ];
    for (from, bytes, next) in cases {
        assert_eq!(
            read_output(api, &command, from).await,
            (bytes.to_vec(), next.into(), "false".into()),
            "from {from}"
        );
    }
    agent.send(&AgentFrame::Finished { delivery, outcome: success() }).await;
    api.until(&command, &["succeeded"]).await;
    assert_eq!(read_output(api, &command, 1006).await, (vec![], "1006".into(), "true".into()));
    for (query, status) in [("from=-1", 422), ("from=x", 422), ("stream=stdin", 422), ("agent=b", 404), ("form=1", 422)]
    {
        let reply = api.call("GET", &format!("/api/commands/{command}/output?{query}"), Value::Null).await;
        assert_eq!(reply.problem().0, status, "{query}");
    }
    Identity::enroll(api, "b").await;
    let body = json!({ "command": "true", "targets": { "all": true }, "confirm": 2 });
    let both = id(&api.call("POST", "/api/commands", body).await.json());
    let path = format!("/api/commands/{both}/output");
    assert_eq!(api.call("GET", &path, Value::Null).await.problem().0, 409, "whose output?");
    assert_eq!(api.call("GET", &format!("{path}?agent=b"), Value::Null).await.status, 200);
    server.stop().await;
}
