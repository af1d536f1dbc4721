//! `postrider bench`: what it counts adds up, its verdict is true, and nothing is left behind. Small and short: figures
//! are looked at for what they say, never for how large they are.

use crate::harness::api::{Api, events};
use crate::harness::cli::{Ended, run_with};
use crate::harness::eventually::eventually;
use crate::harness::left::{left_in, nothing_left, server_in, until_children};
use crate::harness::operators::enroll_at;
use crate::harness::process::{Process, postrider};
use crate::harness::scene::ONCE;
use crate::harness::server::TestServer;
use postrider::store::handle::DATABASE_FILE;
use postrider::store::seed::seed;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const SMALL: &[&str] = &["--agents", "20", "--submitters", "4", "--duration", "1s"];
/// A hand for each command: whatever else the machine is busy with, each is submitted when it is due.
const SLOW: &[&str] = &["--agents", "20", "--submitters", "30", "--duration", "1s", "--rate", "10"];
/// More than the looks that one commit takes along.
const MANY: &[&str] = &["--agents", "300", "--submitters", "1", "--duration", "4s"];
const LATENCIES: [&str; 3] = ["durable_ms", "journaled_ms", "stored_ms"];

/// On a disk, where the host's temporary folder may not be.
fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A bench whose temporary folder is in `folder`.
fn bench(folder: &Path, args: &[&[&str]]) -> Command {
    let mut command = postrider();
    command.arg("bench").args(args.concat()).env("TMPDIR", folder);
    command
}

async fn end(folder: &Path, args: &[&[&str]]) -> Ended {
    run_with(bench(folder, args), b"").await
}

/// The figures of one that ends with `code`.
async fn figures(folder: &Path, code: i32, args: &[&[&str]]) -> Value {
    let ended = end(folder, &[args, &[&["--json"]]].concat()).await;
    assert_eq!(ended.code, Some(code), "{ended:?}");
    let mut objects = ended.objects();
    assert_eq!(objects.len(), 1, "{ended:?}");
    let report = objects.remove(0);
    assert_eq!(report["carried"], code == 0, "{report}");
    assert_eq!(report["verdict"].as_str().unwrap().starts_with("No: "), code == 1, "{report}");
    report
}

fn number(report: &Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or_else(|| panic!("{name} is a number: {report}"))
}

/// What is true of every run that was carried.
fn is_sound(report: &Value) {
    assert!(report["refused"].as_object().unwrap().is_empty(), "{report}");
    assert_eq!((&report["unanswered"], &report["not_submitted"]), (&json!(0), &json!(0)), "{report}");
    assert!(number(report, "cores") >= 1.0 && number(report, "connect_s") > 0.0 && number(report, "list_ms") > 0.0);
    if cfg!(target_os = "linux") {
        let (now, max) = (number(report, "server_mib"), number(report, "server_mib_max"));
        assert!(0.0 < now && now <= max && number(report, "server_cores") > 0.0, "{report}");
    }
}

/// The same of one with simulated agents and a load.
fn is_loaded(report: &Value) {
    is_sound(report);
    let (accepted, completed) = (number(report, "accepted"), number(report, "completed"));
    assert!(accepted > 0.0 && completed > 0.0, "{report}");
    assert!(number(report, "commits_per_s") > 0.0 && number(report, "operations_per_commit") >= 1.0, "{report}");
    // A submission writes five rows or more, a report two; what writes none is seldom.
    assert!(number(report, "rows_per_commit") >= number(report, "operations_per_commit"), "{report}");
    assert!(number(report, "server_cpu_s_per_1000") > 0.0 && number(report, "generator_cores") > 0.0, "{report}");
    for name in LATENCIES {
        let latency = &report[name];
        assert!(number(latency, "count") > 0.0 && number(latency, "p50") > 0.0, "{report}");
        let order = ["p50", "p90", "p99", "p999", "max"].map(|name| number(latency, name));
        assert!(order.is_sorted(), "{report}");
    }
    // A latency is of what was due within the window; a submission that ends after it counts there alone.
    assert_eq!(report["journaled_ms"]["count"], report["stored_ms"]["count"], "{report}");
    assert!(report["durable_ms"]["p50"].as_f64() < report["stored_ms"]["p99"].as_f64(), "{report}");
}

