//! A second person's approval: what reaches many agents is held until somebody else agrees, and is a row like any other
//! meanwhile.

use crate::harness::agent::TestAgent;
use crate::harness::api::{Api, Reply, events, id};
use crate::harness::cli::{good, run_with, verb};
use crate::harness::eventually::eventually;
use crate::harness::process::{Process, ServerProcess, postrider};
use crate::harness::raw_agent::{Identity, RawAgent, success};
use crate::harness::server::TestServer;
use postrider::protocol::frame::{AgentFrame, JournalEntry, ServerFrame};
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::state::State;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// With more than one agent a submission is held.
async fn server() -> TestServer {
    TestServer::start_with(|config| config.brake.approve_above = Some(1)).await
}

async fn token(api: &Api, name: &str, role: &str, scope: Value) -> Api {
    let made = api.call("POST", "/api/tokens", json!({ "name": name, "role": role, "scope": scope })).await;
    assert_eq!(made.status, 201, "{:?}", String::from_utf8_lossy(&made.body));
    Api { url: api.url.clone(), token: made.json()["token"].as_str().unwrap().to_owned() }
}

async fn submit(api: &Api, agents: &[&str], ttl_s: u64) -> Value {
    let body = json!({ "command": "true", "targets": { "agents": agents }, "ttl_s": ttl_s });
    let reply = api.call("POST", "/api/commands", body).await;
    assert_eq!(reply.status, 201, "{:?}", String::from_utf8_lossy(&reply.body));
    reply.json()
}

async fn approve(api: &Api, command: &Value) -> Reply {
    api.call("POST", &format!("/api/commands/{}/approve", id(command)), json!({})).await
}

fn states(command: &Value) -> Vec<&str> {
    command["deliveries"].as_array().unwrap().iter().map(|delivery| delivery["state"].as_str().unwrap()).collect()
}

fn held(command: &Value) -> usize {
    command["deliveries"].as_array().unwrap().iter().filter(|delivery| delivery["held"] == true).count()
}

fn delivery(command: &Value, number: usize) -> DeliveryId {
    command["deliveries"][number]["id"].as_str().unwrap().parse().unwrap()
}

async fn outbox(api: &Api, agent: &str) -> u64 {
    api.get(&format!("/api/agents/{agent}")).await["outbox"].as_u64().unwrap()
}

#[tokio::test]
async fn a_held_command_reaches_nobody_until_a_second_person_approves_it() {
    let server = server().await;
    let api = &server.api;
    let (a, b) = (Identity::enroll(api, "a").await, Identity::enroll(api, "b").await);
    let (mut a, mut b) = (RawAgent::connect(api, &a).await, RawAgent::connect(api, &b).await);
    let first = token(api, "first", "technician", json!({})).await;
    let second = token(api, "second", "technician", json!({})).await;
    let command = submit(&first, &["a", "b"], 3600).await;
    let waits = json!({ "needed": true, "approved_by": null, "approved_ms": null });
    assert_eq!((&command["approval"], held(&command), states(&command)), (&waits, 2, vec!["queued"; 2]));
    assert_eq!(outbox(api, "a").await, 0, "what is on hold waits for nobody's connection");

    // One agent is not too many: what is submitted later goes out before.
    let small = submit(&first, &["a"], 3600).await;
    assert!(small["approval"].is_null() && small["deliveries"][0]["held"].is_null(), "{small}");
    assert_eq!(a.dispatched().await.0, delivery(&small, 0));
    a.complete(delivery(&small, 0)).await;
    // An agent that claims to have it is not believed.
    b.send(&AgentFrame::Accepted { delivery: delivery(&command, 1) }).await;
    assert_eq!(b.error().await, "not_dispatched");
    // A wait is a wait, and a repetition is the same command.
    let path = "/api/commands?wait=1";
    let body = json!({ "command": "true", "targets": { "agents": ["a", "b"] } }).to_string().into_bytes();
    let bearer = format!("Bearer {}", first.token);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "k")];
    let other = api.request("POST", path, &headers, body.clone()).await;
    assert_eq!((other.status.as_u16(), held(&other.json())), (201, 2));
    let again = api.request("POST", "/api/commands", &headers, body).await;
    assert_eq!((again.status.as_u16(), &again.json()["approval"]), (200, &waits));
    assert_eq!(api.get("/api/commands?state=queued").await["commands"].as_array().unwrap().len(), 2);

    let approved = approve(&second, &command).await;
    assert_eq!(approved.status, 200, "{:?}", String::from_utf8_lossy(&approved.body));
    let approved = approved.json();
    assert_eq!((&approved["approval"]["approved_by"], held(&approved)), (&json!("second"), 0), "{approved}");
    for (number, agent) in [&mut a, &mut b].into_iter().enumerate() {
        assert_eq!(agent.dispatched().await, (delivery(&command, number), 1));
        agent.complete(delivery(&command, number)).await;
    }
    let ended = api.command(&id(&command)).await;
    assert_eq!(events(&ended), ["queued", "approved", "dispatched", "accepted", "running", "succeeded"]);
    assert_eq!(ended["deliveries"][0]["transitions"][1]["cause"], "second");
    // Again it changes nothing, whoever asks.
    for who in [&second, api] {
        assert_eq!(approve(who, &command).await.json()["approval"], ended["approval"]);
    }
    let file = server.data.path().join("postrider.db");
    let audited: Vec<String> = {
        let conn = rusqlite::Connection::open(file).unwrap();
        let mut rows = conn.prepare("SELECT actor FROM audit WHERE action = 'command.approve'").unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    assert_eq!(audited, ["second"]);
    server.stop().await;
}

