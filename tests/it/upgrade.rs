//! `postrider upgrade`: a release goes live, or the old one runs again.

use crate::harness::agent::TestAgent;
use crate::harness::api::{Api, id};
use crate::harness::eventually::eventually;
use crate::harness::upgrading::{FIRST, UpgradeHost};
use serde_json::json;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

/// The agents that a person sees.
async fn agents(api: &Api) -> Vec<String> {
    let all = api.get("/api/agents").await;
    all["agents"].as_array().unwrap().iter().map(|agent| agent["name"].as_str().unwrap().to_owned()).collect()
}

/// A command to the end.
async fn runs(api: &Api, agent: &str) {
    let command = api.run(agent, "exit 0").await;
    api.until(&command, &["succeeded"]).await;
}

/// Submissions one after the other, each repeated until it is taken, as the command line does it.
async fn submissions(api: &Api, stop: &AtomicBool) -> Vec<String> {
    let mut taken = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (key, body) = (format!("key-{}", taken.len()), json!({ "command": "exit 0" }));
        let command = eventually("the submission is taken", || api.try_submit("web-1", &key, &body)).await;
        taken.push(id(&command));
    }
    taken
}

#[tokio::test]
async fn a_release_goes_live_while_submissions_go_on_and_the_one_before_comes_back() {
    let host = UpgradeHost::start("nothing-0").await;
    let api = host.api().await;
    let agent = TestAgent::start(&api, "web-1").await;
    runs(&api, "web-1").await;
    let stop = AtomicBool::new(false);
    let exchanges = async {
        let ended = host.upgrade_to("nothing-1").await;
        assert_eq!(ended.code, Some(0), "{ended:?}\n{}", host.log());
        let live = host.link("current").unwrap();
        assert!(live.starts_with(concat!(env!("CARGO_PKG_VERSION"), "-")), "{live}");
        assert_eq!(host.link("previous").as_deref(), Some(FIRST));
        runs(&api, "web-1").await;
        assert_eq!(agents(&api).await, ["web-1"], "the check's agent is revoked");
        assert_eq!(fs::read_dir(host.path("backups")).unwrap().count(), 1);
        let again = host.upgrade_to("nothing-1").await;
        assert_eq!(again.code, Some(125), "{again:?}");
        assert!(again.stderr.contains("is what runs already"), "{}", again.stderr);

        let back = host.upgrade(&["--rollback"]).await;
        assert_eq!(back.code, Some(0), "{back:?}");
        assert_eq!((host.link("current").as_deref(), host.link("previous")), (Some(FIRST), Some(live.clone())));
        runs(&api, "web-1").await;
        stop.store(true, Ordering::Relaxed);
        live
    };
    let (taken, live) = tokio::join!(submissions(&api, &stop), exchanges);
    assert!(taken.len() > 10);
    for command in &taken {
        api.until(command, &["succeeded"]).await;
    }
    let all = api.get("/api/commands?limit=1000").await;
    let unique: std::collections::BTreeSet<_> = taken.iter().collect();
    assert_eq!(unique.len(), taken.len(), "each was taken once");
    assert!(all["commands"].as_array().unwrap().len() >= taken.len().min(100));
    let history = host.history().await;
    let told: Vec<_> =
        history.iter().map(|past| (past["from"].as_str().unwrap(), past["ended"].as_str().unwrap())).collect();
    assert_eq!(told, [(FIRST, "upgraded"), (live.as_str(), "went_back")]);
    assert!(history[0]["pause_ms"].is_u64() && history[0]["ended_ms"].as_i64() >= history[0]["began_ms"].as_i64());
    println!("pauses: {} ms, {} ms; {} submissions", history[0]["pause_ms"], history[1]["pause_ms"], taken.len());
    let table = host.upgrade(&["--history"]).await;
    assert!(table.out().contains("upgraded"), "{}", table.out());
    drop(agent);
}

