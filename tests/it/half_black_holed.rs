//! A measurement, not a test: round trips of a healthy half while the other half of the fleet is in a black hole.
//!
//! `cargo test --release --test it -- --ignored --nocapture half_black_holed`
//!
//! Phases alternate in one run, so that what else the machine does falls on both kinds. Commands for the other half are
//! submitted at the same rate in all phases.

use crate::harness::eventually::eventually;
use crate::harness::fleet::{Fleet, shown};
use crate::harness::lane::Flow;
use crate::harness::process::ServerProcess;
use crate::harness::proxy::Proxy;
use futures_util::future::{join, join_all};
use hyper::Method;
use postrider::http_client::{HttpClient, ServerUrl};
use postrider::tls::Trust;
use serde_json::Value;
use std::sync::Mutex;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, interval};

const EACH_HALF: usize = 100;
const PAIRS: usize = 4;
/// Longer than any eviction takes, so that all of them fall into a phase.
const PHASE: Duration = Duration::from_secs(22);
/// Clients of the healthy half, each with one command at a time.
const CLIENTS: usize = 4;
/// Commands for the other half.
const OTHERS_PER_S: u64 = 20;

/// Round trips of one client over one connection, from one agent to the next, until the time is over.
async fn measure(url: &str, token: &str, names: &[String], first: usize, took: &Mutex<Vec<Duration>>) {
    let mut client = HttpClient::connect(&ServerUrl::parse(url).unwrap(), &Trust::default()).await.unwrap();
    let bearer = format!("Bearer {token}");
    let until = Instant::now() + PHASE;
    for name in names.iter().cycle().skip(first) {
        let (path, body) = (format!("/api/agents/{name}/command?wait=60"), r#"{"command":"true"}"#);
        let begun = Instant::now();
        let headers = [("authorization", bearer.as_str())];
        let patience = Duration::from_secs(60);
        let answer = client.send(Method::POST, &path, &headers, body.into(), patience, 1 << 20).await.unwrap();
        took.lock().unwrap().push(begun.elapsed());
        let command: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(command["state"], "succeeded", "{command}");
        if Instant::now() >= until {
            return;
        }
    }
}

/// One phase: p50, p99 and the longest, in milliseconds.
async fn phase(what: &str, server: &ServerProcess, healthy: &[String], others: &[String]) -> [f64; 3] {
    let took = Mutex::new(Vec::new());
    let clients = (0..CLIENTS)
        .map(|client| measure(&server.api.url, &server.api.token, healthy, client * EACH_HALF / CLIENTS, &took));
    let submissions = async {
        let mut tick = interval(Duration::from_millis(1000 / OTHERS_PER_S));
        for name in others.iter().cycle() {
            tick.tick().await;
            server.api.run(name, "true").await;
        }
    };
    tokio::select! {
        _ = join_all(clients) => {}
        () = submissions => unreachable!("it never ends"),
    }
    let mut took = took.into_inner().unwrap();
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    let [p50, p99, max] = [at(0.5), at(0.99), at(1.0)];
    println!("{what:>12}: {:6} round trips, p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.1} ms", took.len());
    [p50, p99, max]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of some minutes, for release builds"]
async fn half_black_holed() {
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(&folder.path().join("server"), 0).await;
    let api = &server.api;
    let proxy = Proxy::start(api.address()).await;
    let (healthy, far) = join(
        Fleet::start(api, "healthy", EACH_HALF, api.address()),
        Fleet::start(api, "far", EACH_HALF, &proxy.address),
    )
    .await;
    let (names, others) = (healthy.names(), far.names());
    let calm = || {
        eventually("all are back and have what waited", || async {
            let agents = shown(api).await;
            agents.iter().all(|agent| agent["online"] == true && agent["outbox"] == 0).then_some(())
        })
    };
    let (mut whole, mut half) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        calm().await;
        whole.push(phase("all healthy", &server, &names, &others).await);
        proxy.set(|faults| faults.both(Flow::Vanish));
        half.push(phase("half is gone", &server, &names, &others).await);
        proxy.set(|faults| faults.heal());
    }
    calm().await;
    for (at, what) in ["p50", "p99", "max"].into_iter().enumerate() {
        let [whole, half] = [&whole, &half].map(|phases| median(phases.iter().map(|phase| phase[at]).collect()));
        println!("{what}: median {whole:.2} ms, with half gone {half:.2} ms: ratio {:.2}", half / whole);
    }
    let metrics = api.request("GET", "/metrics", &[], Vec::new()).await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    metrics.lines().filter(|line| line.starts_with("postrider_evictions_total")).for_each(|line| println!("{line}"));
    assert!(healthy.connections().iter().all(|connections| *connections == 1), "one of the healthy was evicted");
    assert!(far.connections().iter().all(|connections| *connections > PAIRS as u32), "{:?}", far.connections());
}
