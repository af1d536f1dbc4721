//! What ends by time, with a clock that tests move: expiry, loss, cancels, and a clock that goes back.

use crate::harness::api::{events, id};
use crate::harness::raw_agent::{Identity, RawAgent, close_code, success};
use crate::harness::server::TestServer;
use postrider::protocol::close::CloseReason;
use postrider::protocol::frame::{AgentFrame, JournalEntry, ServerFrame};
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::outcome::Outcome;
use postrider::protocol::state::State;
use postrider::store::reap::Reap;
use serde_json::{Value, json};

/// Moves the server's clock to this many seconds from the real time, and ends what is due then.
async fn at(server: &TestServer, seconds: i64) {
    server.clock.set_offset_ms(seconds * 1000);
    server.running.app().store.write(Reap).await.unwrap();
}

async fn cancel(server: &TestServer, command: &str) -> Value {
    let reply = server.api.call("POST", &format!("/api/commands/{command}/cancel"), Value::Null).await;
    assert_eq!(reply.status, 202);
    reply.json()
}

/// Reports are applied in order: when a wrong one is answered, those before it are stored.
async fn settled(agent: &mut RawAgent) {
    agent.send(&AgentFrame::Accepted { delivery: DeliveryId::new() }).await;
    assert_eq!(agent.error().await, "unknown_delivery");
}

async fn next_cancel(agent: &mut RawAgent) -> DeliveryId {
    loop {
        if let ServerFrame::Cancel { delivery } = agent.next().await {
            return delivery;
        }
    }
}

/// A server with an agent, and a command that was dispatched to it: an hour to live, a minute to run.
async fn dispatched() -> (TestServer, Identity, RawAgent, String, DeliveryId) {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let command = server.api.submit("web-1", json!({ "command": "true", "timeout_s": 60, "ttl_s": 3600 })).await;
    let (delivery, _) = agent.dispatched().await;
    (server, identity, agent, id(&command), delivery)
}

#[tokio::test]
async fn what_nobody_fetched_in_time_expires() {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let command = id(&server.api.submit("web-1", json!({ "command": "true", "ttl_s": 60 })).await);
    let other = id(&server.api.submit("web-1", json!({ "command": "true", "ttl_s": 600 })).await);
    at(&server, 30).await;
    assert_eq!(server.api.command(&command).await["state"], "queued");
    // Nobody has to ask for it: the reaper notices.
    server.clock.set_offset_ms(61_000);
    let expired = server.api.until(&command, &["expired"]).await;
    assert_eq!(events(&expired), ["queued", "expired"]);
    let delivery = &expired["deliveries"][0];
    assert_eq!((&delivery["attempt"], &delivery["exit_code"]), (&json!(0), &Value::Null));
    assert!(delivery["reason"].is_string(), "{expired}");
    assert_eq!(server.api.get("/api/agents/web-1").await["outbox"], 1);
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let (delivery, _) = agent.dispatched().await;
    agent.complete(delivery).await;
    server.api.until(&other, &["succeeded"]).await;
    server.stop().await;
}

#[tokio::test]
async fn what_was_accepted_and_never_reported_is_lost_until_its_outcome_comes() {
    let (server, _, mut agent, command, delivery) = dispatched().await;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    server.api.until(&command, &["accepted"]).await;
    at(&server, 60).await;
    assert_eq!(server.api.command(&command).await["state"], "accepted", "a minute of grace comes after the timeout");
    at(&server, 121).await;
    let lost = server.api.command(&command).await;
    assert_eq!((&lost["state"], &lost["deliveries"][0]["exit_code"]), (&json!("lost"), &Value::Null));
    agent.send(&AgentFrame::Finished { delivery, outcome: success() }).await;
    let ended = server.api.until(&command, &["succeeded"]).await;
    assert_eq!(events(&ended), ["queued", "dispatched", "accepted", "lost", "succeeded"]);
    assert_eq!((&ended["deliveries"][0]["exit_code"], &ended["deliveries"][0]["reason"]), (&json!(0), &Value::Null));
    server.stop().await;
}

#[tokio::test]
async fn each_report_puts_the_loss_off() {
    let (server, _, mut agent, command, delivery) = dispatched().await;
    for (seconds, report) in [
        (0, AgentFrame::Accepted { delivery }),
        (100, AgentFrame::Accepted { delivery }),
        (200, AgentFrame::Accepted { delivery }),
        (300, AgentFrame::Started { delivery }),
    ] {
        at(&server, seconds).await;
        assert_ne!(server.api.command(&command).await["state"], "lost", "{seconds}");
        agent.send(&report).await;
        settled(&mut agent).await;
    }
    at(&server, 400).await;
    assert_eq!(server.api.command(&command).await["state"], "running");
    at(&server, 421).await;
    assert_eq!(server.api.command(&command).await["state"], "lost");
    server.stop().await;
}

#[tokio::test]
async fn what_may_have_arrived_is_not_called_expired_before_the_agent_says_so() {
    let (server, identity, agent, command, delivery) = dispatched().await;
    drop(agent);
    at(&server, 3601).await;
    assert_eq!(server.api.command(&command).await["state"], "queued", "it may have been taken in time");
    let _agent = RawAgent::connect(&server.api, &identity).await;
    let expired = server.api.until(&command, &["expired"]).await;
    assert_eq!(events(&expired), ["queued", "dispatched", "expired"]);
    assert_eq!(expired["deliveries"][0]["id"], delivery.to_string());
    server.stop().await;
}