#[tokio::test]
async fn only_another_person_who_reaches_all_of_it_approves() {
    let server = server().await;
    let api = &server.api;
    for (name, site) in [("a", "berlin"), ("b", "munich")] {
        let join = api.call("POST", "/api/join", json!({ "site": site })).await.json();
        Identity::enroll_with(api, join["join"].as_str().unwrap(), name).await;
    }
    let ann = token(api, "ann", "owner", json!({})).await;
    let bob = token(&ann, "bob", "owner", json!({})).await;
    let carl = token(&bob, "carl", "technician", json!({})).await;
    let viewer = token(api, "vera", "viewer", json!({})).await;
    let berlin = token(api, "berlin", "technician", json!({ "site": ["berlin"] })).await;
    let rome = token(api, "rome", "technician", json!({ "site": ["rome"] })).await;
    let both = token(api, "both", "technician", json!({ "site": ["munich", "berlin"] })).await;
    let command = submit(&ann, &["a", "b"], 3600).await;
    for (who, problem) in [
        (&ann, (403, "same_person")),
        (&bob, (403, "same_person")),
        (&carl, (403, "same_person")),
        (&viewer, (403, "role_too_low")),
        (&berlin, (404, "not_found")),
        (&rome, (404, "not_found")),
    ] {
        assert_eq!(approve(who, &command).await.problem(), (problem.0, problem.1.to_owned()), "{problem:?}");
    }
    // A new token of the old name is the same person.
    let listed = api.get("/api/tokens").await["tokens"].clone();
    let old = listed.as_array().unwrap().iter().find(|token| token["name"] == "ann").unwrap();
    let path = format!("/api/tokens/{}", old["id"].as_str().unwrap());
    assert_eq!(api.call("DELETE", &path, Value::Null).await.status, 200);
    let again = token(api, "ann", "technician", json!({})).await;
    assert_eq!(approve(&again, &command).await.problem(), (403, "same_person".to_owned()));
    assert_eq!(held(&api.command(&id(&command)).await), 2);
    // Another's may be approved by whoever reaches all of it.
    let command = submit(&carl, &["a", "b"], 3600).await;
    assert_eq!(approve(&both, &command).await.status, 200);
    // A maker may approve what those do whom it made tokens for.
    let command = submit(&carl, &["a", "b"], 3600).await;
    assert_eq!(approve(api, &command).await.status, 200);
    let small = submit(&carl, &["a"], 3600).await;
    assert_eq!(approve(api, &small).await.problem(), (409, "conflict".to_owned()));
    let unknown = api.call("POST", "/api/commands/01928c3e-5a70-7e63-9f0a-3c1f0d6b2a11/approve", json!({})).await;
    assert_eq!(unknown.problem(), (404, "not_found".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn what_a_revoked_token_submitted_is_not_approved() {
    let server = server().await;
    for name in ["web-1", "web-2"] {
        Identity::enroll(&server.api, name).await;
    }
    let made = server.api.call("POST", "/api/tokens", json!({ "name": "tim", "role": "technician" })).await.json();
    let tim = Api { url: server.api.url.clone(), token: made["token"].as_str().unwrap().to_owned() };
    let command = submit(&tim, &["web-1", "web-2"], 60).await;
    let path = format!("/api/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(server.api.call("DELETE", &path, Value::Null).await.status, 200);
    let reply = approve(&server.api, &command).await;
    assert_eq!(reply.problem(), (409, "conflict".to_owned()));
    assert_eq!(held(&server.api.command(&id(&command)).await), 2);
    server.stop().await;
}

#[tokio::test]
async fn what_is_held_expires_is_cancelled_and_is_ended_by_a_revocation_like_the_rest() {
    let server = server().await;
    let api = &server.api;
    let a = Identity::enroll(api, "a").await;
    for name in ["b", "c"] {
        Identity::enroll(api, name).await;
    }
    let first = token(api, "first", "technician", json!({})).await;
    let second = token(api, "second", "technician", json!({})).await;
    let expires = submit(&first, &["a", "b"], 60).await;
    let cancelled = submit(&first, &["a", "b"], 3600).await;
    let goes_on = submit(&first, &["a", "b", "c"], 3600).await;
    let kept = submit(&first, &["b", "c"], 7 * 86_400).await;

    let cancel = format!("/api/commands/{}/cancel", id(&cancelled));
    let answer = second.call("POST", &cancel, json!({})).await.json();
    assert_eq!((&answer["cancelled"], &answer["requested"]), (&json!(2), &json!(0)), "a refusal is a cancel");
    assert_eq!(api.call("DELETE", "/api/agents/b", Value::Null).await.status, 200);
    assert_eq!(states(&api.command(&id(&goes_on)).await), ["queued", "cancelled", "queued"]);
    server.clock.set_offset_ms(61_000);
    let ended = eventually("it has expired", || async {
        let command = api.command(&id(&expires)).await;
        states(&command).contains(&"expired").then_some(command)
    })
    .await;
    assert_eq!((states(&ended), held(&ended)), (vec!["expired", "cancelled"], 0), "b was revoked before");
    assert_eq!(ended["deliveries"][0]["reason"], "not approved before its expiry");
    for over in [&expires, &cancelled] {
        let reply = approve(&second, over).await;
        assert_eq!(reply.problem(), (409, "conflict".to_owned()));
        assert!(reply.json()["detail"].as_str().unwrap().contains("ended"), "{:?}", reply.json());
        assert_eq!(api.command(&id(over)).await["approval"]["approved_by"], Value::Null);
    }
    // What is left of it goes out; the agent that has it all comes only now.
    let approved = approve(&second, &goes_on).await.json();
    assert_eq!((states(&approved), held(&approved)), (vec!["queued", "cancelled", "queued"], 0));
    let mut agent = RawAgent::connect(api, &a).await;
    assert_eq!(agent.dispatched().await.0, delivery(&goes_on, 0));
    agent.complete(delivery(&goes_on, 0)).await;
    assert_eq!(held(&api.command(&id(&kept)).await), 1, "nothing else was touched");
    server.stop().await;
}

/// The one way in which an agent can have what is on hold: the approval was in what the backup lacks.
#[tokio::test]
async fn after_a_restored_backup_the_agents_journal_is_the_truth_and_the_rest_stays_on_hold() {
    let server = server().await;
    let identity = Identity::enroll(&server.api, "a").await;
    Identity::enroll(&server.api, "b").await;
    let first = token(&server.api, "first", "technician", json!({})).await;
    let second = token(&server.api, "second", "technician", json!({})).await;
    let command = submit(&first, &["a", "b"], 3600).await;
    let data = server.stop().await;
    let (file, backup) = (data.path().join("postrider.db"), data.path().join("backup"));
    std::fs::copy(&file, &backup).unwrap();

    let server = TestServer::start_in(data, |_| {}).await.unwrap();
    let second = Api { url: server.api.url.clone(), ..second };
    assert_eq!(approve(&second, &command).await.status, 200, "the flag is for submissions only");
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    assert_eq!(agent.dispatched().await.0, delivery(&command, 0));
    agent.send(&AgentFrame::Accepted { delivery: delivery(&command, 0) }).await;
    agent.send(&AgentFrame::Started { delivery: delivery(&command, 0) }).await;
    eventually("it runs", || async {
        (states(&server.api.command(&id(&command)).await)[0] == "running").then_some(())
    })
    .await;
    drop(agent);
    let data = server.stop().await;
    std::fs::copy(&backup, &file).unwrap();

    let server = TestServer::start_in(data, |_| {}).await.unwrap();
    assert_eq!(held(&server.api.command(&id(&command)).await), 2);
    let journal = vec![JournalEntry { delivery: delivery(&command, 0), state: State::Running }];
    let mut agent = RawAgent::connect_with(&server.api, &identity, journal).await;
    let ServerFrame::Welcome { journal, .. } = &agent.welcome else { unreachable!("checked at connect") };
    assert!(journal[0].keep);
    let outcome = success();
    agent.send(&AgentFrame::Finished { delivery: delivery(&command, 0), outcome }).await;
    while agent.next().await != (ServerFrame::Stored { delivery: delivery(&command, 0) }) {}
    let shown = server.api.command(&id(&command)).await;
    assert_eq!((states(&shown), held(&shown)), (vec!["succeeded", "queued"], 1));
    let second = Api { url: server.api.url.clone(), ..second };
    assert_eq!(held(&approve(&second, &shown).await.json()), 0);
    server.stop().await;
}

async fn serve(data: &Path, port: u16, flags: &[&str]) -> ServerProcess {
    let mut command = postrider();
    command.args(["serve", "--listen", &format!("127.0.0.1:{port}")]).args(flags).arg("--data").arg(data);
    let _ = std::fs::remove_file(data.join("listen"));
    ServerProcess::attach(Process::spawn(command, data.with_extension("log")), data).await
}

/// A verb with this token.
fn by(data: &Path, who: &Api, args: &[&str]) -> std::process::Command {
    let mut command = verb(data, args);
    command.env("POSTRIDER_TOKEN", &who.token);
    command
}

#[tokio::test]
async fn two_people_a_kill_between_them_and_two_real_agents() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = serve(&data, 0, &["--approve-above", "1"]).await;
    let agents = [TestAgent::start(&server.api, "web-1").await, TestAgent::start(&server.api, "web-2").await];
    let first = token(&server.api, "first", "technician", json!({})).await;
    let second = token(&server.api, "second", "technician", json!({})).await;
    let line = format!("echo ran >> {}", agents[0].runs().display());
    let submitted = run_with(by(&data, &first, &["run", "web-1", "web-2", "--no-wait", "--", &line]), b"").await;
    let command = submitted.out().trim().to_owned();
    let hint = format!("waits for a second person's approval: postrider approve {command}");
    assert!(submitted.stderr.contains(&hint), "{}", submitted.stderr);

    let port = server.port();
    server.process.kill();
    drop(server);
    let server = serve(&data, port, &[]).await;
    for name in ["web-1", "web-2"] {
        server.api.until_online(name, true).await;
    }
    let shown = good(&data, &["show", &command]).await.out();
    assert!(shown.contains(&hint) && shown.contains("queued, waits for a second person's approval"), "{shown}");
    assert!(good(&data, &["commands"]).await.out().contains("queued, approval needed"));
    let own = run_with(by(&data, &first, &["approve", &command]), b"").await;
    assert!(own.code == Some(125) && own.stderr.contains("a second person has to approve it"), "{own:?}");
    assert!(!own.stderr.contains("higher role"), "{own:?}");
    assert!(agents[0].told().is_empty(), "nobody has run it");

    // Somebody follows it from before the approval to the end.
    let mut follower = Process::spawn(verb(&data, &["output", &command, "--follow"]), folder.path().join("log"));
    let approved = run_with(by(&data, &second, &["approve", &command]), b"").await;
    assert_eq!(approved.code, Some(0), "{approved:?}");
    assert!(approved.out().starts_with("approved, for 2 agents, submitted by first: echo ran"), "{approved:?}");
    assert_eq!(follower.ended().await, Some(0), "{}", follower.printed());
    assert_eq!(agents[0].told(), ["ran", "ran"], "each once");
    let shown = good(&data, &["show", &command]).await.out();
    assert!(shown.contains("approval   by second"), "{shown}");
}

#[tokio::test]
async fn following_says_what_it_waits_for_and_who_approved() {
    let server = server().await;
    let agents = [TestAgent::start(&server.api, "web-1").await, TestAgent::start(&server.api, "web-2").await];
    let first = token(&server.api, "first", "technician", json!({})).await;
    let second = token(&server.api, "second", "technician", json!({})).await;
    let data = server.data.path().to_owned();
    let folder = TempDir::new().unwrap();
    let args = ["run", "web-1", "web-2", "--", "echo done"];
    let mut follower = Process::spawn(by(&data, &first, &args), folder.path().join("log"));
    let command = eventually("it is submitted", || async {
        let listed = server.api.get("/api/commands").await;
        listed["commands"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let hint = format!("postrider: waits for a second person's approval: postrider approve {command}\n");
    eventually("it says what it waits for", || async { follower.printed().contains(&hint).then_some(()) }).await;
    assert_eq!(run_with(by(&data, &second, &["approve", &command]), b"").await.code, Some(0));
    assert_eq!(follower.ended().await, Some(0));
    let printed = follower.printed();
    assert_eq!(printed.matches(&hint).count(), 1, "{printed}");
    assert_eq!(printed.matches("postrider: approved by second").count(), 1, "{printed}");
    assert_eq!(printed.lines().filter(|line| line.ends_with("| done")).count(), 2, "{printed}");
    drop(agents);
    server.stop().await;
}
