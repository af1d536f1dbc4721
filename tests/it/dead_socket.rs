//! A peer that does not read: what is for it stays in its outbox, its socket may fill up, and nobody else waits.

use crate::harness::agent::TestAgent;
use crate::harness::lane::Flow;
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::raw_agent::{Identity, RawAgent};
use crate::harness::server::TestServer;
use futures_util::SinkExt;
use postrider::protocol::frame::{AgentFrame, encode};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

const COMMANDS: usize = 1000;
const AT_ONCE: usize = 20;
/// The first ones would fill every buffer on the way: together they have 600 kB.
const PADDING: usize = 30_000;

/// With the default settings, so it takes up to 20 s until the eviction.
#[tokio::test]
async fn a_thousand_commands_behind_a_dead_socket_hold_up_nobody_and_run_once_when_it_lives() {
    let server = TestServer::start().await;
    let api = &server.api;
    let proxy = Proxy::start(api.address()).await;
    let _healthy = TestAgent::start(api, "healthy").await;
    let far = TestAgent::start_behind(api, "far", &proxy).await;
    let runs = far.runs();

    proxy.set(|faults| faults.both(Flow::Held));
    let carried = proxy.counts().to_client.load(Ordering::Relaxed);
    let line = &|number: usize| {
        let padding = if number < AT_ONCE { PADDING } else { 0 };
        format!("echo {number} >> {} #{}", runs.display(), "x".repeat(padding))
    };
    let submit = |first: usize| async move {
        let lines: Vec<_> = (first..first + AT_ONCE).map(line).collect();
        futures_util::future::join_all(lines.iter().map(|line| api.run("far", line))).await
    };
    let mut commands = submit(0).await;
    let submissions = async {
        for first in (AT_ONCE..COMMANDS).step_by(AT_ONCE) {
            commands.extend(submit(first).await);
        }
        // All were answered, and nobody has read a byte.
        assert_eq!(proxy.counts().to_client.load(Ordering::Relaxed), carried);
        assert_eq!(api.get("/api/agents/far").await["outbox"], COMMANDS);
    };
    let ((), at_first) = api.meanwhile("healthy", submissions).await;
    let eviction = async {
        let evicted = api.until_online("far", false).await;
        assert_eq!(evicted["outbox"], COMMANDS, "nothing has left that was not accepted");
    };
    let ((), later) = api.meanwhile("healthy", eviction).await;
    println!("{at_first} round trips of the healthy agent during the submissions, {later} more until the eviction");
    assert!(at_first > 5 && later > 20, "{at_first}, {later}");
    let reason = api.last_close("far").await;
    println!("evicted for {reason}");
    assert!(["pong_timeout", "write_timeout"].contains(&reason.as_str()), "{reason}");
    assert!(far.told().is_empty());
    assert_eq!(api.get("/api/agents/healthy").await["epoch"], 1, "the healthy agent was not disturbed");

    proxy.set(|faults| {
        faults.heal();
        faults.cut(Cut::Reset);
    });
    for command in &commands {
        api.until(command, &["succeeded"]).await;
    }
    let mut told: Vec<usize> = far.told().iter().map(|line| line.parse().unwrap()).collect();
    told.sort_unstable();
    assert!(told == (0..COMMANDS).collect::<Vec<_>>(), "each ran once: {told:?}");
    server.stop().await;
}

/// Without deadlines: what goes on does so while the server is writing to a full socket.
#[tokio::test]
async fn a_full_socket_holds_up_nobody_else() {
    let server = TestServer::start_with(|config| {
        let never = Duration::from_secs(3600);
        (config.keepalive.ping_interval, config.keepalive.write_timeout) = (never, never);
    })
    .await;
    let api = &server.api;
    let _healthy = TestAgent::start(api, "healthy").await;
    let identity = Identity::enroll(api, "deaf").await;
    let mut agent = RawAgent::connect(api, &identity).await;
    let command = api.run("deaf", "true").await;
    let (delivery, _) = agent.dispatched().await;
    agent.complete(delivery).await;
    api.until(&command, &["succeeded"]).await;

    // Each is answered, and no answer is read: at last the server stops reading, too.
    let question = Message::text(encode(&AgentFrame::Accepted { delivery }));
    let mut asked = 0;
    while let Ok(sent) = tokio::time::timeout(Duration::from_secs(1), agent.socket.send(question.clone())).await {
        sent.unwrap();
        asked += 1;
    }
    println!("it took {asked} questions");
    for _ in 0..20 {
        api.round_trip("healthy", "true").await;
        api.run("deaf", "true").await;
    }
    let deaf = api.get("/api/agents/deaf").await;
    assert_eq!((&deaf["online"], &deaf["outbox"]), (&true.into(), &20.into()), "{deaf}");
    drop(agent);
    api.until_online("deaf", false).await;
    server.stop().await;
}
