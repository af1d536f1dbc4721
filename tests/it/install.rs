//! The line that installs an agent: what users run, from a real server, by the shells that they have.

use crate::harness::cli::good;
use crate::harness::installing::{NewHost, line, script};
use crate::harness::process::{Process, ServerProcess, binary, postrider};
use crate::tls::PublicIssuer;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use tempfile::TempDir;

/// Shells that may be a host's `sh`, as far as this one has them.
fn shells() -> Vec<Vec<&'static str>> {
    let all: [&[&str]; 4] = [&["sh"], &["dash"], &["busybox", "sh"], &["bash", "--posix"]];
    let there = |shell: &&[&str]| {
        Command::new(shell[0]).args(&shell[1..]).args(["-c", "true"]).output().is_ok_and(|ended| ended.status.success())
    };
    all.into_iter().filter(there).map(<[_]>::to_vec).collect()
}

async fn server(data: &TempDir, flags: &[&str]) -> ServerProcess {
    let mut command = postrider();
    command.arg("serve").arg("--data").arg(data.path()).args(["--listen", "127.0.0.1:0"]).args(flags);
    ServerProcess::attach(Process::spawn(command, data.path().with_extension("log")), data.path()).await
}

fn agent(host: &NewHost) -> Process {
    let mut command = Command::new(host.at("usr/local/bin/postrider"));
    command.arg("agent").arg("--data").arg(host.at("var/lib/postrider-agent"));
    Process::spawn(command, host.root().join("agent.log"))
}

#[tokio::test]
async fn the_line_installs_an_agent_that_runs_commands_whatever_the_shell() {
    let data = TempDir::new().unwrap();
    // With its own authority, which no host trusts.
    let server = server(&data, &["--tls"]).await;
    for (number, shell) in shells().into_iter().enumerate() {
        let host = NewHost::default();
        let name = format!("web-{number}");
        let line = line(&server.api).await;
        let line = line.strip_suffix("| sh").unwrap();
        assert!(line.contains("--cacert") && !line.contains(" -k"), "{line}");
        let with = format!("{line} | {} -s -- --name {name} --tag role=web", shell.join(" "));
        let ended = host.sh(&shell, &with).await;
        assert_eq!(ended.code, Some(0), "{shell:?}: {ended:?}");
        assert!(ended.out().contains(&format!("{name} is installed and enrolled")), "{ended:?}");
        let installed = host.at("usr/local/bin/postrider");
        assert_eq!(fs::read(&installed).unwrap(), fs::read(binary()).unwrap());
        assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o7777, 0o755);
        let unit = fs::read_to_string(host.at("etc/systemd/system/postrider-agent.service")).unwrap();
        assert!(unit.contains("\nExecStart=/usr/local/bin/postrider agent --data %S/postrider-agent\n"), "{unit}");
        // The join string is nowhere.
        for file in host.files().iter().filter(|file| !file.ends_with("bin/postrider")) {
            let text = fs::read(host.at(file)).unwrap();
            assert!(!String::from_utf8_lossy(&text).contains("prj1_ey"), "{file}");
        }
        let _agent = agent(&host);
        let shown = server.api.until_online(&name, true).await;
        assert_eq!(shown["tags"]["role"], "web");
        server.api.round_trip(&name, "echo it works").await;
    }
}

#[tokio::test]
async fn run_again_it_replaces_the_executable_keeps_the_identity_and_uses_nothing_up() {
    let data = TempDir::new().unwrap();
    let server = server(&data, &[]).await;
    let host = NewHost::default();
    let (_, first) = script(&server.api, json!({})).await;
    assert_eq!(host.sh(&["sh"], &first).await.code, Some(0));
    let identity = fs::read(host.at("var/lib/postrider-agent/agent.json")).unwrap();
    let installed = host.at("usr/local/bin/postrider");
    fs::write(&installed, "#!/bin/sh\n# an earlier one\n").unwrap();

    let made = server.api.call("POST", "/api/join", json!({})).await.json();
    let (join, id) = (made["join"].as_str().unwrap(), &made["id"]);
    let reply = server.api.request("GET", &format!("/install/{join}"), &[], Vec::new()).await;
    let again = String::from_utf8(reply.body).unwrap();
    let ended = host.sh(&["sh"], &again).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out().contains("downloading"), "{ended:?}");
    assert_eq!(fs::read(&installed).unwrap(), fs::read(binary()).unwrap());
    let ended = host.sh(&["sh"], &again).await;
    assert!(ended.code == Some(0) && !ended.out().contains("downloading"), "the same is there: {ended:?}");
    assert_eq!(fs::read(host.at("var/lib/postrider-agent/agent.json")).unwrap(), identity);
    let joins = server.api.get("/api/join").await;
    let left = joins["joins"].as_array().unwrap().iter().find(|join| join["id"] == *id).unwrap();
    assert_eq!(left["uses"], 0, "{left}");

    let other = TempDir::new().unwrap();
    let stranger = self::server(&other, &[]).await;
    let (_, theirs) = script(&stranger.api, json!({})).await;
    let ended = host.sh(&["sh"], &theirs).await;
    assert!(ended.code == Some(1) && ended.stderr.contains("another server"), "{ended:?}");

    let uninstall = host.at("usr/local/sbin/postrider-uninstall");
    let text = fs::read_to_string(&uninstall).unwrap();
    let ended = host.sh(&["sh", "-s", "--", "--everything"], &text).await;
    assert!(ended.code == Some(1) && installed.exists(), "{ended:?}");
    let ended = host.sh(&["sh"], &text).await;
    assert!(ended.code == Some(0) && ended.out().contains("postrider agents revoke "), "{ended:?}");
    assert!(host.files().iter().all(|file| file.starts_with("var/lib/postrider-agent/")), "{:?}", host.files());
    assert_eq!(fs::read(host.at("var/lib/postrider-agent/agent.json")).unwrap(), identity);
    let ended = host.sh(&["sh", "-s", "--", "--purge"], &text).await;
    assert!(ended.code == Some(0) && host.files().is_empty(), "{ended:?} {:?}", host.files());
}

