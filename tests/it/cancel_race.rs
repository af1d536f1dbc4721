//! Cancels and expiries that race with a real agent: whatever wins, the answer is the truth.

use crate::harness::agent::TestAgent;
use crate::harness::api::{Api, ENDS, events, id};
use crate::harness::chance::Chance;
use crate::harness::runs::Runs;
use crate::harness::server::TestServer;
use futures_util::StreamExt;
use futures_util::stream::iter;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tempfile::TempDir;

const COMMANDS: usize = 150;
/// Submitted and not yet cancelled at a time: so some wait on the agent, which has four slots, and some in the
/// outbox, for the agent is given 32.
const AT_ONCE: usize = 48;

/// Submits a short command, cancels it after `delay`, checks what came of it and tells how it ended.
async fn race(api: &Api, runs: &Runs, number: usize, delay: Duration) -> String {
    let (begin, end) = (format!("{number}"), format!("{number}-end"));
    let line = runs.line(&begin, &format!("sleep 0.05; {}", runs.line(&end, "")));
    let command = id(&api.submit("web-1", json!({ "command": line, "timeout_s": 60 })).await);
    tokio::time::sleep(delay).await;
    let reply = api.call("POST", &format!("/api/commands/{command}/cancel"), Value::Null).await;
    assert_eq!(reply.status, 202);
    let answer = reply.json();
    let counts = ["cancelled", "requested", "ended"].map(|count| answer[count].as_u64().unwrap());
    assert_eq!(counts.iter().sum::<u64>(), 1, "{answer}");
    let ended = api.until(&command, ENDS).await;
    let (state, delivery) = (ended["state"].as_str().unwrap(), &ended["deliveries"][0]);
    let (begun, done) = (runs.count(&begin), runs.count(&end));
    match state {
        "succeeded" => assert_eq!((begun, done), (1, 1), "{ended}"),
        "cancelled" if delivery["duration_ms"].is_null() => assert_eq!((begun, done), (0, 0), "{ended}"),
        // It may have been killed between its last line and its end, or have come to its end under the signal.
        "cancelled" => {
            assert!(begun <= 1 && done <= begun, "{begun} {done} {ended}");
            assert!(delivery["signal"].is_i64() || done == 1, "it ended by itself, too early: {ended}");
        }
        _ => panic!("{ended}"),
    }
    let [cancelled, requested, _] = counts;
    let by_answer = match (cancelled, requested) {
        (1, _) => {
            assert_eq!(events(&ended), ["queued", "cancelled"], "it never left the outbox");
            "in the outbox"
        }
        (_, 1) => {
            assert!(events(&ended).contains(&"cancel_requested".to_owned()), "{ended}");
            "asked of the agent"
        }
        _ => {
            assert_eq!(state, "succeeded", "it had ended before: {ended}");
            "too late"
        }
    };
    let started = if delivery["duration_ms"].is_null() { "never started" } else { "started" };
    format!("{by_answer}, {started}: {state}")
}

#[tokio::test]
async fn a_cancel_that_races_with_start_and_end_is_answered_with_the_truth() {
    let mut chance = Chance::new();
    let folder = TempDir::new().unwrap();
    let (runs, server) = (Runs::new(folder.path()), TestServer::start().await);
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let delays: Vec<Duration> = (0..COMMANDS)
        .map(|_| {
            let ms = [4, 60, 200, 600][chance.below(4)];
            chance.at_most_ms(ms)
        })
        .collect();
    let races = iter(delays.into_iter().enumerate())
        .map(|(number, delay)| race(&server.api, &runs, number, delay))
        .buffer_unordered(AT_ONCE);
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for end in races.collect::<Vec<_>>().await {
        *ends.entry(end).or_default() += 1;
    }
    println!("{ends:#?}");
    server.stop().await;
}

#[tokio::test]
async fn what_waits_on_a_busy_agent_until_its_time_is_over_expires_there_and_never_runs() {
    let folder = TempDir::new().unwrap();
    let (runs, server) = (Runs::new(folder.path()), TestServer::start().await);
    let agent = TestAgent::start(&server.api, "web-1").await;
    let go = folder.path().join("go");
    for slot in 0..4 {
        let busy = server.api.run("web-1", &runs.line_until(&format!("busy-{slot}"), &go)).await;
        server.api.until(&busy, &["running"]).await;
    }
    let submit = async |name: &str, ttl_s: u64| {
        id(&server.api.submit("web-1", json!({ "command": runs.line(name, ""), "ttl_s": ttl_s })).await)
    };
    let [brief, patient] = [submit("brief", 2).await, submit("patient", 3600).await];
    let expired = server.api.until(&brief, &["expired"]).await;
    assert_eq!(events(&expired), ["queued", "dispatched", "accepted", "expired"], "the agent says it");
    assert!(expired["deliveries"][0]["duration_ms"].is_null(), "{expired}");
    assert_eq!(server.api.command(&patient).await["state"], "accepted");
    std::fs::write(&go, "").unwrap();
    server.api.until(&patient, &["succeeded"]).await;
    assert_eq!((runs.count("brief"), runs.count("patient")), (0, 1));
    drop(agent);
    server.stop().await;
}
