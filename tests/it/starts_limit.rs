//! An agent that has used up its starts takes in what comes and lets it wait.

use crate::harness::agent::TestAgent;
use crate::harness::api::{events, id};
use crate::harness::eventually::eventually;
use crate::harness::process::{Process, postrider};
use crate::harness::server::TestServer;
use serde_json::{Value, json};
use tempfile::TempDir;

#[tokio::test]
async fn over_the_limit_commands_wait_expire_and_are_cancelled_and_a_restart_fills_the_bucket() {
    let server = TestServer::start().await;
    // The next start comes after a minute: by then this test is over, or has failed.
    let mut agent = TestAgent::start_with(&server.api, "web-1", &["--starts-per-minute", "1"]).await;
    let line = |name: &str| format!("echo {name} >> {}", agent.runs().display());
    let first = server.api.run("web-1", &line("first")).await;
    server.api.until(&first, &["succeeded"]).await;

    let brief = id(&server.api.submit("web-1", json!({ "command": line("brief"), "ttl_s": 3 })).await);
    let unwanted = server.api.run("web-1", &line("unwanted")).await;
    let wanted = server.api.run("web-1", &line("wanted")).await;
    server.api.until(&unwanted, &["accepted"]).await;
    server.api.until(&wanted, &["accepted"]).await;
    // Three slots and more are free all the time.
    server.api.until(&brief, &["expired"]).await;
    let reply = server.api.call("POST", &format!("/api/commands/{unwanted}/cancel"), Value::Null).await;
    assert_eq!(reply.status, 202);
    let cancelled = server.api.until(&unwanted, &["cancelled"]).await;
    assert_eq!(events(&cancelled), ["queued", "dispatched", "accepted", "cancel_requested", "cancelled"]);
    assert_eq!(server.api.command(&wanted).await["state"], "accepted");
    assert_eq!(agent.told(), ["first"]);
    let log = agent.process.printed();
    assert_eq!(log.matches("1 starts a minute are reached").count(), 1, "once an episode: {log}");

    agent.restart("web-1");
    server.api.until(&wanted, &["succeeded"]).await;
    assert_eq!(agent.told(), ["first", "wanted"]);
    server.stop().await;
}

#[tokio::test]
async fn a_limit_out_of_range_is_refused() {
    for limit in ["0", "60001"] {
        let folder = TempDir::new().unwrap();
        let mut command = postrider();
        command.args(["agent", "--starts-per-minute", limit, "--data"]).arg(folder.path().join("agent"));
        let mut agent = Process::spawn(command, folder.path().join("log"));
        assert_eq!(agent.ended().await, Some(1));
        let said = format!("{limit} starts a minute: 1 to 60000 are possible");
        eventually("the reason", || std::future::ready(agent.printed().contains(&said).then_some(()))).await;
    }
}
