//! An upgrade that is killed at any step is undone at the next start of the server, or finished.

use crate::harness::agent::TestAgent;
use crate::harness::upgrading::{FIRST, UpgradeHost};

/// What a start of the unit does.
async fn start(host: &UpgradeHost) {
    let recovered = host.upgrade(&["--recover"]).await;
    assert_eq!(recovered.code, Some(0), "{recovered:?}");
    host.service("start");
}

#[tokio::test]
async fn killed_at_any_step_the_server_runs_again_after_its_next_start() {
    let host = UpgradeHost::start("nothing-0").await;
    let api = host.api().await;
    let _agent = TestAgent::start(&api, "web-1").await;
    let cases = [
        ("upgrade.stopping", "nothing-1", None),
        ("upgrade.swapping", "nothing-1", Some("undone")),
        ("upgrade.swapped", "nothing-1", Some("undone")),
        ("upgrade.started", "nothing-1", Some("undone")),
        ("upgrade.swapped", "new-major-dies", Some("undone")),
        ("upgrade.undoing", "start", Some("undone")),
        ("upgrade.undone", "start", Some("undone")),
        ("upgrade.undoing", "new-major-dies", Some("undone")),
        ("upgrade.proven", "nothing-1", Some("finished")),
    ];
    for (point, broken, ended) in cases {
        let known = host.history().await.len();
        let command = api.run("web-1", "exit 0").await;
        let file = host.signed(broken);
        host.killed_at(point, &[file.to_str().unwrap(), "--deadline", "20s"]).await;
        // As after a power cut: nothing runs.
        host.service("stop");
        start(&host).await;
        let history = host.history().await;
        assert_eq!(history.get(known).map(|past| past["ended"].as_str().unwrap()), ended, "{point}, {broken}");
        let runs = host.link("current").unwrap();
        assert_eq!(runs == FIRST, ended != Some("finished"), "{point}, {broken}: {runs}");
        api.until(&command, &["succeeded"]).await;
        let command = api.run("web-1", "exit 0").await;
        api.until(&command, &["succeeded"]).await;
        assert!(!host.path("releases/upgrade.json").exists() && !host.path("releases/before-migration.db").exists());
    }
}

#[tokio::test]
async fn the_next_upgrade_deals_with_one_that_was_cut_off_and_its_agent() {
    let host = UpgradeHost::start("nothing-0").await;
    let api = host.api().await;
    let file = host.signed("nothing-1");
    host.killed_at("upgrade.started", &[file.to_str().unwrap()]).await;
    let ended = host.upgrade_to("nothing-2").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("was cut off: it is undone, first runs again"), "{}", ended.stderr);
    assert_eq!(host.link("previous").as_deref(), Some(FIRST));
    let agents = api.get("/api/agents").await;
    assert_eq!(agents["agents"].as_array().unwrap().len(), 0, "{agents}");
}
