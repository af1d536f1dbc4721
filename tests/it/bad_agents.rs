//! Agents that speak nonsense, lie or come too late: they are told, or closed with a reason, and nobody else notices.

use crate::harness::api::{Api, events, id};
use crate::harness::eventually::eventually;
use crate::harness::raw_agent::{Identity, RawAgent, close_code, dial, success};
use crate::harness::server::TestServer;
use futures_util::SinkExt;
use postrider::protocol::close::CloseReason;
use postrider::protocol::frame::{
    AgentFrame, FACTS_BYTES_MAX, FRAME_BYTES_MAX, JOURNAL_ENTRIES_MAX, JournalEntry, ServerFrame, encode,
};
use postrider::protocol::ids::{AgentId, DeliveryId, ServerId};
use postrider::protocol::output::{OutputFrame, Stream};
use postrider::protocol::state::State;
use postrider::server::session::reader::FAULTS_MAX;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

async fn agent(server: &TestServer, name: &str) -> (Identity, RawAgent) {
    let identity = Identity::enroll(&server.api, name).await;
    let agent = RawAgent::connect(&server.api, &identity).await;
    (identity, agent)
}

fn address(server: &TestServer) -> &str {
    server.api.url.trim_start_matches("http://")
}

fn delivery_of(command: &Value) -> DeliveryId {
    command["deliveries"][0]["id"].as_str().unwrap().parse().unwrap()
}

async fn closed_for(api: &Api, agent: &str, reason: CloseReason) {
    eventually(&format!("{agent} closed: {reason}"), || async {
        let agent = api.get(&format!("/api/agents/{agent}")).await;
        (agent["last_close"]["reason"] == reason.as_str()).then_some(())
    })
    .await;
}

/// The three reports about a delivery.
fn reports(delivery: DeliveryId) -> [AgentFrame; 3] {
    [
        AgentFrame::Accepted { delivery },
        AgentFrame::Started { delivery },
        AgentFrame::Finished { delivery, outcome: success() },
    ]
}

