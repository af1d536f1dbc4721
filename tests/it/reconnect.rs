//! Agents that come back: the newest connection wins, and the journal in its hello decides what became of what.

use crate::harness::api::{events, id};
use crate::harness::raw_agent::{Identity, RawAgent, close_code, success};
use crate::harness::server::TestServer;
use futures_util::SinkExt;
use postrider::protocol::close::CloseReason;
use postrider::protocol::frame::{AgentFrame, JournalEntry, JournalVerdict, ServerFrame, encode};
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::output::{OutputFrame, Stream};
use postrider::protocol::state::State;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// A server, an identity, and its first connection with one delivery dispatched on it: its command and its id.
async fn dispatched() -> (TestServer, Identity, RawAgent, String, DeliveryId) {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let command = server.api.run("web-1", "true").await;
    let (delivery, attempt) = agent.dispatched().await;
    assert_eq!(attempt, 1);
    (server, identity, agent, command, delivery)
}

fn verdicts(agent: &RawAgent) -> Vec<JournalVerdict> {
    match &agent.welcome {
        ServerFrame::Welcome { journal, .. } => journal.clone(),
        _ => unreachable!("checked at connect"),
    }
}

/// The next dispatch is of a command submitted now: nothing else was left to dispatch.
async fn dispatches_nothing_else(server: &TestServer, agent: &mut RawAgent) {
    let marker = server.api.submit("web-1", json!({ "command": "marker" })).await;
    let (delivery, _) = agent.dispatched().await;
    assert_eq!(delivery.to_string(), marker["deliveries"][0]["id"]);
}

#[tokio::test]
async fn the_newest_connection_wins_and_the_old_one_changes_nothing() {
    let (server, identity, mut old, command, delivery) = dispatched().await;
    let mut new = RawAgent::connect(&server.api, &identity).await;
    assert!(new.epoch() > old.epoch());
    // It may or may not still be listened to.
    let late = AgentFrame::Finished { delivery, outcome: success() };
    for frame in [AgentFrame::Accepted { delivery }, AgentFrame::Started { delivery }, late] {
        let _ = old.socket.send(Message::text(encode(&frame))).await;
    }
    assert_eq!(close_code(&mut old.socket).await, Some(CloseReason::Superseded.code()));
    assert_eq!(new.dispatched().await, (delivery, 2));
    new.complete(delivery).await;
    let ended = server.api.until(&command, &["succeeded"]).await;
    assert_eq!(events(&ended), ["queued", "dispatched", "dispatched", "accepted", "running", "succeeded"]);
    for transition in ended["deliveries"][0]["transitions"].as_array().unwrap().iter().skip(2) {
        assert_eq!(transition["epoch"], new.epoch(), "{ended}");
    }
    let shown = server.api.get("/api/agents/web-1").await;
    assert_eq!((&shown["online"], &shown["epoch"]), (&json!(true), &json!(new.epoch())));
    server.stop().await;
}

#[tokio::test]
async fn an_accepted_entry_is_accepted_and_not_dispatched_again() {
    let (server, identity, agent, command, delivery) = dispatched().await;
    drop(agent);
    let journal = vec![JournalEntry { delivery, state: State::Accepted }];
    let mut agent = RawAgent::connect_with(&server.api, &identity, journal).await;
    assert_eq!(verdicts(&agent), [JournalVerdict { delivery, keep: true, stdout_from: 0, stderr_from: 0 }]);
    assert_eq!(events(&server.api.command(&command).await), ["queued", "dispatched", "accepted"]);
    dispatches_nothing_else(&server, &mut agent).await;
    agent.complete(delivery).await;
    assert_eq!(server.api.until(&command, &["succeeded"]).await["deliveries"][0]["attempt"], 1);
    server.stop().await;
}

#[tokio::test]
async fn a_running_entry_is_running_and_its_output_goes_on_where_it_was() {
    let (server, identity, mut agent, command, delivery) = dispatched().await;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    agent.send(&AgentFrame::Started { delivery }).await;
    for (stream, offset, bytes) in [(Stream::Stdout, 0, "hello "), (Stream::Stderr, 0, "oh"), (Stream::Stdout, 6, "w")]
    {
        let output = OutputFrame { delivery, stream, offset, bytes: bytes.into() };
        agent.send_message(Message::binary(output.encode())).await;
    }
    // Frames are applied in order: when this one is answered, those before it are stored.
    agent.send(&AgentFrame::Accepted { delivery: DeliveryId::new() }).await;
    assert_eq!(agent.error().await, "unknown_delivery");
    drop(agent);
    let journal = vec![JournalEntry { delivery, state: State::Running }];
    let mut agent = RawAgent::connect_with(&server.api, &identity, journal).await;
    assert_eq!(verdicts(&agent), [JournalVerdict { delivery, keep: true, stdout_from: 7, stderr_from: 2 }]);
    // A repetition is not stored twice.
    let output = OutputFrame { delivery, stream: Stream::Stdout, offset: 5, bytes: b" world".to_vec() };
    agent.send_message(Message::binary(output.encode())).await;
    agent.complete(delivery).await;
    let ended = server.api.until(&command, &["succeeded"]).await;
    assert_eq!(events(&ended), ["queued", "dispatched", "accepted", "running", "succeeded"]);
    assert_eq!(server.api.output(&command, "stdout").await, b"hello world");
    assert_eq!(server.api.output(&command, "stderr").await, b"oh");
    server.stop().await;
}

