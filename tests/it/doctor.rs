//! `postrider doctor`: each thing that it calls wrong, made so.

use crate::harness::agent::TestAgent;
use crate::harness::cli::{Ended, run, run_with};
use crate::harness::eventually::eventually;
use crate::harness::process::{Process, ServerProcess, postrider};
use crate::harness::small_disk::SmallDisk;
use serde_json::Value;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// The findings about `what`.
async fn about(data: &Path, args: &[&str], what: &str) -> Vec<(String, String)> {
    let ended = run(data, &[&["doctor", "--json"], args].concat()).await;
    let all = ended.objects();
    let wrong = all.iter().any(|finding| finding["verdict"] == "wrong");
    assert_eq!(ended.code, Some(i32::from(wrong)), "{ended:?}");
    let found = all.iter().filter(|finding| finding["what"] == what);
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    found.map(|finding| (text(finding, "verdict"), text(finding, "text"))).collect()
}

/// One of the findings about `what` is this verdict with these words.
async fn finds(data: &Path, args: &[&str], what: &str, verdict: &str, words: &[&str]) {
    let found = about(data, args, what).await;
    let is = |(is, text): &(String, String)| is == verdict && words.iter().all(|words| text.contains(words));
    assert!(found.iter().any(is), "{what}: no {verdict} with {words:?} in {found:#?}");
}

async fn text(data: &Path, args: &[&str]) -> Ended {
    run(data, &[&["doctor"], args].concat()).await
}

