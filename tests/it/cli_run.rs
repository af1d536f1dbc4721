//! `postrider run`: what a script gets back, as exit code and on both streams.

use crate::harness::agent::TestAgent;
use crate::harness::api::Api;
use crate::harness::cli::{good, run, run_with, verb};
use crate::harness::eventually::eventually;
use crate::harness::process::{Process, postrider};
use crate::harness::raw_agent::Identity;
use crate::harness::server::{TestServer, hold};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

/// An agent that enrolls with a tag, and is waited for.
async fn tagged(folder: &Path, api: &Api, name: &str, tag: &str) -> Process {
    let mut command = postrider();
    command.arg("agent").arg("--data").arg(folder.join(name)).args(["--name", name, "--tag", tag]);
    command.env("POSTRIDER_JOIN", api.join().await);
    let process = Process::spawn(command, folder.join(format!("{name}.log")));
    eventually(&format!("{name} online"), || async {
        let reply = api.call("GET", &format!("/api/agents/{name}"), Value::Null).await;
        (reply.status == 200 && reply.json()["online"] == true).then_some(())
    })
    .await;
    process
}

#[tokio::test]
async fn the_exit_code_of_a_single_agent_is_the_commands_own() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let cases: [(&[&str], i32); 7] = [
        (&["true"], 0),
        (&["exit 3"], 3),
        (&["sh", "-c", "exit 255"], 255),
        (&["postrider-has-no-such-program"], 127),
        (&["kill -9 $$"], 137),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["sh", "-c", "exit 125"], 125),
    ];
    for (words, code) in cases {
        let ended = run(server.data.path(), &[&["run", "web-1", "--"], words].concat()).await;
        assert_eq!(ended.code, Some(code), "{words:?}: {ended:?}");
    }
    let killed = run(server.data.path(), &["run", "web-1", "--", "kill -9 $$"]).await;
    assert!(killed.stderr.contains("web-1: ended by signal 9"), "{killed:?}");
    let late = run(server.data.path(), &["run", "web-1", "--timeout", "300ms", "--", "echo begun; sleep 600"]).await;
    assert_eq!((late.code, late.out().as_str()), (Some(124), "begun\n"), "{late:?}");
    assert!(late.stderr.contains("web-1: timed out"), "{late:?}");
    server.stop().await;
}

#[tokio::test]
async fn streams_stay_apart_and_bytes_stay_as_they_are() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let line = r"printf '\000\377\r\n\033[31m\200end'; echo to-stderr >&2; exit 4";
    let ended = run(server.data.path(), &["run", "web-1", "--", line]).await;
    assert_eq!(ended.stdout, b"\x00\xff\r\n\x1b[31m\x80end");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(4), "to-stderr\n"));
    server.stop().await;
}

#[tokio::test]
async fn the_command_gets_its_input_environment_folder_and_shell() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let data = server.data.path();
    let fed = run_with(verb(data, &["run", "web-1", "--stdin", "--", "cat; echo $?"]), "grüße\nzwei".as_bytes()).await;
    assert_eq!((fed.code, fed.out().as_str()), (Some(0), "grüße\nzwei0\n"), "{fed:?}");
    let line = "echo \"$ONE|$TWO\"; pwd";
    let set = good(data, &["run", "web-1", "--env", "ONE=1 = 1", "--env", "TWO=", "--cwd", "/usr", "--", line]).await;
    assert_eq!(set.out(), "1 = 1|\n/usr\n");
    let shell = good(data, &["run", "web-1", "--shell", "bash", "--", "x=(a b); echo ${x[1]}"]).await;
    assert_eq!(shell.out(), "b\n");
    // Several words are a program and its arguments: no shell takes them apart.
    let words = good(data, &["run", "web-1", "--", "printf", "%s;", "$HOME", "a  b", "*"]).await;
    assert_eq!(words.out(), "$HOME;a  b;*;");
    let binary = run_with(verb(data, &["run", "web-1", "--stdin", "--", "cat"]), b"\xff\xfe").await;
    assert_eq!(binary.code, Some(125));
    assert!(binary.stderr.contains("UTF-8"), "{binary:?}");
    let commands = server.api.get("/api/commands").await;
    assert_eq!(commands["commands"].as_array().unwrap().len(), 4, "what cannot be sent is not submitted: {commands}");
    server.stop().await;
}