#[tokio::test]
async fn a_release_that_dies_is_deaf_or_takes_no_agents_is_taken_back() {
    let host = UpgradeHost::start("nothing-0").await;
    let api = host.api().await;
    let _agent = TestAgent::start(&api, "web-1").await;
    let bad = [
        ("start", "the server ended at once"),
        ("never-ready", "it does not take submissions: "),
        ("no-agents", "the check command was not run in time: it is queued"),
    ];
    for (broken, why) in bad {
        let file = host.signed(broken);
        let ended = host.upgrade(&[file.to_str().unwrap(), "--deadline", "4s"]).await;
        assert_eq!(ended.code, Some(1), "{broken}: {ended:?}");
        assert!(ended.stderr.contains(why) && ended.stderr.contains("was taken back, first runs again"), "{ended:?}");
        assert_eq!((host.link("current").as_deref(), host.link("previous")), (Some(FIRST), None), "{broken}");
        runs(&api, "web-1").await;
        assert_eq!(agents(&api).await, ["web-1"]);
    }
    let history = host.history().await;
    assert!(history.iter().all(|past| past["ended"] == "rolled_back" && past["reason"].is_string()), "{history:?}");
    assert_eq!(history.len(), bad.len());
    assert!(!host.path("releases/upgrade.json").exists());
}

#[tokio::test]
async fn what_a_release_of_another_major_version_left_is_replaced_by_the_copy_of_before() {
    let host = UpgradeHost::start("nothing-0").await;
    let api = host.api().await;
    let _agent = TestAgent::start(&api, "web-1").await;
    let before = api.run("web-1", "exit 0").await;
    api.until(&before, &["succeeded"]).await;
    let ended = host.upgrade_to("new-major-dies").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("after a migration") && ended.stderr.contains("first runs again"),
        "{}",
        ended.stderr
    );
    runs(&api, "web-1").await;
    assert_eq!(api.command(&before).await["state"], "succeeded");
    assert!(!host.path("releases/before-migration.db").exists());

    // One that lives stays, and there is no way back to a build that cannot read what it left.
    let ended = host.upgrade_to("new-major").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    runs(&api, "web-1").await;
    let live = host.link("current");
    for args in [vec!["--rollback"], vec![host.signed("nothing-2").to_str().unwrap()]] {
        let refused = host.upgrade(&args).await;
        assert_eq!(refused.code, Some(125), "{refused:?}");
        let told = ["nothing was changed", "schema version 1000, this build can use versions below 1000"];
        assert!(told.iter().all(|words| refused.stderr.contains(words)), "{}", refused.stderr);
        assert_eq!(host.link("current"), live);
        runs(&api, "web-1").await;
    }
}

#[tokio::test]
async fn a_server_that_does_not_run_is_upgraded_too_and_a_fresh_one_that_crashes_is_taken_back() {
    let host = UpgradeHost::start("nothing-0").await;
    let api = host.api().await;
    host.service("stop");
    let none = host.upgrade(&["--rollback", "--after-crash"]).await;
    assert_eq!(none.code, Some(0), "{none:?}");
    assert!(none.stderr.contains("no fresh release"), "{}", none.stderr);
    assert_eq!(host.upgrade(&["--rollback"]).await.code, Some(125), "there is nothing to go back to");
    let ended = host.upgrade_to("nothing-1").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("no server runs now"), "{}", ended.stderr);
    let _agent = TestAgent::start(&api, "web-1").await;
    runs(&api, "web-1").await;
    host.service("stop");
    let back = host.upgrade(&["--rollback", "--after-crash"]).await;
    assert_eq!(back.code, Some(0), "{back:?}");
    assert_eq!(host.link("current").as_deref(), Some(FIRST));
    runs(&api, "web-1").await;
    // If that crashes too, the one that was left is not tried again.
    let none = host.upgrade(&["--rollback", "--after-crash"]).await;
    assert!(none.code == Some(0) && none.stderr.contains("no fresh release"), "{none:?}");
    assert_eq!(host.link("current").as_deref(), Some(FIRST));
    let ended: Vec<_> = host.history().await.iter().map(|past| past["ended"].clone()).collect();
    assert_eq!(ended, ["upgraded", "went_back"]);
}
