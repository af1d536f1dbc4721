//! The host around it: its clock, and the unit.

use crate::server::check::{Finding, Verdict};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// How long a program may take to answer.
const ASK_MAX: Duration = Duration::from_secs(10);
/// Restarts by systemd that are worth a word.
const RESTARTS_NOTED: u32 = 1;

/// Whether somebody keeps the clock right. Expiry, certificates and history go by it.
pub async fn clock() -> Finding {
    let finding = |verdict, text: &str| Finding::new(verdict, "clock", text);
    let asked = ["show", "--property=NTPSynchronized", "--value"];
    match say("timedatectl", &asked).await.as_deref().map(str::trim) {
        Some("yes") => finding(Verdict::Good, "this host's clock is kept by a time server"),
        Some("no") => finding(
            Verdict::Note,
            "this host's clock is not kept by a time server, as far as systemd knows: `timedatectl set-ntp true`",
        ),
        _ => finding(
            Verdict::Note,
            "whether a time server keeps this host's clock is not known: see to it that one does",
        ),
    }
}

/// What systemd says of the unit.
pub async fn unit(name: &str) -> Finding {
    let finding = |verdict, text: String| Finding::new(verdict, "unit", format!("{name} {text}"));
    let asked = ["show", "--property=LoadState,ActiveState,UnitFileState,NRestarts,Result", name];
    let Some(said) = say("systemctl", &asked).await else {
        return finding(Verdict::Note, "is not looked at: this host has no systemd that answers".to_owned());
    };
    let states: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once('=')).collect();
    let state = |key: &str| states.get(key).copied().unwrap_or_default();
    let restarts: u32 = state("NRestarts").parse().unwrap_or(0);
    match (state("LoadState"), state("ActiveState")) {
        ("not-found", _) => finding(Verdict::Note, "is not installed: something else must start it".to_owned()),
        ("masked", _) => finding(Verdict::Wrong, format!("is masked: `systemctl unmask {name}`")),
        (_, "failed") => finding(
            Verdict::Wrong,
            format!(
                "has failed ({}): `journalctl -u {name} -p warning`, then `systemctl restart {name}`",
                state("Result")
            ),
        ),
        (_, "inactive") => finding(Verdict::Wrong, format!("does not run: `systemctl enable --now {name}`")),
        (_, "active") if state("UnitFileState") != "enabled" => {
            finding(Verdict::Note, format!("runs, and will not after a restart of the host: `systemctl enable {name}`"))
        }
        (_, "active") if restarts >= RESTARTS_NOTED => finding(
            Verdict::Note,
            format!("runs, after {restarts} restarts by systemd: `journalctl -u {name} -p warning` says why"),
        ),
        (_, "active") => finding(Verdict::Good, "runs and is enabled".to_owned()),
        (_, other) => finding(Verdict::Note, format!("is {other}: look again in a moment")),
    }
}

/// What a program says; none: it is not there, or failed.
async fn say(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = timeout(ASK_MAX, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
