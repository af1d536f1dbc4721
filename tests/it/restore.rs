//! A server that comes back with an older database than what its agents have done since.

use crate::harness::agent::TestAgent;
use crate::harness::api::events;
use crate::harness::cli::good;
use crate::harness::eventually::eventually;
use crate::harness::process::ServerProcess;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn an_older_backup_is_told_the_truth_and_nothing_runs_again() {
    story(false).await;
}

#[tokio::test]
async fn after_backup_and_restore_agents_are_told_the_truth_and_nothing_runs_again() {
    story(true).await;
}

/// With a copy of the stopped server's folder, or with the verbs: the backup while it runs, the restore over what it has
/// become.
async fn story(by_verbs: bool) {
    let folder = TempDir::new().unwrap();
    let (data, backup) = (folder.path().join("server"), folder.path().join("backup"));
    let (ran, gate) = (folder.path().join("ran"), folder.path().join("gate"));
    let mut server = ServerProcess::start(&data, 0).await;
    let port = server.port();
    let mut agent = TestAgent::start(&server.api, "web-1").await;
    let mut other = TestAgent::start(&server.api, "web-2").await;
    agent.process.kill();
    server.api.until_online("web-1", false).await;
    let line = |name: &str, rest: &str| format!("echo {name} >> {}; echo {name}{rest}", ran.display());
    let wait = format!("; while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    // In the backup all of these wait in the outbox.
    let done = server.api.run("web-1", &line("done", "")).await;
    let failed = server.api.run("web-1", &line("failed", "; exit 3")).await;
    let running = server.api.run("web-1", &line("running", &wait)).await;
    let waiting = server.api.run("web-2", &line("never-left", "")).await;
    server.api.until(&waiting, &["succeeded"]).await;
    if by_verbs {
        good(&data, &["backup", backup.to_str().unwrap()]).await;
    }
    server.process.signal("TERM");
    assert_eq!(server.process.ended().await, Some(0));
    if !by_verbs {
        copy(&data, &backup);
    }

    // What happens after it is unknown to it.
    let mut server = ServerProcess::start(&data, port).await;
    agent.restart("web-1");
    server.api.until(&done, &["succeeded"]).await;
    server.api.until(&failed, &["failed"]).await;
    server.api.until(&running, &["running"]).await;
    let later = server.api.run("web-1", &line("later", "")).await;
    server.api.until(&later, &["succeeded"]).await;
    let held = server.api.run("web-1", &line("held", &wait)).await;
    server.api.until(&held, &["running"]).await;
    let epoch = server.api.get("/api/agents/web-1").await["epoch"].as_u64().unwrap();
    server.process.kill();
    if by_verbs {
        good(&data, &["restore", backup.to_str().unwrap()]).await;
    } else {
        std::fs::remove_dir_all(&data).unwrap();
        copy(&backup, &data);
    }

    let server = ServerProcess::start(&data, port).await;
    let running_now = server.api.until(&running, &["running"]).await;
    assert_eq!(events(&running_now), ["queued", "accepted", "running"], "the journal has it");
    // The tombstones answer for what had ended.
    let done = server.api.until(&done, &["succeeded"]).await;
    assert_eq!(events(&done), ["queued", "dispatched", "accepted", "running", "succeeded"]);
    let failed = server.api.until(&failed, &["failed"]).await;
    assert_eq!(failed["deliveries"][0]["exit_code"], 3);
    std::fs::write(&gate, "").unwrap();
    let running = server.api.until(&running, &["succeeded"]).await;
    assert_eq!(running["deliveries"][0]["exit_code"], 0);
    // What was submitted after the backup is gone with the database, and not half there.
    for command in [later, held] {
        let reply = server.api.call("GET", &format!("/api/commands/{command}"), json!(null)).await;
        assert_eq!(reply.status, 404);
    }
    let web_1 = server.api.get("/api/agents/web-1").await;
    assert!(web_1["epoch"].as_u64().unwrap() > epoch, "epochs go on from the agent's: {web_1}");
    assert!(web_1["clash_ms"].is_null(), "the server went back, not the agent: {web_1}");
    // Everything goes on, on both agents, after a restart of theirs as well.
    other.restart("web-2");
    for (name, mark) in [("web-1", "next-1"), ("web-2", "next-2")] {
        let next = server.api.run(name, &line(mark, "")).await;
        server.api.until(&next, &["succeeded"]).await;
    }
    let mut all = eventually("all have run", || async {
        let all = lines(&ran);
        (all.len() >= 8).then_some(all)
    })
    .await;
    all.sort();
    assert_eq!(all, ["done", "failed", "held", "later", "never-left", "next-1", "next-2", "running"]);
}
