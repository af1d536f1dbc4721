//! `postrider restore`: what is refused, and what a kill leaves.

use crate::harness::agent::TestAgent;
use crate::harness::api::id;
use crate::harness::cli::{Ended, good, run, verb};
use crate::harness::eventually::eventually;
use crate::harness::process::{CRASH_AT, Process, ServerProcess, postrider};
use crate::harness::server::TestServer;
use postrider::protocol::backup::Manifest;
use postrider::server::backup::archive;
use postrider::store::copy::Pace;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every file and folder below, with its rights and the hash of what it holds.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::metadata(&path).unwrap();
            let bytes = if metadata.is_dir() { Vec::new() } else { std::fs::read(&path).unwrap() };
            found.insert(path.clone(), (metadata.permissions().mode(), digest(&SHA256, &bytes).as_ref().to_vec()));
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

/// A stopped server with TLS, its backup, and what it has done since.
struct Scene {
    folder: TempDir,
    data: PathBuf,
    backup: PathBuf,
    before: String,
    after: String,
}

impl Scene {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let (data, backup) = (folder.path().join("server"), folder.path().join("one.backup"));
        let mut server = Self::serve(&data).await;
        crate::harness::raw_agent::Identity::enroll(&server.api, "web-1").await;
        let before = id(&server.api.submit("web-1", json!({ "command": "true" })).await);
        good(&data, &["backup", text(&backup)]).await;
        let after = id(&server.api.submit("web-1", json!({ "command": "true" })).await);
        server.process.signal("TERM");
        assert_eq!(server.process.ended().await, Some(0));
        Self { folder, data, backup, before, after }
    }

    async fn serve(data: &Path) -> ServerProcess {
        let mut serve = postrider();
        serve.arg("serve").arg("--data").arg(data).args(["--listen", "127.0.0.1:0", "--tls"]);
        let _ = std::fs::remove_file(data.join("listen"));
        ServerProcess::attach(Process::spawn(serve, data.with_extension("log")), data).await
    }

    /// Starts the server and says which of the two commands it knows.
    async fn knows(&self) -> (bool, bool) {
        let server = Self::serve(&self.data).await;
        let knows = |command: String| {
            let api = server.api.clone();
            async move { api.call("GET", &format!("/api/commands/{command}"), Value::Null).await.status == 200 }
        };
        (knows(self.before.clone()).await, knows(self.after.clone()).await)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What lies beside the data folder because of restores.
    fn beside(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("server.") && !name.ends_with(".log")).collect()
    }

    async fn restore(&self, file: &Path) -> Ended {
        run(&self.data, &["restore", text(file)]).await
    }

    /// A backup like the one that was made, with another manifest and maybe another database.
    fn forged(&self, name: &str, change: impl FnOnce(&mut Manifest, &Path)) -> PathBuf {
        let unpacked = TempDir::new().unwrap();
        let tar =
            std::process::Command::new("tar").arg("xzf").arg(&self.backup).arg("-C").arg(unpacked.path()).status();
        assert!(tar.unwrap().success());
        let manifest = std::fs::read(unpacked.path().join("manifest.json")).unwrap();
        let mut manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
        change(&mut manifest, unpacked.path());
        let (file, mut pace) = (self.path(name), Pace::until(CancellationToken::new()));
        let out = std::fs::File::create(&file).unwrap();
        let place = |name: &str| unpacked.path().join(name);
        archive::write(out, &file, &manifest, place, &mut pace).unwrap();
        file
    }
}

/// Makes the manifest true of a database that was changed.
fn measure(manifest: &mut Manifest, unpacked: &Path) {
    let mut bytes = Vec::new();
    std::fs::File::open(unpacked.join("postrider.db")).unwrap().read_to_end(&mut bytes).unwrap();
    manifest.files[0].bytes = bytes.len() as u64;
    manifest.files[0].sha256 = postrider::secret::hex(digest(&SHA256, &bytes).as_ref());
}

