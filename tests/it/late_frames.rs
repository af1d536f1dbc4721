//! Frames that come too late or twice: from a connection that has a successor, or after the end.

use crate::harness::api::events;
use crate::harness::lane::Flow;
use crate::harness::proxy::Proxy;
use crate::harness::raw_agent::{Identity, RawAgent, close_code, success};
use crate::harness::server::TestServer;
use postrider::protocol::close::CloseReason;
use postrider::protocol::frame::{AgentFrame, JournalEntry, JournalVerdict, ServerFrame};
use postrider::protocol::outcome::Outcome;
use postrider::protocol::output::{OutputFrame, Stream};
use postrider::protocol::state::State;
use serde_json::json;
use std::sync::atomic::Ordering;
use tokio_tungstenite::tungstenite::Message;

/// An outcome that nobody is to see.
fn other() -> Outcome {
    let mut outcome = success();
    (outcome.state, outcome.exit_code, outcome.reason) = (State::Failed, Some(7), Some("late".to_owned()));
    outcome
}

#[tokio::test]
async fn a_successor_is_welcome_at_once_and_what_the_half_open_connection_still_carries_changes_nothing() {
    let server = TestServer::start().await;
    let api = &server.api;
    let proxy = Proxy::start(api.address()).await;
    let identity = Identity::enroll(api, "web-1").await;
    let mut old = RawAgent::connect_to(&proxy.address, &identity, Vec::new()).await;
    let command = api.run("web-1", "true").await;
    let (delivery, _) = old.dispatched().await;
    old.send(&AgentFrame::Accepted { delivery }).await;
    api.until(&command, &["accepted"]).await;

    // From here on what it says is held up on the way.
    proxy.set(|faults| faults.to_server.flow = Flow::Held);
    let carried = proxy.counts().to_server.load(Ordering::Relaxed);
    let journal = vec![JournalEntry { delivery, state: State::Running }];
    let mut new = RawAgent::connect_with(api, &identity, journal).await;
    assert!(new.epoch() > old.epoch());
    old.send(&AgentFrame::Accepted { delivery }).await;
    old.send(&AgentFrame::Started { delivery }).await;
    let output = |bytes: &[u8]| OutputFrame { delivery, stream: Stream::Stdout, offset: 0, bytes: bytes.to_vec() };
    old.send_message(Message::binary(output(b"late").encode())).await;
    old.send(&AgentFrame::Finished { delivery, outcome: other() }).await;
    old.send(&AgentFrame::Facts { facts: json!({ "hostname": "late" }) }).await;
    assert_eq!(close_code(&mut old.socket).await, Some(CloseReason::Superseded.code()));
    assert_eq!(proxy.counts().to_server.load(Ordering::Relaxed), carried, "it was fenced off by its successor alone");
    proxy.set(|faults| faults.heal());
    drop(old);
    crate::harness::eventually::eventually("all of it was let through", || async { (proxy.open() == 0).then_some(()) })
        .await;

    // On the new connection it goes on as if nothing had been.
    new.send_message(Message::binary(output(b"true").encode())).await;
    new.send(&AgentFrame::Finished { delivery, outcome: success() }).await;
    assert_eq!(new.next().await, ServerFrame::Stored { delivery }, "it was not dispatched again");
    let ended = api.command(&command).await;
    assert_eq!(events(&ended), ["queued", "dispatched", "accepted", "running", "succeeded"]);
    assert_eq!(ended["deliveries"][0]["exit_code"], 0);
    assert_eq!(api.output(&command, "stdout").await, b"true");
    let shown = api.get("/api/agents/web-1").await;
    assert_eq!((&shown["online"], &shown["epoch"]), (&json!(true), &json!(new.epoch())));
    assert_ne!(shown["facts"]["hostname"], "late");
    server.stop().await;
}

#[tokio::test]
async fn an_outcome_told_again_in_one_breath_on_a_new_connection_and_after_a_restart_stays_the_first() {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let command = server.api.run("web-1", "true").await;
    let (delivery, _) = agent.dispatched().await;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    // Nobody waits for `stored`: most likely all are of one commit.
    let outcomes = [success(), other(), success()];
    for outcome in outcomes.clone() {
        agent.send(&AgentFrame::Finished { delivery, outcome }).await;
    }
    for _ in &outcomes {
        assert_eq!(agent.next().await, ServerFrame::Stored { delivery });
    }
    let first = server.api.command(&command).await;
    assert_eq!(events(&first), ["queued", "dispatched", "accepted", "running", "succeeded"]);
    drop(agent);

    // `stored` was lost for an agent whose journal tells of it still.
    let server = server.restart().await;
    for outcome in [success(), other()] {
        let entry = JournalEntry { delivery, state: outcome.state };
        let mut agent = RawAgent::connect_with(&server.api, &identity, vec![entry]).await;
        let ServerFrame::Welcome { journal, .. } = &agent.welcome else { unreachable!("checked at connect") };
        assert_eq!(*journal, [JournalVerdict { delivery, keep: false, stdout_from: 0, stderr_from: 0 }]);
        let late = OutputFrame { delivery, stream: Stream::Stdout, offset: 0, bytes: b"late".to_vec() };
        agent.send_message(Message::binary(late.encode())).await;
        assert_eq!(agent.next().await, ServerFrame::Cancel { delivery });
        agent.send(&AgentFrame::Finished { delivery, outcome }).await;
        assert_eq!(agent.next().await, ServerFrame::Stored { delivery });
    }
    assert_eq!(server.api.command(&command).await["deliveries"], first["deliveries"]);
    assert_eq!(server.api.output(&command, "stdout").await, b"");
    server.stop().await;
}
