//! The limit of open files: raised as far as it may be, and never used up by connections.
#![cfg(target_os = "linux")]

use crate::harness::api::id;
use crate::harness::eventually::eventually;
use crate::harness::process::{Process, ServerProcess, binary};
use crate::harness::raw_agent::{Identity, RawAgent};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// A server whose limits of open files are these.
async fn server_with(soft: u32, hard: u32, data: &Path) -> ServerProcess {
    let mut command = Command::new("sh");
    let script = format!("ulimit -Sn {soft}; ulimit -Hn {hard}; exec \"$0\" serve --data \"$1\" --listen 127.0.0.1:0");
    command.arg("-c").arg(script).arg(binary()).arg(data).stdin(Stdio::null());
    ServerProcess::attach(Process::spawn(command, data.with_extension("log")), data).await
}

#[tokio::test]
async fn a_low_soft_limit_is_raised_to_what_may_be() {
    let folder = TempDir::new().unwrap();
    let server = server_with(200, 1000, &folder.path().join("server")).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.process.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("1000"), "{files}");
    assert!(server.process.printed().contains("leaves room for 872 connections"), "{}", server.process.printed());
}

#[tokio::test]
async fn a_crowd_of_connections_takes_no_file_that_the_database_needs() {
    let folder = TempDir::new().unwrap();
    let server = server_with(200, 200, &folder.path().join("server")).await;
    let address = server.api.url.trim_start_matches("http://").to_owned();
    let identity = Identity::enroll(&server.api, "web-1").await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let open_files = || std::fs::read_dir(format!("/proc/{}/fd", server.process.id())).unwrap().count();
    let before = open_files();
    // More than all files of the server; those beyond its room wait in the kernel's queue. Strangers have 75 places, of
    // which our own client holds some.
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(TcpStream::connect(&address).await.unwrap());
    }
    eventually("the crowd has the room there is", || async { (open_files() >= before + 60).then_some(()) }).await;
    let api = server.api.clone();
    let submitted = async { api.submit("web-1", json!({ "command": "true" })).await };
    let (command, ()) = tokio::join!(submitted, async { drop(crowd) });
    let (delivery, _) = agent.dispatched().await;
    agent.complete(delivery).await;
    server.api.until(&id(&command), &["succeeded"]).await;
    assert!(!server.process.printed().contains("cannot accept"), "{}", server.process.printed());
}