#[tokio::test]
async fn what_is_damaged_cut_off_longer_or_newer_is_refused_and_nothing_is_touched() {
    let scene = Scene::new().await;
    let before = tree(&scene.data);
    let bytes = std::fs::read(&scene.backup).unwrap();
    let refused = async |name: &str, bytes: &[u8], words: &[&str]| {
        let file = scene.path(name);
        std::fs::write(&file, bytes).unwrap();
        let ended = scene.restore(&file).await;
        assert_eq!(ended.code, Some(125), "{name}: {ended:?}");
        assert!(words.iter().any(|word| ended.stderr.contains(word)), "{name}: {}", ended.stderr);
        assert_eq!(tree(&scene.data), before, "{name}");
        assert!(scene.beside().is_empty(), "{name}: {:?}", scene.beside());
    };
    let last = bytes.len() - 1;
    // In the header, the manifest, the database (several places) and both halves of gzip's own end.
    let places = [0, 5, 9, 40, last / 5, last / 3, last / 2, last * 3 / 4, last - 6, last - 1];
    for place in places {
        let mut flipped = bytes.clone();
        flipped[place] ^= 0x10;
        refused("flipped", &flipped, &["is damaged", "is not a backup"]).await;
    }
    for length in [0, 5, 10, 30, bytes.len() / 2, last - 7, last] {
        refused("cut", &bytes[..length], &["it ends too early", "is damaged"]).await;
    }
    refused("longer", &[bytes.as_slice(), b"more"].concat(), &["more in it"]).await;
    refused("twice", &[bytes.as_slice(), &bytes].concat(), &["more in it"]).await;
    refused("foreign", b"SQLite format 3\0 and so on", &["is not a backup"]).await;

    let forged = |name: &str, change: &dyn Fn(&mut Manifest, &Path)| {
        let file = scene.forged(name, change);
        std::fs::read(file).unwrap()
    };
    let newer = forged("f", &|manifest, _| manifest.format = 2);
    refused("newer-format", &newer, &["has format 2", "knows formats up to 1"]).await;
    let newer = forged("f", &|manifest, _| manifest.schema = 9999);
    refused("newer-schema", &newer, &["has schema version 9999"]).await;
    let lying = forged("f", &|manifest, unpacked| {
        let conn = rusqlite::Connection::open(unpacked.join("postrider.db")).unwrap();
        conn.pragma_update(None, "user_version", 9999).unwrap();
        measure(manifest, unpacked);
    });
    refused("lying-schema", &lying, &["schema version 9999"]).await;
    let fewer = forged("f", &|manifest, _| *manifest.rows.get_mut("commands").unwrap() -= 1);
    refused("other-rows", &fewer, &["does not hold what its manifest says"]).await;
    let unsound = forged("f", &|manifest, unpacked| {
        let conn = rusqlite::Connection::open(unpacked.join("postrider.db")).unwrap();
        let sql = "PRAGMA foreign_keys = off; UPDATE commands SET token_seq = 77";
        conn.execute_batch(sql).unwrap();
        measure(manifest, unpacked);
    });
    refused("parentless", &unsound, &["without what they belong to"]).await;
    let outside = forged("f", &|manifest, unpacked| {
        let name = "tls/authority-1.pem.sh";
        std::fs::copy(unpacked.join("seal.key"), unpacked.join(name)).unwrap();
        manifest.files[1].name = name.to_owned();
    });
    refused("other-name", &outside, &["what cannot be in a backup"]).await;
    let missing = forged("f", &|manifest, _| manifest.files.truncate(0));
    refused("no-database", &missing, &["what cannot be in a backup"]).await;

    let gone = scene.restore(&scene.path("no-such-file")).await;
    assert_eq!(gone.code, Some(125), "{gone:?}");
    assert_eq!(tree(&scene.data), before);
    // The good one is good, after all that.
    assert_eq!(scene.restore(&scene.backup).await.code, Some(0));
    assert_eq!(scene.knows().await, (true, false));
}

#[tokio::test]
async fn a_restored_server_is_the_same_and_the_state_before_is_kept_aside() {
    let scene = Scene::new().await;
    let (mut before, pins) = (tree(&scene.data), std::fs::read(scene.data.join("pins")).unwrap());
    let said = good(&scene.data, &["restore", text(&scene.backup), "--json"]).await.objects();
    assert_eq!((said.len(), &said[0]["owner_token"]), (1, &json!(true)), "{said:?}");
    let aside = PathBuf::from(said[0]["kept_aside"].as_str().unwrap());
    assert!(text(&aside).contains("server.before-restore-"), "{aside:?}");
    let here = |path: PathBuf| scene.data.join(path.strip_prefix(&aside).unwrap());
    // The restore has looked whose database it was; SQLite keeps an index for that.
    let is_told = |path: &Path| !path.ends_with("postrider.db-shm");
    let mut moved: BTreeMap<_, _> = tree(&aside).into_iter().map(|(path, found)| (here(path), found)).collect();
    moved.retain(|path, _| is_told(path));
    before.retain(|path, _| is_told(path));
    assert_eq!(moved, before, "to the byte");
    for (path, (mode, _)) in tree(&scene.data) {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode & 0o7777, expected, "{path:?}");
    }
    assert_eq!(std::fs::metadata(&scene.data).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(scene.knows().await, (true, false));
    assert_eq!(std::fs::read(scene.data.join("pins")).unwrap(), pins, "the same authority");
    // And again: each state has its own name.
    let said = scene.restore(&scene.backup).await;
    assert!(said.out().contains("start the server now"), "{said:?}");
    assert_eq!(scene.beside().len(), 2, "{:?}", scene.beside());
}

