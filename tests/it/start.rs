//! Starting and stopping the real binary: what it refuses, in which words, and what it leaves behind.

use crate::harness::agent::TestAgent;
use crate::harness::api::Api;
use crate::harness::process::{Process, ServerProcess, postrider};
use crate::harness::raw_agent::{Identity, RawAgent, close_code, enrollment, fresh_key};
use crate::harness::server::{TestServer, owner_token};
use postrider::protocol::close::CloseReason;
use postrider::server::proxy::Proxy;
use postrider::store::handle::DATABASE_FILE;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// `postrider serve` on this folder and a free port.
fn serve(data: &Path) -> Command {
    let mut command = postrider();
    command.arg("serve").arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]);
    command
}

/// `postrider agent` on this folder.
fn agent(data: &Path) -> Command {
    let mut command = postrider();
    command.arg("agent").arg("--data").arg(data);
    command
}

/// Runs what must end by itself with exit code 1; answers what it said in its last line.
async fn refused(command: Command) -> String {
    let folder = TempDir::new().unwrap();
    let mut process = Process::spawn(command, folder.path().join("log"));
    let code = process.ended().await;
    let printed = process.printed();
    assert_eq!(code, Some(1), "{printed}");
    assert!(!printed.contains("panicked"), "{printed}");
    let last = printed.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("postrider: "), "{printed}");
    last
}

fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// Starts a server on `data` and stops it, so that the folder is as a server leaves it.
async fn served(data: &Path) {
    let mut server = ServerProcess::start(data, 0).await;
    server.process.signal("TERM");
    assert_eq!(server.process.ended().await, Some(0));
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_refused_and_does_no_harm() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let server = ServerProcess::start(&data, 0).await;
    let message = refused(serve(&data)).await;
    says(&message, &["another server is using", data.to_str().unwrap(), "--data"]);
    assert_eq!(fs::read_to_string(data.join("listen")).unwrap().trim(), server.api.url);
    server.api.get("/readyz").await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = postrider();
    command.arg("serve").arg("--data").arg(folder.path().join("server")).args(["--listen", &address]);
    says(&refused(command).await, &["cannot listen", &address, "in use", "--listen"]);
}

#[tokio::test]
async fn a_folder_that_cannot_be_one_is_named() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    for data in [file.clone(), file.join("below")] {
        says(&refused(serve(&data)).await, &["data folder", data.to_str().unwrap(), "--data"]);
        let mut command = agent(&data);
        command.args(["--name", "web-1"]);
        says(&refused(command).await, &[file.to_str().unwrap()]);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(DATABASE_FILE);
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE theirs (x INTEGER); INSERT INTO theirs VALUES (7)").unwrap();
    drop(conn);
    let before = fs::read(&path).unwrap();
    says(&refused(serve(folder.path())).await, &["another program", path.to_str().unwrap(), "data folder"]);
    assert!(fs::read(&path).unwrap() == before, "not a byte is changed");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(DATABASE_FILE);
    fs::write(&path, "precious words. ".repeat(1000)).unwrap();
    says(&refused(serve(folder.path())).await, &["not a database", path.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious words. ".repeat(1000));
}

#[tokio::test]
async fn a_database_of_a_newer_build_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    served(&data).await;
    let path = data.join(DATABASE_FILE);
    let version = |version: Option<i64>| {
        let conn = Connection::open(&path).unwrap();
        let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        if let Some(version) = version {
            conn.pragma_update(None, "user_version", version).unwrap();
        }
        found
    };
    let conn = Connection::open(&path).unwrap();
    let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal", "readers do not wait for the writer");
    drop(conn);
    let known = version(Some(9999));
    says(&refused(serve(&data)).await, &["schema version 9999", "below 1000", "newer build"]);
    assert_eq!(version(Some(known)), 9999, "nothing was migrated");
    served(&data).await;
}

#[tokio::test]
async fn plain_http_is_not_spoken_to_the_world() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let mut command = postrider();
        command.arg("serve").arg("--data").arg(&data).args(["--listen", address, "--behind-proxy"]);
        says(&refused(command).await, &[address, "not a loopback address", "--behind-proxy=ADDR", "speaks TLS itself"]);
    }
    assert!(!data.exists(), "nothing was made");
    // Behind a proxy everybody comes from loopback, so nothing is open.
    let server = TestServer::start_with(|config| config.behind_proxy = Some(Proxy::Here)).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.api.request("GET", path, &[], Vec::new()).await.problem().0, 401, "{path}");
        assert_eq!(server.api.call("GET", path, Value::Null).await.status, 200, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn sigterm_drains_and_ends_with_exit_code_0() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    let identity = Identity::enroll(&server.api, "web-1").await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let waiting = server.api.clone();
    let waiter =
        async move { waiting.call("POST", "/api/agents/web-1/command?wait=300", json!({ "command": "true" })).await };
    let stopper = async {
        agent.dispatched().await;
        server.process.signal("TERM");
        close_code(&mut agent.socket).await
    };
    let (answer, code) = tokio::join!(waiter, stopper);
    assert_eq!((answer.status.as_u16(), &answer.json()["state"]), (201, &json!("queued")));
    assert_eq!(code, Some(CloseReason::Draining.code()));
    assert_eq!(server.process.ended().await, Some(0), "{}", server.process.printed());
    assert!(!data.join("listen").exists(), "nobody takes it for running");
    let server = ServerProcess::start(&data, 0).await;
    assert_eq!(server.api.get("/api/agents/web-1").await["last_close"]["reason"], "draining");
    assert_eq!(server.api.get("/api/agents/web-1").await["outbox"], 1);
}

