//! Server and agent die on the way of one command, at every pair of moments; and both again and again under load.
#![cfg(debug_assertions)] // Crash points are in debug builds only.

use crate::harness::scene::{AT_ONCE, Scene, VICTIM};
use futures_util::StreamExt;
use futures_util::stream::iter;

const SERVER_POINTS: [&str; 6] = [
    "store.committed",
    "store.before_commit:2",
    "session.dispatched",
    "session.accepted",
    "store.committed:3",
    "session.finished",
];
const AGENT_POINTS: [&str; 7] = [
    "agent.dispatched",
    "agent.accepted",
    "agent.started",
    "agent.spawned",
    "agent.ended",
    "agent.outcome",
    "agent.forgotten",
];

/// Both die once, whoever comes first, and are started again.
async fn survives(server_point: &str, agent_point: &str) -> String {
    let mut scene = Scene::start(format!("{server_point} and {agent_point}")).await;
    scene.arm_server(Some(server_point)).await;
    scene.arm_victim(Some(agent_point)).await;
    scene.try_submit(VICTIM, "command", "sleep 0.1").await;
    scene.both_died("command", "sleep 0.1").await;
    let ended = &scene.ended().await["command"];
    format!("{server_point} and {agent_point}: {} after {} runs", ended["state"], scene.runs.count("command"))
}

#[tokio::test]
async fn at_every_pair_of_moments_both_may_die_and_a_command_runs_at_most_once_and_ends_with_the_truth() {
    let pairs = SERVER_POINTS.into_iter().flat_map(|server| AGENT_POINTS.map(|agent| (server, agent)));
    let scenes = iter(pairs).map(|(server, agent)| survives(server, agent)).buffer_unordered(AT_ONCE);
    for line in scenes.collect::<Vec<_>>().await {
        println!("{line}");
    }
}