#[tokio::test]
async fn nonsense_is_answered_and_the_connection_goes_on() {
    let server = TestServer::start().await;
    let (_, mut agent) = agent(&server, "web-1").await;
    let unknown = OutputFrame { delivery: DeliveryId::new(), stream: Stream::Stdout, offset: 0, bytes: b"x".to_vec() };
    let mut no_stream = unknown.encode();
    no_stream[16] = 3;
    let too_far = OutputFrame { offset: u64::MAX, ..unknown.clone() };
    let facts = AgentFrame::Facts { facts: json!({ "blob": "x".repeat(FACTS_BYTES_MAX) }) };
    let cases = [
        ("words", Message::text("hello there"), "malformed"),
        ("nothing", Message::text(""), "malformed"),
        ("a list", Message::text("[1,2]"), "malformed"),
        ("no type", Message::text("{}"), "malformed"),
        ("a type that is a number", Message::text(r#"{"type":1}"#), "malformed"),
        ("a frame without its delivery", Message::text(r#"{"type":"accepted"}"#), "malformed"),
        ("a delivery that is no id", Message::text(r#"{"type":"accepted","delivery":"1"}"#), "malformed"),
        (
            "a state that is none",
            Message::text(format!(
                r#"{{"type":"finished","delivery":"{}","outcome":{{"state":"great"}}}}"#,
                DeliveryId::new()
            )),
            "malformed",
        ),
        ("an unknown type", Message::text(r#"{"type":"dance","to":"music"}"#), "unknown_type"),
        (
            "a frame of the server's",
            Message::text(encode(&ServerFrame::Cancel { delivery: DeliveryId::new() })),
            "unknown_type",
        ),
        ("binary garbage", Message::binary(vec![0xff; 10]), "malformed"),
        ("output without payload", Message::binary(vec![1; 25]), "malformed"),
        ("output of a stream that is none", Message::binary(no_stream), "malformed"),
        ("output beyond all offsets", Message::binary(too_far.encode()), "malformed"),
        ("output of nothing that is known", Message::binary(unknown.encode()), "unknown_delivery"),
        ("too many facts", Message::text(encode(&facts)), "malformed"),
    ];
    assert!(cases.len() <= FAULTS_MAX as usize, "the last ones would close the connection");
    for (what, message, code) in cases {
        agent.send_message(message).await;
        assert_eq!(agent.error().await, code, "{what}");
    }
    let command = server.api.run("web-1", "true").await;
    let (delivery, _) = agent.dispatched().await;
    agent.complete(delivery).await;
    server.api.until(&command, &["succeeded"]).await;
    assert_eq!(server.api.get("/api/agents/web-1").await["facts"], Value::Null);
    server.stop().await;
}

#[tokio::test]
async fn too_much_nonsense_closes_the_connection() {
    let server = TestServer::start().await;
    let (_, mut agent) = agent(&server, "web-1").await;
    for _ in 0..=FAULTS_MAX {
        agent.send_message(Message::text("nonsense")).await;
    }
    assert_eq!(close_code(&mut agent.socket).await, Some(CloseReason::ProtocolError.code()));
    closed_for(&server.api, "web-1", CloseReason::ProtocolError).await;
    server.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_websocket_frames_close_the_connection() {
    let server = TestServer::start().await;
    let cases: [(&str, &[u8]); 4] = [
        ("a reserved opcode", &[0x83, 0x80, 0, 0, 0, 0]),
        ("no mask", &[0x81, 0x02, b'{', b'}']),
        ("text that is not UTF-8", &[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xff]),
        ("a continuation of nothing", &[0x80, 0x81, 0, 0, 0, 0, b'x']),
    ];
    for (index, (what, bytes)) in cases.into_iter().enumerate() {
        let name = format!("web-{index}");
        let (_, mut agent) = agent(&server, &name).await;
        agent.socket.get_mut().write_all(bytes).await.unwrap();
        assert_eq!(close_code(&mut agent.socket).await, Some(CloseReason::ProtocolError.code()), "{what}");
        closed_for(&server.api, &name, CloseReason::ProtocolError).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn an_overlong_frame_closes_the_connection() {
    let server = TestServer::start().await;
    let (identity, mut agent) = agent(&server, "web-1").await;
    agent.send_message(Message::text(" ".repeat(FRAME_BYTES_MAX + 1))).await;
    closed_for(&server.api, "web-1", CloseReason::FrameTooLong).await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    agent.send_message(Message::text(" ".repeat(FRAME_BYTES_MAX))).await;
    assert_eq!(agent.error().await, "malformed", "the limit itself is allowed");
    server.stop().await;
}

#[tokio::test]
async fn another_agents_delivery_is_out_of_reach() {
    let server = TestServer::start().await;
    let (_, mut victim) = agent(&server, "victim").await;
    let (_, mut thief) = agent(&server, "thief").await;
    let command = server.api.run("victim", "true").await;
    let (delivery, _) = victim.dispatched().await;
    for report in reports(delivery) {
        thief.send(&report).await;
        assert_eq!(thief.error().await, "unknown_delivery", "{report:?}");
    }
    let output = OutputFrame { delivery, stream: Stream::Stdout, offset: 0, bytes: b"lies".to_vec() };
    thief.send_message(Message::binary(output.encode())).await;
    assert_eq!(thief.error().await, "unknown_delivery");
    let untouched = server.api.command(&command).await;
    assert_eq!(events(&untouched), ["queued", "dispatched"]);
    // Its specification is out of reach too.
    let ServerFrame::Welcome { fetch_token, .. } = &thief.welcome else { unreachable!("checked at connect") };
    let theirs = Api { url: server.api.url.clone(), token: fetch_token.clone() };
    let spec = theirs.call("GET", &format!("/agent/deliveries/{delivery}/spec"), Value::Null).await;
    assert_eq!(spec.problem(), (404, "not_found".to_owned()));
    assert_eq!(theirs.call("GET", "/api/agents", Value::Null).await.problem().0, 401);
    victim.complete(delivery).await;
    server.api.until(&command, &["succeeded"]).await;
    assert_eq!(server.api.output(&command, "stdout").await, b"");
    server.stop().await;
}

#[tokio::test]
async fn reports_of_what_was_never_dispatched_are_refused() {
    let server = TestServer::start_with(|config| config.keepalive.window = 1).await;
    let (_, mut agent) = agent(&server, "web-1").await;
    server.api.run("web-1", "true").await;
    let (first, _) = agent.dispatched().await;
    let waiting = server.api.submit("web-1", json!({ "command": "true" })).await;
    for report in reports(delivery_of(&waiting)) {
        agent.send(&report).await;
        assert_eq!(agent.error().await, "not_dispatched", "{report:?}");
    }
    assert_eq!(events(&server.api.command(&id(&waiting)).await), ["queued"]);
    agent.complete(first).await;
    let (second, attempt) = agent.dispatched().await;
    assert_eq!((second, attempt), (delivery_of(&waiting), 1));
    agent.complete(second).await;
    server.api.until(&id(&waiting), &["succeeded"]).await;
    server.stop().await;
}

#[tokio::test]
async fn the_first_outcome_is_kept_and_a_second_one_may_be_forgotten() {
    let server = TestServer::start().await;
    let (identity, mut agent) = agent(&server, "web-1").await;
    let command = server.api.run("web-1", "true").await;
    let (delivery, _) = agent.dispatched().await;
    agent.complete(delivery).await;
    let mut other = success();
    (other.state, other.exit_code, other.reason) = (State::Failed, Some(7), Some("changed its mind".to_owned()));
    for again in [success(), other] {
        agent.send(&AgentFrame::Finished { delivery, outcome: again.clone() }).await;
        assert_eq!(agent.next().await, ServerFrame::Stored { delivery });
        agent = RawAgent::connect(&server.api, &identity).await;
        agent.send(&AgentFrame::Finished { delivery, outcome: again }).await;
        assert_eq!(agent.next().await, ServerFrame::Stored { delivery });
    }
    let ended = server.api.command(&command).await;
    assert_eq!(events(&ended), ["queued", "dispatched", "accepted", "running", "succeeded"]);
    assert_eq!((&ended["deliveries"][0]["exit_code"], &ended["deliveries"][0]["reason"]), (&json!(0), &Value::Null));
    // What has ended is not started or accepted again: the agent is asked to end it.
    for report in [AgentFrame::Accepted { delivery }, AgentFrame::Started { delivery }] {
        agent.send(&report).await;
        assert_eq!(agent.next().await, ServerFrame::Cancel { delivery });
    }
    assert_eq!(server.api.command(&command).await["state"], "succeeded");
    server.stop().await;
}

#[tokio::test]
async fn an_outcome_that_cannot_be_is_refused() {
    let server = TestServer::start().await;
    let (_, mut agent) = agent(&server, "web-1").await;
    let command = server.api.run("web-1", "true").await;
    let (delivery, _) = agent.dispatched().await;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    agent.send(&AgentFrame::Started { delivery }).await;
    for (state, exit_code) in [
        (State::Lost, None),
        (State::Queued, None),
        (State::Accepted, None),
        (State::Running, None),
        (State::Succeeded, Some(1)),
        // It had started, by its own word.
        (State::Refused, None),
        (State::Expired, None),
    ] {
        let mut outcome = success();
        (outcome.state, outcome.exit_code) = (state, exit_code);
        agent.send(&AgentFrame::Finished { delivery, outcome }).await;
        assert_eq!(agent.error().await, "unexpected", "{state} {exit_code:?}");
    }
    assert_eq!(server.api.command(&command).await["state"], "running");
    let mut outcome = success();
    (outcome.stdout.bytes, outcome.duration_ms) = (u64::MAX, Some(u64::MAX));
    agent.send(&AgentFrame::Finished { delivery, outcome }).await;
    assert_eq!(agent.next().await, ServerFrame::Stored { delivery });
    server.api.until(&command, &["succeeded"]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_connection_without_a_hello_is_closed() {
    let short = Duration::from_millis(50);
    let server = TestServer::start_with(|config| config.keepalive.hello_timeout = short).await;
    let (mut socket, _, _) = dial(address(&server)).await;
    assert_eq!(close_code(&mut socket).await, Some(CloseReason::HelloTimeout.code()));
    server.stop().await;
}

#[tokio::test]
async fn a_first_frame_that_is_no_hello_closes_the_connection() {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let entry = JournalEntry { delivery: DeliveryId::new(), state: State::Accepted };
    let early = encode(&AgentFrame::Accepted { delivery: entry.delivery });
    for first in [Message::text("nonsense"), Message::text(early), Message::binary(vec![1; 40])] {
        let (mut socket, _, _) = dial(address(&server)).await;
        socket.send(first.clone()).await.unwrap();
        assert_eq!(close_code(&mut socket).await, Some(CloseReason::ProtocolError.code()), "{first:?}");
    }
    let (mut socket, nonce, id) = dial(address(&server)).await;
    let full = identity.hello(&nonce, id, vec![entry; JOURNAL_ENTRIES_MAX + 1]);
    socket.send(Message::text(encode(&full))).await.unwrap();
    assert_eq!(close_code(&mut socket).await, Some(CloseReason::ProtocolError.code()));
    let agent = RawAgent::connect_with(&server.api, &identity, vec![entry; JOURNAL_ENTRIES_MAX]).await;
    assert_eq!(agent.epoch(), 1);
    server.stop().await;
}

#[tokio::test]
async fn only_the_right_key_over_this_challenge_gets_in() {
    let server = TestServer::start().await;
    let (identity, mut agent) = agent(&server, "web-1").await;
    let stranger = Identity::enroll(&server.api, "stranger").await;
    let (mut other, other_nonce, server_id) = dial(address(&server)).await;
    for what in ["stolen id", "unknown id", "no signature", "no base64", "other server", "replayed"] {
        let (mut socket, nonce, id) = dial(address(&server)).await;
        let AgentFrame::Hello(mut hello) = identity.hello(&nonce, id, Vec::new()) else { unreachable!("a hello") };
        match what {
            "stolen id" => {
                let AgentFrame::Hello(theirs) = stranger.hello(&nonce, id, Vec::new()) else { unreachable!("a hello") };
                hello.signature = theirs.signature;
            }
            "unknown id" => hello.agent_id = AgentId::new(),
            "no signature" => hello.signature.clear(),
            "no base64" => hello.signature = "!".repeat(86),
            "other server" => {
                let elsewhere = identity.hello(&nonce, ServerId::new(), Vec::new());
                let AgentFrame::Hello(elsewhere) = elsewhere else { unreachable!("a hello") };
                hello = elsewhere;
            }
            _ => {
                let replayed = identity.hello(&other_nonce, id, Vec::new());
                let AgentFrame::Hello(replayed) = replayed else { unreachable!("a hello") };
                hello = replayed;
            }
        }
        socket.send(Message::text(encode(&AgentFrame::Hello(hello)))).await.unwrap();
        assert_eq!(close_code(&mut socket).await, Some(CloseReason::Unauthorized.code()), "{what}");
    }
    // The one that is connected was not disturbed, and the challenge of the other connection is still good there.
    let shown = server.api.get("/api/agents/web-1").await;
    assert_eq!((&shown["online"], &shown["epoch"]), (&json!(true), &json!(1)));
    agent.send_message(Message::text("still here")).await;
    assert_eq!(agent.error().await, "malformed");
    let hello = identity.hello(&other_nonce, server_id, Vec::new());
    other.send(Message::text(encode(&hello))).await.unwrap();
    assert_eq!(close_code(&mut agent.socket).await, Some(CloseReason::Superseded.code()));
    server.stop().await;
}

#[tokio::test]
async fn a_second_hello_is_unexpected() {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let (mut socket, nonce, id) = dial(address(&server)).await;
    let hello = Message::text(encode(&identity.hello(&nonce, id, Vec::new())));
    socket.send(hello.clone()).await.unwrap();
    socket.send(Message::text(encode(&AgentFrame::Ready))).await.unwrap();
    let welcome = crate::harness::raw_agent::next_frame(&mut socket).await.unwrap();
    let mut agent = RawAgent { socket, welcome };
    agent.send_message(hello).await;
    assert_eq!(agent.error().await, "unexpected");
    agent.send(&AgentFrame::Ready).await;
    assert_eq!(agent.error().await, "unexpected");
    assert_eq!(server.api.get("/api/agents/web-1").await["epoch"], 1);
    server.stop().await;
}

#[tokio::test]
async fn a_revoked_agent_is_cut_at_once_and_stays_out() {
    let server = TestServer::start().await;
    let (identity, mut agent) = agent(&server, "web-1").await;
    let held = server.api.run("web-1", "true").await;
    let (delivery, _) = agent.dispatched().await;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    server.api.until(&held, &["accepted"]).await;
    let asked = Instant::now();
    let (revoked, (closed, after)) = tokio::join!(server.api.call("DELETE", "/api/agents/web-1", Value::Null), async {
        (close_code(&mut agent.socket).await, asked.elapsed())
    });
    println!("revoked: the agent's socket ended {:.1} ms after the request was sent", after.as_secs_f64() * 1e3);
    assert_eq!((revoked.status.as_u16(), closed), (200, Some(CloseReason::Revoked.code())));
    let (mut socket, nonce, id) = dial(address(&server)).await;
    socket.send(Message::text(encode(&identity.hello(&nonce, id, Vec::new())))).await.unwrap();
    assert_eq!(close_code(&mut socket).await, Some(CloseReason::Revoked.code()));
    let submitted = server.api.call("POST", "/api/agents/web-1/command", json!({ "command": "true" })).await;
    assert_eq!(submitted.problem(), (404, "no_such_agent".to_owned()));
    let ended = server.api.command(&held).await;
    assert_eq!((&ended["state"], &ended["deliveries"][0]["reason"]), (&json!("lost"), &json!("the agent was revoked")));
    // Its name is free again.
    Identity::enroll(&server.api, "web-1").await;
    server.api.run("web-1", "true").await;
    server.stop().await;
}

/// Whoever heard a handshake that came off has nothing to say on a connection of their own, not even the whole frame.
#[tokio::test]
async fn a_recorded_hello_opens_nothing() {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let (mut socket, nonce, id) = dial(address(&server)).await;
    let recorded = encode(&identity.hello(&nonce, id, Vec::new()));
    socket.send(Message::text(recorded.clone())).await.unwrap();
    let welcome = crate::harness::raw_agent::next_frame(&mut socket).await.unwrap();
    let mut agent = RawAgent { socket, welcome };
    agent.send(&AgentFrame::Ready).await;
    let command = server.api.run("web-1", "true").await;
    let (delivery, _) = agent.dispatched().await;
    for _ in 0..3 {
        let (mut other, _, _) = dial(address(&server)).await;
        other.send(Message::text(recorded.clone())).await.unwrap();
        assert_eq!(close_code(&mut other).await, Some(CloseReason::Unauthorized.code()));
    }
    // The session that it opened goes on, and after its end the recording is as worthless.
    agent.complete(delivery).await;
    server.api.until(&command, &["succeeded"]).await;
    drop(agent);
    server.api.until_online("web-1", false).await;
    let (mut other, _, _) = dial(address(&server)).await;
    other.send(Message::text(recorded)).await.unwrap();
    assert_eq!(close_code(&mut other).await, Some(CloseReason::Unauthorized.code()));
    assert_eq!(server.api.get("/api/agents/web-1").await["epoch"], 1);
    server.stop().await;
}
