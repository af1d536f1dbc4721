//! Installations that go wrong: nothing is installed, and it is said why.

use crate::harness::api::{Api, Reply};
use crate::harness::cli::{Ended, run_with};
use crate::harness::eventually::eventually;
use crate::harness::installing::{NewHost, dummy, line, put_dummy, script};
use crate::harness::lane::Direction;
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::raw_agent::{enrollment, fresh_key};
use crate::harness::server::TestServer;
use crate::harness::small_disk::SmallDisk;
use postrider::protocol::join::JoinString;
use postrider::secret::{Secret, hex, sha256};
use postrider::server::agents_folder::AGENTS_FOLDER;
use postrider::server::install::executables::DOWNLOADS_MAX;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MIB: usize = 1024 * 1024;

fn nothing_came(host: &NewHost, ended: &Ended, why: &str) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(why), "{ended:?}");
    assert!(host.files().is_empty(), "{:?}", host.files());
}

async fn binary(api: &Api, platform: &str, bearer: &str) -> Reply {
    let bearer = format!("Bearer {bearer}");
    api.request("GET", &format!("/install/binary/{platform}"), &[("authorization", &bearer)], Vec::new()).await
}

#[tokio::test]
async fn an_executable_that_was_changed_cut_off_or_does_not_run_is_not_installed() {
    let server = TestServer::start().await;
    let (api, host) = (&server.api, NewHost::default());
    put_dummy(server.data.path(), 1, MIB);
    let (_, promised) = script(api, json!({})).await;
    put_dummy(server.data.path(), 2, MIB);
    nothing_came(&host, &host.sh(&["sh"], &promised).await, "not the one that the server promised");

    let (_, honest) = script(api, json!({})).await;
    nothing_came(&host, &host.sh(&["sh"], &honest).await, "does not run on this host");

    let proxy = Proxy::start(api.address()).await;
    put_dummy(server.data.path(), 3, 64 * MIB);
    let (_, slow) = script(api, json!({ "server_url": format!("http://{}", proxy.address) })).await;
    let (ended, ()) =
        tokio::join!(host.sh(&["sh"], &slow), proxy.cut_after(Direction::ToClient, 5 * MIB as u64, Cut::Fin));
    nothing_came(&host, &ended, "could not be downloaded");
    server.stop().await;
}

