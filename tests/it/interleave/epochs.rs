//! An epoch's end against writes under way: what an older session has queued behind the newer one's begin is fenced,
//! what it has queued before counts, in every order, in one group.

use super::orders::each_order;
use crate::harness::claim::look;
use crate::harness::raw_agent::success;
use crate::model::steps::Step;
use crate::model::world::World;
use postrider::protocol::frame::JournalEntry;
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::output::{OutputFrame, Stream};
use postrider::protocol::state::State;
use postrider::store::error::StoreError;
use postrider::store::op::{LookOutside, Operation};
use postrider::store::outbox::Claimed;
use postrider::store::output::AppendOutput;
use postrider::store::progress::{Accept, Finish, Progress, Report, Start};
use postrider::store::session::{BeginSession, Ready, SessionBegun};
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;

const AGENT: usize = 0;
const WINDOW: usize = 8;

/// What an operation answered, or must answer.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Progress(Progress),
    /// The rows to dispatch.
    Rows(Vec<DeliveryId>),
    /// The epoch, and which entries of the journal are kept.
    Begun(u64, Vec<bool>),
    Fenced,
}

type Waiting = Pin<Box<dyn Future<Output = Answer>>>;

/// Takes its place in the queue now.
fn queue<O: Operation + 'static>(world: &World, operation: O, then: fn(O::Answer) -> Answer) -> Waiting {
    let reply = world.runtime.block_on(world.store.queue(operation)).unwrap();
    Box::pin(async move {
        match reply.done().await {
            Ok(answer) => then(answer),
            Err(StoreError::Fenced) => Answer::Fenced,
            Err(error) => panic!("{error}"),
        }
    })
}

fn rows(claimed: Claimed) -> Answer {
    Answer::Rows(claimed.rows.into_iter().map(|row| row.id).collect())
}

fn begun(begun: SessionBegun) -> Answer {
    Answer::Begun(begun.epoch, begun.verdicts.into_iter().map(|verdict| verdict.keep).collect())
}

/// The agent comes with this journal; answers the session's epoch. Its begin is not told to the model's rows.
fn begin(world: &World, journal: Vec<JournalEntry>) -> BeginSession {
    let enrolled = &world.enrolled[AGENT];
    BeginSession {
        agent_seq: enrolled.seq,
        version: "1".to_owned(),
        os: "test".to_owned(),
        challenge: i64::try_from(enrolled.epoch).unwrap() + 1,
        last_epoch: enrolled.ready_epoch,
        journal,
        ability: None,
    }
}

fn ready(world: &mut World, epoch: u64) {
    let agent_seq = world.enrolled[AGENT].seq;
    world.write(Ready { agent_seq, epoch, pin: None }).unwrap();
    (world.enrolled[AGENT].epoch, world.enrolled[AGENT].ready_epoch) = (epoch, epoch);
}

/// A new session of an agent that knows nothing, and what is open ends: a clean table.
fn afresh(world: &mut World) -> u64 {
    let commands = world.commands.len();
    for command in commands.saturating_sub(2)..commands {
        // Numbers are bytes there.
        if let Ok(number) = u8::try_from(command) {
            world.step(&Step::Cancel(number));
        }
    }
    let epoch = world.write(begin(world, Vec::new())).unwrap().epoch;
    world.rows.begin(AGENT, &[], false, world.now_ms);
    ready(world, epoch);
    epoch
}

