//! `postrider demo`: the main job in one command, and nothing left behind.

use crate::harness::cli::{Ended, good, run, run_with};
use crate::harness::eventually::eventually;
use crate::harness::left::{left_in, nothing_left, server_in, until_children};
use crate::harness::process::{Process, postrider};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A demo whose temporary folder is in `folder`.
fn demo(folder: &Path, args: &[&str]) -> Command {
    let mut command = postrider();
    command.arg("demo").args(args).env("TMPDIR", folder);
    command
}

async fn once(folder: &Path, words: &[&str]) -> Ended {
    run_with(demo(folder, &[&["--once", "--"], words].concat()), b"").await
}

/// Starts a demo that stays up, and waits until it says so; gives its server's data folder.
async fn staying(folder: &Path, log: &Path) -> (Process, PathBuf) {
    let process = Process::spawn(demo(folder, &["--agents", "2", "--", "echo it runs"]), log.to_owned());
    eventually("the demo stays up", || async { process.printed().contains("Everything stays up").then_some(()) }).await;
    let site = left_in(folder).pop().unwrap();
    (process, site.join("server"))
}

#[tokio::test]
async fn once_prints_each_agents_output_and_outcome() {
    let folder = TempDir::new().unwrap();
    let ended = once(folder.path(), &["uname", "-a"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let host = Command::new("uname").arg("-a").output().unwrap().stdout;
    let host = String::from_utf8(host).unwrap();
    let out = ended.out();
    let mut lines: Vec<_> = out.lines().collect();
    lines.sort_unstable();
    let expected: Vec<_> = (1..=3).map(|number| format!("demo-{number} | {}", host.trim_end())).collect();
    assert_eq!(lines, expected);
    for number in 1..=3 {
        let is_outcome = |line: &&str| line.contains(&format!("demo-{number}")) && line.contains("succeeded");
        assert_eq!(ended.stderr.lines().filter(is_outcome).count(), 1, "{}", ended.stderr);
    }
    assert!(ended.stderr.contains("3 succeeded"), "{}", ended.stderr);
    nothing_left(folder.path()).await;
}

#[tokio::test]
async fn once_fails_with_its_command_and_leaves_nothing_either() {
    let folder = TempDir::new().unwrap();
    let ended = once(folder.path(), &["sh", "-c", "exit 3"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("3 failed"), "{}", ended.stderr);
    nothing_left(folder.path()).await;
    let usage = run_with(demo(folder.path(), &["--agents", "0"]), b"").await;
    assert_eq!(usage.code, Some(2), "{usage:?}");
}

#[tokio::test]
async fn it_stays_up_until_ctrl_c_and_cleans_up() {
    let (folder, logs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for signal in ["INT", "TERM", "HUP"] {
        let (mut process, data) = staying(folder.path(), &logs.path().join(signal)).await;
        assert!(process.printed().contains(&format!("export POSTRIDER_DATA={}", data.display())));
        // As it says, in another terminal.
        assert_eq!(good(&data, &["agents", "--json"]).await.objects().len(), 2);
        assert_eq!(run(&data, &["run", "demo-2", "--", "exit 4"]).await.code, Some(4));
        // A server and two agents.
        until_children(folder.path(), 3).await;
        process.signal(signal);
        assert_eq!(process.ended().await, Some(0), "{signal}: {}", process.printed());
        nothing_left(folder.path()).await;
    }
}

#[tokio::test]
async fn ctrl_c_while_the_command_runs_ends_that_too() {
    let (folder, logs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let line = format!("echo begun; sleep 600; : {}", folder.path().display());
    let mut process = Process::spawn(demo(folder.path(), &["--once", "--", &line]), logs.path().join("log"));
    eventually("it runs", || async { process.printed().contains("| begun").then_some(()) }).await;
    process.signal("INT");
    assert_eq!(process.ended().await, Some(130), "{}", process.printed());
    nothing_left(folder.path()).await;
}

#[tokio::test]
async fn a_demo_that_is_killed_takes_its_children_with_it() {
    let (folder, logs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (mut process, _) = staying(folder.path(), &logs.path().join("log")).await;
    until_children(folder.path(), 3).await;
    process.kill();
    until_children(folder.path(), 0).await;
}

#[tokio::test]
async fn a_child_that_dies_ends_the_demo_with_the_reason() {
    let (folder, logs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (mut process, _) = staying(folder.path(), &logs.path().join("log")).await;
    let server = server_in(folder.path());
    assert!(Command::new("kill").args(["-9", &server.unwrap()]).status().unwrap().success());
    assert_eq!(process.ended().await, Some(125), "{}", process.printed());
    assert!(process.printed().contains("server ended"), "{}", process.printed());
    nothing_left(folder.path()).await;
}
