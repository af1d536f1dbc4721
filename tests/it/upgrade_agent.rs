//! Agents that become another release of themselves: real processes, real executables.
#![cfg(unix)]

use crate::harness::agent::TestAgent;
use crate::harness::api::Api;
use crate::harness::eventually::eventually;
use crate::harness::lane::Direction;
use crate::harness::left::children;
use crate::harness::process::{Process, postrider};
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::releases::{Signer, change, part, real, rollout, start, until, until_rollout};
use crate::harness::server::TestServer;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::Ordering;

const NAME: &str = "web-1";

async fn server(signer: &Signer, version: &str) -> TestServer {
    let key = signer.key();
    let server = TestServer::start_with(|config| config.release_key = Some(key)).await;
    signer.put(server.data.path(), &real(version));
    server
}

/// Starts the agent again with these variables, as whoever installed it would after its end.
async fn again(agent: &mut TestAgent, api: &Api, variables: &[(&str, &str)]) {
    let before = api.get(&format!("/api/agents/{NAME}")).await["epoch"].as_u64().unwrap();
    agent.process.kill();
    launch(agent, variables);
    newer(api, before).await;
}

fn launch(agent: &mut TestAgent, variables: &[(&str, &str)]) {
    let mut command = postrider();
    command.arg("agent").arg("--data").arg(&agent.data).envs(variables.iter().copied());
    agent.process = Process::spawn(command, agent.process.log.clone());
}

async fn newer(api: &Api, epoch: u64) -> Value {
    eventually("a newer session", || async {
        let agent = api.get(&format!("/api/agents/{NAME}")).await;
        (agent["online"] == true && agent["epoch"].as_u64() > Some(epoch)).then_some(agent)
    })
    .await
}

fn book(data: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(data.join("releases/upgrade.json")).unwrap()).unwrap()
}

/// The agent's processes: not those of commands.
fn processes(data: &Path) -> Vec<String> {
    children(data).into_iter().map(|(_, line)| line).filter(|line| line.contains(" agent ")).collect()
}

async fn runs(api: &Api, line: &str) -> Value {
    let command = api.run(NAME, line).await;
    api.until(&command, &["succeeded"]).await
}

#[tokio::test]
async fn an_agent_becomes_the_release_keeps_its_identity_and_goes_on() {
    let signer = Signer::default();
    let server = server(&signer, "9.0.0").await;
    let api = &server.api;
    let mut agent = TestAgent::start(api, NAME).await;
    let before = api.get(&format!("/api/agents/{NAME}")).await;
    runs(api, "true").await;
    start(api, json!({})).await;
    let done = until_rollout(api, "done").await;
    assert_eq!(part(&done, NAME)["state"], "upgraded", "{done}");
    let after = newer(api, before["epoch"].as_u64().unwrap()).await;
    assert_eq!((&after["id"], &after["clash_ms"]), (&before["id"], &Value::Null));
    runs(api, "true").await;
    let current = &book(&agent.data)["current"];
    assert_eq!(current["version"], "9.0.0");
    let lines = processes(&agent.data);
    assert_eq!(lines.len(), 2, "{lines:?}");

    // The release is upgraded in its turn, and by its own means.
    let second = signer.put(server.data.path(), &real("9.0.1"));
    start(api, json!({})).await;
    until_rollout(api, "done").await;
    assert_eq!(book(&agent.data)["current"]["sha256"], second);
    runs(api, "true").await;
    let left = std::fs::read_dir(agent.data.join("releases")).unwrap().count();
    assert_eq!(left, 3, "one executable, the document and the lock");

    // What runs already needs no second start.
    let epoch = api.get(&format!("/api/agents/{NAME}")).await["epoch"].clone();
    start(api, json!({})).await;
    until_rollout(api, "done").await;
    assert_eq!(api.get(&format!("/api/agents/{NAME}")).await["epoch"], epoch);

    agent.process.signal("TERM");
    assert_eq!(agent.process.ended().await, Some(0));
    assert_eq!(processes(&agent.data), Vec::<String>::new());
    launch(&mut agent, &[]);
    api.until_online(NAME, true).await;
    runs(api, "true").await;
    server.stop().await;
}