#[tokio::test]
async fn a_restore_elsewhere_makes_the_folder_and_leaves_others_alone() {
    let scene = Scene::new().await;
    let elsewhere = scene.path("new/host/server");
    let said = good(&elsewhere, &["restore", text(&scene.backup)]).await.out();
    assert!(said.contains("--new-owner-token") && !said.contains("before"), "{said}");
    let mut serve = postrider();
    serve.arg("serve").arg("--data").arg(&elsewhere).args(["--listen", "127.0.0.1:0", "--tls", "--new-owner-token"]);
    let server = ServerProcess::attach(Process::spawn(serve, scene.path("new.log")), &elsewhere).await;
    eventually("the owner's token is there", || async { elsewhere.join("owner.token").exists().then_some(()) }).await;
    assert_eq!(server.api.command(&scene.before).await["state"], "queued");

    // A server that runs, here or there, is not moved away.
    let ended = run(&elsewhere, &["restore", text(&scene.backup)]).await;
    assert_eq!(ended.code, Some(125));
    assert!(ended.stderr.contains("another server is using"), "{}", ended.stderr);
    assert_eq!(server.api.command(&scene.before).await["state"], "queued");
    assert_eq!(std::fs::read_dir(scene.path("new/host")).unwrap().count(), 1, "nothing is left beside it");

    // Nor is somebody's home; what systemd made for a server is taken.
    let home = scene.path("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("thesis.tex"), "").unwrap();
    let ended = run(&home, &["restore", text(&scene.backup)]).await;
    assert_eq!(ended.code, Some(125));
    assert!(ended.stderr.contains("would move it away"), "{}", ended.stderr);
    std::fs::remove_file(home.join("thesis.tex")).unwrap();
    std::os::unix::fs::symlink(&home, scene.path("link")).unwrap();
    let said = good(&scene.path("link"), &["restore", text(&scene.backup)]).await.out();
    assert!(!said.contains("before is in"), "{said}");
    assert!(home.join("postrider.db").exists() && scene.path("link").is_symlink(), "the link stays one");
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn a_kill_at_any_step_leaves_the_server_as_it_was_or_restored() {
    for (point, restored) in
        [("restore.unpacked", false), ("restore.ready", false), ("restore.exchanged", true), ("restore.swapped", true)]
    {
        let scene = Scene::new().await;
        let mut command = verb(&scene.data, &["restore", text(&scene.backup)]);
        command.env(CRASH_AT, point);
        let mut process = Process::spawn(command, scene.path("restore.log"));
        eventually(point, || std::future::ready(process.has_died().then_some(()))).await;
        assert_eq!(scene.beside().len(), 1, "{point}: {:?}", scene.beside());
        assert_eq!(scene.knows().await, (true, !restored), "{point}");
        // The next one cleans up, and loses no state.
        assert_eq!(scene.restore(&scene.backup).await.code, Some(0), "{point}");
        assert_eq!(scene.knows().await, (true, false), "{point}");
        let beside = scene.beside();
        assert!(beside.iter().all(|name| name.contains("before-restore")), "{point}: {beside:?}");
        assert_eq!(beside.len(), if restored { 2 } else { 1 }, "{point}: {beside:?}");
    }
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn no_new_server_begins_where_a_restore_was_not_finished() {
    let scene = Scene::new().await;
    let elsewhere = scene.path("elsewhere");
    let mut command = verb(&elsewhere, &["restore", text(&scene.backup)]);
    command.env(CRASH_AT, "restore.ready");
    let mut process = Process::spawn(command, scene.path("restore.log"));
    eventually("it died", || std::future::ready(process.has_died().then_some(()))).await;
    let data = TempDir::new_in(scene.folder.path()).unwrap();
    let path = data.path().to_owned();
    std::fs::rename(scene.path("elsewhere.restoring"), path.with_extension("restoring")).unwrap();
    let Err(error) = TestServer::start_in(data, |_| {}).await else { panic!("it started") };
    assert!(error.to_string().contains("run `postrider restore` again"), "{error}");
    good(&path, &["restore", text(&scene.backup)]).await;
    assert!(path.join("postrider.db").exists() && !path.with_extension("restoring").exists());
}

#[tokio::test]
async fn agents_that_forgot_the_authority_of_the_backup_know_the_restored_server() {
    let folder = TempDir::new().unwrap();
    let (data, backup) = (folder.path().join("server"), folder.path().join("one.backup"));
    let mut server = crate::tls::serve(&data, "127.0.0.1:0", &["--tls"]).await;
    let agent = TestAgent::start(&server.api, "web-1").await;
    good(&data, &["backup", text(&backup)]).await;
    let listed = good(&data, &["authority", "list", "--json"]).await.objects();
    let old = listed[0]["authorities"][0]["pin"].as_str().unwrap().to_owned();
    good(&data, &["authority", "rotate"]).await;
    eventually("the agent knows the newer one, and the old can be retired", || async {
        (run(&data, &["authority", "retire", &old]).await.code == Some(0)).then_some(())
    })
    .await;
    let credential = || std::fs::read_to_string(agent.data.join("agent.json")).unwrap();
    eventually("the agent forgot the old one", || async { (!credential().contains(&old)).then_some(()) }).await;
    let port = std::fs::read_to_string(data.join("listen")).unwrap();
    let port = port.trim().rsplit(':').next().unwrap();
    server.process.kill();
    let said = good(&data, &["restore", text(&backup), "--json"]).await.objects();
    assert_eq!(said[0]["authorities"], 1, "{said:?}");
    let server = crate::tls::serve(&data, &format!("127.0.0.1:{port}"), &["--tls"]).await;
    server.api.until_online("web-1", true).await;
    server.api.round_trip("web-1", "true").await;
}