/// Agents and join strings that are good.
async fn good_at(api: &Api) -> (Vec<Value>, Vec<Value>) {
    let agents = api.get("/api/agents").await["agents"].as_array().unwrap().clone();
    let joins = api.get("/api/join").await["joins"].as_array().unwrap().clone();
    (agents, joins.into_iter().filter(|join| join["revoked_ms"].is_null()).collect())
}

#[tokio::test]
async fn it_loads_a_server_of_its_own_and_no_other() {
    let (folder, other) = (folder(), TestServer::start().await);
    let folder = folder.path();
    let mut alone = bench(folder, &[SMALL, &["--json", "--tls", "--history", "2000", "--payload", "2000"]]);
    alone.env("POSTRIDER_SERVER", &other.api.url).env("POSTRIDER_TOKEN", &other.api.token);
    alone.env("POSTRIDER_DATA", other.data.path());
    let (closed, all) = tokio::join!(run_with(alone, b""), figures(folder, 0, &[MANY, &["--all"]]));
    assert_eq!(closed.code, Some(0), "{closed:?}");
    let closed = closed.objects().remove(0);
    is_loaded(&closed);
    let told = ["agents", "submitters", "payload", "history", "deliveries_per_command", "connected", "black_holed"];
    assert_eq!(told.map(|name| closed[name].as_u64().unwrap()), [20, 4, 2000, 2000, 1, 20, 0], "{closed}");
    assert_eq!((&closed["server"], &closed["rate"], &closed["due"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!((&closed["tls"], &closed["real"], &closed["restart_s"]), (&json!(true), &json!(false), &Value::Null));
    let (accepted, a_second) = (number(&closed, "accepted"), number(&closed, "accepted_per_s"));
    assert_eq!((number(&closed, "seconds"), a_second), (1.0, accepted), "{closed}");
    assert!(closed["verdict"].as_str().unwrap().contains("when 4 submitters press as hard as they can"), "{closed}");
    // The other server was left alone.
    let (agents, joins) = good_at(&other.api).await;
    assert!(agents.is_empty() && joins.is_empty(), "{agents:?} {joins:?}");

    is_loaded(&all);
    assert_eq!((&all["tls"], &all["history"], &all["deliveries_per_command"]), (&json!(false), &json!(0), &json!(300)));
    // Each command has 300 deliveries, each with its rows.
    let rows = number(&all, "rows_per_commit") * number(&all, "commits_per_s");
    assert!(rows > 300.0 * number(&all, "completed_per_s"), "{all}");
    nothing_left(folder).await;
}

#[tokio::test]
async fn a_rate_is_carried_or_not_and_idle_agents_and_black_holes_are_counted_apart() {
    let folder = folder();
    let folder = folder.path();
    // In the last, each submitter's turn comes after the server has closed its idle connection.
    let (text, holes, idle, too_much, seldom) = tokio::join!(
        end(folder, &[SLOW]),
        figures(folder, 0, &[SLOW, &["--black-hole", "50"]]),
        figures(folder, 0, &[SMALL, &["--rate", "0", "--restart"]]),
        figures(folder, 1, &[&["--agents", "20", "--submitters", "1", "--duration", "1s", "--rate", "20000"]]),
        figures(folder, 0, &[&["--agents", "20", "--submitters", "12", "--duration", "13s", "--rate", "1"]]),
    );
    assert_eq!(text.code, Some(0), "{text:?}");
    let out = text.out();
    for line in [
        "load                  10 commands a second are due; 20 simulated agents; 1 s",
        "accepted",
        "completed",
        "submit to durable     p50 ",
        "submit to journaled   p50 ",
        "submit to stored      p50 ",
        "commits",
        "server's CPU",
        "server's memory",
        "generator's CPU",
        "connected             20 at the end; all after ",
        "list of the agents",
    ] {
        assert!(out.lines().any(|told| told.starts_with(line)), "{line}: {out}");
    }
    assert!(!out.contains("refused") && !out.contains("no outcome") && !out.contains("not submitted"), "{out}");
    let verdict = out.lines().last().unwrap();
    // The second on a machine that has more to do.
    let carried =
        ["Yes: 10 commands a second to 20 agents are ", "Barely: 10 commands a second to 20 agents pile up: "];
    assert!(carried.iter().any(|carried| verdict.starts_with(carried)), "{out}");
    assert!(verdict.contains("half of them end within ") && verdict.contains(" of a core and "), "{out}");

    is_loaded(&holes);
    assert_eq!((&holes["rate"], &holes["due"], &holes["black_holed"]), (&json!(10), &json!(10), &json!(10)));
    // Every second command went into a hole: taken by the server, and without an outcome.
    let (accepted, completed) = (number(&holes, "accepted"), number(&holes, "completed"));
    assert!(completed < accepted && holes["durable_ms"]["count"] == 10, "{holes}");
    // Two submitters that swap their turns at the window's edges make a difference of one.
    assert!((3.0..=7.0).contains(&number(&holes["stored_ms"], "count")), "{holes}");

    is_sound(&idle);
    assert!(number(&idle, "restart_s") > 0.0 && idle["connected"] == 20, "{idle}");
    let nothing = [&idle["durable_ms"], &idle["stored_ms"], &idle["due"], &idle["server_cpu_s_per_1000"]];
    assert_eq!((nothing, &idle["accepted"], &idle["completed"]), ([&Value::Null; 4], &json!(0), &json!(0)), "{idle}");
    assert!(idle["verdict"].as_str().unwrap().contains("20 agents that have nothing to do are carried"), "{idle}");

    // What was due and never sent is not forgotten.
    let (due, not_submitted) = (number(&too_much, "due"), number(&too_much, "not_submitted"));
    assert!(due == 20_000.0 && not_submitted > 0.0 && not_submitted <= due, "{too_much}");
    assert!(too_much["verdict"].as_str().unwrap().contains("were not even submitted"), "{too_much}");

    is_loaded(&seldom);
    assert_eq!((&seldom["due"], &seldom["stored_ms"]["count"]), (&json!(13), &json!(13)), "{seldom}");
    nothing_left(folder).await;
}

#[tokio::test]
async fn real_agents_are_processes_and_their_way_is_measured_from_end_to_end() {
    let folder = folder();
    let path = folder.path();
    let args: &[&[&str]] = &[&["--real", "--agents", "2", "--submitters", "2", "--duration", "1s"]];
    let (report, ()) = tokio::join!(figures(path, 0, args), until_children(path, 3));
    is_sound(&report);
    assert_eq!((&report["real"], &report["connected"]), (&json!(true), &json!(2)), "{report}");
    assert!(number(&report, "completed") > 0.0 && number(&report["stored_ms"], "count") > 0.0, "{report}");
    // On the way there they say nothing to us.
    assert_eq!((&report["durable_ms"], &report["journaled_ms"]), (&Value::Null, &Value::Null), "{report}");
    nothing_left(path).await;
}

#[tokio::test]
async fn a_given_server_is_left_as_it_was() {
    let (folder, server, logs) = (folder(), TestServer::start().await, folder());
    let (api, folder) = (&server.api, folder.path());
    let token = server.data.path().join("owner.token");
    let given: &[&str] = &["--server", &api.url, "--token-file", token.to_str().unwrap()];
    let report = figures(folder, 0, &[SLOW, given]).await;
    is_loaded(&report);
    assert_eq!((&report["server"], &report["stored_ms"]["count"]), (&json!(api.url), &json!(10)), "{report}");
    let (agents, joins) = good_at(api).await;
    assert!(agents.is_empty() && joins.is_empty(), "{agents:?} {joins:?}");
    // They were there.
    let commands = api.get("/api/commands?limit=1").await;
    assert_eq!(commands["commands"][0]["state"], "succeeded", "{commands}");

    // Nor does Ctrl-C in the middle leave anything.
    let forever = bench(folder, &[given, &["--agents", "20", "--submitters", "4", "--duration", "1h"]]);
    let mut process = Process::spawn(forever, logs.path().join("log"));
    eventually("it submits", || async { process.printed().contains("submitting").then_some(()) }).await;
    assert_eq!(good_at(api).await.0.len(), 20);
    process.signal("INT");
    assert_eq!(process.ended().await, Some(130), "{}", process.printed());
    assert!(process.printed().contains("revoking the agents"), "{}", process.printed());
    let (agents, joins) = good_at(api).await;
    assert!(agents.is_empty() && joins.is_empty(), "{agents:?} {joins:?}");
    assert_eq!(left_in(folder), Vec::<PathBuf>::new());

    // Who may not make a join string is told so, by the server.
    let technician = json!({ "name": "ann", "role": "technician" });
    let technician = api.call("POST", "/api/tokens", technician).await.json()["token"].as_str().unwrap().to_owned();
    for (token, why) in [("prt_wrong", "token"), (technician.as_str(), "role")] {
        let mut command = bench(folder, &[SMALL, &["--server", &api.url]]);
        command.env("POSTRIDER_TOKEN", token);
        let ended = run_with(command, b"").await;
        assert_eq!((ended.code, ended.stdout.len()), (Some(125), 0), "{ended:?}");
        assert!(ended.stderr.contains(why) && !ended.stderr.contains(token), "{ended:?}");
    }
    let url = api.url.clone();
    server.stop().await;
    let gone =
        end(folder, &[SMALL, &["--server", &url, "--token-file", logs.path().join("none").to_str().unwrap()]]).await;
    assert!(gone.code == Some(125) && gone.stderr.contains("there is no such file"), "{gone:?}");
    let mut command = bench(folder, &[SMALL, &["--server", &url]]);
    command.env("POSTRIDER_TOKEN", "prt_any");
    let gone = run_with(command, b"").await;
    assert!(gone.code == Some(125) && gone.stderr.contains(&format!("cannot reach {url}")), "{gone:?}");
    assert!(gone.stderr.contains("is the server running?"), "{gone:?}");
}

#[tokio::test]
async fn what_does_not_go_together_is_told_before_anything_is_started() {
    let folder = folder();
    let path = folder.path();
    let wrong: &[(&[&str], &str)] = &[
        (&["--rate", "5", "--closed"], "cannot be used with"),
        (&["--server", "http://127.0.0.1:1", "--history", "5"], "cannot be used with"),
        (&["--server", "http://127.0.0.1:1", "--restart"], "cannot be used with"),
        (&["--server", "http://127.0.0.1:1", "--tls"], "cannot be used with"),
        (&["--server", "http://127.0.0.1:1", "--real"], "cannot be used with"),
        (&["--token-file", "x"], "--server"),
        (&["--real", "--all"], "cannot be used with"),
        (&["--real", "--history", "5"], "cannot be used with"),
        (&["--black-hole", "5", "--all"], "cannot be used with"),
        (&["--black-hole", "5", "--restart"], "cannot be used with"),
        (&["--real", "--agents", "200"], "200 real agents are too many"),
        (&["--black-hole", "5", "--agents", "10"], "5 of a hundred of 10 agents is less than one"),
        (&["--agents", "0"], "--agents"),
        (&["--agents", "10001"], "--agents"),
        (&["--submitters", "0"], "--submitters"),
        (&["--duration", "0s"], "more than 0"),
        (&["--payload", "24577"], "--payload"),
        (&["--black-hole", "100"], "--black-hole"),
    ];
    for (args, why) in wrong {
        let ended = end(path, &[args]).await;
        assert_eq!((ended.code, ended.stdout.len()), (Some(2), 0), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(why) && !ended.stderr.contains("starting"), "{args:?}: {ended:?}");
    }
    let nowhere = path.join("nowhere");
    let ended = end(&nowhere, &[SMALL]).await;
    assert_eq!(ended.code, Some(125), "{ended:?}");
    assert!(ended.stderr.contains("temporary folder") && ended.stderr.contains("nowhere"), "{ended:?}");
    assert_eq!(left_in(path), Vec::<PathBuf>::new());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_folder_in_memory_is_refused() {
    use nix::sys::statfs::{TMPFS_MAGIC, statfs};
    let memory = Path::new("/dev/shm");
    if !statfs(memory).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC) {
        eprintln!("skipped: {} is not in memory", memory.display());
        return;
    }
    let folder = TempDir::new_in(memory).unwrap();
    let ended = end(folder.path(), &[SMALL]).await;
    assert_eq!((ended.code, ended.stdout.len()), (Some(2), 0), "{ended:?}");
    for told in [folder.path().to_str().unwrap(), "is in memory", "TMPDIR"] {
        assert!(ended.stderr.contains(told), "{told}: {ended:?}");
    }
    assert_eq!(left_in(folder.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn signals_and_deaths_leave_no_process_and_no_folder() {
    let (folder, logs) = (folder(), folder());
    let path = folder.path();
    let start = |name: &str, more: &[&str]| {
        let forever: &[&str] = &["--submitters", "4", "--duration", "1h", "--agents"];
        Process::spawn(bench(path, &[forever, more]), logs.path().join(name))
    };
    let until_it = async |says: &str, process: &Process| {
        eventually(says, || async { process.printed().contains(says).then_some(()) }).await;
    };
    // While it comes up, under load, and with real agents: a server and two of them.
    let cases: [(&str, &str, &[&str], usize); 3] = [
        ("INT", "starting a server", &["20"], 1),
        ("TERM", "submitting", &["20"], 1),
        ("HUP", "submitting", &["2", "--real", "--tls"], 3),
    ];
    for (signal, moment, more, count) in cases {
        let mut process = start(signal, more);
        until_it(moment, &process).await;
        until_children(path, count).await;
        process.signal(signal);
        assert_eq!(process.ended().await, Some(130), "{signal}: {}", process.printed());
        nothing_left(path).await;
    }
    // A server that dies is told at once, with the end of its log.
    let mut process = start("dies", &["20"]);
    until_it("submitting", &process).await;
    assert!(Command::new("kill").args(["-9", &server_in(path).unwrap()]).status().unwrap().success());
    assert_eq!(process.ended().await, Some(125), "{}", process.printed());
    assert!(process.printed().contains("server ended"), "{}", process.printed());
    nothing_left(path).await;
    // And nothing runs on after a kill of the generator itself.
    let mut process = start("killed", &["20"]);
    until_it("submitting", &process).await;
    until_children(path, 1).await;
    process.kill();
    until_children(path, 0).await;
}

#[tokio::test]
async fn history_made_in_bulk_reads_like_any_other() {
    let server = TestServer::start().await;
    enroll_at(&server.api, "web-1", "berlin").await;
    let data = server.stop().await;
    seed(&data.path().join(DATABASE_FILE), 30).unwrap();
    let server = TestServer::start_in(data, |_| {}).await.unwrap();
    let (mut seen, mut before) = (Vec::new(), String::new());
    loop {
        let page = server.api.get(&format!("/api/commands?limit=20{before}")).await;
        seen.extend(page["commands"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        before = format!("&before={next}");
    }
    assert_eq!(seen.len(), 30);
    let command = server.api.command(seen[7]["id"].as_str().unwrap()).await;
    assert_eq!((&command["state"], &command["deliveries"][0]["agent_name"]), (&json!("succeeded"), &json!("web-1")));
    assert_eq!(events(&command), ONCE);
    server.stop().await;
}