#[tokio::test]
async fn a_command_that_runs_is_waited_for_and_what_comes_meanwhile_runs_afterwards() {
    let signer = Signer::default();
    let server = server(&signer, "9.0.0").await;
    let api = &server.api;
    let agent = TestAgent::start(api, NAME).await;
    let go = agent.data.with_file_name("go");
    let line = format!("while [ ! -e {} ]; do sleep 0.05; done; echo ran >> {}", go.display(), agent.runs().display());
    let running = api.run(NAME, &line).await;
    api.until(&running, &["running"]).await;
    start(api, json!({})).await;
    until(api, NAME, "taken").await;
    let name = format!("postrider-{}", &rollout(api).await["releases"][0]["sha256"].as_str().unwrap()[..16]);
    eventually("the release is there", || async { agent.data.join("releases").join(&name).exists().then_some(()) })
        .await;
    // With the slots held nothing starts: it says so by accepting, and no more.
    let next = eventually("a command waits", || async {
        let next = api.run(NAME, &format!("echo next >> {}", agent.runs().display())).await;
        let next = api.until(&next, &["accepted", "succeeded"]).await;
        (next["state"] == "accepted").then_some(next)
    })
    .await;
    std::fs::remove_file(agent.runs()).ok();
    std::fs::write(&go, "").unwrap();
    api.until(&crate::harness::api::id(&next), &["succeeded"]).await;
    let done = until_rollout(api, "done").await;
    assert_eq!(part(&done, NAME)["state"], "upgraded");
    assert_eq!(api.command(&running).await["state"], "succeeded");
    assert_eq!(agent.told(), ["ran", "next"]);
    server.stop().await;
}

#[tokio::test]
async fn a_release_that_panics_or_never_connects_is_put_back_and_reported() {
    for (fault, state, told) in [
        ("trial.panic", "rolled_back", "a fault that a test asked for"),
        ("trial.mute", "waiting", "did not prove a round trip to the server"),
    ] {
        let signer = Signer::default();
        let server = server(&signer, "9.0.0").await;
        let api = &server.api;
        let mut agent = TestAgent::start(api, NAME).await;
        let variables = [("POSTRIDER_FAULT", fault), ("POSTRIDER_PROBATION_MS", "2000")];
        again(&mut agent, api, &variables).await;
        start(api, json!({})).await;
        let part = eventually("the old one is back and says why", || async {
            let part = part(&rollout(api).await, NAME);
            (part["state"] == state && part["reason"].is_string()).then_some(part)
        })
        .await;
        assert!(part["reason"].as_str().unwrap().contains(told), "{part}");
        if state == "rolled_back" {
            until_rollout(api, "paused").await;
        }
        api.until_online(NAME, true).await;
        runs(api, "true").await;
        assert_eq!((&book(&agent.data)["current"], &book(&agent.data)["trial"]), (&Value::Null, &Value::Null));
        assert_eq!(processes(&agent.data).len(), 1);
        server.stop().await;
    }
}

#[tokio::test]
async fn what_is_not_signed_as_it_should_be_older_or_cannot_start_is_refused_and_told() {
    let signer = Signer::default();
    let server = server(&signer, "9.0.0").await;
    let (api, data) = (&server.api, server.data.path());
    let agent = TestAgent::start(api, NAME).await;
    let epoch = api.get(&format!("/api/agents/{NAME}")).await["epoch"].clone();
    let refused = async |told: &str| {
        let part = until(api, NAME, "failed").await;
        assert!(part["reason"].as_str().unwrap().contains(told), "{part}");
        change(api, "stop").await;
    };
    // A stolen database: the server itself knows no better.
    start(api, json!({ "window": "00:00-00:01" })).await;
    let forge = |signature: &str| {
        let conn = rusqlite::Connection::open(data.join("postrider.db")).unwrap();
        conn.execute("UPDATE rollout_releases SET signature = ?1", [signature]).unwrap();
        conn.execute("UPDATE rollouts SET window_from = NULL, window_to = NULL", []).unwrap();
    };
    forge(&signer.sign(b"something else"));
    refused("is not what was signed").await;

    signer.put(data, &real("0.0.1"));
    start(api, json!({})).await;
    refused("older than what runs").await;

    let nothing = [std::fs::read("/bin/false").unwrap(), b"\x16postrider-version=9.0.0\x16".to_vec()].concat();
    signer.put(data, &nothing);
    start(api, json!({})).await;
    refused("does not run on this host").await;

    // The agent keeps the key that it was told first.
    std::fs::write(agent.data.join("release.key"), Signer::default().key().to_string()).unwrap();
    signer.put(data, &real("9.0.0"));
    start(api, json!({})).await;
    refused("another key").await;
    assert_eq!(api.get(&format!("/api/agents/{NAME}")).await["epoch"], epoch, "no session was ended for it");
    std::fs::write(agent.data.join("release.key"), signer.key().to_string()).unwrap();

    signer.put(data, &real("0.0.1"));
    start(api, json!({ "downgrade": true })).await;
    until_rollout(api, "done").await;
    assert_eq!(book(&agent.data)["current"]["version"], "0.0.1");
    server.stop().await;
}

