//! `serve --check`: what it finds, and that it changes nothing, beside a server that runs, too.

use crate::harness::process::{ServerProcess, postrider};
use postrider::store::handle::DATABASE_FILE;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Runs it on a data folder; answers the exit code and what it printed.
fn check(data: &Path, more: &[&str]) -> (i32, String) {
    let output = postrider().args(["serve", "--check", "--data"]).arg(data).args(more).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.ends_with("nothing was changed\n"), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), printed)
}

fn says(printed: &str, parts: &[&str]) {
    for part in parts {
        assert!(printed.contains(part), "{part:?} is not in {printed:?}");
    }
}

/// Finds this wrong.
fn wrong(data: &Path, more: &[&str], parts: &[&str]) {
    let (code, printed) = check(data, more);
    assert_eq!(code, 1, "{printed}");
    says(&printed, parts);
    assert!(printed.lines().any(|line| line.starts_with("WRONG")), "{printed}");
    says(&printed, &["it would not start"]);
}

/// Every file below a folder with its mode and content.
fn all(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            // Readers leave marks in the index of the write-ahead log, which holds no data.
            let has_data = !path.is_dir() && !path.ends_with("postrider.db-shm");
            let content = if has_data { fs::read(&path).unwrap() } else { Vec::new() };
            if path.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, (mode, content));
        }
    }
    found
}

/// A folder as a server that spoke TLS leaves it.
async fn served(data: &Path) {
    let mut command = postrider();
    command.arg("serve").arg("--data").arg(data).args(["--listen", "127.0.0.1:0", "--tls"]);
    let process = crate::harness::process::Process::spawn(command, data.with_extension("log"));
    let mut server = ServerProcess::attach(process, data).await;
    server.process.signal("TERM");
    assert_eq!(server.process.ended().await, Some(0));
}

#[tokio::test]
async fn a_good_folder_is_good_and_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let (code, printed) = check(&data, &[]);
    assert_eq!(code, 0, "{printed}");
    says(&printed, &["the first start makes it"]);
    assert!(!data.exists());
    served(&data).await;
    let before = all(&data);
    let (code, printed) = check(&data, &["--listen", "0.0.0.0:7717"]);
    assert_eq!(code, 0, "{printed}");
    says(&printed, &["schema version 1", "speak TLS", "seal.key can be used", "authorities: 1 can", "it would start"]);
    assert!(all(&data) == before, "nothing is changed");
}

#[tokio::test]
async fn it_works_beside_a_server_that_runs_and_after_a_kill() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    let names = |data: &Path| all(data).into_keys().collect::<Vec<_>>();
    let before = names(&data);
    let (code, printed) = check(&data, &[]);
    assert_eq!(code, 0, "{printed}");
    assert_eq!(names(&data), before);
    assert_eq!(server.api.get("/readyz").await["status"], "ok");
    server.process.kill();
    let (code, printed) = check(&data, &[]);
    assert_eq!((code, names(&data)), (0, before), "{printed}");
    // As a copy that somebody made after the kill.
    fs::remove_file(data.join("postrider.db-shm")).unwrap();
    let before = all(&data);
    let (code, printed) = check(&data, &[]);
    assert_eq!(code, 0, "{printed}");
    assert!(all(&data) == before, "no file is made");
}

#[tokio::test]
async fn each_wrong_thing_is_named_with_its_cure() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    served(&data).await;
    wrong(&data, &["--listen", "0.0.0.0:1", "--behind-proxy"], &["not a loopback address", "--behind-proxy=ADDR"]);
    wrong(&data, &["--tls", "--public-url", "http://a:1"], &["--public-url", "is not https://"]);
    wrong(&data, &["--acme", "*.example"], &["--acme", "no domain name"]);
    wrong(
        &data,
        &["--tls-cert", "/nonexistent/a", "--tls-key", "/nonexistent/b"],
        &["/nonexistent/a", "PEM is wanted"],
    );
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    wrong(&data, &[], &["can be entered by others", "chmod 700"]);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    let key = data.join("seal.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    wrong(&data, &[], &[key.to_str().unwrap(), "can be read by others", "chmod go="]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, "short\n").unwrap();
    wrong(&data, &[], &[key.to_str().unwrap(), "64 hexadecimal digits"]);
    fs::remove_file(&key).unwrap();
    let (code, printed) = check(&data, &[]);
    assert_eq!(code, 0, "{printed}");
    says(&printed, &["note   key: no seal.key"]);
    let authority = fs::read_dir(data.join("tls")).unwrap().next().unwrap().unwrap().path();
    fs::write(&authority, "no PEM").unwrap();
    wrong(&data, &[], &[authority.to_str().unwrap(), "restore it from a backup"]);
    wrong(&authority, &[], &["is not a folder"]);
}

#[tokio::test]
async fn a_database_that_a_start_would_refuse_is_refused() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    served(&data).await;
    let path = data.join(DATABASE_FILE);
    let change = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    change("PRAGMA user_version = 9999");
    wrong(&data, &[], &["schema version 9999, this build can use versions below 1000", "newer build"]);
    change("PRAGMA user_version = 1; DROP TABLE output");
    wrong(&data, &[], &["schema version 1, but lacks ", "table output", "backup"]);
    change("PRAGMA application_id = 7");
    wrong(&data, &[], &["another program"]);
    fs::write(&path, "precious words. ".repeat(1000)).unwrap();
    wrong(&data, &[], &["not a database"]);
}

#[tokio::test]
async fn a_wrong_file_is_found_with_its_line() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("postrider.toml");
    fs::write(&file, "tls = true\nlisten = 1\n").unwrap();
    let with = ["--config", file.to_str().unwrap()];
    wrong(&folder.path().join("server"), &with, &[&format!("{}, line 2: listen: ", file.display())]);
    fs::write(&file, "acme = [\"*.example\"]\n").unwrap();
    let place = format!("`acme` is set in {}, line 1", file.display());
    wrong(&folder.path().join("server"), &with, &["no domain name", &place]);
    fs::write(&file, include_str!("../../packaging/postrider.toml")).unwrap();
    let (code, printed) = check(&folder.path().join("server"), &with);
    assert_eq!(code, 0, "{printed}");
}
