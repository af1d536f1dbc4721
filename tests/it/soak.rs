//! Server and agents are killed again and again under load: everything answered is there, nothing ran twice, all ends.

use crate::harness::agent::TestAgent;
use crate::harness::api::{Api, ENDS, id};
use crate::harness::chance::Chance;
use crate::harness::eventually::eventually;
use crate::harness::process::ServerProcess;
use crate::harness::runs::Runs;
use futures_util::future::{join, join_all};
use postrider::store::handle::DATABASE_FILE;
use serde_json::json;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

const AGENTS: [&str; 3] = ["web-1", "web-2", "web-3"];
const SUBMITTERS: usize = 3;
/// Kills of the server, and of agents.
const KILLS: usize = 10;

/// Submits until `stop`, each command until it is answered; answers names and ids.
async fn submit(api: &Api, runs: &Runs, who: usize, mut chance: Chance, stop: &Cell<bool>) -> Vec<(String, String)> {
    let mut submitted = Vec::new();
    while !stop.get() {
        let name = format!("{who}-{}", submitted.len());
        let agent = AGENTS[chance.below(AGENTS.len())];
        let rest = if chance.below(4) == 0 { "sleep 0.2" } else { "" };
        let body = json!({ "command": runs.line(&name, rest), "timeout_s": 60 });
        let taken = eventually("a submission is taken", || api.try_submit(agent, &name, &body)).await;
        submitted.push((name, id(&taken)));
        tokio::time::sleep(chance.at_most_ms(50)).await;
    }
    submitted
}

fn commands(data: &Path) -> usize {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = rusqlite::Connection::open_with_flags(data.join(DATABASE_FILE), flags).unwrap();
    database.query_row("SELECT count(*) FROM commands", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn kills_at_random_moments_lose_nothing_and_run_nothing_twice() {
    let mut chance = Chance::new();
    let folder = TempDir::new().unwrap();
    let (data, runs) = (folder.path().join("server"), Runs::new(folder.path()));
    let mut server = ServerProcess::start(&data, 0).await;
    let (api, port) = (server.api.clone(), server.port());
    let mut agents = join_all(AGENTS.map(|name| TestAgent::start(&api, name))).await;

    let stop = Cell::new(false);
    let mut kinds: Vec<bool> = (0..2 * KILLS).map(|number| number < KILLS).collect();
    let submitting: Vec<Chance> = (0..SUBMITTERS).map(|_| chance.fork()).collect();
    let submitting = submitting.into_iter().enumerate().map(|(who, chance)| submit(&api, &runs, who, chance, &stop));
    let killing = async {
        while !kinds.is_empty() {
            tokio::time::sleep(chance.at_most_ms(800)).await;
            if kinds.swap_remove(chance.below(kinds.len())) {
                server.process.kill();
                server = ServerProcess::start(&data, port).await;
            } else {
                let killed = chance.below(AGENTS.len());
                agents[killed].restart(AGENTS[killed]);
            }
        }
        stop.set(true);
    };
    let (submitted, ()) = join(join_all(submitting), killing).await;

    let submitted = submitted.concat();
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for (name, command) in &submitted {
        let ended = api.until(command, ENDS).await;
        runs.check("soak", name, &ended);
        *states.entry(ended["state"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    println!("{} commands: {states:?}", submitted.len());
    assert_eq!(commands(&data), submitted.len(), "each submission is one command");
    eventually("the agents forgot all", || async { agents.iter().all(|agent| agent.held() == 0).then_some(()) }).await;
}
