//! A full disk and a broken database file.

use crate::harness::api::{Api, id};
use crate::harness::eventually::eventually;
use crate::harness::process::{Process, ServerProcess, postrider};
use crate::harness::raw_agent::{Identity, RawAgent};
use crate::harness::server::{TestServer, owner_token};
use crate::harness::small_disk::SmallDisk;
use postrider::server::serve::ServeConfig;
use postrider::tls::Trust;
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// Limits for a small disk.
fn small(config: &mut ServeConfig) {
    config.disk.free_bytes_min = 0;
    // More than the WAL (4 MiB and a transaction): the checkpoint comes first.
    config.disk.ballast_bytes = 8 * 1024 * 1024;
}

#[tokio::test]
async fn a_server_starts_on_a_full_disk_and_takes_outcomes() {
    let Some(disk) = SmallDisk::mount(32) else { return };
    let server = TestServer::start_in(TempDir::new_in(disk.path()).unwrap(), small).await.unwrap();
    let identity = Identity::enroll(&server.api, "web-1").await;
    let command = server.api.run("web-1", "true").await;
    let data = server.stop().await;
    disk.fill(0);
    let server = TestServer::start_in(data, small).await.unwrap();
    let reply = server.api.call("POST", "/api/agents/web-1/command", json!({ "command": "true" })).await;
    assert_eq!(reply.problem(), (507, "storage_full".to_owned()));
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let (delivery, _) = agent.dispatched().await;
    agent.complete(delivery).await;
    assert_eq!(server.api.command(&command).await["state"], "succeeded");
    server.stop().await;
}

#[tokio::test]
async fn a_full_disk_stops_submissions_but_not_outcomes() {
    let Some(disk) = SmallDisk::mount(32) else { return };
    let data = TempDir::new_in(disk.path()).unwrap();
    let server = TestServer::start_in(data, small).await.unwrap();
    let identity = Identity::enroll(&server.api, "web-1").await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let (first, _) = {
        let command = server.api.submit("web-1", json!({ "command": "true" })).await;
        (id(&command), agent.dispatched().await)
    };
    let delivery = server.api.command(&first).await["deliveries"][0]["id"].as_str().unwrap().parse().unwrap();

    let large = json!({ "command": format!("true {}", "x".repeat(200_000)) });
    let mut taken = Vec::new();
    let refused = loop {
        let reply = server.api.call("POST", "/api/agents/web-1/command", large.clone()).await;
        match reply.status.as_u16() {
            201 => taken.push(id(&reply.json())),
            _ => break reply,
        }
        assert!(taken.len() < 1000, "32 MiB do not hold this");
    };
    assert_eq!(refused.problem(), (507, "storage_full".to_owned()));
    assert!(refused.headers.contains_key("retry-after"));
    assert!(!server.data.path().join("ballast").exists(), "the ballast was given up");
    assert_eq!(server.api.call("GET", "/readyz", json!(null)).await.status, 503);

    // What had been taken goes on.
    agent.complete(delivery).await;
    assert_eq!(server.api.command(&first).await["state"], "succeeded");
    for command in &taken {
        assert_eq!(server.api.command(command).await["state"], "queued", "nothing accepted is lost");
    }

    // With room again, submissions are taken again, without a restart.
    disk.remount("size=96m");
    eventually("submissions are taken again", || async {
        let reply = server.api.call("POST", "/api/agents/web-1/command", large.clone()).await;
        (reply.status == 201).then_some(())
    })
    .await;
    assert!(server.data.path().join("ballast").exists(), "the ballast is there again");
    server.stop().await;
}