/// One order of the five writes of an older session and the begin of a newer one (the last number).
fn in_order(world: &mut World, order: &[usize], arrived: bool) {
    let epoch = afresh(world);
    let enqueue = Step::Enqueue { targets: 1, ttl_minutes: 600, timeout_minutes: 1 };
    let agent_seq = world.enrolled[AGENT].seq;
    world.step(&enqueue);
    let now_ms = world.now_ms;
    let claim = |in_flight: &HashSet<DeliveryId>, epoch| look(now_ms, agent_seq, epoch, WINDOW, in_flight);
    let first = claim(&HashSet::new(), epoch);
    let Answer::Rows(dispatched) = rows(world.write(first).unwrap()) else { unreachable!() };
    assert_eq!(dispatched, world.rows.look(AGENT, WINDOW, &HashSet::new(), world.now_ms).rows);
    let [delivery] = dispatched[..] else { panic!("{dispatched:?}") };
    let in_flight = HashSet::from([delivery]);
    world.step(&enqueue);

    let journal = match arrived {
        true => vec![JournalEntry { delivery, state: State::Running }],
        false => Vec::new(),
    };
    let report = Report { agent_seq, epoch, delivery };
    let frame = OutputFrame { delivery, stream: Stream::Stdout, offset: 0, bytes: b"x".to_vec() };
    let now_ms = world.now_ms;
    let (mut waiting, mut expected, mut old) = (Vec::new(), Vec::new(), true);
    let hold = world.hold();
    // The committing thread takes this alone and waits for the lock; the rest queues up behind it.
    let outside = world.runtime.block_on(world.store.queue(LookOutside)).unwrap();
    for number in order {
        let progress = |progress| if old { Answer::Progress(progress) } else { Answer::Fenced };
        let (answer, must) = match number {
            0 => (
                queue(world, Accept(report), Answer::Progress),
                progress(if old { world.rows.accept(AGENT, delivery, now_ms) } else { Progress::Done }),
            ),
            1 => (
                queue(world, Start(report), Answer::Progress),
                progress(if old { world.rows.start(AGENT, delivery, now_ms) } else { Progress::Done }),
            ),
            2 => (
                queue(world, AppendOutput { agent_seq, epoch, frame: frame.clone() }, Answer::Progress),
                progress(if old { world.rows.output(AGENT, delivery) } else { Progress::Done }),
            ),
            3 => (
                queue(world, Finish { report, outcome: success() }, Answer::Progress),
                progress(if old { world.rows.finish(AGENT, delivery, State::Succeeded) } else { Progress::Done }),
            ),
            4 => {
                let answer = queue(world, claim(&in_flight, epoch), rows);
                let must = match old {
                    true => Answer::Rows(world.rows.look(AGENT, WINDOW, &in_flight, now_ms).rows),
                    false => Answer::Fenced,
                };
                (answer, must)
            }
            _ => {
                old = false;
                let answer = queue(world, begin(world, journal.clone()), begun);
                (answer, Answer::Begun(epoch + 1, world.rows.begin(AGENT, &journal, false, now_ms)))
            }
        };
        waiting.push(answer);
        expected.push(must);
    }
    drop(hold);
    let answers = world.runtime.block_on(async {
        outside.done().await.unwrap();
        let mut answers = Vec::new();
        for answer in waiting {
            answers.push(answer.await);
        }
        answers
    });
    assert_eq!(answers, expected, "{order:?}, arrived: {arrived}");
    ready(world, epoch + 1);
    let newer = claim(&HashSet::new(), epoch + 1);
    let must = Answer::Rows(world.rows.look(AGENT, WINDOW, &HashSet::new(), now_ms).rows);
    assert_eq!(rows(world.write(newer).unwrap()), must, "{order:?}, arrived: {arrived}");
}

#[test]
fn in_every_order_in_one_group_the_older_session_writes_until_the_newer_begins_and_not_after() {
    let mut world = World::new();
    let (mut tried, mut whole) = (0_usize, 0);
    each_order(&[1; 6], &mut |order| {
        // The dispatch had not arrived when the agent said hello, or it had.
        for arrived in [false, true] {
            in_order(&mut world, order, arrived);
        }
        tried += 1;
        whole += world.groups.lock().unwrap().drain(..).filter(|operations| *operations >= order.len()).count();
        if tried % 60 == 0 {
            // A fresh file now and then: the steps' numbers are small.
            world.close();
            world = World::new();
        }
    });
    println!("{tried} orders with two journals each, {whole} of these in one group");
    assert!(whole > 0);
    world.close();
}
