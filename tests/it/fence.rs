//! Epochs, at the store itself: whatever an older session still carries, nothing of it is written.

use crate::harness::claim::look;
use crate::harness::raw_agent::{Identity, success};
use crate::harness::server::TestServer;
use postrider::protocol::close::CloseReason;
use postrider::protocol::output::{OutputFrame, Stream};
use postrider::store::agents::StoreFacts;
use postrider::store::error::StoreError;
use postrider::store::output::AppendOutput;
use postrider::store::progress::{Accept, Finish, Report, Start};
use postrider::store::session::{BeginSession, EndSession, Ready};
use serde_json::json;
use std::collections::HashSet;

#[tokio::test]
async fn an_older_session_writes_nothing_more() {
    let server = TestServer::start().await;
    let store = &server.running.app().store;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let agent_seq = store.agent_key(identity.id).await.unwrap().unwrap().seq;
    let command = server.api.run("web-1", "true").await;
    let begin = |challenge, last_epoch| BeginSession {
        agent_seq,
        version: "1".into(),
        os: "test".into(),
        challenge,
        last_epoch,
        journal: Vec::new(),
        ability: None,
    };
    let claim = |epoch| look(store.clock.now_ms(), agent_seq, epoch, 32, &HashSet::new());

    let older = store.write(begin(1, 0)).await.unwrap().epoch;
    assert!(store.write(claim(older)).await.unwrap().rows.is_empty(), "its journal has not confirmed the epoch");
    store.write(Ready { agent_seq, epoch: older, pin: None }).await.unwrap();
    let claimed = store.write(claim(older)).await.unwrap();
    let delivery = claimed.rows[0].id;
    let newer = store.write(begin(3, older)).await.unwrap().epoch;
    assert!(newer > older);

    let report = Report { agent_seq, epoch: older, delivery };
    let frame = OutputFrame { delivery, stream: Stream::Stdout, offset: 0, bytes: b"late".to_vec() };
    let fenced = |error: Option<StoreError>| assert!(matches!(error, Some(StoreError::Fenced)), "{error:?}");
    fenced(store.write(claim(older)).await.err());
    // A hello that answers an earlier challenge than the newest session's was under way for long.
    fenced(store.write(begin(2, older)).await.err());
    fenced(store.write(Ready { agent_seq, epoch: older, pin: None }).await.err());
    fenced(store.write(Accept(report)).await.err());
    fenced(store.write(Start(report)).await.err());
    fenced(store.write(AppendOutput { agent_seq, epoch: older, frame }).await.err());
    fenced(store.write(Finish { report, outcome: success() }).await.err());
    fenced(store.write(StoreFacts { agent_seq, epoch: older, facts: "{}".into() }).await.err());
    // Its end is not the agent's end.
    let end = EndSession { agent_seq, epoch: older, proven_ms: 1, reason: CloseReason::Superseded };
    store.write(end).await.unwrap();

    let agent = server.api.get("/api/agents/web-1").await;
    assert_eq!((&agent["last_close"], &agent["facts"]), (&json!(null), &json!(null)), "{agent}");
    assert_eq!(server.api.command(&command).await["state"], "queued");
    assert!(server.api.output(&command, "stdout").await.is_empty());

    // The newer one is offered the same row, as the second attempt.
    store.write(Ready { agent_seq, epoch: newer, pin: None }).await.unwrap();
    let claimed = store.write(claim(newer)).await.unwrap();
    assert_eq!((claimed.rows[0].id, claimed.rows[0].attempt), (delivery, 2));
    let report = Report { agent_seq, epoch: newer, delivery };
    store.write(Accept(report)).await.unwrap();
    store.write(Finish { report, outcome: success() }).await.unwrap();
    assert_eq!(server.api.command(&command).await["state"], "succeeded");
    server.stop().await;
}
