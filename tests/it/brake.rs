//! The brake: submissions that reach many agents, or all of them, are taken when somebody has said how many there are.

use crate::harness::api::{Api, Reply};
use crate::harness::cli::{good, run};
use crate::harness::process::{Process, ServerProcess, binary, postrider};
use crate::harness::raw_agent::{Identity, enrollment, fresh_key};
use crate::harness::server::TestServer;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ALL: &str = r#"{"all": true}"#;

async fn send(api: &Api, targets: &str, confirm: Value) -> Reply {
    let targets: Value = serde_json::from_str(targets).unwrap();
    let mut body = json!({ "command": "true", "targets": targets });
    if !confirm.is_null() {
        body["confirm"] = confirm;
    }
    api.call("POST", "/api/commands", body).await
}

/// The number that a refusal asks for, and the names that it lists.
fn asked(reply: &Reply) -> (u64, Vec<String>) {
    assert_eq!(reply.problem(), (409, "confirm_needed".to_owned()));
    let body = reply.json();
    let names = body["candidates"].as_array().into_iter().flatten();
    (body["count"].as_u64().unwrap(), names.map(|agent| agent["name"].as_str().unwrap().to_owned()).collect())
}

async fn commands(api: &Api) -> usize {
    api.get("/api/commands").await["commands"].as_array().unwrap().len()
}

async fn enroll_at(api: &Api, site: &str, count: usize) {
    let join = api.call("POST", "/api/join", json!({ "site": site, "uses": count })).await.json();
    for number in 0..count {
        let body = enrollment(join["join"].as_str().unwrap(), &fresh_key(), &format!("{site}-{number}"));
        assert_eq!(api.call("POST", "/api/enroll", body).await.status, 201);
    }
}

async fn technician(api: &Api, scope: Value) -> Api {
    let body = json!({ "name": "tom", "role": "technician", "scope": scope });
    let made = api.call("POST", "/api/tokens", body).await.json();
    Api { url: api.url.clone(), token: made["token"].as_str().unwrap().to_owned() }
}

#[tokio::test]
async fn a_technician_says_how_many_above_a_number() {
    let server = TestServer::start().await;
    let api = &server.api;
    enroll_at(api, "berlin", 26).await;
    let tom = technician(api, json!({})).await;
    let berlin = r#"{"tags": {"site": "berlin"}}"#;
    let (count, names) = asked(&send(&tom, berlin, Value::Null).await);
    assert_eq!((count, names.len(), names[19].as_str()), (26, 20, "berlin-19"), "the first twenty");
    let wrong = send(&tom, berlin, json!(25)).await;
    assert_eq!(asked(&wrong).0, 26);
    let detail = wrong.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("26") && detail.contains("25") && detail.contains("nothing was submitted"), "{detail}");
    assert_eq!(commands(api).await, 0);
    let bad = send(&tom, berlin, json!("26")).await;
    assert_eq!(bad.problem(), (422, "invalid_field".to_owned()));
    let taken = send(&tom, berlin, json!(26)).await;
    assert_eq!((taken.status.as_u16(), taken.json()["deliveries"].as_array().unwrap().len()), (201, 26));
    // Named one by one they are as many, and so it is up to the number itself.
    let named = |count: usize| {
        let names: Vec<_> = (0..count).map(|number| format!("berlin-{number}")).collect();
        json!({ "agents": names }).to_string()
    };
    assert_eq!(asked(&send(&tom, &named(26), Value::Null).await).0, 26);
    assert_eq!(send(&tom, &named(25), Value::Null).await.status, 201);
    // An owner is asked about all agents only; but a number that is given is held to by anybody.
    assert_eq!(send(api, berlin, Value::Null).await.status, 201);
    assert_eq!(asked(&send(api, &named(1), json!(2)).await), (1, vec!["berlin-0".to_owned()]));
    let one = tom.call("POST", "/api/agents/berlin-0/command", json!({ "command": "true", "confirm": 3 })).await;
    assert_eq!(asked(&one).0, 1);
    server.stop().await;
}

