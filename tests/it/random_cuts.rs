//! Links that are cut at random moments and at random bytes while commands run: nothing is lost, nothing runs twice.

use crate::harness::agent::TestAgent;
use crate::harness::api::Api;
use crate::harness::chance::Chance;
use crate::harness::fleet::Fleet;
use crate::harness::lane::Direction;
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::server::TestServer;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const FLEET: usize = 20;
/// How long it rains.
const RAIN: Duration = Duration::from_secs(10);
/// Longest time between two cuts of everything.
const PAUSE_MS: u64 = 800;
/// Somewhere in the first frames of a connection.
const BYTES: usize = 3000;

/// Cuts until the time is over: at once, or at the byte that comes after so many.
async fn rain(proxy: &Proxy, mut chance: Chance) {
    let until = Instant::now() + RAIN;
    while Instant::now() < until {
        sleep(chance.at_most_ms(PAUSE_MS)).await;
        let cut = if chance.below(2) == 0 { Cut::Fin } else { Cut::Reset };
        let direction = if chance.below(2) == 0 { Direction::ToClient } else { Direction::ToServer };
        let bytes = chance.below(BYTES) as u64;
        let now = chance.below(3) == 0;
        proxy.set(|faults| match now {
            true => faults.cut(cut),
            false => faults.lane_mut(direction).cut_after = Some((bytes, cut)),
        });
    }
}

/// Commands for the fleet and for the real agent until the time is over; answers both.
async fn submit(api: &Api, fleet: &Fleet, line: impl Fn(usize) -> String) -> (Vec<String>, Vec<String>) {
    let (names, until) = (fleet.names(), Instant::now() + RAIN);
    let (mut theirs, mut real) = (Vec::new(), Vec::new());
    while Instant::now() < until {
        real.push(api.run("real", &line(real.len())).await);
        for _ in 0..FLEET {
            theirs.push(api.run(&names[theirs.len() % FLEET], "true").await);
        }
        sleep(Duration::from_millis(100)).await;
    }
    (theirs, real)
}

#[tokio::test]
async fn nothing_is_lost_or_run_twice_under_cuts_at_random_moments() {
    let mut chance = Chance::new();
    let server = TestServer::start().await;
    let api = &server.api;
    let (far, further) = (Proxy::start(api.address()).await, Proxy::start(api.address()).await);
    let _healthy = TestAgent::start(api, "healthy").await;
    let fleet = Fleet::start(api, "fleet", FLEET, &far.address).await;
    let agent = TestAgent::start_behind(api, "real", &further).await;

    let runs = agent.runs();
    let line = |number| format!("echo {number} >> {}; seq 1 1000; sleep 0.1; seq 1001 2000", runs.display());
    let faults = futures_util::future::join3(
        submit(api, &fleet, line),
        rain(&far, chance.fork()),
        rain(&further, chance.fork()),
    );
    let (((theirs, real), (), ()), round_trips) = api.meanwhile("healthy", faults).await;
    assert!(round_trips > 20, "{round_trips}");
    assert_eq!(api.get("/api/agents/healthy").await["epoch"], 1, "the healthy agent was not disturbed");

    for proxy in [&far, &further] {
        proxy.set(|faults| faults.heal());
    }
    for command in theirs.iter().chain(&real) {
        api.until(command, &["succeeded"]).await;
    }
    let welcomed: u32 = fleet.connections().iter().sum();
    let epoch = api.get("/api/agents/real").await["epoch"].as_u64().unwrap();
    println!(
        "{} commands over {welcomed} sessions of {FLEET} agents, {} over {epoch} sessions of a real one, \
         {round_trips} round trips of a healthy one",
        theirs.len(),
        real.len()
    );
    assert!(welcomed > 2 * FLEET as u32 && epoch > 2, "links were cut");
    fleet.ran_once(api, &theirs).await;
    let mut told: BTreeMap<String, u32> = BTreeMap::new();
    for number in agent.told() {
        *told.entry(number).or_default() += 1;
    }
    let expected: String = (1..=2000).map(|number| format!("{number}\n")).collect();
    for (number, command) in real.iter().enumerate() {
        assert_eq!(told.remove(&number.to_string()), Some(1), "runs of {command}");
        assert!(api.output(command, "stdout").await == expected.as_bytes(), "{command}: a hole or a repetition");
    }
    assert!(told.is_empty(), "{told:?}");
    server.stop().await;
}
