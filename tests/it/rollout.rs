//! Rollouts as the server makes them: to agents that speak frames by hand.

use crate::harness::api::Api;
use crate::harness::cli::{good, run};
use crate::harness::operators::{audited, operator};
use crate::harness::raw_agent::{Identity, RawAgent};
use crate::harness::releases::{Signer, change, dummy, part, put, rollout, start, until, until_rollout};
use crate::harness::server::TestServer;
use postrider::protocol::frame::{AgentFrame, ServerFrame};
use postrider::protocol::upgrade::{Ability, Offer, UpgradeReport, UpgradeState};
use postrider::release::Platform;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A server with a release in its folder.
async fn server(signer: &Signer) -> TestServer {
    let key = signer.key();
    let server = TestServer::start_with(|config| config.release_key = Some(key)).await;
    signer.put(server.data.path(), &dummy("9.0.0"));
    server
}

/// An agent that says it can be upgraded.
async fn able(api: &Api, name: &str) -> Identity {
    let identity = Identity::enroll(api, name).await;
    let platform = Some(Platform::here().unwrap().to_string());
    *identity.ability.lock().unwrap() = Some(Ability { platform, ..Ability::default() });
    identity
}

async fn offered(agent: &mut RawAgent) -> Offer {
    loop {
        if let ServerFrame::Upgrade(offer) = agent.next().await {
            return offer;
        }
    }
}

fn report(offer: &Offer, state: UpgradeState) -> UpgradeReport {
    UpgradeReport { rollout: offer.rollout, attempt: offer.attempt, state, reason: None, again: false }
}

async fn tell(agent: &mut RawAgent, offer: &Offer, state: UpgradeState) {
    agent.send(&AgentFrame::Upgrading(report(offer, state))).await;
}