#[tokio::test]
async fn all_agents_are_counted_by_anybody_and_in_the_transaction() {
    let server = TestServer::start().await;
    let api = &server.api;
    enroll_at(api, "berlin", 1).await;
    enroll_at(api, "munich", 1).await;
    assert_eq!(asked(&send(api, ALL, Value::Null).await), (2, vec!["berlin-0".to_owned(), "munich-0".to_owned()]));
    // One who came since is not met unseen; one who waits for approval is not met at all.
    enroll_at(api, "potsdam", 1).await;
    let pending = api.call("POST", "/api/join", json!({ "approve": true })).await.json();
    Identity::enroll_with(api, pending["join"].as_str().unwrap(), "stranger").await;
    assert_eq!(asked(&send(api, ALL, json!(2)).await).0, 3);
    assert_eq!(commands(api).await, 0);
    assert_eq!(send(api, ALL, json!(3)).await.status, 201);
    // Within a scope all are those of the scope, and nothing is told of others.
    let tom = technician(api, json!({ "site": ["munich"] })).await;
    assert_eq!(asked(&send(&tom, ALL, json!(3)).await), (1, vec!["munich-0".to_owned()]));
    let taken = send(&tom, ALL, json!(1)).await.json();
    assert_eq!(taken["deliveries"].as_array().unwrap().len(), 1, "{taken}");
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_takes_no_idempotency_key_and_a_repetition_is_not_asked_again() {
    let server = TestServer::start().await;
    let api = &server.api;
    enroll_at(api, "berlin", 2).await;
    let bearer = format!("Bearer {}", api.token);
    let send = |confirm: &'static str| {
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", "k")];
        let body = format!(r#"{{"command": "true", "targets": {ALL}{confirm}}}"#);
        async move { api.request("POST", "/api/commands", &headers, body.into_bytes()).await }
    };
    assert_eq!(asked(&send("").await).0, 2);
    let taken = send(r#", "confirm": 2"#).await;
    assert_eq!(taken.status, 201);
    // The same again is the same command, whoever has come since; the key is bound to the body as it was sent.
    enroll_at(api, "munich", 1).await;
    let again = send(r#", "confirm": 2"#).await;
    assert_eq!((again.status.as_u16(), &again.json()["id"]), (200, &taken.json()["id"]));
    assert_eq!(send(r#", "confirm": 3"#).await.problem(), (409, "idempotency_key_reused".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn without_a_terminal_the_command_line_says_what_to_repeat() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut command = postrider();
    command.args(["serve", "--listen", "127.0.0.1:0", "--confirm-above", "1", "--data"]).arg(&data);
    let server = ServerProcess::attach(Process::spawn(command, data.with_extension("log")), &data).await;
    enroll_at(&server.api, "berlin", 2).await;
    let refused = run(&data, &["run", "--all", "--no-wait", "--", "true"]).await;
    assert_eq!((refused.code, refused.out().as_str()), (Some(125), ""), "{refused:?}");
    for words in ["2 agents", "berlin-0  site=berlin", "berlin-1", "repeat with --confirm 2"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    let wrong = run(&data, &["run", "--all", "--confirm", "7", "--no-wait", "--", "true"]).await;
    assert_eq!(wrong.code, Some(125), "{wrong:?}");
    assert!(wrong.stderr.contains("2 agents, and 7 was") && wrong.stderr.contains("--confirm 2"), "{wrong:?}");
    good(&data, &["run", "--all", "--confirm", "2", "--no-wait", "--", "true"]).await;
    // The flag of the server: a technician is asked from two agents on.
    let tom = technician(&server.api, json!({})).await;
    assert_eq!(asked(&send(&tom, r#"{"agents": ["berlin-0", "berlin-1"]}"#, Value::Null).await).0, 2);
    assert_eq!(commands(&server.api).await, 1);
}

/// A verb in a terminal of its own, typed at like a person: util-linux's `script` has the terminal.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
struct Typed {
    child: tokio::process::Child,
    seen: String,
}

#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
impl Typed {
    fn start(data: &Path, rest: &str) -> Self {
        let mut command = postrider();
        let line = format!("exec {} {rest}", binary());
        let program = std::mem::replace(&mut command, std::process::Command::new("script"));
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(["-qec", &line, "/dev/null"]).env("POSTRIDER_DATA", data).env("SHELL", "/bin/sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn();
        Self { child: child.expect("`script` of util-linux is needed"), seen: String::new() }
    }

    /// Reads until the terminal has shown `words` once more.
    async fn until(&mut self, words: &str) {
        let mut bytes = [0; 1024];
        while !self.seen.contains(words) {
            let read = self.child.stdout.as_mut().unwrap().read(&mut bytes);
            let read = tokio::time::timeout(crate::harness::eventually::PATIENCE, read).await;
            let read = read.unwrap_or_else(|_| panic!("{words:?} does not come: {:?}", self.seen)).unwrap();
            assert!(read > 0, "{words:?} never came: {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        self.seen = self.seen.split_once(words).unwrap().1.to_owned();
    }

    async fn types(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
    }

    async fn ended(mut self) -> (Option<i32>, String) {
        let mut rest = Vec::new();
        let read = self.child.stdout.as_mut().unwrap().read_to_end(&mut rest);
        tokio::time::timeout(crate::harness::eventually::PATIENCE, read).await.expect("it ends").unwrap();
        let code = self.child.wait().await.unwrap().code();
        (code, self.seen + &String::from_utf8_lossy(&rest))
    }
}

#[cfg(target_os = "linux")]
const QUESTION: &str = "type the number of agents to send it to all of them: ";

#[cfg(target_os = "linux")]
#[tokio::test]
async fn at_a_terminal_a_person_types_the_number() {
    let server = TestServer::start().await;
    let (api, data) = (&server.api, server.data.path());
    enroll_at(api, "berlin", 2).await;

    let mut typed = Typed::start(data, "run --all --no-wait -- true");
    typed.until("berlin-1  berlin").await;
    typed.until("this goes to 2 agents").await;
    typed.until(QUESTION).await;
    typed.types("1\n").await;
    let (code, rest) = typed.ended().await;
    assert!(code == Some(125) && rest.contains("not confirmed: nothing was submitted"), "{code:?} {rest}");
    assert_eq!(commands(api).await, 0);

    // A third one comes while the person looks: they are asked again.
    let mut typed = Typed::start(data, "run --all --no-wait -- true");
    typed.until(QUESTION).await;
    enroll_at(api, "munich", 1).await;
    typed.types("2\n").await;
    typed.until("this goes to 3 agents").await;
    typed.until(QUESTION).await;
    typed.types("3\n").await;
    let (code, _) = typed.ended().await;
    assert_eq!((code, commands(api).await), (Some(0), 1));

    // With standard input for the command, the terminal is still there to ask at.
    let mut typed = Typed::start(data, "run --all --no-wait --stdin -- cat < /dev/null");
    typed.until(QUESTION).await;
    typed.types("3\n").await;
    assert_eq!((typed.ended().await.0, commands(api).await), (Some(0), 2));

    // Ctrl-C while it asks.
    let mut typed = Typed::start(data, "run --all -- true");
    typed.until(QUESTION).await;
    typed.types("\u{3}").await;
    assert_eq!((typed.ended().await.0, commands(api).await), (Some(130), 2));
    server.stop().await;
}