#[tokio::test]
async fn what_may_have_arrived_and_was_never_heard_of_is_lost_not_expired() {
    let (server, identity, agent, command, delivery) = dispatched().await;
    drop(agent);
    at(&server, 3601).await;
    at(&server, 3719).await;
    assert_eq!(server.api.command(&command).await["state"], "queued");
    at(&server, 3721).await;
    assert_eq!(events(&server.api.command(&command).await), ["queued", "dispatched", "lost"]);
    // It had run after all.
    let journal = vec![JournalEntry { delivery, state: State::Succeeded }];
    let mut agent = RawAgent::connect_with(&server.api, &identity, journal).await;
    agent.send(&AgentFrame::Finished { delivery, outcome: success() }).await;
    server.api.until(&command, &["succeeded"]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_clock_that_goes_back_an_hour_stops_nothing() {
    let (server, identity, mut agent, before, delivery) = dispatched().await;
    server.clock.set_offset_ms(-3_600_000);
    agent.complete(delivery).await;
    server.api.until(&before, &["succeeded"]).await;
    // Its idea of the time is wrong now: before it is given anything it has to learn it anew.
    let during = server.api.run("web-1", "true").await;
    assert_eq!(close_code(&mut agent.socket).await, Some(CloseReason::ClockStep.code()));
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let (delivery, attempt) = agent.dispatched().await;
    assert_eq!(attempt, 1);
    agent.complete(delivery).await;
    server.api.until(&during, &["succeeded"]).await;
    assert_eq!(server.api.until_online("web-1", true).await["epoch"], agent.epoch());
    let held = server.api.run("web-1", "true").await;
    let (delivery, _) = agent.dispatched().await;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    server.api.until(&held, &["accepted"]).await;
    server.clock.set_offset_ms(0);
    agent.send(&AgentFrame::Finished { delivery, outcome: success() }).await;
    server.api.until(&held, &["succeeded"]).await;
    let listed = server.api.get("/api/commands").await;
    let order: Vec<_> = listed["commands"].as_array().unwrap().iter().map(id).collect();
    assert_eq!(order, [held, during, before], "history is in the order of submission, whatever the clock said");
    server.stop().await;
}

#[tokio::test]
async fn what_never_left_the_outbox_is_cancelled_here_and_now() {
    let server = TestServer::start().await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let command = server.api.run("web-1", "true").await;
    let answer = cancel(&server, &command).await;
    assert_eq!((&answer["cancelled"], &answer["requested"], &answer["ended"]), (&json!(1), &json!(0), &json!(0)));
    let again = cancel(&server, &command).await;
    assert_eq!((&again["cancelled"], &again["requested"], &again["ended"]), (&json!(0), &json!(0), &json!(1)));
    let cancelled = server.api.command(&command).await;
    assert_eq!(
        (cancelled["state"].as_str(), events(&cancelled)),
        (Some("cancelled"), vec!["queued".to_owned(), "cancelled".to_owned()])
    );
    let next = server.api.submit("web-1", json!({ "command": "true" })).await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    assert_eq!(agent.dispatched().await.0.to_string(), next["deliveries"][0]["id"]);
    server.stop().await;
}

#[tokio::test]
async fn what_may_have_arrived_is_cancelled_when_the_agent_says_that_it_did_not() {
    let (server, identity, agent, command, _) = dispatched().await;
    for _ in 0..2 {
        let answer = cancel(&server, &command).await;
        assert_eq!((&answer["cancelled"], &answer["requested"]), (&json!(0), &json!(1)));
    }
    let asked = server.api.command(&command).await;
    assert_eq!(events(&asked), ["queued", "dispatched", "cancel_requested"]);
    assert_eq!(asked["state"], "queued");
    assert!(asked["deliveries"][0]["cancel_requested_ms"].is_i64(), "{asked}");
    drop(agent);
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let cancelled = server.api.command(&command).await;
    assert_eq!(events(&cancelled), ["queued", "dispatched", "cancel_requested", "cancelled"]);
    let next = server.api.submit("web-1", json!({ "command": "true" })).await;
    assert_eq!(agent.dispatched().await.0.to_string(), next["deliveries"][0]["id"]);
    server.stop().await;
}

#[tokio::test]
async fn a_cancel_reaches_the_agent_that_holds_it_and_its_answer_is_the_truth() {
    let (server, identity, mut agent, command, delivery) = dispatched().await;
    // It was asked for while the dispatch was under way.
    cancel(&server, &command).await;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    assert_eq!(next_cancel(&mut agent).await, delivery);
    drop(agent);
    // It is asked for again on the next connection.
    let journal = vec![JournalEntry { delivery, state: State::Running }];
    let mut agent = RawAgent::connect_with(&server.api, &identity, journal).await;
    assert_eq!(next_cancel(&mut agent).await, delivery);
    let outcome = Outcome::without_run(State::Cancelled, "asked to");
    agent.send(&AgentFrame::Finished { delivery, outcome }).await;
    let cancelled = server.api.until(&command, &["cancelled"]).await;
    assert_eq!(cancelled["deliveries"][0]["reason"], "asked to");

    // One that ended by itself meanwhile has succeeded all the same.
    let command = server.api.run("web-1", "true").await;
    let (delivery, _) = agent.dispatched().await;
    agent.send(&AgentFrame::Accepted { delivery }).await;
    agent.send(&AgentFrame::Started { delivery }).await;
    server.api.until(&command, &["running"]).await;
    cancel(&server, &command).await;
    assert_eq!(next_cancel(&mut agent).await, delivery);
    agent.send(&AgentFrame::Finished { delivery, outcome: success() }).await;
    let ended = server.api.until(&command, &["succeeded"]).await;
    assert_eq!(events(&ended), ["queued", "dispatched", "accepted", "running", "cancel_requested", "succeeded"]);
    let answer = cancel(&server, &command).await;
    assert_eq!((&answer["ended"], &answer["requested"]), (&json!(1), &json!(0)));
    server.stop().await;
}
