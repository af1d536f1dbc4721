//! `postrider backup`: what is in it, and what goes wrong while it is made.

use crate::harness::cli::{good, run, run_with, verb};
use crate::harness::eventually::eventually;
use crate::harness::process::{CRASH_AT, Process, ServerProcess, postrider};
use crate::harness::raw_agent::Identity;
use crate::harness::server::TestServer;
use crate::harness::small_disk::SmallDisk;
use postrider::server::backup::work::{WORK_FOLDER, Work};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tempfile::TempDir;

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A server in this process with a few large commands, and a folder for its backups.
async fn filled() -> (TestServer, TempDir) {
    let server = TestServer::start().await;
    Identity::enroll(&server.api, "web-1").await;
    for _ in 0..40 {
        server.api.submit("web-1", json!({ "command": "true", "stdin": noise(100_000) })).await;
    }
    (server, TempDir::new().unwrap())
}

/// Text that hardly compresses.
fn noise(length: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + u8::try_from((state >> 33) % 64).unwrap())
    };
    std::iter::repeat_with(next).filter(|c| *c != '\\').take(length).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_backup_is_one_private_file_with_what_a_server_needs_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let (data, file) = (folder.path().join("server"), folder.path().join("one.backup"));
    let mut serve = postrider();
    serve.arg("serve").arg("--data").arg(&data).args(["--listen", "127.0.0.1:0", "--tls"]);
    let server = ServerProcess::attach(Process::spawn(serve, data.with_extension("log")), &data).await;
    Identity::enroll(&server.api, "web-1").await;
    server.api.submit("web-1", json!({ "command": "true" })).await;

    let made = good(&data, &["backup", text(&file), "--json"]).await.objects();
    assert_eq!(made.len(), 1);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(made[0]["bytes"], std::fs::metadata(&file).unwrap().len());
    assert_eq!(names(&data.join(WORK_FOLDER)), ["lock"], "no copy stays behind");
    let manifest = &made[0]["manifest"];
    assert_eq!(manifest["rows"]["agents"], 1);
    assert_eq!(manifest["rows"]["commands"], 1);

    let listed = std::process::Command::new("tar").arg("tzf").arg(&file).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let authority = names(&data.join("tls")).into_iter().find(|name| name.starts_with("authority-")).unwrap();
    let expected = ["manifest.json", "postrider.db", "seal.key", &format!("tls/{authority}")];
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected, "not the owner's token, nor what a start makes");
    let files: Vec<&Value> = manifest["files"].as_array().unwrap().iter().map(|file| &file["name"]).collect();
    assert_eq!(files, expected[1..]);

    // For people, in two lines; and of a server that was killed.
    drop(server);
    let said = good(&data, &["backup", text(&file), "--force"]).await.out();
    assert!(said.contains("read back and checked") && said.contains("1 agents, 1 commands, 1 deliveries"), "{said}");
}