#[tokio::test]
async fn a_server_that_is_well_is_told_so_and_nothing_is_changed() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let server = ServerProcess::start(&data, 0).await;
    let agent = TestAgent::start(&server.api, "web-1").await;
    let names = |path: &Path| {
        fs::read_dir(path).unwrap().map(|file| file.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = names(&data);
    let ended = text(&data, &[]).await;
    // The host of a test may have a unit of that name, and no time server; the server itself is well.
    let wrong: Vec<_> = ended
        .out()
        .lines()
        .filter(|line| line.starts_with("WRONG") && !line.contains(" unit: "))
        .map(str::to_owned)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    finds(&data, &[], "database", "ok", &["every page and every reference is sound; 1 agents"]).await;
    finds(&data, &[], "server", "ok", &["takes submissions"]).await;
    finds(&data, &[], "agents", "ok", &["1 of 1 are online"]).await;
    finds(&data, &[], "disk", "ok", &["MiB are free"]).await;
    finds(&data, &[], "backups", "note", &["makes none by itself"]).await;
    assert_eq!(names(&data), before);
    assert!(!ended.out().contains(&server.api.token));

    let ended = run_with(
        {
            let mut command = postrider();
            command.args(["doctor", "--agent", "--json", "--data"]).arg(&agent.data);
            command
        },
        b"",
    )
    .await;
    let all = ended.objects();
    let of = |what: &str| all.iter().find(|finding| finding["what"] == what).unwrap()["verdict"].clone();
    assert_eq!((of("identity"), of("disk"), of("server")), ("ok".into(), "ok".into(), "ok".into()), "{all:?}");
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_told_with_its_cure() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    let mut agent = TestAgent::start(&server.api, "web-1").await;
    agent.process.kill();
    eventually("it is offline", || async {
        (server.api.get("/api/agents/web-1").await["online"] == false).then_some(())
    })
    .await;
    server.api.run("web-1", "exit 0").await;
    finds(&data, &[], "agents", "note", &["1 are offline and have commands waiting: web-1"]).await;
    // A token that is none.
    let token = folder.path().join("token");
    fs::write(&token, "prt_nonsense").unwrap();
    finds(&data, &["--token-file", token.to_str().unwrap()], "server", "wrong", &["token"]).await;
    // Rights that let others read a secret.
    fs::set_permissions(data.join("seal.key"), fs::Permissions::from_mode(0o644)).unwrap();
    finds(&data, &[], "files", "wrong", &["seal.key", "chmod go="]).await;
    fs::set_permissions(data.join("seal.key"), fs::Permissions::from_mode(0o600)).unwrap();
    // A clock that was set back: the newest command is from the future.
    let conn = rusqlite::Connection::open(data.join("postrider.db")).unwrap();
    conn.execute("UPDATE commands SET created_ms = created_ms + 7200000", []).unwrap();
    drop(conn);
    finds(&data, &[], "clock", "wrong", &["min from the future: the clock was set back"]).await;

    server.process.kill();
    finds(&data, &[], "server", "wrong", &["is it running?"]).await;
    // A page that the disk forgot.
    let path = data.join("postrider.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap();
    let page: u64 =
        conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'transitions'", [], |row| row.get(0)).unwrap();
    let size: u64 = conn.pragma_query_value(None, "page_size", |row| row.get(0)).unwrap();
    drop(conn);
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start((page - 1) * size)).unwrap();
    file.write_all(&vec![0xa5; usize::try_from(size).unwrap()]).unwrap();
    drop(file);
    finds(&data, &[], "database", "wrong", &["is damaged", "restore the newest backup"]).await;
}

#[tokio::test]
async fn backups_that_are_late_or_missing_and_settings_that_are_wrong_are_told() {
    let folder = TempDir::new().unwrap();
    let (data, to) = (folder.path().join("server"), folder.path().join("backups"));
    fs::create_dir(&to).unwrap();
    let config = folder.path().join("postrider.toml");
    fs::write(&config, "listen = \"127.0.0.1:0\"\nbackup_to = \"backups\"\nbackup_every = \"1m\"\n").unwrap();
    let args = ["--config", config.to_str().unwrap()];
    let mut command = postrider();
    command.arg("serve").args(args).arg("--data").arg(&data);
    let mut server = ServerProcess::attach(Process::spawn(command, folder.path().join("log")), &data).await;
    eventually("a backup was made", || async {
        fs::read_dir(&to)
            .unwrap()
            .flatten()
            .any(|file| file.path().extension().is_some_and(|end| end == "backup"))
            .then_some(())
    })
    .await;
    eventually("it is on the list", || async {
        about(&data, &args, "backups").await.iter().any(|(verdict, _)| verdict == "ok").then_some(())
    })
    .await;
    server.process.kill();
    let list = fs::read_to_string(data.join("backups.json")).unwrap();
    let mut made: Vec<Value> = serde_json::from_str(&list).unwrap();
    for one in &mut made {
        one["at_ms"] = (one["at_ms"].as_i64().unwrap() - 7_200_000).into();
    }
    fs::write(data.join("backups.json"), serde_json::to_string(&made).unwrap()).unwrap();
    finds(&data, &args, "backups", "wrong", &["is 2 h old"]).await;
    fs::remove_file(data.join("backups.json")).unwrap();
    finds(&data, &args, "backups", "wrong", &["there is none in"]).await;
    fs::write(&config, "listen = 7\n").unwrap();
    finds(&data, &args, "settings", "wrong", &["postrider.toml, line 1", "listen"]).await;
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_is_told() {
    let Some(disk) = SmallDisk::mount(100) else { return };
    let data = disk.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    server.process.kill();
    disk.remount("size=60m");
    finds(&data, &[], "disk", "wrong", &["MiB are free", "takes no submissions below 64"]).await;
}

#[tokio::test]
async fn an_endpoint_that_never_enrolled_or_cannot_reach_its_server_is_told() {
    let folder = TempDir::new().unwrap();
    let none = folder.path().join("agent");
    finds(&none, &["--agent"], "identity", "wrong", &["has not enrolled", "postrider agent --join"]).await;
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    let mut agent = TestAgent::start(&server.api, "web-1").await;
    agent.process.kill();
    server.process.kill();
    finds(&agent.data, &["--agent"], "server", "wrong", &["cannot reach", "firewall"]).await;
    fs::write(agent.data.join("agent.json"), "{").unwrap();
    finds(&agent.data, &["--agent"], "identity", "wrong", &["agent.json"]).await;
}
