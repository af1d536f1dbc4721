//! The service units: systemd takes them, and the server's leaves it little.

use crate::harness::process::binary;
use postrider::server::listener::CONNECTIONS_MAX;
use std::fs;
use std::process::{Command, Output};
use tempfile::TempDir;

/// What `systemd-analyze security` may find at the server at most, in tenths of its scale from 0 to 10.
const SERVER_EXPOSURE_MAX: &str = "--threshold=20";

fn unit(name: &str) -> String {
    fs::read_to_string(format!("{}/packaging/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Runs `systemd-analyze` on a copy of the unit that names the binary under test. None: it is not installed.
fn analyze(name: &str, args: &[&str]) -> Option<Output> {
    let folder = TempDir::new().unwrap();
    let copy = folder.path().join(name);
    let text = unit(name);
    assert!(text.contains("ExecStart=/usr/local/bin/postrider "), "{text}");
    fs::write(&copy, text.replace("/usr/local/bin/postrider", binary())).unwrap();
    match Command::new("systemd-analyze").args(args).arg(&copy).output() {
        Ok(output) => Some(output),
        Err(_) => {
            eprintln!("skipped: systemd-analyze is not installed");
            None
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn systemd_takes_the_units() {
    for name in ["postrider.service", "postrider-agent.service"] {
        let Some(verified) = analyze(name, &["verify"]) else { return };
        assert!(verified.status.success(), "{name}: {}", said(&verified));
        // It warns of what it does not know and goes on: to us that is wrong, too.
        let ours: Vec<_> = said(&verified).lines().filter(|line| line.contains(name)).map(str::to_owned).collect();
        assert!(ours.is_empty(), "{ours:?}");
    }
}

#[test]
fn the_servers_unit_leaves_it_little() {
    let security = ["security", "--offline=true", "--no-pager", SERVER_EXPOSURE_MAX];
    let Some(server) = analyze("postrider.service", &security) else { return };
    assert!(server.status.success(), "{}", said(&server));
    // The agent runs commands as root and is open on purpose: so the threshold is one.
    let agent = analyze("postrider-agent.service", &security).unwrap();
    assert!(!agent.status.success(), "{}", said(&agent));
}

#[test]
fn the_servers_unit_has_files_for_all_connections() {
    let text = unit("postrider.service");
    let files = text.lines().find_map(|line| line.strip_prefix("LimitNOFILE=")).unwrap();
    // `server/files.rs` keeps 128 for itself.
    assert_eq!(files.parse::<usize>().unwrap(), CONNECTIONS_MAX + 128);
}