#[tokio::test]
async fn submissions_go_on_while_a_backup_is_made_and_it_holds_all_that_was_answered_before() {
    let (server, folder) = filled().await;
    let (answered, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    // Fifty a second, each on its own connection.
    let submitting = {
        let (api, answered, done) = (server.api.clone(), Arc::clone(&answered), Arc::clone(&done));
        async move {
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
            while !done.load(Ordering::Relaxed) {
                tick.tick().await;
                api.submit("web-1", json!({ "command": "true" })).await;
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let backing_up = async {
        eventually("some are answered", || async { (answered.load(Ordering::Relaxed) > 5).then_some(()) }).await;
        let before = answered.load(Ordering::Relaxed);
        let file = folder.path().join("one.backup");
        let made = good(server.data.path(), &["backup", text(&file), "--json"]).await.objects();
        let after = answered.load(Ordering::Relaxed);
        done.store(true, Ordering::Relaxed);
        (before, after, made[0]["manifest"]["rows"]["commands"].as_u64().unwrap())
    };
    let ((), (before, after, held)) = futures_util::future::join(submitting, backing_up).await;
    println!("answered before {before}, after {after}, in the backup {held}");
    assert!(after > before, "writers go on");
    let (before, after) = (before as u64 + 40, after as u64 + 40);
    assert!((before..=after + 1).contains(&held), "{before} {held} {after}");
    server.stop().await;
}

#[tokio::test]
async fn a_backup_is_refused_where_it_would_take_something_else_or_has_no_place() {
    let (server, folder) = filled().await;
    let data = server.data.path();
    let refused = |args: Vec<String>, word: &'static str| async move {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ended = run(data, &args).await;
        assert_eq!(ended.code, Some(125), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(word), "{args:?}: {}", ended.stderr);
    };
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let backup = |file: String| vec!["backup".to_owned(), file];
    std::fs::write(path("there"), "mine").unwrap();
    refused(backup(path("there")), "--force").await;
    refused(backup(path("missing/one.backup")), "is no folder").await;
    refused(backup(text(folder.path()).to_owned()), "is not a file").await;
    let nowhere = ["backup", &path("one"), "--data", &path("no-server")].map(str::to_owned).to_vec();
    refused(nowhere, "has a server been started there?").await;
    let other = Work::take(data).unwrap();
    refused(backup(path("one")), "another backup").await;
    drop(other);
    assert_eq!(std::fs::read_to_string(path("there")).unwrap(), "mine");
    assert_eq!(names(folder.path()), ["there"]);
    good(data, &["backup", "--force", &path("there")]).await;
    assert!(std::fs::metadata(path("there")).unwrap().len() > 4);
    // A name alone is a file here.
    let mut here = verb(data, &["backup", "here.backup"]);
    here.current_dir(folder.path());
    let ended = run_with(here, b"").await;
    assert_eq!((ended.code, names(folder.path())), (Some(0), vec!["here.backup".to_owned(), "there".to_owned()]));
    server.stop().await;
}

#[tokio::test]
async fn a_disk_that_fills_up_leaves_no_half_backup_and_the_older_one() {
    let (server, folder) = filled().await;
    let data = server.data.path();
    // A limit for each file: the copy of the database does not fit.
    let file = folder.path().join("one.backup");
    let mut limited = std::process::Command::new("sh");
    let binary = crate::harness::process::binary();
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$@\"", "sh", binary, "backup", text(&file)]);
    let ended = run_with(
        {
            limited.env("POSTRIDER_DATA", data);
            limited
        },
        b"",
    )
    .await;
    assert_eq!(ended.code, Some(125), "{ended:?}");
    assert!(ended.stderr.contains("cannot be backed up"), "{}", ended.stderr);
    assert_eq!((names(folder.path()).len(), names(&data.join(WORK_FOLDER))), (0, vec!["lock".to_owned()]));

    // And where the archive does not.
    let Some(disk) = SmallDisk::mount(1) else { return };
    let file = disk.path().join("one.backup");
    std::fs::write(&file, "an older one").unwrap();
    let ended = run(data, &["backup", "--force", text(&file)]).await;
    assert_eq!(ended.code, Some(125), "{ended:?}");
    assert!(ended.stderr.contains("No space left") && ended.stderr.contains("make room"), "{}", ended.stderr);
    assert_eq!(names(disk.path()), ["one.backup"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "an older one");
    assert_eq!(names(&data.join(WORK_FOLDER)), ["lock"]);
    disk.remount("size=32m");
    good(data, &["backup", "--force", text(&file)]).await;
    server.stop().await;
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn a_killed_backup_leaves_nothing_in_the_way() {
    let (server, folder) = filled().await;
    let data = server.data.path().to_owned();
    let file = folder.path().join("one.backup");
    for point in ["backup.copied", "backup.written"] {
        let mut command = verb(&data, &["backup", text(&file)]);
        command.env(CRASH_AT, point);
        let mut process = Process::spawn(command, folder.path().join("log"));
        eventually(point, || std::future::ready(process.has_died().then_some(()))).await;
        assert!(!file.exists(), "{point}");
        assert!(names(&data.join(WORK_FOLDER)).len() > 1, "{point}: a copy was left");
    }
    assert!(folder.path().join("one.backup.part").exists());
    // A start of the server clears what lies in its folder, the next backup the rest.
    let server = server.restart().await;
    assert_eq!(names(&data.join(WORK_FOLDER)), ["lock"]);
    good(&data, &["backup", text(&file)]).await;
    let left: Vec<PathBuf> = names(folder.path()).into_iter().map(PathBuf::from).collect();
    assert_eq!(left, [PathBuf::from("log"), PathBuf::from("one.backup")]);
    server.stop().await;
}