#[tokio::test]
async fn the_line_is_printed_alone_and_short_where_the_certificate_is_trusted_anyway() {
    let data = TempDir::new().unwrap();
    let _server = server(&data, &[]).await;
    let plain = good(data.path(), &["join", "create"]).await.out();
    assert!(plain.starts_with("prj1_") && plain.lines().count() == 1, "{plain}");
    let line = good(data.path(), &["join", "create", "--install"]).await.out();
    assert!(line.starts_with("curl -fsS http://127.0.0.1:") && line.ends_with(" | sh\n"), "{line}");

    let behind = TempDir::new().unwrap();
    let _proxied = server(&behind, &["--behind-proxy", "--public-url", "https://msp.example"]).await;
    let line = good(behind.path(), &["join", "create", "--install"]).await.out();
    assert!(line.starts_with("curl -fsS https://msp.example/install/prj1_"), "{line}");
}

#[tokio::test]
async fn with_a_public_certificate_the_line_is_short_where_that_is_for_the_address() {
    let (data, files) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let at = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    PublicIssuer::new(at("root.pem").as_ref()).certify(at("chain.pem").as_ref(), at("key.pem").as_ref());
    let server = server(&data, &["--tls-cert", &at("chain.pem"), "--tls-key", &at("key.pem")]).await;
    let listen = fs::read_to_string(data.path().join("listen")).unwrap();
    let port = listen.trim().rsplit(':').next().unwrap();
    let line = async |host: &str| {
        let url = format!("https://{host}:{port}");
        let made = server.api.call("POST", "/api/join", json!({ "server_url": url })).await.json();
        made["install"].as_str().unwrap().to_owned()
    };
    let short = line("localhost").await;
    assert!(short.starts_with("curl -fsS https://localhost:"), "{short}");
    let long = line("127.0.0.1").await;
    assert!(long.contains("--cacert"), "{long}");
    let trusting = format!("export CURL_CA_BUNDLE={}\n{short}", at("root.pem"));
    for (text, installs) in [(&long, true), (&trusting, true), (&short, false)] {
        let host = NewHost::default();
        let ended = host.sh(&["sh"], text).await;
        assert_eq!(host.at("usr/local/bin/postrider").exists(), installs, "{text}: {ended:?}");
        assert_eq!(ended.stderr.contains("curl: (60)"), !installs, "{ended:?}");
    }
}

#[tokio::test]
async fn a_server_hands_out_the_executable_that_it_runs_whatever_took_its_name() {
    let (data, place) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let copy = place.path().join("postrider");
    fs::copy(binary(), &copy).unwrap();
    let mut command = Command::new(&copy);
    command.arg("serve").arg("--data").arg(data.path()).args(["--listen", "127.0.0.1:0"]);
    let process = Process::spawn(command, place.path().join("log"));
    let server = ServerProcess::attach(process, data.path()).await;
    fs::write(place.path().join("new"), "another version").unwrap();
    fs::rename(place.path().join("new"), &copy).unwrap();
    let host = NewHost::default();
    let (_, text) = script(&server.api, json!({})).await;
    let ended = host.sh(&["sh"], &text).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(fs::read(host.at("usr/local/bin/postrider")).unwrap(), fs::read(binary()).unwrap());
    // Where another unit starts the same file, it stays.
    fs::write(host.at("etc/systemd/system/postrider.service"), "ExecStart=/usr/local/bin/postrider serve\n").unwrap();
    let text = fs::read_to_string(host.at("usr/local/sbin/postrider-uninstall")).unwrap();
    let ended = host.sh(&["sh"], &text).await;
    assert!(ended.code == Some(0) && ended.out().contains("another unit"), "{ended:?}");
    assert!(host.at("usr/local/bin/postrider").exists());
}

#[test]
fn shellcheck_has_nothing_to_say() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/install");
    let settings = "#!/bin/sh\nshown=x join=x server_id=x url=x authority=x connect_to=x unit=x uninstall=x\n\
        executable() { sha256=x bytes=1; }\n";
    let install = settings.to_owned() + &fs::read_to_string(format!("{folder}/install.sh")).unwrap();
    let uninstall = fs::read_to_string(format!("{folder}/uninstall.sh")).unwrap();
    for text in [install, uninstall] {
        let copy = tempfile::NamedTempFile::new().unwrap();
        fs::write(copy.path(), text).unwrap();
        let Ok(checked) = Command::new("shellcheck").args(["--shell=sh"]).arg(copy.path()).output() else {
            eprintln!("skipped: shellcheck is not installed");
            return;
        };
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }
}
