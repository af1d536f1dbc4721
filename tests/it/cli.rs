//! The other verbs: history, agents, join strings, tokens, login.

use crate::harness::agent::TestAgent;
use crate::harness::cli::{good, run, run_with, verb};
use crate::harness::eventually::eventually;
use crate::harness::process::{Process, postrider};
use crate::harness::raw_agent::Identity;
use crate::harness::server::TestServer;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

#[tokio::test]
async fn history_is_listed_shown_and_filtered() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    Identity::enroll(&server.api, "laptop").await;
    let data = server.data.path();
    assert!(good(data, &["commands"]).await.stderr.contains("no such command"));
    let done = server.api.run("web-1", "echo out; echo err >&2; exit 3").await;
    server.api.until(&done, &["failed"]).await;
    let waits = server.api.run("laptop", "sleep 1").await;

    let table = good(data, &["commands"]).await.out();
    let rows: Vec<_> = table.lines().filter(|line| line.contains(&done) || line.contains(&waits)).collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert!(rows[0].contains("queued") && rows[0].contains("laptop"), "newest first: {table}");
    assert!(rows[1].contains("failed") && rows[1].contains("exit 3"), "{table}");
    let filters: [(&[&str], &str); 4] = [
        (&["--state", "failed"], &done),
        (&["--agent", "laptop"], &waits),
        (&["--limit", "1"], &waits),
        (&["--before", &waits], &done),
    ];
    for (filter, expected) in filters {
        let found = good(data, &[&["commands", "--json"], filter].concat()).await.objects();
        let found: Vec<_> = found.iter().map(|command| command["id"].as_str().unwrap()).collect();
        assert_eq!(found, [expected], "{filter:?}");
    }

    let shown = good(data, &["show", &done]).await.out();
    let mut from = 0;
    for step in ["queued", "dispatched", "accepted", "running", "failed"] {
        from += shown[from..].find(step).unwrap_or_else(|| panic!("{step} in its place: {shown}"));
    }
    let json = good(data, &["show", &done, "--json"]).await.objects();
    assert_eq!((json.len(), &json[0]["deliveries"][0]["exit_code"]), (1, &3.into()));
    assert!(good(data, &["show", &waits]).await.out().contains("agent offline, never connected"));

    let output = good(data, &["output", &done]).await;
    assert_eq!((output.out().as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    let only = good(data, &["output", &done, "--stream", "stderr", "--agent", "web-1"]).await;
    assert_eq!((only.out().as_str(), only.stderr.as_str()), ("", "err\n"));
    let pieces = good(data, &["output", &done, "--json"]).await.objects();
    let pieces: Vec<_> = pieces.iter().map(|piece| (piece["stream"].as_str().unwrap(), &piece["data"])).collect();
    assert_eq!(pieces, [("stdout", &"b3V0Cg==".into()), ("stderr", &"ZXJyCg==".into())]);

    assert_eq!(good(data, &["cancel", &waits]).await.out(), "1 cancelled\n");
    assert_eq!(good(data, &["cancel", &waits]).await.out(), "1 had ended before\n");
    assert_eq!(good(data, &["cancel", &done, "--json"]).await.objects()[0]["ended"], 1);
    assert_eq!(server.api.command(&waits).await["state"], "cancelled");
    assert_eq!(server.api.command(&done).await["state"], "failed");
    let unknown = "01928c3e-5a70-7e63-9f0a-3c1f0d6b2a11";
    for verb in ["show", "output", "cancel"] {
        let ended = run(data, &[verb, unknown]).await;
        assert_eq!(ended.code, Some(125), "{verb}: {ended:?}");
        assert!(ended.stderr.contains("`postrider commands` lists them"), "{verb}: {ended:?}");
        assert_eq!(run(data, &[verb, "no-id"]).await.code, Some(2), "{verb}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_running_command_is_cancelled() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let command = server.api.run("web-1", "sleep 600").await;
    server.api.until(&command, &["running"]).await;
    assert!(good(server.data.path(), &["cancel", &command]).await.out().starts_with("1 asked to end"));
    server.api.until(&command, &["cancelled"]).await;
    server.stop().await;
}

#[tokio::test]
async fn agents_are_listed_shown_and_revoked() {
    let server = TestServer::start().await;
    let data = server.data.path();
    let agent = TestAgent::start(&server.api, "web-1").await;
    Identity::enroll(&server.api, "laptop").await;
    let table = good(data, &["agents"]).await.out();
    let row = |name: &str| table.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(row("web-1").contains("online") && row("laptop").contains("offline"), "{table}");
    let objects = good(data, &["agents", "--json"]).await.objects();
    let mut online: Vec<_> = objects.iter().map(|agent| (agent["name"].as_str(), agent["online"].as_bool())).collect();
    online.sort_unstable();
    assert_eq!(online, [(Some("laptop"), Some(false)), (Some("web-1"), Some(true))]);
    let shown = good(data, &["agents", "show", "web-1"]).await.out();
    let id = objects.iter().find(|agent| agent["name"] == "web-1").unwrap()["id"].as_str().unwrap();
    assert!(shown.contains("web-1") && shown.contains(id), "{shown}");
    let by_id = good(data, &["agents", "show", id, "--json"]).await.objects();
    assert_eq!(by_id[0]["name"], "web-1");

    good(data, &["agents", "revoke", "web-1"]).await;
    assert_eq!(good(data, &["agents", "--json"]).await.objects().len(), 1);
    let after = run(data, &["run", "web-1", "--", "true"]).await;
    assert_eq!(after.code, Some(125), "{after:?}");
    let unknown = run(data, &["agents", "show", "web-9"]).await;
    assert_eq!(unknown.code, Some(125), "{unknown:?}");
    drop(agent);
    server.stop().await;
}

/// An agent that enrolls with what was printed.
fn enroll(folder: &Path, name: &str, join: &str) -> Process {
    let mut command = postrider();
    command.args(["agent", "--join", join, "--name", name, "--data"]).arg(folder.join(name));
    Process::spawn(command, folder.join(format!("{name}.log")))
}

#[tokio::test]
async fn join_strings_are_made_listed_and_revoked() {
    let server = TestServer::start().await;
    let folder = TempDir::new().unwrap();
    let data = server.data.path();
    let made = good(data, &["join", "create"]).await;
    let join = made.out();
    assert!(join.ends_with('\n') && join.trim_end().lines().count() == 1, "the string alone: {made:?}");
    assert!(!made.stderr.contains(join.trim_end()));
    let _agent = enroll(folder.path(), "web-1", join.trim_end());
    eventually("web-1 enrolled", || async {
        let agents = server.api.get("/api/agents").await;
        (agents["agents"][0]["name"] == "web-1").then_some(())
    })
    .await;
    let json = good(data, &["join", "create", "--uses", "2", "--expires", "1h", "--json"]).await.objects();
    let (id, second) = (json[0]["id"].as_str().unwrap(), json[0]["join"].as_str().unwrap());
    assert_eq!(json[0]["uses_max"], 2);
    let list = good(data, &["join", "list"]).await.out();
    assert!(list.contains("used up") && list.contains("0 of 2"), "{list}");
    assert!(!list.contains(second));
    for listed in good(data, &["join", "list", "--json"]).await.objects() {
        assert!(listed.get("join").is_none_or(serde_json::Value::is_null), "no secrets: {listed}");
    }
    good(data, &["join", "revoke", id]).await;
    assert!(good(data, &["join", "list"]).await.out().contains("revoked"));
    let mut refused = enroll(folder.path(), "web-2", second);
    assert_ne!(refused.ended().await, Some(0), "{}", refused.printed());
    assert!(refused.printed().contains("revoked"), "{}", refused.printed());
    server.stop().await;
}

/// Runs a verb against `url` with a token and nothing else.
async fn as_somebody(url: &str, token: &str, args: &[&str]) -> crate::harness::cli::Ended {
    let mut command = postrider();
    command.args(args).env("POSTRIDER_SERVER", url).env("POSTRIDER_TOKEN", token);
    run_with(command, b"").await
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked() {
    let server = TestServer::start().await;
    Identity::enroll(&server.api, "laptop").await;
    let (data, url) = (server.data.path(), server.api.url.as_str());
    let viewer = good(data, &["tokens", "create", "ann", "--role", "viewer"]).await.out();
    let viewer = viewer.trim_end();
    assert_eq!(as_somebody(url, viewer, &["agents"]).await.code, Some(0));
    let refused = as_somebody(url, viewer, &["run", "laptop", "--no-wait", "--", "true"]).await;
    assert_eq!(refused.code, Some(125), "{refused:?}");
    assert!(refused.stderr.contains("higher role"), "{refused:?}");
    let json = good(data, &["tokens", "create", "bob", "--role", "technician", "--expires", "90d", "--json"]).await;
    let bob = &json.objects()[0];
    let submit = ["run", "laptop", "--no-wait", "--", "true"];
    assert_eq!(as_somebody(url, bob["token"].as_str().unwrap(), &submit).await.code, Some(0));
    assert_eq!(server.api.get("/api/commands").await["commands"][0]["created_by"], "bob");
    let list = good(data, &["tokens", "list"]).await.out();
    assert!(list.contains("ann") && list.contains("bob") && list.contains("viewer"), "{list}");
    assert!(!list.contains(viewer));
    good(data, &["tokens", "revoke", bob["id"].as_str().unwrap()]).await;
    let after = as_somebody(url, bob["token"].as_str().unwrap(), &submit).await;
    assert_eq!(after.code, Some(125), "{after:?}");
    assert!(after.stderr.contains("revoked"), "{after:?}");
    assert!(good(data, &["tokens", "list"]).await.out().contains("revoked"));
    server.stop().await;
}

#[tokio::test]
async fn login_remembers_server_and_token_for_this_user_alone() {
    let server = TestServer::start().await;
    Identity::enroll(&server.api, "laptop").await;
    let home = TempDir::new().unwrap();
    let config = home.path().join("postrider/config.toml");
    let at_home = |args: &[&str]| -> Command {
        let mut command = postrider();
        command.args(args).env("XDG_CONFIG_HOME", home.path());
        command
    };
    let login = ["login", "--server", server.api.url.as_str()];
    let wrong = run_with(at_home(&login), b"prt_wrong\n").await;
    assert_eq!(wrong.code, Some(125), "{wrong:?}");
    assert!(!config.exists(), "a token that is not good is not remembered");
    let empty = run_with(at_home(&login), b"\n").await;
    assert_eq!(empty.code, Some(125), "{empty:?}");

    let by_input = run_with(at_home(&login), format!("{}\n", server.api.token).as_bytes()).await;
    assert_eq!(by_input.code, Some(0), "{by_input:?}");
    assert_eq!(std::fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o600);
    let agents = run_with(at_home(&["agents"]), b"").await;
    assert!(agents.code == Some(0) && agents.out().contains("laptop"), "{agents:?}");

    std::fs::remove_file(&config).unwrap();
    let token_file = home.path().join("token");
    std::fs::write(&token_file, format!("{}\n", server.api.token)).unwrap();
    let file = ["--token-file", token_file.to_str().unwrap()];
    let by_file = run_with(at_home(&[&login[..], &file].concat()), b"").await;
    assert_eq!(by_file.code, Some(0), "{by_file:?}");
    let submitted = run_with(at_home(&["run", "laptop", "--no-wait", "--", "true"]), b"").await;
    assert_eq!(submitted.code, Some(0), "{submitted:?}");
    for printed in [&by_input, &by_file, &wrong] {
        assert!(!printed.stderr.contains(&server.api.token) && printed.stdout.is_empty(), "{printed:?}");
    }
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).unwrap();
    let shared = run_with(at_home(&["agents"]), b"").await;
    assert_eq!(shared.code, Some(125), "{shared:?}");
    assert!(shared.stderr.contains("chmod 600"), "{shared:?}");
    server.stop().await;
}

#[tokio::test]
async fn completions_are_a_script_that_the_shell_takes() {
    let folder = TempDir::new().unwrap();
    let script = run_with(verb(folder.path(), &["completions", "bash"]), b"").await;
    assert_eq!(script.code, Some(0), "{script:?}");
    let path = folder.path().join("postrider.bash");
    std::fs::write(&path, &script.stdout).unwrap();
    let line = format!("source {} && complete -p postrider", path.display());
    let complete = Command::new("bash").args(["--norc", "-c", &line]).output().unwrap();
    assert!(complete.status.success(), "{complete:?}");
    let unknown = run_with(verb(folder.path(), &["completions", "abacus"]), b"").await;
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
}
