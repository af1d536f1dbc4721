//! Bell against commit: whoever listens, looks and waits never sleeps on a row that is there.

use super::orders::each_order;
use crate::model::steps::Step;
use crate::model::world::World;
use futures_util::FutureExt;
use postrider::bell::BellBoard;
use std::pin::Pin;
use tokio::sync::futures::Notified;

const ROW: i64 = 7;

/// The loop of a session's writer, one step at a time: listen, look, then wait until the bell rings.
struct Writer<'a> {
    board: &'a BellBoard,
    bell: Option<Pin<Box<Notified<'a>>>>,
    seen: u32,
    at: At,
    /// Negative control: looks before it listens.
    wrong: bool,
}

enum At {
    First,
    Second,
    Wait,
}

impl<'a> Writer<'a> {
    fn listen(&mut self) {
        self.bell = Some(Box::pin(self.board.listen(ROW)));
    }

    fn step(&mut self, committed: u32) {
        self.at = match self.at {
            At::First => {
                if self.wrong {
                    self.seen = committed
                } else {
                    self.listen()
                }
                At::Second
            }
            At::Second => {
                if self.wrong {
                    self.listen()
                } else {
                    self.seen = committed
                }
                At::Wait
            }
            At::Wait => match self.bell.as_mut().unwrap().as_mut().now_or_never() {
                Some(()) => At::First,
                None => At::Wait,
            },
        };
    }

    fn asleep(&mut self) -> bool {
        matches!(self.at, At::Wait) && self.bell.as_mut().unwrap().as_mut().now_or_never().is_none()
    }
}

/// How many orders there are, and in how many the writer slept although something was there. Each program but the
/// first is a group: commit, then ring.
fn orders(groups: usize, writer_steps: usize, wrong: bool) -> (u32, u32) {
    let (mut tried, mut lost) = (0, 0);
    let programs = [vec![writer_steps], vec![2; groups]].concat();
    each_order(&programs, &mut |order| {
        let board = BellBoard::default();
        let mut writer = Writer { board: &board, bell: None, seen: 0, at: At::First, wrong };
        let (mut committed, mut done) = (0, vec![0; groups]);
        for program in order {
            match program.checked_sub(1) {
                None => writer.step(committed),
                Some(group) if done[group] == 0 => (committed, done[group]) = (committed + 1, 1),
                Some(_) => board.ring(ROW),
            }
        }
        // It goes on by itself as long as it is awake.
        while !writer.asleep() {
            writer.step(committed);
        }
        tried += 1;
        lost += u32::from(writer.seen != committed);
    });
    (tried, lost)
}

#[test]
fn no_order_of_listen_look_commit_and_ring_loses_a_wake_up() {
    for (groups, steps) in [(1, 6), (2, 5), (3, 3)] {
        let (tried, lost) = orders(groups, steps, false);
        println!("{groups} groups, {steps} steps of the writer: {tried} orders");
        assert_eq!(lost, 0, "{groups} groups, {steps} steps");
    }
    assert!(orders(1, 6, true).1 > 0, "whoever looks before it listens is found out");
}

/// The other half of the order above, in the real committing thread: whoever is woken finds the row.
#[test]
fn a_bell_rings_when_the_row_is_there_and_before_anybody_is_answered() {
    let mut world = World::new();
    let (store, row) = (world.store.clone(), world.enrolled[0].seq);
    for rows in 1..=60_i64 {
        let (conn, bell) = (world.look_inside(), store.watch.agents.listen(row));
        let woken = std::thread::scope(|scope| {
            let woken = scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(bell);
                conn.query_row("SELECT count(*) FROM deliveries", [], |row| row.get::<_, i64>(0)).unwrap()
            });
            let answered = store.watch.agents.listen(row);
            world.step(&Step::Enqueue { targets: 1, ttl_minutes: 600, timeout_minutes: 1 });
            assert!(answered.now_or_never().is_some(), "it was answered before the bell rang");
            woken.join().unwrap()
        });
        assert_eq!(woken, rows, "the bell rang before the row was there");
    }
    world.close();
}