#[tokio::test]
async fn a_download_that_is_cut_goes_on_where_it_was_and_what_is_damaged_is_fetched_anew() {
    let signer = Signer::default();
    let server = server(&signer, "9.0.0").await;
    let api = &server.api;
    let proxy = Proxy::start(api.address()).await;
    let agent = TestAgent::start_behind(api, NAME, &proxy).await;
    let bytes = real("9.0.0").len() as u64;
    let name =
        |rollout: &Value| format!("postrider-{}.part", &rollout["releases"][0]["sha256"].as_str().unwrap()[..16]);

    // Something lies in the place of its beginning.
    let started = start(api, json!({ "window": "00:00-00:01" })).await;
    std::fs::write(agent.data.join("releases").join(name(&started)), vec![7; 100_000]).unwrap();
    let conn = rusqlite::Connection::open(server.data.path().join("postrider.db")).unwrap();
    conn.execute("UPDATE rollouts SET window_from = NULL, window_to = NULL", []).unwrap();
    let failed = until(api, NAME, "failed").await;
    assert!(failed["reason"].as_str().unwrap().contains("is not what was signed"), "{failed}");
    change(api, "stop").await;

    let before = proxy.counts().carried(Direction::ToClient).load(Ordering::Relaxed);
    let cut = proxy.cut_after(Direction::ToClient, bytes / 2, Cut::Reset);
    tokio::join!(cut, start(api, json!({})));
    until_rollout(api, "done").await;
    let carried = proxy.counts().carried(Direction::ToClient).load(Ordering::Relaxed) - before;
    assert!(carried < bytes + bytes / 4, "{carried} of {bytes}: it was not fetched from its beginning again");
    runs(api, "true").await;
    server.stop().await;
}

#[tokio::test]
async fn killed_at_any_step_an_agent_is_the_old_one_or_the_new_one_and_runs_once() {
    // What is written down decides: from there on it is the new one, unless it dies as often as it may.
    let points = [
        ("upgrade.fetched", "upgraded"),
        ("upgrade.verified", "upgraded"),
        ("upgrade.decided", "upgraded"),
        ("upgrade.counted", "upgraded"),
        ("upgrade.started", "upgraded"),
        ("upgrade.proven", "rolled_back"),
        ("upgrade.confirmed", "upgraded"),
    ];
    for (point, state) in points {
        let signer = Signer::default();
        let server = server(&signer, "9.0.0").await;
        let api = &server.api;
        let mut agent = TestAgent::start(api, NAME).await;
        again(&mut agent, api, &[("POSTRIDER_CRASH_AT", point)]).await;
        start(api, json!({})).await;
        if matches!(point, "upgrade.proven" | "upgrade.confirmed") {
            // The child dies, not the process that was installed.
            eventually("the child has died", || async {
                let part = part(&rollout(api).await, NAME);
                (matches!(part["state"].as_str(), Some("rolled_back" | "upgraded"))
                    || processes(&agent.data).is_empty())
                .then_some(())
            })
            .await;
        } else {
            eventually(point, || std::future::ready(agent.process.has_died().then_some(()))).await;
        }
        if agent.process.has_ended() {
            launch(&mut agent, &[]);
        }
        let part = eventually(&format!("{point}: it has ended"), || async {
            let part = part(&rollout(api).await, NAME);
            (part["state"] == state).then_some(part)
        })
        .await;
        eventually(&format!("{point}: online"), || {
            if agent.process.has_ended() {
                launch(&mut agent, &[]);
            }
            async {
                let agent = api.get(&format!("/api/agents/{NAME}")).await;
                (agent["online"] == true).then_some(())
            }
        })
        .await;
        let told = runs(api, "echo once").await;
        assert_eq!(told["deliveries"][0]["attempt"], 1, "{point}: {part}");
        let (is_new, lines) = (book(&agent.data)["current"].is_object(), processes(&agent.data));
        assert_eq!(is_new, state == "upgraded", "{point}");
        assert_eq!(lines.len(), if is_new { 2 } else { 1 }, "{point}: {lines:?}");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_release_that_is_killed_on_trial_twice_is_given_up() {
    let signer = Signer::default();
    let server = server(&signer, "9.0.0").await;
    let api = &server.api;
    let mut agent = TestAgent::start(api, NAME).await;
    again(&mut agent, api, &[("POSTRIDER_CRASH_AT", "upgrade.started"), ("POSTRIDER_FAULT", "trial.mute")]).await;
    start(api, json!({})).await;
    for _ in 0..2 {
        eventually("it dies", || std::future::ready(agent.process.has_died().then_some(()))).await;
        launch(&mut agent, &[("POSTRIDER_CRASH_AT", "upgrade.started"), ("POSTRIDER_FAULT", "trial.mute")]);
    }
    let part = until(api, NAME, "rolled_back").await;
    assert!(part["reason"].as_str().unwrap().contains("started 2 times"), "{part}");
    runs(api, "true").await;
    assert_eq!(processes(&agent.data).len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_second_agent_on_the_folder_is_refused_while_a_release_runs() {
    let signer = Signer::default();
    let server = server(&signer, "9.0.0").await;
    let agent = TestAgent::start(&server.api, NAME).await;
    start(&server.api, json!({})).await;
    until_rollout(&server.api, "done").await;
    let mut command = postrider();
    command.arg("agent").arg("--data").arg(&agent.data);
    let mut second = Process::spawn(command, agent.data.with_file_name("second.log"));
    assert_eq!(second.ended().await, Some(1));
    assert!(second.printed().contains("another agent is running"), "{}", second.printed());
    runs(&server.api, "true").await;
    server.stop().await;
}
