//! The server's authorities change: whoever is connected learns the new one by the trust of the old.

use crate::harness::agent::TestAgent;
use crate::harness::api::Api;
use crate::harness::cli::{good, run};
use crate::harness::eventually::eventually;
use crate::harness::process::ServerProcess;
use crate::harness::server::TestServer;
use crate::tls::{elsewhere, refused_agent, serve};
use postrider::pin::Pin;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// The pins of an agent's credential, newest first.
fn kept(agent: &TestAgent) -> Vec<Pin> {
    let credential: Value = serde_json::from_slice(&fs::read(agent.data.join("agent.json")).unwrap()).unwrap();
    serde_json::from_value(credential["pins"].clone()).unwrap()
}

/// Pins and how many agents know no newer one, newest first.
async fn authorities(api: &Api) -> Vec<(Pin, u64)> {
    let list = api.get("/api/authorities").await;
    let row = |row: &Value| (serde_json::from_value(row["pin"].clone()).unwrap(), row["agents"].as_u64().unwrap());
    list["authorities"].as_array().unwrap().iter().map(row).collect()
}

async fn agents_know(api: &Api, counts: &[u64]) -> Vec<Pin> {
    eventually(&format!("agents know the authorities as {counts:?}"), || async {
        let found = authorities(api).await;
        let fits = found.iter().map(|(_, agents)| *agents).eq(counts.iter().copied());
        fits.then(|| found.into_iter().map(|(pin, _)| pin).collect())
    })
    .await
}

/// A client with the pins that are in the data folder now.
fn fresh(server: &ServerProcess, data: &Path) -> Api {
    let url = fs::read_to_string(data.join("listen")).unwrap().trim().to_owned();
    Api { url: crate::harness::process::known_by(url, data), token: server.api.token.clone() }
}

async fn comes_back(api: &Api, agent: &mut TestAgent, name: &str) {
    agent.process.kill();
    api.until_online(name, false).await;
    agent.restart(name);
    api.until_online(name, true).await;
}

#[tokio::test]
async fn agents_learn_the_new_authority_and_survive_the_end_of_the_old() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = serve(&data, "127.0.0.1:0", &["--tls"]).await;
    let api = server.api.clone();
    let (mut here, mut away) = (TestAgent::start(&api, "here").await, TestAgent::start(&api, "away").await);
    let first = agents_know(&api, &[2]).await;
    assert_eq!((kept(&here), kept(&away)), (first.clone(), first.clone()));
    let old_join = api.join().await;
    away.process.kill();
    api.until_online("away", false).await;

    let table = good(&data, &["authority", "rotate"]).await;
    assert!(table.out().contains("newest") && table.out().contains("old"), "{table:?}");
    let both = agents_know(&api, &[1, 1]).await;
    assert_eq!((both.len(), both[1]), (2, first[0]));
    assert_eq!(api.last_close("here").await, "authority_changed");
    assert_eq!((kept(&here), kept(&away)), (both.clone(), first.clone()));
    let (newest, old) = (both[0].to_string(), both[1].to_string());

    // Somebody depends on the old one, and the newest one stays anyway.
    let refused = run(&data, &["authority", "retire", &old]).await;
    assert_eq!(refused.code, Some(125));
    assert!(refused.stderr.contains("1 agent knows no newer authority"), "{refused:?}");
    let refused = run(&data, &["authority", "retire", &newest, "--force"]).await;
    assert!(refused.stderr.contains("newest authority"), "{refused:?}");
    // What was made before is good until then.
    let late = TestAgent::launch(&old_join, "late");
    agents_know(&api, &[2, 1]).await;
    assert_eq!(kept(&late), both);
    // It comes by the old one and learns.
    away.restart("away");
    agents_know(&api, &[3, 0]).await;
    assert_eq!(kept(&away), both);
    let old_join = api.join().await;
    good(&data, &["authority", "retire", &old]).await;
    assert!(run(&data, &["authority", "retire", &old]).await.stderr.contains("no authority has the pin"));
    let api = fresh(&server, &data);
    assert_eq!(authorities(&api).await, [(both[0], 3)]);
    // Its key may be in other hands: who is connected comes back at once and forgets it.
    eventually("a connected agent has forgotten it", || async { (kept(&here) == both[..1]).then_some(()) }).await;
    for (name, agent) in [("here", &mut here), ("away", &mut away)] {
        comes_back(&api, agent, name).await;
        api.round_trip(name, "true").await;
        assert_eq!(kept(agent), both[..1], "what is retired is forgotten");
    }
    // A string from in between names the newest first.
    let _in_between = TestAgent::launch(&old_join, "in-between");
    agents_know(&api, &[4]).await;
    // All of it outlives the process.
    let port = fs::read_to_string(data.join("listen")).unwrap().trim().rsplit(':').next().unwrap().to_owned();
    server.process.kill();
    let server = serve(&data, &format!("127.0.0.1:{port}"), &["--tls"]).await;
    for name in ["here", "away", "late", "in-between"] {
        server.api.until_online(name, true).await;
    }
    assert_eq!(authorities(&server.api).await, [(both[0], 4)]);
}

