//! One-time passwords of owners: a stolen token file alone opens nothing.

use crate::harness::api::{Api, Reply};
use crate::harness::cli::run_with;
use crate::harness::operators::{Browser, Operator, audited, operator, with_token};
use crate::harness::process::postrider;
use crate::harness::server::TestServer;
use postrider::server::totp::{STEP_MS, code_at};
use serde_json::{Value, json};
use std::process::Command;

fn secret_of(base32: &str) -> Vec<u8> {
    let (mut bits, mut held, mut bytes) = (0_u32, 0, Vec::new());
    for letter in base32.bytes() {
        let value = if letter.is_ascii_uppercase() { letter - b'A' } else { letter - b'2' + 26 };
        (bits, held) = (bits << 5 | u32::from(value), held + 5);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    bytes
}

/// Turns one-time passwords on; answers the secret. The present step's password is used up.
async fn turn_on(server: &TestServer, who: &Operator) -> Vec<u8> {
    let path = format!("/api/tokens/{}/totp", who.id);
    let made = who.api.call("POST", &path, Value::Null).await;
    assert_eq!(made.status, 201);
    let secret = secret_of(made.json()["secret"].as_str().unwrap());
    let code = code_at(&secret, server.clock.now_ms());
    assert_eq!(who.api.call("PUT", &path, json!({ "code": code })).await.status, 200);
    secret
}

/// Lets the next step begin.
fn next_step(server: &TestServer, steps: &mut i64) {
    *steps += 1;
    server.clock.set_offset_ms(*steps * STEP_MS);
}

fn is(reply: &Reply, status: u16, code: &str) {
    assert_eq!(reply.problem(), (status, code.to_owned()));
}

async fn open(api: &Api, code: &str) -> Reply {
    api.call("POST", "/api/session", json!({ "code": code, "kind": "bearer" })).await
}

#[tokio::test]
async fn a_token_with_a_password_opens_sessions_alone_and_each_password_once() {
    let server = TestServer::start().await;
    let ann = operator(&server.api, "ann", json!({ "role": "owner" })).await;
    let path = format!("/api/tokens/{}/totp", ann.id);
    let made = ann.api.call("POST", &path, Value::Null).await.json();
    let url = made["url"].as_str().unwrap();
    assert!(url.starts_with("otpauth://totp/postrider:ann?secret=") && url.contains(made["secret"].as_str().unwrap()));
    assert!(!server.api.get("/api/tokens").await["tokens"][0]["totp"].as_bool().unwrap());
    // Not in force before it is proven: nobody is locked out by a picture that was not taken.
    ann.api.get("/api/agents").await;
    for wrong in ["000000x", "", "12345"] {
        is(&ann.api.call("PUT", &path, json!({ "code": wrong })).await, 422, "invalid_field");
    }
    let browser = Browser::login(&ann.api, json!({})).await;
    let secret = turn_on(&server, &ann).await;
    assert!(server.api.get("/api/tokens").await["tokens"][0]["totp"].as_bool().unwrap());
    let conn = rusqlite::Connection::open(server.data.path().join("postrider.db")).unwrap();
    let sealed: Vec<u8> = conn.query_row("SELECT totp FROM tokens WHERE name = 'ann'", [], |row| row.get(0)).unwrap();
    assert!(!sealed.windows(secret.len()).any(|window| window == secret), "it lies there sealed");

    is(&ann.api.call("GET", "/api/agents", Value::Null).await, 401, "totp_required");
    is(&ann.api.call("DELETE", &path, Value::Null).await, 401, "totp_required");
    is(&ann.api.call("POST", "/api/session", json!({})).await, 401, "totp_required");
    is(&browser.send("GET", "/api/agents", &[], Value::Null).await, 401, "session_ended");
    // The password that proved the secret is used up.
    is(&open(&ann.api, &code_at(&secret, server.clock.now_ms())).await, 401, "wrong_code");
    let mut steps = 0;
    next_step(&server, &mut steps);
    let code = code_at(&secret, server.clock.now_ms());
    let opened = open(&ann.api, &code).await;
    assert_eq!(opened.status, 201);
    is(&open(&ann.api, &code).await, 401, "wrong_code");
    let session = with_token(&ann.api, opened.json()["token"].as_str().unwrap());
    session.get("/api/tokens").await;
    is(&session.call("POST", &path, Value::Null).await, 409, "conflict");

    // By a session, so with a password, it can be taken away again.
    assert_eq!(session.call("DELETE", &path, Value::Null).await.status, 200);
    ann.api.get("/api/agents").await;
    let actions = ["token.totp_new", "token.totp_on", "token.totp_off", "session.create"];
    let rows = actions.map(|action| audited(server.data.path(), action).len());
    assert_eq!(rows, [2, 1, 1, 2]);
    assert_eq!(audited(server.data.path(), "session.create")[1].2["totp"], true);
    server.stop().await;
}

#[tokio::test]
async fn two_requests_with_one_password_open_one_session() {
    let server = TestServer::start().await;
    let ann = operator(&server.api, "ann", json!({ "role": "owner" })).await;
    let secret = turn_on(&server, &ann).await;
    let mut steps = 0;
    next_step(&server, &mut steps);
    let code = code_at(&secret, server.clock.now_ms());
    let (a, b, c) = tokio::join!(open(&ann.api, &code), open(&ann.api, &code), open(&ann.api, &code));
    let opened = [a, b, c].iter().filter(|reply| reply.status == 201).count();
    assert_eq!(opened, 1);
    server.stop().await;
}

#[tokio::test]
async fn guessed_passwords_lock_the_tokens_code_check() {
    let server = TestServer::start().await;
    let ann = operator(&server.api, "ann", json!({ "role": "owner" })).await;
    let secret = turn_on(&server, &ann).await;
    let mut steps = 0;
    next_step(&server, &mut steps);
    let good = code_at(&secret, server.clock.now_ms());
    let wrong = format!("{:06}", (good.parse::<u32>().unwrap() + 1) % 1_000_000);
    for _ in 0..5 {
        is(&open(&ann.api, &wrong).await, 401, "wrong_code");
    }
    let locked = open(&ann.api, &good).await;
    is(&locked, 429, "locked_out");
    let wait: u64 = locked.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=900).contains(&wait), "{wait}");
    // Another owner helps: they turn it off. One with a scope cannot.
    let scoped = operator(&server.api, "clerk", json!({ "role": "owner", "scope": { "site": ["berlin"] } })).await;
    let path = format!("/api/tokens/{}/totp", ann.id);
    is(&scoped.api.call("DELETE", &path, Value::Null).await, 403, "scope_too_narrow");
    is(&server.api.call("POST", &path, Value::Null).await, 403, "not_your_token");
    assert_eq!(server.api.call("DELETE", &path, Value::Null).await.status, 200);
    ann.api.get("/api/agents").await;
    server.stop().await;
}

