//! Links that are bad but not dead: cut inside a frame, slow, late, or with each byte by itself. Output arrives whole.

use crate::harness::agent::TestAgent;
use crate::harness::api::Api;
use crate::harness::eventually::eventually;
use crate::harness::lane::{Direction, Lane};
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::server::TestServer;
use futures_util::future::join_all;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What `seq 1 LAST` prints.
fn numbers(last: u32) -> Vec<u8> {
    let mut text = String::new();
    for number in 1..=last {
        writeln!(text, "{number}").unwrap();
    }
    text.into_bytes()
}

/// An agent behind a proxy of its own, with nothing on its way.
async fn quiet(api: &Api, name: &str) -> (Proxy, TestAgent) {
    let proxy = Proxy::start(api.address()).await;
    let agent = TestAgent::start_behind(api, name, &proxy).await;
    eventually("its facts are told", || async {
        (!api.get(&format!("/api/agents/{name}")).await["facts"].is_null()).then_some(())
    })
    .await;
    (proxy, agent)
}

/// One run that prints 108,894 bytes, while the link is cut after so many bytes of its output, and again and again.
async fn cut_in_the_middle(api: &Api, name: &str, cuts: &[(u64, Cut)]) {
    let (proxy, agent) = quiet(api, name).await;
    let gate = agent.data.with_file_name("gate");
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let line = format!("echo run >> {}; {wait}; seq 1 20000", agent.runs().display());
    let command = api.run(name, &line).await;
    api.until(&command, &["running"]).await;
    std::fs::write(&gate, "").unwrap();
    for (bytes, cut) in cuts {
        proxy.cut_after(Direction::ToServer, *bytes, *cut).await;
    }
    let ended = api.until(&command, &["succeeded"]).await;
    assert_eq!(ended["deliveries"][0]["attempt"], 1, "{ended}");
    assert!(api.output(&command, "stdout").await == numbers(20_000), "{name}: a hole or a repetition");
    assert_eq!(ended["deliveries"][0]["stdout"]["dropped"], 0, "{ended}");
    assert_eq!(agent.told(), ["run"]);
    let epoch = api.get(&format!("/api/agents/{name}")).await["epoch"].as_u64().unwrap();
    assert!(epoch > cuts.len() as u64, "it was cut {} times and is at epoch {epoch}", cuts.len());
}

/// A connection that is cut soon counts as a failure, and the agent's waits double: so many agents, and few cuts each.
#[tokio::test]
async fn output_is_whole_though_the_link_is_cut_inside_its_frames() {
    use Cut::{Fin, Reset};
    let server = TestServer::start().await;
    // Within the WebSocket's header, ours, the first bytes, the end of a full frame, the next one; then, with the
    // handshake before it, somewhere in the middle.
    let plans: [&[(u64, Cut)]; 6] = [
        &[(1, Fin), (12_000, Reset)],
        &[(7, Reset), (20_011, Fin)],
        &[(20, Fin), (8_000, Fin)],
        &[(33, Reset), (8_199, Reset), (30_001, Fin)],
        &[(8_200, Fin), (8_207, Fin), (16_001, Reset)],
        &[(5_000, Fin), (20_000, Reset), (17_777, Fin), (13_131, Reset)],
    ];
    let names: Vec<_> = (0..plans.len()).map(|number| format!("web-{number}")).collect();
    join_all(plans.iter().zip(&names).map(|(cuts, name)| cut_in_the_middle(&server.api, name, cuts))).await;
    server.stop().await;
}

#[tokio::test]
async fn a_dispatch_that_is_cut_in_the_middle_runs_once() {
    // No ping comes between.
    let server = TestServer::start_with(|config| config.keepalive.ping_interval = Duration::from_secs(600)).await;
    let api = &server.api;
    let (proxy, agent) = quiet(api, "web-1").await;
    for (number, (bytes, cut)) in [(1, Cut::Fin), (60, Cut::Reset), (300, Cut::Fin)].into_iter().enumerate() {
        let line = format!("echo {number} >> {} #{}", agent.runs().display(), "x".repeat(400));
        let (command, ()) =
            futures_util::future::join(api.run("web-1", &line), proxy.cut_after(Direction::ToClient, bytes, cut)).await;
        let ended = api.until(&command, &["succeeded"]).await;
        assert_eq!(ended["deliveries"][0]["attempt"], 2, "the first never arrived whole: {ended}");
        eventually("`stored` is through", || async { (agent.held() == 0).then_some(()) }).await;
    }
    assert_eq!(agent.told(), ["0", "1", "2"]);
    server.stop().await;
}

/// With the default settings, for longer than a silent link would be borne.
#[tokio::test]
async fn a_slow_link_carries_many_large_commands_and_nobody_is_evicted() {
    let server = TestServer::start().await;
    let api = &server.api;
    let (proxy, agent) = quiet(api, "slow").await;
    proxy.set(|faults| faults.to_client.bytes_per_s = Some(20_000));
    let line = |number| format!("echo {number} >> {} #{}", agent.runs().display(), "x".repeat(25_000));
    let lines: Vec<_> = (0..20).map(line).collect();
    for command in join_all(lines.iter().map(|line| api.run("slow", line))).await {
        let ended = api.until(&command, &["succeeded"]).await;
        assert_eq!(ended["deliveries"][0]["attempt"], 1, "{ended}");
    }
    let mut told: Vec<usize> = agent.told().iter().map(|line| line.parse().unwrap()).collect();
    told.sort_unstable();
    assert_eq!(told, (0..20).collect::<Vec<_>>());
    let shown = api.get("/api/agents/slow").await;
    assert_eq!(shown["epoch"], 1, "it stayed connected: {shown}\n{}", agent.process.printed());
    server.stop().await;
}

/// With the default settings. A link is slow for longer than a silent one would be borne.
#[tokio::test]
async fn a_slow_a_late_and_a_split_link_carry_much_output_and_nobody_is_evicted() {
    let server = TestServer::start().await;
    let api = &server.api;
    let links = [
        ("slow", Lane { bytes_per_s: Some(20_000), ..Lane::default() }),
        ("late", Lane { delay: Duration::from_millis(300), ..Lane::default() }),
        ("split", Lane { split: true, ..Lane::default() }),
    ];
    let runs = links.map(|(name, lane)| async move {
        let (proxy, agent) = quiet(api, name).await;
        // Over the bad link it connects, too.
        proxy.set(|faults| {
            (faults.to_client, faults.to_server) = (lane, lane);
            faults.cut(Cut::Fin);
        });
        eventually(&format!("{name} is back"), || async {
            let shown = api.get(&format!("/api/agents/{name}")).await;
            (shown["epoch"] == 2 && shown["online"] == true).then_some(())
        })
        .await;
        let begun = Instant::now();
        let command = api.run(name, &format!("echo run >> {}; seq 1 100000", agent.runs().display())).await;
        let ended = api.until(&command, &["succeeded"]).await;
        println!("{name}: 588,895 bytes in {:.1} s", begun.elapsed().as_secs_f64());
        assert_eq!(ended["deliveries"][0]["attempt"], 1, "{ended}");
        assert!(api.output(&command, "stdout").await == numbers(100_000), "{name}: a hole or a repetition");
        assert_eq!(agent.told(), ["run"]);
        let shown = api.get(&format!("/api/agents/{name}")).await;
        assert_eq!(shown["epoch"], 2, "it stayed connected: {shown}\n{}", agent.process.printed());
    });
    join_all(runs).await;
    server.stop().await;
}