#[tokio::test]
async fn postriders_own_failures_are_125_and_carry_the_cure() {
    let server = TestServer::start().await;
    let data = server.data.path();
    let unknown = run(data, &["run", "web-9", "--", "true"]).await;
    assert_eq!(unknown.code, Some(125), "{unknown:?}");
    assert!(unknown.stderr.contains("web-9") && unknown.stderr.contains("`postrider agents`"), "{unknown:?}");

    let mut wrong_token = postrider();
    wrong_token.args(["run", "web-1", "--server", &server.api.url, "--", "true"]).env("POSTRIDER_TOKEN", "prt_wrong");
    let wrong_token = run_with(wrong_token, b"").await;
    assert_eq!(wrong_token.code, Some(125), "{wrong_token:?}");
    assert!(wrong_token.stderr.contains("postrider login"), "{wrong_token:?}");

    let mut nowhere = postrider();
    nowhere.args(["run", "web-1", "--", "true"]);
    let nowhere = run_with(nowhere, b"").await;
    assert_eq!(nowhere.code, Some(125), "{nowhere:?}");
    assert!(nowhere.stderr.contains("--server") && nowhere.stderr.contains("--data"), "{nowhere:?}");

    let (url, address) = (server.api.url.clone(), server.api.address().to_owned());
    let folder = server.stop().await;
    let _held = hold(&address);
    let mut gone = verb(folder.path(), &["run", "web-1", "--server", &url, "--", "true"]);
    gone.env("POSTRIDER_TOKEN", "prt_any");
    let gone = run_with(gone, b"").await;
    assert_eq!(gone.code, Some(125), "{gone:?}");
    assert!(gone.stderr.contains(&url) && gone.stderr.contains("postrider serve"), "{gone:?}");
    let stopped = run(folder.path(), &["run", "web-1", "--", "true"]).await;
    assert_eq!(stopped.code, Some(125), "{stopped:?}");
    assert!(stopped.stderr.contains("has it been started?"), "{stopped:?}");
    assert!(gone.stdout.is_empty());
}

#[tokio::test]
async fn a_wrong_command_line_is_2_and_submits_nothing() {
    let server = TestServer::start().await;
    Identity::enroll(&server.api, "web-1").await;
    let cases: [&[&str]; 10] = [
        &["run", "web-1"],
        &["run", "--", "true"],
        &["run", "web-1", "--all", "--", "true"],
        &["run", "web-1", "--timeout", "25h", "--", "true"],
        &["run", "web-1", "--timeout", "soon", "--", "true"],
        &["run", "web-1", "--ttl", "31d", "--", "true"],
        &["run", "--tag", "berlin", "--", "true"],
        &["run", "web-1", "--shell", "fish", "--", "true"],
        &["run", "web-1", "--nowait", "--", "true"],
        &["runn", "web-1", "--", "true"],
    ];
    for words in cases {
        let ended = run(server.data.path(), words).await;
        assert_eq!(ended.code, Some(2), "{words:?}: {ended:?}");
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{words:?}: {ended:?}");
    }
    assert_eq!(server.api.get("/api/commands").await["commands"], serde_json::json!([]));
    server.stop().await;
}

#[tokio::test]
async fn several_agents_have_prefixes_a_table_and_zero_or_one() {
    let server = TestServer::start().await;
    let folder = TempDir::new().unwrap();
    let _web = tagged(folder.path(), &server.api, "web-1", "site=berlin").await;
    let _db = tagged(folder.path(), &server.api, "db", "site=bonn").await;
    let data = server.data.path();
    let both = good(data, &["run", "web-1", "db", "--", "echo one; echo -n two; echo err >&2"]).await;
    let out = both.out();
    let mut lines: Vec<_> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["db    | one", "db    | two", "web-1 | one", "web-1 | two"]);
    assert!(both.stderr.contains("db    | err\n") && both.stderr.contains("web-1 | err\n"), "{both:?}");
    // The table is for people: it does not mix with the output.
    for row in ["web-1", "db"] {
        let in_table = |line: &&str| line.contains(row) && line.contains("succeeded");
        assert_eq!(both.stderr.lines().filter(in_table).count(), 1, "{both:?}");
    }
    // Only the first one can make the folder.
    let line = format!("mkdir {}/once", folder.path().display());
    let split = run(data, &["run", "--all", "--confirm", "2", "--", &line]).await;
    assert_eq!(split.code, Some(1), "{split:?}");
    for (state, count) in [("succeeded", 1), ("failed", 1)] {
        assert_eq!(split.stderr.lines().filter(|line| line.contains(state)).count(), count, "{split:?}");
    }
    let tagged = good(data, &["run", "--tag", "site=bonn", "--json", "--", "true"]).await;
    let last = tagged.objects().pop().unwrap();
    assert_eq!(last["deliveries"].as_array().unwrap().len(), 1, "{last}");
    assert_eq!(last["deliveries"][0]["agent_name"], "db");
    let all = good(data, &["run", "--all", "--confirm", "2", "--json", "--", "true"]).await;
    assert_eq!(all.objects().pop().unwrap()["deliveries"].as_array().unwrap().len(), 2);
    let none = run(data, &["run", "--tag", "site=rome", "--", "true"]).await;
    assert_eq!(none.code, Some(125), "{none:?}");
    server.stop().await;
}