#[tokio::test]
async fn the_command_line_turns_it_on_and_logs_in_with_it() {
    let server = TestServer::start().await;
    let home = tempfile::TempDir::new().unwrap();
    let ann = operator(&server.api, "ann", json!({ "role": "owner" })).await;
    let token_file = home.path().join("token");
    std::fs::write(&token_file, &ann.api.token).unwrap();
    let at_home = |args: &[&str]| -> Command {
        let mut command = postrider();
        command.args(args).env("XDG_CONFIG_HOME", home.path());
        command
    };
    let server_args = ["--server", server.api.url.as_str()];
    let file = ["--token-file", token_file.to_str().unwrap()];
    let login = [&["login"], &server_args[..], &file].concat();
    assert_eq!(run_with(at_home(&login), b"").await.code, Some(0));

    // It shows the secret and waits for a password: like a person, we read the one and type the other.
    let mut child = tokio::process::Command::from({
        let mut command = at_home(&["tokens", "totp"]);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        command
    })
    .kill_on_drop(true)
    .spawn()
    .unwrap();
    let secret = {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
        let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.next_line().await.unwrap().unwrap();
        let base32 = url.split_once("secret=").unwrap().1.split('&').next().unwrap().to_owned();
        let secret = secret_of(&base32);
        let code = code_at(&secret, server.clock.now_ms());
        child.stdin.take().unwrap().write_all(format!("{code}\n").as_bytes()).await.unwrap();
        secret
    };
    assert_eq!(child.wait().await.unwrap().code(), Some(0));

    let refused = run_with(at_home(&["agents"]), b"").await;
    assert!(refused.code == Some(125) && refused.stderr.contains("postrider login"), "{refused:?}");
    let mut steps = 0;
    next_step(&server, &mut steps);
    let code = code_at(&secret, server.clock.now_ms());
    let logged_in = run_with(at_home(&login), format!("{code}\n").as_bytes()).await;
    assert_eq!(logged_in.code, Some(0), "{logged_in:?}");
    let config = std::fs::read_to_string(home.path().join("postrider/config.toml")).unwrap();
    assert!(config.contains("prs_") && !config.contains(&ann.api.token), "{config}");
    assert_eq!(run_with(at_home(&["agents"]), b"").await.code, Some(0));

    steps += 8 * 120;
    next_step(&server, &mut steps);
    let ended = run_with(at_home(&["agents"]), b"").await;
    assert!(ended.code == Some(125) && ended.stderr.contains("log in again"), "{ended:?}");
    let code = code_at(&secret, server.clock.now_ms());
    // The token by standard input, the password on its second line.
    let by_input = [&["login"], &server_args[..]].concat();
    let again = run_with(at_home(&by_input), format!("{}\n{code}\n", ann.api.token).as_bytes()).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    let off = run_with(at_home(&["tokens", "totp", "--off"]), b"").await;
    assert_eq!(off.code, Some(0), "{off:?}");
    ann.api.get("/api/agents").await;
    server.stop().await;
}
