//! Half of a fleet falls into a black hole: it is evicted, the other half does not notice, and nothing is lost.

use crate::harness::eventually::eventually;
use crate::harness::fleet::{Fleet, shown};
use crate::harness::lane::Flow;
use crate::harness::proxy::Proxy;
use crate::harness::server::TestServer;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const EACH_HALF: usize = 100;

/// With the default settings, so it takes up to 20 s until the last eviction.
#[tokio::test]
async fn half_a_fleet_in_a_black_hole_is_evicted_and_the_other_half_does_not_notice() {
    let server = TestServer::start().await;
    let api = &server.api;
    let proxy = Proxy::start(api.address()).await;
    let healthy = Fleet::start(api, "healthy", EACH_HALF, api.address()).await;
    let far = Fleet::start(api, "far", EACH_HALF, &proxy.address).await;
    let names = far.names();
    eventually("all are online", || async {
        shown(api).await.iter().all(|agent| agent["online"] == true).then_some(())
    })
    .await;

    proxy.set(|faults| faults.both(Flow::Vanish));
    let broken = Instant::now();
    let mut commands = Vec::new();
    let fault = async {
        let (mut next, mut longest) = (0, Duration::ZERO);
        loop {
            // One after the other gets a command, before and after its eviction.
            for _ in 0..5 {
                commands.push(api.run(&names[next % EACH_HALF], "true").await);
                next += 1;
            }
            let online = shown(api).await.iter().filter(|agent| agent["online"] == true).count();
            if online == EACH_HALF && longest.is_zero() {
                longest = broken.elapsed();
            }
            if !longest.is_zero() && next >= 2 * EACH_HALF {
                return longest;
            }
            assert!(online >= EACH_HALF, "only {online} are online");
            assert!(broken.elapsed() < crate::harness::eventually::PATIENCE, "{online} are online still");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let healthy_names = healthy.names();
    let mut others = Vec::new();
    let round_trips = async {
        for name in healthy_names.iter().cycle() {
            others.push(api.round_trip(name, "true").await);
        }
    };
    let longest = tokio::select! {
        longest = fault => longest,
        () = round_trips => unreachable!("it never ends"),
    };
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for name in &names {
        *reasons.entry(api.last_close(name).await).or_default() += 1;
    }
    println!("all {EACH_HALF} evicted after {:.1} s, for {reasons:?}", longest.as_secs_f64());
    println!("{} round trips of the healthy half meanwhile", others.len());
    assert!(reasons.keys().all(|reason| reason == "pong_timeout" || reason == "write_timeout"), "{reasons:?}");
    assert!(others.len() > 50, "{}", others.len());
    assert!(healthy.connections().iter().all(|connections| *connections == 1), "one of the healthy was evicted");

    proxy.set(|faults| faults.heal());
    for command in &commands {
        api.until(command, &["succeeded"]).await;
    }
    far.ran_once(api, &commands).await;
    healthy.ran_once(api, &others).await;
    assert!(healthy.connections().iter().all(|connections| *connections == 1), "one of the healthy was evicted");
    assert!(far.connections().iter().all(|connections| *connections > 1));
    server.stop().await;
}