#[tokio::test]
async fn the_first_agent_goes_alone_and_the_others_follow_when_it_has_proven_the_release() {
    let signer = Signer::default();
    let server = server(&signer).await;
    let api = &server.api;
    let mut agents = Vec::new();
    for name in ["a", "b", "c"] {
        let identity = able(api, name).await;
        let agent = RawAgent::connect(api, &identity).await;
        api.until_online(name, true).await;
        agents.push((name, identity, agent));
    }
    let started = start(api, json!({})).await;
    assert_eq!((&started["canaries"], &started["failures_max"], &started["wave"]), (&json!(1), &json!(0), &json!(1)));
    assert_eq!(started["releases"][0]["version"], "9.0.0");
    let first = crate::harness::eventually::eventually("somebody goes first", || async {
        let rollout = rollout(api).await;
        let agents = rollout["agents"].as_array().unwrap().clone();
        agents.iter().position(|agent| agent["state"] == "offered")
    })
    .await;
    let (name, _, agent) = &mut agents[first];
    let offer = offered(agent).await;
    assert_eq!((offer.attempt, offer.version.as_str(), offer.downgrade), (1, "9.0.0", false));
    tell(agent, &offer, UpgradeState::Taken).await;
    until(api, name, "taken").await;
    tell(agent, &offer, UpgradeState::Restarting).await;
    assert_eq!(part(&until_rollout(api, "running").await, name)["wave"], 1);
    let waiting = rollout(api).await;
    assert_eq!(waiting["states"]["waiting"], 2, "{waiting}");
    tell(agent, &offer, UpgradeState::Upgraded).await;
    for (index, (name, _, agent)) in agents.iter_mut().enumerate() {
        if index != first {
            let offer = offered(agent).await;
            tell(agent, &offer, UpgradeState::Upgraded).await;
            assert_eq!(until(api, name, "upgraded").await["wave"], 2);
        }
    }
    let done = until_rollout(api, "done").await;
    assert_eq!(done["states"], json!({ "upgraded": 3 }));
    assert_eq!(audited(server.data.path(), "rollout.start")[0].0, "owner");
    assert_eq!(audited(server.data.path(), "rollout.end").len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_canary_that_fails_pauses_the_rollout_until_somebody_resumes_it() {
    let signer = Signer::default();
    let server = server(&signer).await;
    let api = &server.api;
    let identity = able(api, "a").await;
    let mut agent = RawAgent::connect(api, &identity).await;
    start(api, json!({})).await;
    let offer = offered(&mut agent).await;
    let other = able(api, "late").await;
    drop(other);
    let failed = UpgradeReport { reason: Some("no room".into()), ..report(&offer, UpgradeState::Failed) };
    agent.send(&AgentFrame::Upgrading(failed)).await;
    let paused = until_rollout(api, "paused").await;
    assert!(paused["reason"].as_str().unwrap().contains("1 agent failed"), "{paused}");
    assert_eq!(part(&paused, "a")["reason"], "no room");
    assert_eq!(paused["agents"].as_array().unwrap().len(), 1, "who enrolls later is not in it");
    assert_eq!(audited(server.data.path(), "rollout.pause")[0].0, "server (rollout)");
    change(api, "resume").await;
    let done = until_rollout(api, "done").await;
    assert_eq!(done["states"], json!({ "failed": 1 }));
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_knows_nothing_of_upgrades_never_gets_the_frame() {
    let signer = Signer::default();
    let server = server(&signer).await;
    let api = &server.api;
    let (old, new) = (Identity::enroll(api, "old").await, able(api, "new").await);
    let elsewhere = able(api, "elsewhere").await;
    elsewhere.ability.lock().unwrap().as_mut().unwrap().platform = Some("plan9-mips".into());
    let mut old_agent = RawAgent::connect(api, &old).await;
    let mut new_agent = RawAgent::connect(api, &new).await;
    let _elsewhere = RawAgent::connect(api, &elsewhere).await;
    start(api, json!({ "canary": "0" })).await;
    let offer = offered(&mut new_agent).await;
    tell(&mut new_agent, &offer, UpgradeState::Upgraded).await;
    let done = until_rollout(api, "done").await;
    assert_eq!(done["states"], json!({ "unable": 2, "upgraded": 1 }));
    assert!(part(&done, "old")["reason"].as_str().unwrap().contains("by hand"), "{done}");
    assert!(part(&done, "elsewhere")["reason"].as_str().unwrap().contains("no release for plan9-mips"), "{done}");
    // What it is sent next is its command, and nothing before.
    api.run("old", "true").await;
    assert!(matches!(old_agent.next().await, ServerFrame::Dispatch { .. }));
    server.stop().await;
}

#[tokio::test]
async fn an_offline_agent_and_one_whose_link_breaks_are_offered_it_when_they_come_back() {
    let signer = Signer::default();
    let server = server(&signer).await;
    let identity = able(&server.api, "a").await;
    start(&server.api, json!({})).await;
    assert_eq!(until(&server.api, "a", "waiting").await["online"], false);
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let first = offered(&mut agent).await;
    drop(agent);
    server.api.until_online("a", false).await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    assert_eq!(offered(&mut agent).await, first, "the same attempt again");
    tell(&mut agent, &first, UpgradeState::Restarting).await;
    until(&server.api, "a", "restarting").await;

    // A server that starts anew in the middle goes on.
    let key = signer.key();
    let data = server.stop().await;
    let server = TestServer::start_in(data, |config| config.release_key = Some(key)).await.unwrap();
    identity.ability.lock().unwrap().as_mut().unwrap().last = Some(report(&first, UpgradeState::Upgraded));
    let _agent = RawAgent::connect(&server.api, &identity).await;
    assert_eq!(until_rollout(&server.api, "done").await["states"], json!({ "upgraded": 1 }));
    server.stop().await;
}

#[tokio::test]
async fn what_was_rolled_back_and_may_be_good_is_offered_again_and_not_for_ever() {
    let signer = Signer::default();
    let server = server(&signer).await;
    let api = &server.api;
    let identity = able(api, "a").await;
    let mut agent = RawAgent::connect(api, &identity).await;
    start(api, json!({})).await;
    for attempt in 1..=3 {
        let offer = offered(&mut agent).await;
        assert_eq!(offer.attempt, attempt);
        let rolled_back = UpgradeReport { again: true, ..report(&offer, UpgradeState::RolledBack) };
        agent.send(&AgentFrame::Upgrading(rolled_back)).await;
        if attempt < 3 {
            until(api, "a", "waiting").await;
            // Ten minutes later. The clock is set back for the session, which would end of it.
            let conn = rusqlite::Connection::open(server.data.path().join("postrider.db")).unwrap();
            conn.execute("UPDATE rollout_agents SET not_before_ms = 0", []).unwrap();
        }
    }
    assert_eq!(until(api, "a", "rolled_back").await["attempt"], 3);
    until_rollout(api, "paused").await;
    server.stop().await;
}

#[tokio::test]
async fn offers_are_made_in_the_window_and_not_while_it_is_paused() {
    let signer = Signer::default();
    let server = server(&signer).await;
    let api = &server.api;
    let identity = able(api, "a").await;
    let mut agent = RawAgent::connect(api, &identity).await;
    // In the server's zone, which is ours.
    let now = jiff::Timestamp::from_millisecond(server.clock.now_ms()).unwrap();
    let now = now.to_zoned_datetime(jiff::tz::TimeZone::system());
    let minute = |add: i32| {
        let minute = (i32::from(now.hour()) * 60 + i32::from(now.minute()) + add).rem_euclid(1440);
        format!("{:02}:{:02}", minute / 60, minute % 60)
    };
    start(api, json!({ "window": format!("{}-{}", minute(120), minute(180)) })).await;
    change(api, "pause").await;
    change(api, "stop").await;
    assert_eq!(part(&rollout(api).await, "a")["state"], "waiting");
    start(api, json!({ "window": format!("{}-{}", minute(-120), minute(120)) })).await;
    let offer = offered(&mut agent).await;
    tell(&mut agent, &offer, UpgradeState::Upgraded).await;
    let done = until_rollout(api, "done").await;
    assert_eq!(done["id"], offer.rollout.to_string(), "the offer is of the second");
    server.stop().await;
}

#[tokio::test]
async fn a_release_that_changes_stops_the_rollout_and_what_is_not_signed_starts_none() {
    let signer = Signer::default();
    let key = signer.key();
    let server = TestServer::start_with(|config| config.release_key = Some(key)).await;
    let (api, data) = (&server.api, server.data.path());
    able(api, "a").await;
    let refused = async |detail: &str| {
        let reply = api.call("POST", "/api/rollout", json!({})).await;
        assert_eq!(reply.problem(), (409, "no_release".to_owned()));
        assert!(reply.json()["detail"].as_str().unwrap().contains(detail), "{}", reply.json());
    };
    refused("no release in the folder").await;
    put(data, &dummy("9.0.0"));
    refused("what is not signed is not taken").await;
    Signer::default().put(data, &dummy("9.0.0"));
    refused("another key").await;
    signer.put(data, &dummy("9.0.0"));
    put(data, &dummy("9.0.1"));
    refused("is not what was signed").await;
    signer.put(data, &[&dummy("x")[..], b"y"].concat());
    refused("does not say its version").await;

    signer.put(data, &dummy("9.0.0"));
    start(api, json!({})).await;
    assert_eq!(api.call("POST", "/api/rollout", json!({})).await.problem(), (409, "conflict".to_owned()));
    signer.put(data, &dummy("9.0.1"));
    let stopped = until_rollout(api, "stopped").await;
    assert!(stopped["reason"].as_str().unwrap().contains("is another one than"), "{stopped}");
    server.stop().await;
}

#[tokio::test]
async fn only_owners_of_all_agents_roll_out_and_bad_requests_are_told() {
    let signer = Signer::default();
    let server = server(&signer).await;
    let api = &server.api;
    let nothing = api.get("/api/rollout").await;
    assert_eq!(nothing["rollout"], Value::Null);
    let technician = operator(api, "ann", json!({ "role": "technician" })).await.api;
    let scoped = operator(api, "bob", json!({ "role": "owner", "scope": { "site": ["berlin"] } })).await.api;
    for verb in ["", "/pause", "/resume", "/stop"] {
        let path = format!("/api/rollout{verb}");
        assert_eq!(technician.call("POST", &path, json!({})).await.problem(), (403, "role_too_low".to_owned()));
        assert_eq!(scoped.call("POST", &path, json!({})).await.problem(), (403, "scope_too_narrow".to_owned()));
    }
    assert_eq!(scoped.call("GET", "/api/rollout", Value::Null).await.problem(), (403, "scope_too_narrow".to_owned()));
    assert_eq!(api.call("POST", "/api/rollout/dance", json!({})).await.problem().0, 404);
    assert_eq!(api.call("POST", "/api/rollout/pause", json!({})).await.problem(), (409, "conflict".to_owned()));
    for (field, value) in
        [("canary", json!("200%")), ("window", json!("22-5")), ("soak_s", json!(9_999_999)), ("x", json!(1))]
    {
        let mut body = json!({});
        body[field] = value;
        let reply = api.call("POST", "/api/rollout", body).await;
        assert_eq!(reply.problem(), (422, "invalid_field".to_owned()), "{field}");
        assert_eq!(reply.json()["field"], field);
    }
    let reply = api.call("POST", "/api/rollout", json!({})).await;
    assert_eq!(reply.problem(), (422, "invalid_field".to_owned()), "there is no agent");
    server.stop().await;
}

#[tokio::test]
async fn a_release_is_fetched_by_agents_alone_and_from_where_they_left_off() {
    let signer = Signer::default();
    let server = server(&signer).await;
    let api = &server.api;
    let bytes = dummy("9.0.0");
    let identity = able(api, "a").await;
    let agent = RawAgent::connect(api, &identity).await;
    let ServerFrame::Welcome { fetch_token, release_key, .. } = &agent.welcome else { unreachable!("checked") };
    assert_eq!(release_key.as_deref(), Some(signer.key().to_string().as_str()));
    let path = format!("/agent/releases/{}", postrider::secret::hex(&postrider::secret::sha256(&bytes)));
    let fetch = async |path: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        api.request("GET", path, &[("authorization", bearer.as_str())], Vec::new()).await
    };
    assert_eq!(fetch(&path, fetch_token).await.problem().0, 404, "nothing is rolled out");
    start(api, json!({})).await;
    assert_eq!(fetch(&path, fetch_token).await.body, bytes);
    assert_eq!(fetch(&format!("{path}?from=4000"), fetch_token).await.body, &bytes[4000..]);
    assert_eq!(fetch(&format!("{path}?from=99999"), fetch_token).await.problem().0, 422);
    assert_eq!(fetch("/agent/releases/00", fetch_token).await.problem().0, 404);
    assert_eq!(fetch(&path, &api.token).await.problem().0, 401, "no operator is an agent");
    assert_eq!(fetch(&path, "").await.problem().0, 401);
    let data: TempDir = server.stop().await;
    drop(data);
}

#[tokio::test]
async fn the_command_line_starts_shows_and_changes_a_rollout() {
    let signer = Signer::default();
    let server = server(&signer).await;
    let data = server.data.path();
    let shown = good(data, &["rollout"]).await;
    assert!(shown.stderr.contains("postrider rollout start"), "{shown:?}");
    let identity = able(&server.api, "a").await;
    let mut agent = RawAgent::connect(&server.api, &identity).await;
    let wrong = run(data, &["rollout", "start", "--canary", "200%"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    let args = [
        "rollout",
        "start",
        "--canary",
        "1",
        "--max-failures",
        "2",
        "--soak",
        "0s",
        "--window",
        "00:00-23:59",
        "--json",
    ];
    let started = &good(data, &args).await.objects()[0];
    assert_eq!((&started["state"], &started["failures_max"]), (&json!("running"), &json!(2)));
    let again = run(data, &["rollout", "start"]).await;
    assert!(again.code == Some(125) && again.stderr.contains("postrider rollout stop"), "{again:?}");
    let offer = offered(&mut agent).await;
    let failed = UpgradeReport { reason: Some("no room\u{1b}[31m".into()), ..report(&offer, UpgradeState::Failed) };
    agent.send(&AgentFrame::Upgrading(failed)).await;
    until_rollout(&server.api, "done").await;
    let shown = good(data, &["rollout"]).await.out();
    for word in ["9.0.0 for", "state     done", "1 failed", "a ", "online", "no room"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    assert_eq!(good(data, &["rollout", "--json"]).await.objects()[0]["agents"][0]["state"], "failed");
    good(data, &["rollout", "start"]).await;
    for (verb, state) in [("pause", "paused"), ("resume", "running"), ("stop", "stopped")] {
        assert!(good(data, &["rollout", verb]).await.stderr.contains(state));
    }
    let nothing = run(data, &["rollout", "pause"]).await;
    assert!(nothing.code == Some(125) && nothing.stderr.contains("no rollout is open"), "{nothing:?}");
    server.stop().await;
}