#[tokio::test]
async fn json_is_one_object_a_line_and_the_last_is_the_command() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let ended = run(server.data.path(), &["run", "web-1", "--json", "--", "echo out; echo err >&2; exit 3"]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(3), ""), "{ended:?}");
    let mut objects = ended.objects();
    let command = objects.pop().unwrap();
    assert_eq!((&command["state"], &command["deliveries"][0]["exit_code"]), (&"failed".into(), &3.into()));
    let of = |kind: &str| objects.iter().filter(|object| object["event"] == kind).count();
    assert_eq!((of("output"), of("transition")), (2, 5), "{objects:?}");
    assert_eq!(objects.len(), 7, "nothing else: {objects:?}");
    let passed = objects
        .iter()
        .filter_map(|object| object["data"]["transition"]["event"].as_str().or(object["data"]["event"].as_str()));
    assert_eq!(passed.collect::<Vec<_>>(), ["queued", "dispatched", "accepted", "running", "failed"]);
    server.stop().await;
}

#[tokio::test]
async fn no_wait_prints_the_id_alone() {
    let server = TestServer::start().await;
    Identity::enroll(&server.api, "laptop").await;
    let data = server.data.path();
    let ended = good(data, &["run", "laptop", "--no-wait", "--note", "ticket 4711", "--", "true"]).await;
    let command = server.api.command(ended.out().trim_end()).await;
    assert_eq!((&command["state"], &command["note"]), (&"queued".into(), &"ticket 4711".into()));
    assert_eq!(ended.stderr, "");
    let json = good(data, &["run", "laptop", "--no-wait", "--json", "--", "true"]).await;
    assert_eq!(json.objects()[0]["state"], "queued");
    server.stop().await;
}

#[tokio::test]
async fn a_delivery_that_expires_or_is_cancelled_is_125() {
    let server = TestServer::start().await;
    Identity::enroll(&server.api, "laptop").await;
    let data = server.data.path();
    let expired = run(data, &["run", "laptop", "--ttl", "1s", "--", "true"]).await;
    assert_eq!(expired.code, Some(125), "{expired:?}");
    assert!(expired.stderr.contains("laptop: expired"), "{expired:?}");

    let waits = run(data, &["run", "laptop", "--", "true"]);
    let cancels = async {
        let id = eventually("the command is there", || async {
            let queued = server.api.get("/api/commands?state=queued").await;
            queued["commands"][0]["id"].as_str().map(str::to_owned)
        })
        .await;
        good(data, &["cancel", &id]).await
    };
    let (cancelled, answer) = tokio::join!(waits, cancels);
    assert_eq!(answer.out(), "1 cancelled\n");
    assert_eq!(cancelled.code, Some(125), "{cancelled:?}");
    assert!(cancelled.stderr.contains("laptop: cancelled"), "{cancelled:?}");
    server.stop().await;
}

#[tokio::test]
async fn output_over_the_limit_says_how_much_was_dropped() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let line = "echo FIRST; head -c 3000000 /dev/zero | tr '\\000' x; echo; echo LAST";
    let ended = good(server.data.path(), &["run", "web-1", "--", line]).await;
    let kept = ended.stdout.len();
    assert!(kept <= 1024 * 1024, "{kept} bytes");
    assert!(ended.stdout.starts_with(b"FIRST\nx") && ended.stdout.ends_with(b"x\nLAST\n"), "the middle goes");
    let whole = "FIRST\n\nLAST\n".len() + 3_000_000;
    assert!(ended.stderr.contains(&format!("[… {} bytes of stdout dropped …]", whole - kept)), "{}", ended.stderr);
    server.stop().await;
}
