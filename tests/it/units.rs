//! The service units: systemd takes them, and the server's leaves it little.

use crate::harness::process::binary;
use clap::Parser;
use postrider::cli::args::Cli;
use postrider::server::listener::CONNECTIONS_MAX;
use postrider::server::serve::DRAIN_TIMEOUT;
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
    // The user, the executable and the manual page come with the package.
    let text = text.replace("ExecStart=/usr/bin/postrider ", &format!("ExecStart={} ", binary()));
    let text = text.replace("ExecStart=postrider ", &format!("ExecStart={} ", binary()));
    let text = text
        .replace("ExecStart=/usr/local/lib/postrider/releases/keeper/postrider ", &format!("ExecStart={} ", binary()));
    assert!(text.contains(&format!("ExecStart={} ", binary())), "{text}");
    let text = text.replace("User=postrider", "User=daemon");
    let text = text.replace("Group=postrider", "Group=daemon").replace("Documentation=man:", "#");
    fs::write(&copy, text).unwrap();
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
    for name in ["postrider.service", "postrider-rollback.service", "postrider-agent.service"] {
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

/// The value of a unit's line.
fn value(text: &str, key: &str) -> String {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.next_back().unwrap_or_else(|| panic!("no {key}")).to_owned()
}

#[test]
fn the_servers_unit_waits_for_the_drain_and_for_lingering_threads() {
    let stop: u64 = value(&unit("postrider.service"), "TimeoutStopSec").parse().unwrap();
    // `main.rs` lets busy threads linger for 5 s.
    assert!(stop > DRAIN_TIMEOUT.as_secs() + 5, "{stop}");
}

#[test]
fn the_units_start_what_the_command_line_knows_and_the_server_may_start_only_that() {
    // The server's has no path: an upgrade puts its link where systemd looks first.
    let units =
        [("postrider.service", "postrider", "serve"), ("postrider-agent.service", "/usr/bin/postrider", "agent")];
    for (name, program, verb) in units {
        let text = unit(name);
        let line = value(&text, "ExecStart");
        let words: Vec<_> = line.split(' ').collect();
        assert_eq!(words[..2], [program, verb]);
        assert!(Cli::try_parse_from(&words).is_ok(), "{line}");
        // What it does with a wrong flag or configuration.
        assert_eq!(value(&text, "RestartPreventExitStatus"), "2");
    }
    let server = unit("postrider.service");
    assert_eq!(value(&server, "Type"), "notify");
    let may = value(&server, "ExecPaths");
    assert!(may.starts_with("-/usr/bin/postrider -/usr/local/bin/postrider -/usr/local/lib/postrider "), "{may}");
    // What deals with an upgrade that was cut off, and with a crash loop.
    let keeper = "keeper/postrider upgrade ";
    let rollback = value(&unit("postrider-rollback.service"), "ExecStart");
    for line in [value(&server, "ExecStartPre"), rollback] {
        let (_, words) = line.split_once(keeper).unwrap();
        let words = words.trim_end_matches('\'').split(' ');
        assert!(Cli::try_parse_from(["postrider", "upgrade"].into_iter().chain(words)).is_ok(), "{line}");
    }
    assert_eq!(value(&server, "OnFailure"), "postrider-rollback.service");
    assert!(
        value(&server, "ExecStart").contains("--data %S/postrider") && value(&server, "StateDirectory") == "postrider"
    );
}
