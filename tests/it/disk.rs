//! A full disk and a broken database file.

use crate::harness::api::id;
use crate::harness::eventually::eventually;
use crate::harness::process::ServerProcess;
use crate::harness::raw_agent::{Identity, RawAgent};
use crate::harness::server::TestServer;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A small file system of its own, where we may mount one.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(mebibytes: u32) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        mount(&format!("size={mebibytes}m"), folder.path()).then_some(Self(folder))
    }
}

fn mount(options: &str, folder: &Path) -> bool {
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder);
    command.output().is_ok_and(|output| output.status.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_stops_submissions_but_not_outcomes() {
    let Some(disk) = SmallDisk::mount(32) else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let data = TempDir::new_in(disk.0.path()).unwrap();
    let server = TestServer::start_in(data, |config| {
        config.disk.free_bytes_min = 0;
        // More than the WAL (4 MiB and a transaction): the checkpoint comes first.
        config.disk.ballast_bytes = 8 * 1024 * 1024;
    })
    .await
    .unwrap();
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
    assert!(mount("remount,size=96m", disk.0.path()));
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
            let Ok(mut client) = postrider::http_client::HttpClient::connect(&url).await else { return };
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
