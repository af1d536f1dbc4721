//! A reconnect storm: a whole fleet loses its server at one moment and comes back by the agents' rules.
//!
//! `STORM_AGENTS=5000 STORM_DOWN_S=90 cargo test --release --test it storm -- --nocapture` measures with another number,
//! and with a server that is gone for so long that the agents' waits have grown.

use crate::harness::api::{Api, id};
use crate::harness::eventually::eventually;
use crate::harness::fleet::Fleet;
use crate::harness::process::ServerProcess;
use futures_util::future::join_all;
use serde_json::json;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Agents, when nothing else is said: a third of them waits for its turn, so that the storm is longer than its first rush.
const AGENTS: usize = 3000;
/// Submitters at one time.
const SUBMITTERS: usize = 4;
/// Answers before the server is killed.
const ANSWERS_FIRST: usize = 20;
/// Between two submissions.
const SUBMIT_PAUSE: Duration = Duration::from_millis(20);

/// A submission that was answered.
struct Answered {
    command: String,
    at: Instant,
    took: Duration,
}

/// What the submitters and the storm share.
#[derive(Default)]
struct Shared {
    answered: Mutex<Vec<Answered>>,
    stop: AtomicBool,
}

/// Submits to one agent after the other until it is told to stop. Each submission is repeated while there is no server;
/// one that is there must take it.
async fn submit(api: &Api, agents: &[String], submitter: usize, shared: &Shared) {
    let bearer = format!("Bearer {}", api.token);
    for (number, agent) in agents.iter().cycle().enumerate().skip(submitter).step_by(SUBMITTERS) {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("storm-{number}");
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", key.as_str())];
        let path = format!("/api/agents/{agent}/command");
        let body = json!({ "command": "true" }).to_string().into_bytes();
        loop {
            let since = Instant::now();
            if let Ok(reply) = api.try_request("POST", &path, &headers, body.clone()).await {
                let status = reply.status.as_u16();
                assert!(matches!(status, 200 | 201), "{status}: {:?}", String::from_utf8_lossy(&reply.body));
                let answered = Answered { command: id(&reply.json()), at: Instant::now(), took: since.elapsed() };
                shared.answered.lock().unwrap().push(answered);
                break;
            }
            sleep(SUBMIT_PAUSE).await;
        }
        sleep(SUBMIT_PAUSE).await;
    }
}

/// The time after which all agents but `missing` of `fleet` were welcomed twice, and the last moment at which they
/// certainly were not.
async fn back(fleet: &Fleet, missing: usize, since: Instant) -> (Duration, Instant) {
    let not_yet = Cell::new(since);
    eventually("the fleet is back", || async {
        let now = Instant::now();
        let back = fleet.connections().iter().filter(|count| **count < 2).count() <= missing;
        if !back {
            not_yet.set(now);
        }
        back.then_some(())
    })
    .await;
    (since.elapsed(), not_yet.get())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_whose_server_was_killed_comes_back_while_submissions_go_on() {
    let setting = |name, default| std::env::var(name).map_or(default, |number| number.parse().unwrap());
    let agents = setting("STORM_AGENTS", AGENTS);
    let down = Duration::from_secs(setting("STORM_DOWN_S", 0) as u64);
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let mut server = ServerProcess::start(&data, 0).await;
    let port = server.port();
    let address = format!("127.0.0.1:{port}");
    let begun = Instant::now();
    let fleet = Fleet::start(&server.api, "web", agents, &address).await;
    println!("{agents} agents enrolled and connected in {:.1} s", begun.elapsed().as_secs_f32());
    let shared = Arc::new(Shared::default());
    let (api, names, theirs) = (server.api.clone(), fleet.names(), Arc::clone(&shared));
    // On a thread of their own: they measure the server, and must not wait for the fleet's tasks in this process.
    let submitters = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(join_all((0..SUBMITTERS).map(|submitter| submit(&api, &names, submitter, &theirs))));
    });
    let storm = async {
        eventually("submissions are under way", || async {
            (shared.answered.lock().unwrap().len() >= ANSWERS_FIRST).then_some(())
        })
        .await;
        server.process.kill();
        sleep(down).await;
        let started = Instant::now();
        let server = ServerProcess::start(&data, port).await;
        let listens = started.elapsed();
        let (half, _) = back(&fleet, agents / 2, started).await;
        let (most, _) = back(&fleet, agents / 100, started).await;
        let (all, not_yet) = back(&fleet, 0, started).await;
        println!(
            "after the start: it listens after {:.1} s, half of the agents are back after {:.1} s, 99 % after {:.1} s, \
             all after {:.1} s",
            listens.as_secs_f32(),
            half.as_secs_f32(),
            most.as_secs_f32(),
            all.as_secs_f32()
        );
        shared.stop.store(true, Ordering::Relaxed);
        (server, started, not_yet)
    };
    let (server, started, not_yet) = storm.await;
    tokio::task::spawn_blocking(|| submitters.join().unwrap()).await.unwrap();
    let answered = std::mem::take(&mut *shared.answered.lock().unwrap());
    // Begun after the kill, so only the new server can have answered.
    let theirs = answered.iter().filter(|answered| answered.at - answered.took > started);
    // How many of them before everybody is back is a matter of the machine: it is told, not asserted.
    let meanwhile = theirs.clone().filter(|answered| answered.at < not_yet);
    println!(
        "{} submissions begun and answered meanwhile, the slowest after {:.0?}",
        meanwhile.clone().count(),
        meanwhile.clone().map(|answered| answered.took).max().unwrap_or_default()
    );
    assert!(theirs.count() > 0, "no submission that was begun in the storm was answered");
    let commands: Vec<String> = answered.into_iter().map(|answered| answered.command).collect();
    for command in &commands {
        server.api.until(command, &["succeeded"]).await;
    }
    fleet.ran_once(&server.api, &commands).await;
    let metrics = server.api.call("GET", "/metrics", json!(null)).await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains(&format!("postrider_agents_connected {agents}\n")), "{metrics}");
}
