//! A model test: random sequences of everything that can happen to the store, through the real store on a real file,
//! beside a small model of what must come of it.
//!
//! The model has two halves. `rows` says, from the tables of PROTOCOL.md, what each operation makes of each delivery
//! and what it answers. `agent`, `links` and `sessions` are agents that follow the protocol, with a journal that survives, and
//! connections that lose frames, break, and speak late; they know what really ran. After every step `checks` reads the
//! database and compares it with both. `PROPTEST_CASES` asks for more cases than the few of an ordinary run.

mod agent;
mod checks;
mod links;
pub mod rows;
mod sessions;
pub mod steps;
pub mod world;

use postrider::protocol::state::State;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeMap;
use steps::{Case, Step, cases};
use world::World;

/// Cases of an ordinary run: some seconds.
const CASES: u32 = 60;

/// Runs a case with all checks after each step.
fn run(case: &Case) -> World {
    let mut world = World::new();
    for step in &case.steps {
        world.step(step);
        checks::all(&world);
    }
    if case.agents_come_back {
        world.heal();
        checks::nothing_known_is_lost(&world);
    } else {
        world.wait_out();
    }
    checks::all(&world);
    checks::at_the_end(&world);
    world.close();
    world
}

#[test]
fn no_order_of_events_breaks_a_promise() {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: asked.unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 3000,
        ..Config::default()
    };
    let seen = RefCell::new(BTreeMap::<State, u64>::new());
    let result = TestRunner::new(config).run(&cases(), |case| {
        for row in run(&case).rows.0 {
            *seen.borrow_mut().entry(row.state).or_default() += 1;
        }
        Ok::<(), TestCaseError>(())
    });
    println!("deliveries by their ends: {:?}", seen.borrow());
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => panic!("{why}\nthe shortest case found: {case:?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

/// A connection that the agent gave up may still hold its hello: the server may take it after a newer one.
#[test]
fn a_hello_that_is_taken_late_decides_nothing() {
    let ends = [Step::Cancel(0), Step::Pass(70)];
    for end in ends {
        let steps = vec![
            Step::Connect(0),
            Step::Reconnect(0),
            Step::Enqueue { targets: 1, ttl_minutes: 60, timeout_minutes: 1 },
            Step::Look(0),
            Step::AgentReads { agent: 0, frames: 3 },
            Step::Starts(0),
            end,
            Step::LateBegin(0),
            Step::Reap,
        ];
        run(&Case { steps, agents_come_back: true });
    }
}