#[tokio::test]
async fn a_broken_database_file_ends_the_server_with_the_reason() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    let bytes = std::fs::metadata(data.join("postrider.db")).unwrap().len().max(4096);
    for name in ["postrider.db", "postrider.db-wal"] {
        let file = std::fs::File::options().write(true).open(data.join(name)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xEE; usize::try_from(bytes).unwrap()], 0).unwrap();
    }
    // Any read of what is no longer there.
    let api = server.api.clone();
    let asking = async {
        loop {
            let Ok(url) = postrider::http_client::ServerUrl::parse(&api.url) else { return };
            let Ok(mut client) = postrider::http_client::HttpClient::connect(&url, &Trust::default()).await else {
                return;
            };
            let bearer = format!("Bearer {}", api.token);
            let _ = client
                .send(
                    hyper::Method::GET,
                    "/api/agents",
                    &[("authorization", &bearer)],
                    bytes::Bytes::new(),
                    std::time::Duration::ZERO,
                    1 << 20,
                )
                .await;
        }
    };
    let (code, ()) = futures_util::future::join(server.process.ended(), asking).await;
    assert_eq!(code, Some(1));
    let printed = server.process.printed();
    assert!(printed.contains("the database cannot go on"), "{printed}");
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_neither_server_nor_agent() {
    let folder = TempDir::new().unwrap();
    let [data, agent_data] = ["server", "agent"].map(|name| folder.path().join(name));
    let mut serve = postrider();
    serve.arg("serve").arg("--data").arg(&data).args(["--listen", "127.0.0.1:0"]);
    let _server = Process::spawn(serve, PathBuf::from("/dev/full"));
    let url = eventually("the server listens", || async { std::fs::read_to_string(data.join("listen")).ok() }).await;
    let api = Api { url: url.trim().to_owned(), token: owner_token(&data) };
    let mut agent = postrider();
    agent.arg("agent").arg("--data").arg(&agent_data).args(["--name", "web-1"]);
    agent.env("POSTRIDER_JOIN", api.join().await);
    let _agent = Process::spawn(agent, PathBuf::from("/dev/full"));
    eventually("the agent enrolled", || async {
        (api.call("GET", "/api/agents/web-1", json!(null)).await.status == 200).then_some(())
    })
    .await;
    let command = api.run("web-1", "true").await;
    api.until(&command, &["succeeded"]).await;
}

/// Files that nobody can write, not even root, until this is dropped.
struct Immutable(Vec<PathBuf>);

impl Immutable {
    /// None, and a word about it: the file system or our rights do not let us.
    fn make(files: &[PathBuf]) -> Option<Self> {
        let made = Command::new("chattr").arg("+i").args(files).output().is_ok_and(|output| output.status.success());
        if !made {
            eprintln!("skipped: making a file immutable needs root and a file system that can");
        }
        made.then(|| Self(files.to_vec()))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").args(&self.0).output();
    }
}

#[tokio::test]
async fn a_database_that_becomes_read_only_ends_the_server_and_what_was_answered_is_there() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    let api = server.api.clone();
    Identity::enroll(&api, "web-1").await;
    let mut answered = vec![api.run("web-1", "true").await];
    let files = ["postrider.db", "postrider.db-wal"].map(|name| data.join(name));
    let Some(immutable) = Immutable::make(&files) else { return };
    let body = json!({ "command": "true" });
    for number in 0..1000 {
        match api.try_submit("web-1", &number.to_string(), &body).await {
            Some(command) => answered.push(id(&command)),
            None if api.try_request("GET", "/healthz", &[], Vec::new()).await.is_err() => break,
            None => {}
        }
    }
    assert_eq!(server.process.ended().await, Some(1));
    let printed = server.process.printed();
    assert!(printed.contains("the database cannot go on"), "{printed}");

    // It does not start either, and says why.
    let mut serve = postrider();
    serve.arg("serve").arg("--data").arg(&data).args(["--listen", "127.0.0.1:0"]);
    let mut refused = Process::spawn(serve, folder.path().join("refused.log"));
    assert_eq!(refused.ended().await, Some(1));
    let printed = refused.printed();
    let last = printed.lines().last().unwrap();
    println!("{last}");
    assert!(last.starts_with("postrider: ") && last.contains("postrider.db"), "{printed}");

    drop(immutable);
    let server = ServerProcess::start(&data, 0).await;
    let listed = server.api.get("/api/commands?limit=1000").await;
    let mut listed: Vec<String> = listed["commands"].as_array().unwrap().iter().map(id).collect();
    listed.reverse();
    assert_eq!(listed, answered);
}
