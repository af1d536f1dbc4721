//! Frames that never arrive: an `accepted`, a `stored`. The journal and the next `hello` make up for them.

use crate::harness::agent::TestAgent;
use crate::harness::api::events;
use crate::harness::eventually::eventually;
use crate::harness::lane::Flow;
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::server::TestServer;
use rusqlite::{Connection, OpenFlags};

/// The latest delivery in an agent's journal: its state, whether it was let go of, whether it still has its specification.
fn journaled(agent: &TestAgent) -> (String, bool, bool) {
    let conn = Connection::open_with_flags(agent.data.join("journal.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let row = "SELECT state, stored, spec IS NOT NULL FROM deliveries ORDER BY seq DESC LIMIT 1";
    conn.query_one(row, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
}

/// A server, a proxy, and a real agent `far` behind it, which has told that it is ready: online alone does not say so.
async fn far() -> (TestServer, Proxy, TestAgent) {
    let server = TestServer::start().await;
    let proxy = Proxy::start(server.api.address()).await;
    let agent = TestAgent::start_behind(&server.api, "far", &proxy).await;
    server.api.round_trip("far", "true").await;
    (server, proxy, agent)
}

#[tokio::test]
async fn an_accept_that_was_lost_is_told_by_hello_and_the_command_is_not_dispatched_again() {
    for (ends_before, cut) in [(false, Cut::Fin), (true, Cut::Reset)] {
        let (server, proxy, agent) = far().await;
        let api = &server.api;
        let gate = agent.data.with_file_name("gate");
        let open = || std::fs::write(&gate, "").unwrap();
        proxy.set(|faults| faults.to_server.flow = Flow::Vanish);
        let wait = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
        let line = format!("echo run >> {}; {wait}; echo out", agent.runs().display());
        let command = api.run("far", &line).await;
        eventually("it ran", || async { (agent.told() == ["run"]).then_some(()) }).await;
        if ends_before {
            open();
            eventually("its end is journaled", || async { (journaled(&agent).0 == "succeeded").then_some(()) }).await;
        }
        assert_eq!(events(&api.command(&command).await), ["queued", "dispatched"], "nobody has told us");
        proxy.set(|faults| faults.cut(cut));
        api.until_online("far", false).await;
        assert_eq!(api.command(&command).await["state"], "queued", "in doubt, and still ours");

        proxy.set(|faults| faults.heal());
        if !ends_before {
            api.until(&command, &["running"]).await;
            // Whatever else was to be dispatched has been, when this comes back.
            api.round_trip("far", "true").await;
            open();
        }
        let ended = api.until(&command, &["succeeded"]).await;
        assert_eq!(ended["deliveries"][0]["attempt"], 1, "{ended}");
        assert_eq!(events(&ended), ["queued", "dispatched", "accepted", "running", "succeeded"]);
        assert_eq!(api.output(&command, "stdout").await, b"out\n");
        assert_eq!(agent.told(), ["run"]);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_stored_that_was_lost_is_made_up_for_by_the_next_welcome() {
    let (server, proxy, agent) = far().await;
    let api = &server.api;
    let gate = agent.data.with_file_name("gate");
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let line = format!("echo run >> {}; echo begun; {wait}; echo over", agent.runs().display());
    let command = api.run("far", &line).await;
    api.until(&command, &["running"]).await;
    proxy.set(|faults| faults.to_client.flow = Flow::Vanish);
    std::fs::write(&gate, "").unwrap();
    let ended = api.until(&command, &["succeeded"]).await;
    let vanished = &proxy.counts().vanished;
    eventually("`stored` vanished", || async {
        (vanished.load(std::sync::atomic::Ordering::Relaxed) > 0).then_some(())
    })
    .await;
    assert_eq!(journaled(&agent), ("succeeded".to_owned(), false, true), "nobody let it go");

    proxy.set(|faults| {
        faults.heal();
        faults.cut(Cut::Fin);
    });
    eventually("it may forget", || async {
        (journaled(&agent) == ("succeeded".to_owned(), true, false)).then_some(())
    })
    .await;
    assert_eq!(agent.told(), ["run"]);
    assert_eq!(api.output(&command, "stdout").await, b"begun\nover\n", "not doubled");
    assert_eq!(events(&api.command(&command).await), events(&ended), "the story has ended");
    // It is well: the next command goes its way.
    api.round_trip("far", "true").await;
    server.stop().await;
}
