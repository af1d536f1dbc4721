//! `serve --config`: the real binary with a configuration file.

use crate::harness::process::{Process, ServerProcess, postrider};
use crate::harness::server::owner_token;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn serve(file: &Path, more: &[&str]) -> Command {
    let mut command = postrider();
    command.arg("serve").arg("--config").arg(file).args(more);
    command
}

#[tokio::test]
async fn the_file_says_where_and_a_flag_goes_before_it() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = folder.path().join("postrider.toml");
    fs::write(&file, format!("data = \"server\"\nlisten = \"{}\"\n", taken.local_addr().unwrap())).unwrap();
    let log = folder.path().join("log");
    let mut process = Process::spawn(serve(&file, &[]), log.clone());
    assert_eq!(process.ended().await, Some(1));
    let printed = process.printed();
    let place = format!("`listen` is set in {}, line 2", file.display());
    assert!(printed.contains("cannot listen on") && printed.contains(&place), "{printed}");
    let data = folder.path().join("server");
    let process = Process::spawn(serve(&file, &["--listen", "127.0.0.1:0"]), log);
    let server = ServerProcess::attach(process, &data).await;
    assert_eq!(server.api.get("/readyz").await["status"], "ok");
    assert!(!owner_token(&data).is_empty());
}

#[tokio::test]
async fn a_wrong_file_is_a_usage_error_and_makes_nothing() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("postrider.toml");
    fs::write(&file, "data = \"server\"\n# a comment\nlisten = 7717\n").unwrap();
    let mut process = Process::spawn(serve(&file, &[]), folder.path().join("log"));
    // The unit does not start again what ends so.
    assert_eq!(process.ended().await, Some(2));
    let printed = process.printed();
    let place = format!("postrider: {}, line 3: listen: ", file.display());
    assert!(printed.starts_with(&place) && printed.contains("give an address and a port"), "{printed}");
    assert!(!folder.path().join("server").exists());
}