#[tokio::test]
async fn what_knows_only_a_retired_authority_is_told_what_to_do() {
    let folder = TempDir::new().unwrap();
    let (data, home) = (folder.path().join("server"), folder.path().join("home"));
    let server = serve(&data, "127.0.0.1:0", &["--tls"]).await;
    let mut away = TestAgent::start(&server.api, "away").await;
    let join = server.api.join().await;
    let token = [("POSTRIDER_TOKEN", server.api.token.as_str())];
    let login = server.api.get("/api/authorities").await["login"].as_str().unwrap().to_owned();
    assert_eq!(elsewhere(&home, &token, &["login", "--server", &login]).await.code, Some(0));
    away.process.kill();
    let old = authorities(&server.api).await[0].0.to_string();
    good(&data, &["authority", "rotate", "--json"]).await;
    good(&data, &["authority", "retire", &old, "--force"]).await;
    away.restart("away");
    eventually("the agent tells of another authority", || async {
        away.process.printed().contains("its certificate is of another authority").then_some(())
    })
    .await;
    assert!(refused_agent(&join).await.contains("another authority"));
    let ended = elsewhere(&home, &[], &["agents"]).await;
    assert_eq!(ended.code, Some(125));
    assert!(ended.stderr.contains("take a fresh string"), "{ended:?}");
}

#[tokio::test]
async fn the_command_line_learns_of_the_new_authority() {
    let folder = TempDir::new().unwrap();
    let (data, home) = (folder.path().join("server"), folder.path().join("home"));
    let server = serve(&data, "127.0.0.1:0", &["--tls"]).await;
    let token = [("POSTRIDER_TOKEN", server.api.token.as_str())];
    let login = server.api.get("/api/authorities").await["login"].as_str().unwrap().to_owned();
    assert_eq!(elsewhere(&home, &token, &["login", "--server", &login]).await.code, Some(0));
    let old = authorities(&server.api).await[0].0.to_string();
    let remembered = || fs::read_to_string(home.join("postrider/config.toml")).unwrap();
    assert!(remembered().contains(&old));
    good(&data, &["authority", "rotate"]).await;
    assert_eq!(elsewhere(&home, &[], &["agents"]).await.code, Some(0));
    let newest = authorities(&server.api).await[0].0.to_string();
    assert!(remembered().contains(&newest) && remembered().contains(&old), "{}", remembered());
    good(&data, &["authority", "retire", &old]).await;
    assert_eq!(elsewhere(&home, &[], &["agents"]).await.code, Some(0));
    assert!(!remembered().contains(&old), "{}", remembered());
}

#[tokio::test]
async fn authorities_are_the_owners_and_a_plain_server_has_none() {
    let server = TestServer::start_with(|config| config.tls = true).await;
    let made = server.api.call("POST", "/api/tokens", json!({ "name": "ann", "role": "technician" })).await.json();
    let ann = Api { url: server.api.url.clone(), token: made["token"].as_str().unwrap().to_owned() };
    let pin = authorities(&server.api).await[0].0;
    for (method, path) in [
        ("GET", "/api/authorities".to_owned()),
        ("POST", "/api/authorities".to_owned()),
        ("DELETE", format!("/api/authorities/{pin}")),
    ] {
        assert_eq!(ann.call(method, &path, Value::Null).await.problem().0, 403, "{method}");
        assert_eq!(server.api.request(method, &path, &[], Vec::new()).await.problem().0, 401, "{method}");
    }
    let problem = async |path: &str| server.api.call("DELETE", path, Value::Null).await.problem();
    assert_eq!(problem("/api/authorities/xyz").await, (422, "invalid_field".to_owned()));
    assert_eq!(problem(&format!("/api/authorities/{pin}")).await, (409, "newest".to_owned()));
    assert_eq!(problem(&format!("/api/authorities/{}", Pin::of_key(b"x"))).await, (404, "not_found".to_owned()));
    for _ in 1..postrider::pin::PINS_MAX {
        assert_eq!(server.api.call("POST", "/api/authorities", Value::Null).await.status, 201);
    }
    let full = server.api.call("POST", "/api/authorities", Value::Null).await;
    assert_eq!(full.problem(), (409, "too_many".to_owned()));
    assert!(server.api.join().await.len() <= postrider::protocol::join::JOIN_BYTES_MAX);
    server.stop().await;
    let plain = TestServer::start().await;
    assert_eq!(plain.api.call("GET", "/api/authorities", Value::Null).await.problem(), (409, "no_tls".to_owned()));
    plain.stop().await;
}