#[tokio::test]
async fn a_script_that_was_cut_off_does_nothing() {
    let server = TestServer::start().await;
    let (_, whole) = script(&server.api, json!({})).await;
    let host = NewHost::default();
    let end = whole.rfind("main \"$@\"").unwrap();
    // Every length near the end, where it could begin to do something, and some before.
    for length in (0..end).step_by(997).chain(end - 40..end + 4) {
        let ended = host.sh(&["sh"], &whole[..length]).await;
        assert!(host.files().is_empty() && !ended.out().contains("downloading"), "{length}: {ended:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_host_that_cannot_have_it_is_told_why() {
    let server = TestServer::start().await;
    let host = NewHost::default();
    put_dummy(server.data.path(), 1, MIB);
    let (_, text) = script(&server.api, json!({})).await;
    let other = |machine: &str, system: &str| {
        format!("uname() {{ case $1 in -m) echo {machine} ;; *) echo {system} ;; esac; }}\n{text}")
    };
    let (missing, foreign) = if cfg!(target_arch = "aarch64") { ("x86_64", "x86_64") } else { ("aarch64", "aarch64") };
    let ended = host.sh(&["sh"], &other(missing, "Linux")).await;
    nothing_came(
        &host,
        &ended,
        &format!("put one into the folder agents of the server's data folder, as postrider-linux-{foreign}"),
    );
    nothing_came(&host, &host.sh(&["sh"], &other("riscv64", "Linux")).await, "not built for linux-riscv64");
    nothing_came(&host, &host.sh(&["sh"], &other("x86_64", "Darwin")).await, "this is Darwin");
    let ended = host.sh(&["sh", "-s", "--", "--uninstall"], &text).await;
    nothing_came(&host, &ended, "postrider-uninstall");
    let ended = host.sh(&["sh", "-s", "--", "--name"], &text).await;
    nothing_came(&host, &ended, "--name NAME");

    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh"]);
    if !nix::unistd::geteuid().is_root() {
        nobody = Command::new("sh");
    }
    nobody.env_remove("DESTDIR").current_dir("/");
    let ended = run_with(nobody, text.as_bytes()).await;
    nothing_came(&host, &ended, "it needs root");

    fs::create_dir_all(host.at("usr/local/bin")).unwrap();
    fs::write(host.at("usr/local/bin/postrider"), "a server's").unwrap();
    let ended = host.sh(&["sh"], &text).await;
    assert!(ended.code == Some(1) && ended.stderr.contains("move it away first"), "{ended:?}");
    assert_eq!(host.files(), ["usr/local/bin/postrider"]);
    server.stop().await;
}

#[tokio::test]
async fn a_full_disk_and_a_place_that_cannot_be_written_keep_what_was_there() {
    let server = TestServer::start().await;
    put_dummy(server.data.path(), 1, 8 * MIB);
    let (_, text) = script(&server.api, json!({})).await;
    let host = NewHost::default();
    fs::write(host.at("usr"), "a file").unwrap();
    let ended = host.sh(&["sh"], &text).await;
    assert!(ended.code == Some(1) && ended.stderr.contains("cannot be made"), "{ended:?}");
    assert_eq!(host.files(), ["usr"]);

    let Some(disk) = SmallDisk::mount(4) else { return };
    let bin = disk.path().join("usr/local/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("postrider"), "an earlier one").unwrap();
    fs::create_dir_all(disk.path().join("usr/local/sbin")).unwrap();
    fs::write(disk.path().join("usr/local/sbin/postrider-uninstall"), "").unwrap();
    let mut command = Command::new("sh");
    command.env("DESTDIR", disk.path());
    let ended = run_with(command, text.as_bytes()).await;
    assert!(ended.code == Some(1) && ended.stderr.contains("could not be downloaded"), "{ended:?}");
    let left: Vec<_> = fs::read_dir(&bin).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["postrider"]);
    assert_eq!(fs::read_to_string(bin.join("postrider")).unwrap(), "an earlier one");
    server.stop().await;
}

#[tokio::test]
async fn the_line_gives_nothing_to_a_server_with_another_key() {
    let server = TestServer::start_with(|config| config.tls = true).await;
    let pasted = line(&server.api).await;
    let address = server.running.address;
    server.stop().await;
    let stranger = TestServer::start_with(|config| (config.tls, config.listen) = (true, address)).await;
    let host = NewHost::default();
    let ended = host.sh(&["sh"], &pasted).await;
    assert!(ended.stderr.contains("curl: (60)"), "{ended:?}");
    assert!(host.files().is_empty() && ended.out().is_empty(), "{ended:?}");
    let metrics = stranger.api.call("GET", "/metrics", Value::Null).await;
    assert!(!String::from_utf8(metrics.body).unwrap().contains("/install/"), "it was asked for nothing");
    stranger.stop().await;
}

#[tokio::test]
async fn a_join_string_that_enrolls_nobody_gets_nothing_and_is_not_repeated() {
    let server = TestServer::start().await;
    let api = &server.api;
    put_dummy(server.data.path(), 1, 100_000);
    let made = |body: Value| async { api.call("POST", "/api/join", body).await.json() };
    let revoked = made(json!({})).await;
    api.call("DELETE", &format!("/api/join/{}", revoked["id"].as_str().unwrap()), Value::Null).await;
    let used = made(json!({})).await;
    api.call("POST", "/api/enroll", enrollment(used["join"].as_str().unwrap(), &fresh_key(), "web-1")).await;
    let expired = made(json!({ "expires_s": 60 })).await;
    server.clock.set_offset_ms(61_000);
    let mut unknown = JoinString::decode(revoked["join"].as_str().unwrap()).unwrap();
    unknown.secret = Secret::generate("");
    let mut elsewhere = unknown.clone();
    elsewhere.server_id = postrider::protocol::ids::ServerId::new();
    let text = |made: &Value| made["join"].as_str().unwrap().to_owned();
    let cases = [
        (text(&revoked), "was revoked"),
        (text(&used), "used up"),
        (text(&expired), "has expired"),
        (unknown.encode(), "not known here"),
        (elsewhere.encode(), "another server"),
        (text(&used)[..60].to_owned(), "damaged or cut off"),
        ("it%27s%24(touch%20x)%60touch%20x%60".to_owned(), "not a join string"),
    ];
    let host = NewHost::default();
    for (join, why) in &cases {
        let reply = api.request("GET", &format!("/install/{join}"), &[], Vec::new()).await;
        assert_eq!(reply.status, 403, "{why}");
        let body = String::from_utf8(reply.body).unwrap();
        assert!(body.contains(why) && !body.contains(join.as_str()), "{body}");
        // Whoever leaves out curl's -f hands it to a shell.
        nothing_came(&host, &host.sh(&["sh"], &body).await, why);
        let reply = binary(api, "linux-x86_64", join).await;
        assert!(matches!(reply.status.as_u16(), 401 | 403), "{why}: {}", reply.status);
    }
    let audit = eventually("the refusals are in the audit", || async {
        let rows = api.get("/api/audit?limit=200").await.to_string();
        rows.contains("GET /install/{join}").then_some(rows)
    })
    .await;
    for (join, _) in &cases {
        assert!(!audit.contains(join.as_str()), "{audit}");
    }
    server.stop().await;
}

#[tokio::test]
async fn executables_are_for_holders_of_a_good_join_string_and_for_agents() {
    let server = TestServer::start().await;
    let api = &server.api;
    let path = put_dummy(server.data.path(), 1, 300_000);
    let arm = server.data.path().join(AGENTS_FOLDER).join("postrider-windows-aarch64");
    let join = api.join().await;
    let own = path.file_name().unwrap().to_str().unwrap().strip_prefix("postrider-").unwrap().to_owned();
    for _ in 0..2 {
        let reply = binary(api, &own, &join).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.headers["content-length"], "300000");
        assert_eq!(reply.headers["etag"], format!("\"{}\"", hex(&sha256(&fs::read(&path).unwrap()))).as_str());
        assert_eq!(reply.body, fs::read(&path).unwrap());
    }
    assert_eq!(binary(api, &own, &api.token).await.problem().0, 401, "an owner's token is for other things");
    let nobody = api.request("GET", &format!("/install/binary/{own}"), &[], Vec::new()).await;
    assert_eq!(nobody.problem().0, 401);
    for wrong in ["plan9-mips", "..", "%2e%2e%2fowner.token", "linux-x86_64.minisig"] {
        assert_eq!(binary(api, wrong, &join).await.status, 404, "{wrong}");
    }
    let missing = binary(api, "windows-aarch64", &join).await;
    assert_eq!(missing.problem(), (404, "no_executable".to_owned()));
    let detail = missing.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(&own) && detail.contains("as postrider-windows-aarch64"), "{detail}");
    fs::write(&arm, &dummy(62, 1, 1000)[..900]).unwrap();
    assert_eq!(binary(api, "windows-aarch64", &join).await.problem(), (503, "unfit_executable".to_owned()));

    let enrolled = api.call("POST", "/api/enroll", enrollment(&join, &fresh_key(), "web-1")).await.json();
    let agent = enrolled["agent_id"].as_str().unwrap().parse().unwrap();
    let token = server.running.app().fetch_token(agent);
    assert_eq!(binary(api, &own, &token).await.status, 200);
    api.call("DELETE", "/api/agents/web-1", Value::Null).await;
    assert_eq!(binary(api, &own, &token).await.problem().0, 401, "revoked");
    server.stop().await;
}

#[tokio::test]
async fn readers_that_never_read_take_the_places_until_they_go() {
    let server = TestServer::start().await;
    let api = &server.api;
    // More than fits into the sockets' buffers.
    let path = put_dummy(server.data.path(), 1, 64 * MIB);
    let own = path.file_name().unwrap().to_str().unwrap().strip_prefix("postrider-").unwrap().to_owned();
    let join = api.join().await;
    let mut crowd = Vec::new();
    for _ in 0..DOWNLOADS_MAX {
        let mut stream = TcpStream::connect(api.address()).await.unwrap();
        let request = format!("GET /install/binary/{own} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {join}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 15];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        crowd.push(stream);
    }
    let refused = binary(api, &own, &join).await;
    assert_eq!(refused.problem(), (503, "too_many_downloads".to_owned()));
    assert!(refused.headers.contains_key("retry-after"));
    put_dummy(server.data.path(), 1, MIB);
    drop(crowd);
    eventually("there is a place again", || async { (binary(api, &own, &join).await.status == 200).then_some(()) })
        .await;
    server.stop().await;
}