#[cfg(unix)]
#[tokio::test]
async fn the_owners_token_is_private_and_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut server = ServerProcess::start(&data, 0).await;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("owner.token")), 0o600);
    let token = owner_token(&data);
    server.api.get("/api/tokens").await;
    let printed = server.process.printed();
    assert!(!printed.contains(&token) && printed.contains("owner.token"), "{printed}");
    server.process.kill();
    let server = ServerProcess::start(&data, 0).await;
    assert_eq!(owner_token(&data), token);
    assert_eq!(server.api.get("/api/tokens").await["tokens"].as_array().unwrap().len(), 1);
    drop(server);
    // The owner put the file away: it is not made again, and the token is still good.
    fs::remove_file(data.join("owner.token")).unwrap();
    let log = data.with_extension("log");
    let before = fs::read_to_string(&log).unwrap_or_default().len();
    let _server = Process::spawn(serve(&data), log.clone());
    let url = crate::harness::eventually::eventually("the server listens", || async {
        let printed = fs::read_to_string(&log).ok()?;
        let line = printed.get(before..)?.lines().find_map(|line| line.strip_prefix("listening on "))?.to_owned();
        Some(line)
    })
    .await;
    assert!(!data.join("owner.token").exists());
    Api { url, token }.get("/api/tokens").await;
}

#[tokio::test]
async fn an_agent_that_cannot_enroll_says_why_and_ends() {
    let server = TestServer::start().await;
    let folder = TempDir::new().unwrap();
    let join = server.api.join().await;
    let with = |join: &str| {
        let mut command = agent(&folder.path().join("agent"));
        command.args(["--name", "web-1", "--join", join]);
        command
    };
    says(&refused(agent(&folder.path().join("agent"))).await, &["--join", "postrider join create"]);
    says(&refused(with("hello")).await, &["not a join string", "postrider join create"]);
    says(&refused(with("")).await, &["not a join string"]);
    let damaged = refused(with(&join[..join.len() - 5])).await;
    says(&damaged, &["damaged or cut off"]);
    let used = server.api.call("POST", "/api/enroll", enrollment(&join, &fresh_key(), "other")).await;
    assert_eq!(used.status, 201);
    let message = refused(with(&join)).await;
    says(&message, &["refused the enrollment", "used up", "postrider join create", &server.api.url]);
    for message in [damaged, message] {
        assert!(!message.contains(&join[..40]), "the join string is a secret: {message}");
    }
    // The folder is not spoilt: with a good one it enrolls.
    let good = server.api.join().await;
    let _agent = Process::spawn(with(&good), folder.path().join("log"));
    crate::harness::eventually::eventually("web-1 is there", || async {
        (server.api.call("GET", "/api/agents/web-1", Value::Null).await.status == 200).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn a_second_agent_on_the_same_folder_is_refused() {
    let server = TestServer::start().await;
    let first = TestAgent::start(&server.api, "web-1").await;
    let message = refused(agent(&first.data)).await;
    says(&message, &["another agent is running on", first.data.to_str().unwrap(), "--data"]);
    let command = server.api.run("web-1", "true").await;
    server.api.until(&command, &["succeeded"]).await;
    server.stop().await;
}

#[tokio::test]
async fn an_agent_of_one_server_does_not_move_to_another_by_mistake() {
    let (one, two) = (TestServer::start().await, TestServer::start().await);
    let mut first = TestAgent::start(&one.api, "web-1").await;
    first.process.kill();
    let mut command = agent(&first.data);
    command.arg("--join").arg(two.api.join().await);
    says(&refused(command).await, &["another --data", first.data.to_str().unwrap()]);
    assert_eq!(two.api.get("/api/agents").await["agents"], json!([]));
    one.stop().await;
    two.stop().await;
}