#[tokio::test]
async fn an_entry_that_started_before_anybody_heard_of_it_is_running() {
    let (server, identity, agent, command, delivery) = dispatched().await;
    drop(agent);
    let journal = vec![JournalEntry { delivery, state: State::Running }];
    let mut agent = RawAgent::connect_with(&server.api, &identity, journal).await;
    assert_eq!(events(&server.api.command(&command).await), ["queued", "dispatched", "accepted", "running"]);
    agent.send(&AgentFrame::Finished { delivery, outcome: success() }).await;
    server.api.until(&command, &["succeeded"]).await;
    server.stop().await;
}

#[tokio::test]
async fn what_the_journal_does_not_hold_any_more_is_lost_until_a_true_outcome_comes() {
    let (server, identity, mut agent, command, delivery) = dispatched().await;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    server.api.until(&command, &["accepted"]).await;
    drop(agent);
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let lost = server.api.command(&command).await;
    assert_eq!((&lost["state"], lost["deliveries"][0]["exit_code"].is_null()), (&json!("lost"), true));
    assert!(lost["deliveries"][0]["reason"].is_string(), "{lost}");
    dispatches_nothing_else(&server, &mut agent).await;
    let mut outcome = success();
    (outcome.state, outcome.exit_code) = (State::Failed, Some(3));
    agent.send(&AgentFrame::Finished { delivery, outcome }).await;
    let ended = server.api.until(&command, &["failed"]).await;
    assert_eq!(events(&ended), ["queued", "dispatched", "accepted", "lost", "failed"]);
    assert_eq!((&ended["deliveries"][0]["exit_code"], &ended["deliveries"][0]["reason"]), (&json!(3), &Value::Null));
    // Now it is final.
    agent.send(&AgentFrame::Finished { delivery, outcome: success() }).await;
    agent.send(&AgentFrame::Accepted { delivery: DeliveryId::new() }).await;
    assert_eq!(agent.error().await, "unknown_delivery");
    assert_eq!(server.api.command(&command).await["state"], "failed");
    server.stop().await;
}

#[tokio::test]
async fn a_lost_one_that_turns_up_in_the_journal_goes_on() {
    let (server, identity, mut agent, command, delivery) = dispatched().await;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    server.api.until(&command, &["accepted"]).await;
    drop(agent);
    drop(RawAgent::connect(&server.api, &identity).await);
    assert_eq!(server.api.command(&command).await["state"], "lost");
    let journal = vec![JournalEntry { delivery, state: State::Running }];
    let mut agent = RawAgent::connect_with(&server.api, &identity, journal).await;
    assert!(verdicts(&agent)[0].keep);
    agent.send(&AgentFrame::Started { delivery }).await;
    agent.send(&AgentFrame::Finished { delivery, outcome: success() }).await;
    let ended = server.api.until(&command, &["succeeded"]).await;
    assert_eq!(events(&ended), ["queued", "dispatched", "accepted", "lost", "succeeded"]);
    server.stop().await;
}

#[tokio::test]
async fn entries_that_are_unknown_or_ended_or_anothers_are_not_kept() {
    let (server, identity, mut agent, _, ended) = dispatched().await;
    agent.complete(ended).await;
    let other = Identity::enroll(&server.api, "web-2").await;
    let mut theirs = RawAgent::connect(&server.api, &other).await;
    let command = server.api.run("web-2", "true").await;
    let (delivery, _) = theirs.dispatched().await;
    let journal: Vec<_> = [DeliveryId::new(), ended, delivery]
        .into_iter()
        .map(|delivery| JournalEntry { delivery, state: State::Running })
        .collect();
    let mut agent = RawAgent::connect_with(&server.api, &identity, journal.clone()).await;
    let answered: Vec<_> = verdicts(&agent).iter().map(|verdict| (verdict.delivery, verdict.keep)).collect();
    let expected: Vec<_> = journal.iter().map(|entry| (entry.delivery, false)).collect();
    assert_eq!(answered, expected);
    assert_eq!(events(&server.api.command(&command).await), ["queued", "dispatched"]);
    dispatches_nothing_else(&server, &mut agent).await;
    theirs.complete(delivery).await;
    server.api.until(&command, &["succeeded"]).await;
    server.stop().await;
}

#[tokio::test]
async fn what_was_dispatched_and_never_arrived_is_dispatched_again() {
    let (server, identity, agent, command, delivery) = dispatched().await;
    drop(agent);
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    assert_eq!(agent.dispatched().await, (delivery, 2));
    // An accepted that was under way when the first connection broke would say the same: it arrived once.
    agent.complete(delivery).await;
    let ended = server.api.until(&command, &["succeeded"]).await;
    assert_eq!(events(&ended), ["queued", "dispatched", "dispatched", "accepted", "running", "succeeded"]);
    assert_eq!(ended["deliveries"][0]["attempt"], 2);
    assert_eq!(id(&ended), command);
    server.stop().await;
}
