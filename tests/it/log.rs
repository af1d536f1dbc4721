//! The log of the real binary: text, JSON, and with the priorities of systemd's journal.

use crate::harness::agent::TestAgent;
use crate::harness::eventually::eventually;
use crate::harness::process::{Process, ServerProcess, postrider};
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn serve(data: &Path, more: &[&str]) -> Command {
    let mut command = postrider();
    command.arg("serve").arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]).args(more);
    command
}

/// Stands for the journal: what is written here is what `JOURNAL_STREAM` names.
fn as_journal(command: &mut Command, log: &Path) {
    let meta = File::create(log).unwrap().metadata().unwrap();
    command.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()));
}

/// The lines of the log: standard output has one of its own.
fn logged(process: &Process) -> Vec<String> {
    process.printed().lines().filter(|line| !line.starts_with("listening on ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_line_of_json_is_an_object_with_time_level_and_fields() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let process = Process::spawn(serve(&data, &["--log", "json"]), folder.path().join("log"));
    let mut server = ServerProcess::attach(process, &data).await;
    let mut agent = TestAgent::start_with(&server.api, "web-1", &["--log", "json"]).await;
    agent.process.kill();
    eventually("the agent's end is logged", || async {
        server.process.printed().contains("agent's session ended").then_some(())
    })
    .await;
    server.process.signal("TERM");
    assert_eq!(server.process.ended().await, Some(0));
    let mut seen = Vec::new();
    for line in logged(&server.process).iter().chain(&logged(&agent.process)) {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let time = line["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{line}");
        assert!(["error", "warn", "info"].contains(&line["level"].as_str().unwrap()), "{line}");
        assert!(line["target"].as_str().unwrap().starts_with("postrider"), "{line}");
        seen.push((line["message"].as_str().unwrap().to_owned(), line["level"].clone(), line["fields"].clone()));
    }
    let (_, level, fields) = seen.iter().find(|(message, ..)| message == "agent's session ended").unwrap();
    assert_eq!((level.as_str(), &fields["agent"], fields["epoch"].is_u64()), (Some("warn"), &"web-1".into(), true));
    let connected = seen.iter().find(|(message, ..)| message.starts_with("connected to http://")).unwrap();
    assert_eq!(connected.2["agent"], "web-1");
}

#[tokio::test]
async fn what_goes_to_the_journal_has_a_priority_and_no_time() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let log = folder.path().join("log");
    let mut command = serve(&data, &["--new-owner-token"]);
    as_journal(&mut command, &log);
    let server = ServerProcess::attach(Process::spawn(command, log), &data).await;
    // Where a journal listens, they went there.
    if Path::new("/run/systemd/journal/socket").exists() {
        return eprintln!("skipped: there is a journal here");
    }
    let lines = logged(&server.process);
    let warned = lines.iter().find(|line| line.contains("the earlier ones stay good")).unwrap();
    assert!(warned.starts_with("<4>a new owner's token"), "{warned}");
    assert!(lines.iter().all(|line| line.starts_with("<4>") || line.starts_with("<6>")), "{lines:?}");
}

#[tokio::test]
async fn why_it_ends_is_an_error_to_the_journal_too() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let first = ServerProcess::start(&data, 0).await;
    for (more, code, why) in [
        (&["--log", "json"][..], 1, "<3>postrider: another server is using the data folder"),
        (&["--config", "/nonexistent/p.toml"], 2, "<3>postrider: /nonexistent/p.toml: there is no such file"),
    ] {
        let log = folder.path().join("log");
        let mut command = serve(&data, more);
        as_journal(&mut command, &log);
        let mut second = Process::spawn(command, log);
        assert_eq!(second.ended().await, Some(code));
        assert!(second.printed().contains(why), "{}", second.printed());
    }
    drop(first);
}

#[tokio::test]
async fn another_file_in_the_journals_place_gets_lines_with_a_time() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut command = serve(&data, &[]);
    command.env("JOURNAL_STREAM", "1:1").env("POSTRIDER_LOG_FORMAT", "text");
    let server = ServerProcess::attach(Process::spawn(command, folder.path().join("log")), &data).await;
    let lines = logged(&server.process);
    assert!(lines.iter().all(|line| line.starts_with("20") && line.contains(" INFO ")), "{lines:?}");
}
