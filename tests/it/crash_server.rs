//! A server that dies at the worst moments: between what it commits, sends and answers.
#![cfg(debug_assertions)] // Crash points are in debug builds only.

use crate::harness::api::{events, id};
use crate::harness::scene::{AT_ONCE, ONCE, Scene, VICTIM};
use futures_util::StreamExt;
use futures_util::stream::iter;

/// How the server's data folder stands after it died at `point` while it took a submission: the commands in it.
async fn dies_while_it_takes_a_command(point: &str) -> (Scene, Vec<String>) {
    let mut scene = Scene::start(point).await;
    scene.arm_server(Some(point)).await;
    assert_eq!(scene.try_submit(VICTIM, "command", "").await, None, "no answer before the commit");
    scene.server_died().await;
    scene.restart_server(None).await;
    let listed = scene.api().get("/api/commands").await;
    let listed = listed["commands"].as_array().unwrap().iter().map(id).collect();
    (scene, listed)
}

#[tokio::test]
async fn a_submission_that_was_not_committed_was_not_answered_and_is_taken_once_when_repeated() {
    let (mut scene, listed) = dies_while_it_takes_a_command("store.before_commit").await;
    assert!(listed.is_empty(), "nothing of it is there: {listed:?}");
    scene.submit(VICTIM, "command", "").await;
    assert_eq!(events(&scene.ended().await["command"]), ONCE);
}

#[tokio::test]
async fn a_submission_that_was_committed_and_not_answered_goes_on_by_itself_and_is_the_same_when_repeated() {
    let (mut scene, listed) = dies_while_it_takes_a_command("store.committed").await;
    assert_eq!(listed.len(), 1, "it is there, though no bell was rung");
    scene.api().until(&listed[0], &["succeeded"]).await;
    let repeated = scene.submit(VICTIM, "command", "").await;
    assert_eq!(repeated, listed[0]);
    // Its dispatch was recorded with it, and nothing had gone out.
    assert_eq!(events(&scene.ended().await["command"]), [&ONCE[..2], &ONCE[1..]].concat());
}

#[tokio::test]
async fn a_server_that_dies_with_a_report_in_its_hands_asks_again_and_nothing_runs_twice() {
    // Of the groups that move the command the first takes it, the second has its accept, the third its start or its end.
    let points = [
        "session.dispatched",
        "store.before_commit:2",
        "store.committed:2",
        "session.accepted",
        "store.before_commit:3",
        "store.committed:3",
        "session.finished",
    ];
    let survives = |point: &'static str| async move {
        let mut scene = Scene::start(point).await;
        scene.arm_server(Some(point)).await;
        // It may die before it can answer.
        scene.try_submit(VICTIM, "command", "sleep 0.2").await;
        scene.server_died().await;
        scene.restart_server(None).await;
        scene.submit(VICTIM, "command", "sleep 0.2").await;
        assert_eq!(events(&scene.ended().await["command"]), ONCE, "{point}");
    };
    iter(points).map(survives).buffer_unordered(AT_ONCE).collect::<()>().await;
}

#[tokio::test]
async fn what_waits_on_a_busy_agent_is_told_after_the_server_died_with_its_accept() {
    for point in ["session.accepted:5", "session.dispatched:5"] {
        let mut scene = Scene::start(point).await;
        scene.arm_server(Some(point)).await;
        scene.block().await;
        scene.try_submit(VICTIM, "command", "").await;
        scene.server_died().await;
        scene.restart_server(None).await;
        let command = scene.submit(VICTIM, "command", "").await;
        scene.api().until(&command, &["accepted"]).await;
        assert_eq!(scene.runs.count("command"), 0);
        scene.release(4);
        let ended = scene.ended().await;
        assert!(ended.values().all(|command| command["state"] == "succeeded"), "{ended:?}");
        assert_eq!(events(&ended["command"]), ONCE, "{point}");
    }
}
