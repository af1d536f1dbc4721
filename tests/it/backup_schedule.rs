//! Backups that the server makes by itself.

use crate::harness::eventually::eventually;
use crate::harness::raw_agent::Identity;
use crate::harness::server::TestServer;
use postrider::clock::Clock;
use postrider::server::backup::restore::{RestoreOrder, restore};
use postrider::server::serve::ServeConfig;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn to(folder: &Path, every: Duration) -> impl FnOnce(&mut ServeConfig) {
    let folder = folder.to_owned();
    move |config| {
        config.backup_to = Some(folder);
        config.backup_every = every;
        config.backup_keep = 2;
    }
}

async fn metric(server: &TestServer, name: &str) -> i64 {
    let text = server.api.call("GET", "/metrics", Value::Null).await.body;
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

const SUCCESS: &str = "postrider_backup_last_success_timestamp_seconds ";
const FAILURES: &str = "postrider_backup_failures_total ";
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_newest_are_kept_of_our_own_and_what_is_not_ours_is_left_alone() {
    let folder = TempDir::new().unwrap();
    // Somebody else's, by our kind of name; and a half one that a kill left.
    let theirs = folder.path().join("postrider-20200101T000000Z.backup");
    std::fs::write(&theirs, "another server's").unwrap();
    let server = TestServer::start_with(to(folder.path(), Duration::from_millis(1100))).await;
    Identity::enroll(&server.api, "web-1").await;
    let mut seen = std::collections::BTreeSet::new();
    eventually("four were made", || {
        seen.extend(names(folder.path()).into_iter().filter(|name| name.ends_with(".backup")));
        let enough = seen.len() >= 5;
        async move { enough.then_some(()) }
    })
    .await;
    let data = server.stop().await;
    let left: Vec<String> = names(folder.path());
    assert_eq!(left.len(), 3, "{left:?} of {seen:?}");
    assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "another server's");
    let newest: Vec<&String> = seen.iter().rev().take(2).collect();
    assert!(left.iter().rev().take(2).eq(newest), "{left:?} of {seen:?}");
    // And it is one.
    let order = RestoreOrder { file: folder.path().join(&left[2]), identity: None, data: data.path().join("restored") };
    assert_eq!(restore(&order, &Clock::system()).unwrap().manifest.rows["agents"], 1);
}

#[tokio::test]
async fn a_start_makes_one_only_when_the_newest_is_too_old() {
    let folder = TempDir::new().unwrap();
    let server = TestServer::start_with(to(folder.path(), HOUR)).await;
    let made = eventually("one is made", || async {
        let at = metric(&server, SUCCESS).await;
        (at > 0).then_some(at)
    })
    .await;
    let first = names(folder.path());
    let server = TestServer::start_in(server.stop().await, to(folder.path(), HOUR)).await.unwrap();
    // The server has looked once it knows of that one again.
    eventually("it has looked", || async { (metric(&server, SUCCESS).await == made).then_some(()) }).await;
    assert_eq!(names(folder.path()), first);
    let server = TestServer::start_in(server.stop().await, to(folder.path(), Duration::from_secs(1))).await.unwrap();
    eventually("a newer one is made", || async { (metric(&server, SUCCESS).await > made).then_some(()) }).await;
    assert!(names(folder.path()).len() >= 2);
    server.stop().await;
}

#[tokio::test]
async fn a_failure_is_counted_and_tried_again_and_costs_no_older_backup() {
    let folder = TempDir::new().unwrap();
    let (to_path, aside) = (folder.path().join("disk"), folder.path().join("unplugged"));
    std::fs::create_dir(&to_path).unwrap();
    let server = TestServer::start_with(to(&to_path, Duration::from_millis(1100))).await;
    eventually("one is made", || async { (metric(&server, SUCCESS).await > 0).then_some(()) }).await;
    std::fs::rename(&to_path, &aside).unwrap();
    eventually("it fails", || async { (metric(&server, FAILURES).await > 1).then_some(()) }).await;
    assert!(!to_path.exists() && !names(&aside).is_empty());
    server.api.get("/api/agents").await;
    std::fs::rename(&aside, &to_path).unwrap();
    let before = metric(&server, SUCCESS).await;
    eventually("it works again", || async { (metric(&server, SUCCESS).await > before).then_some(()) }).await;
    server.stop().await;
}
