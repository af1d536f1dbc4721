//! A look that waits in the committing thread: it is answered by the commit that adds what it waits for, and takes nothing
//! for a writer that is gone.

use crate::harness::claim::look;
use crate::model::steps::Step;
use crate::model::world::World;
use futures_util::FutureExt;
use postrider::protocol::spec::Spec;
use postrider::store::brake::Brake;
use postrider::store::cancel::Cancel;
use postrider::store::enqueue::{Enqueue, Selector};
use postrider::store::error::StoreError;
use postrider::store::handle::Reply;
use postrider::store::outbox::{Claim, Nudge};
use postrider::store::progress::{Accept, Report};
use postrider::store::session::{BeginSession, Ready};
use std::collections::HashSet;

const ENQUEUE: Step = Step::Enqueue { targets: 1, ttl_minutes: 600, timeout_minutes: 1 };

/// A session of the first agent that is ready.
fn session(world: &World, challenge: i64, last_epoch: u64) -> u64 {
    let agent_seq = world.enrolled[0].seq;
    let (version, os) = ("1".to_owned(), "test".to_owned());
    let begin = BeginSession { agent_seq, version, os, challenge, last_epoch, journal: Vec::new(), ability: None };
    let epoch = world.write(begin).unwrap().epoch;
    world.write(Ready { agent_seq, epoch, pin: None }).unwrap();
    epoch
}

fn submission(world: &World) -> Enqueue {
    let document = r#"{"v":1,"command":"true","timeout_ms":1000,"not_after_ms":4000000000000}"#;
    Enqueue {
        actor: world.actor.clone(),
        targets: Selector::Agents(vec![world.enrolled[0].id.to_string()]),
        document: document.to_owned(),
        spec: Spec::parse(document.as_bytes()).unwrap(),
        note: None,
        confirm: None,
        brake: Brake::default(),
        secrets: None,
        idempotency: None,
    }
}

fn claim(world: &World, epoch: u64) -> Claim {
    Claim { parks: true, ..look(world.now_ms, world.enrolled[0].seq, epoch, 4, &HashSet::new()) }
}

/// The look, in the committing thread's hands: whatever was queued before has been committed.
fn park(world: &World, epoch: u64) -> Reply<Claim> {
    let parked = world.runtime.block_on(world.store.queue(claim(world, epoch))).unwrap();
    settle(world);
    parked
}

/// Waits for two groups: what the first made due is done in the second.
fn settle(world: &World) {
    for _ in 0..2 {
        world.write(Nudge { agent_seq: world.enrolled[1].seq }).unwrap();
    }
}

fn attempts(world: &World) -> Vec<(u32, bool)> {
    let conn = world.look_inside();
    let mut statement = conn.prepare("SELECT attempt, in_doubt FROM deliveries ORDER BY seq").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_submission_and_the_dispatch_of_what_it_adds_are_one_commit() {
    let mut world = World::new();
    let epoch = session(&world, 1, 0);
    let parked = park(&world, epoch);
    let before = world.groups.lock().unwrap().len();
    world.step(&ENQUEUE);
    let claimed = world.runtime.block_on(parked.done()).unwrap();
    assert_eq!((claimed.rows.len(), claimed.rows[0].attempt), (1, 1));
    assert_eq!(attempts(&world), [(1, true)]);
    assert_eq!(world.groups.lock().unwrap()[before..], [2], "one group of two operations");
    world.close();
}

/// The look and the submission in one group, in either order, and in groups of their own.
#[test]
fn in_no_order_does_a_look_sleep_on_a_row_that_is_there() {
    for (together, look_first) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut world = World::new();
        let epoch = session(&world, 1, 0);
        let hold = together.then(|| world.hold());
        let enqueue = submission(&world);
        let (runtime, store) = (&world.runtime, &world.store);
        let (parked, submitted) = runtime.block_on(async {
            match look_first {
                true => {
                    let parked = store.queue(claim(&world, epoch)).await.unwrap();
                    (parked, store.queue(enqueue).await.unwrap())
                }
                false => {
                    let submitted = store.queue(enqueue).await.unwrap();
                    (store.queue(claim(&world, epoch)).await.unwrap(), submitted)
                }
            }
        });
        drop(hold);
        let (claimed, submitted) = runtime.block_on(async { tokio::join!(parked.done(), submitted.done()) });
        assert_eq!(claimed.unwrap().rows.len(), 1, "together: {together}, look first: {look_first}");
        submitted.unwrap();
        world.close();
    }
}

#[test]
fn for_a_writer_that_is_gone_nothing_is_taken() {
    let mut world = World::new();
    let epoch = session(&world, 1, 0);
    drop(park(&world, epoch));
    world.step(&ENQUEUE);
    settle(&world);
    assert_eq!(attempts(&world), [(0, false)], "it can be cancelled at once, and nothing says that it left");
    world.close();
}

#[test]
fn an_older_sessions_look_is_told_that_it_is_over() {
    let mut world = World::new();
    let epoch = session(&world, 1, 0);
    let parked = park(&world, epoch);
    session(&world, 2, epoch);
    assert!(matches!(world.runtime.block_on(parked.done()), Err(StoreError::Fenced)));
    world.close();
}

#[test]
fn a_wish_to_cancel_is_told_once() {
    let mut world = World::new();
    let epoch = session(&world, 1, 0);
    world.step(&ENQUEUE);
    let claimed = world.write(claim(&world, epoch)).unwrap();
    let (agent_seq, delivery) = (world.enrolled[0].seq, claimed.rows[0].id);
    world.write(Accept(Report { agent_seq, epoch, delivery })).unwrap();
    let parked = park(&world, epoch);
    world.write(Cancel { actor: world.actor.clone(), command: world.commands[0].id }).unwrap();
    assert_eq!(world.runtime.block_on(parked.done()).unwrap().cancels, [delivery]);
    let told = Claim { cancelled: HashSet::from([delivery]), ..claim(&world, epoch) };
    let parked = world.runtime.block_on(world.store.queue(told)).unwrap();
    world.write(Nudge { agent_seq }).unwrap();
    settle(&world);
    assert!(parked.done().now_or_never().is_none(), "there is nothing new");
    world.close();
}
