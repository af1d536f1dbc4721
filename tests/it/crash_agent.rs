//! An agent that dies at the worst moments: between what it journals, does and says.
#![cfg(debug_assertions)] // Crash points are in debug builds only.

use crate::harness::api::events;
use crate::harness::scene::{AT_ONCE, ONCE, OTHER, Scene, VICTIM};
use futures_util::StreamExt;
use futures_util::stream::iter;

/// Where the victim dies, and what must have become of its command.
struct Case {
    point: &'static str,
    runs: std::ops::RangeInclusive<usize>,
    events: &'static [&'static str],
}

const TWICE_SENT: &[&str] = &["queued", "dispatched", "dispatched", "accepted", "running", "succeeded"];
const CUT_OFF: &[&str] = &["queued", "dispatched", "accepted", "running", "interrupted"];

fn case(point: &'static str, runs: std::ops::RangeInclusive<usize>, events: &'static [&'static str]) -> Case {
    Case { point, runs, events }
}

/// A command must not die, or do anything else, by its agent's variables.
const NOT_HANDED_ON: &str = "[ -z \"$POSTRIDER_CRASH_AT\" ] || exit 9";

async fn survives(case: Case, waits: bool) {
    let mut scene = Scene::start(case.point).await;
    scene.arm_victim(Some(case.point)).await;
    if waits {
        scene.block().await;
    }
    let command = scene.submit(VICTIM, "command", NOT_HANDED_ON).await;
    if waits {
        scene.until_accepted_or_dead(&command).await;
        scene.release(1);
    }
    scene.victim_died().await;
    let before = scene.epoch().await;
    // Nobody else notices.
    let other = scene.submit(OTHER, "meanwhile", "").await;
    scene.api().until(&other, &["succeeded"]).await;
    scene.victim.restart(VICTIM);
    scene.until_newer_than(before).await;
    scene.release(4);
    let ended = &scene.ended().await["command"];
    let runs = scene.runs.count("command");
    assert_eq!(events(ended), case.events, "{}", case.point);
    assert!(case.runs.contains(&runs), "{}: {runs} runs: {ended}", case.point);
}

async fn all_survive(cases: Vec<Case>, waits: bool) {
    iter(cases).map(|case| survives(case, waits)).buffer_unordered(AT_ONCE).collect::<()>().await;
}

#[tokio::test]
async fn an_agent_that_dies_with_a_free_slot_runs_nothing_twice_and_tells_the_truth() {
    let cases = vec![
        // Not journaled: it never arrived, and is sent again.
        case("agent.dispatched", 1..=1, TWICE_SENT),
        // Accepted and started are one commit here: it may not be started any more, whether it was or not.
        case("agent.accepted", 0..=0, CUT_OFF),
        case("agent.started", 0..=0, CUT_OFF),
        case("agent.spawned", 0..=1, CUT_OFF),
        // It ran to its end, and nobody knows how that was.
        case("agent.ended", 1..=1, CUT_OFF),
        case("agent.outcome", 1..=1, ONCE),
        case("agent.forgotten", 1..=1, ONCE),
    ];
    all_survive(cases, false).await;
}

#[tokio::test]
async fn an_agent_that_dies_with_all_slots_busy_runs_nothing_twice_and_tells_the_truth() {
    // The command is the fifth to arrive, and the second to end.
    let cases = vec![
        case("agent.dispatched:5", 1..=1, TWICE_SENT),
        // Journaled as waiting: it has not run, so it still may.
        case("agent.accepted:5", 1..=1, ONCE),
        case("agent.started:5", 0..=0, CUT_OFF),
        case("agent.spawned:5", 0..=1, CUT_OFF),
        case("agent.ended:2", 1..=1, CUT_OFF),
        case("agent.outcome:2", 1..=1, ONCE),
        case("agent.forgotten:2", 1..=1, ONCE),
    ];
    all_survive(cases, true).await;
}
