//! Answer against crash: at the moment of an answer, what it says is in the file, whatever the process does next.
//!
//! A reader with an open snapshot keeps the write-ahead log from being emptied or overwritten, so that it only grows:
//! what a kill leaves at any moment is the log up to the length that it has then. The length is noted at each answer,
//! and afterwards each such file is made and opened.

use crate::harness::claim::look;
use crate::harness::raw_agent::success;
use crate::harness::small_disk::SmallDisk;
use crate::model::steps::Step;
use crate::model::world::{AGENTS, World};
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::output::{OUTPUT_CHUNK_BYTES_MAX, OutputFrame, Stream};
use postrider::protocol::spec::Spec;
use postrider::store::brake::Brake;
use postrider::store::cancel::Cancel;
use postrider::store::enqueue::{Enqueue, Selector};
use postrider::store::error::StoreError;
use postrider::store::op::LookOutside;
use postrider::store::output::AppendOutput;
use postrider::store::progress::{Finish, Progress, Report};
use postrider::store::session::{BeginSession, Ready};
use rusqlite::Connection;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tempfile::TempDir;

/// Callers at once, so that groups have several operations.
const CALLERS: usize = 6;
const SUBMISSIONS: usize = 25;
/// Files that are made and opened.
const CRASHES: usize = 120;

/// An answer: how long the log was then, whose command it was, and whether it was cancelled.
struct Answered {
    wal_bytes: u64,
    command: [u8; 16],
    cancelled: bool,
}

fn wal(file: &Path) -> PathBuf {
    file.with_extension("db-wal")
}

async fn submit_and_cancel(world: &Parts, answers: &Mutex<Vec<Answered>>) {
    let document = r#"{"v":1,"command":"true","timeout_ms":1000,"not_after_ms":4000000000000}"#;
    let note = |command: [u8; 16], cancelled| {
        let wal_bytes = std::fs::metadata(wal(&world.file)).unwrap().len();
        answers.lock().unwrap().push(Answered { wal_bytes, command, cancelled });
    };
    for number in 0..SUBMISSIONS {
        let enqueue = Enqueue {
            actor: world.actor.clone(),
            targets: Selector::All,
            document: document.to_owned(),
            spec: Spec::parse(document.as_bytes()).unwrap(),
            note: None,
            confirm: Some(AGENTS as u64),
            brake: Brake::default(),
            secrets: None,
            idempotency: None,
        };
        let id = world.store.try_write(enqueue).await.unwrap().command.id;
        note(*id.as_bytes(), false);
        if number % 3 == 0 {
            world.store.try_write(Cancel { actor: world.actor.clone(), command: id }).await.unwrap();
            note(*id.as_bytes(), true);
        }
    }
}

/// What the callers need of a world.
struct Parts {
    store: postrider::store::handle::Store,
    actor: postrider::store::audit::Actor,
    file: PathBuf,
}

/// The commands, and those of them whose deliveries are all cancelled, in what a crash left.
fn found(file: &Path, wal_bytes: u64) -> [BTreeSet<[u8; 16]>; 2] {
    let folder = TempDir::new().unwrap();
    let copy = folder.path().join("postrider.db");
    std::fs::copy(file, &copy).unwrap();
    std::fs::copy(wal(file), wal(&copy)).unwrap();
    File::options().write(true).open(wal(&copy)).unwrap().set_len(wal_bytes).unwrap();
    let conn = Connection::open(copy).unwrap();
    let ids = |sql: &str| {
        let mut statement = conn.prepare(sql).unwrap();
        let ids = statement.query_map([], |row| row.get(0)).unwrap();
        ids.collect::<Result<_, _>>().unwrap()
    };
    [
        ids("SELECT c.id FROM commands c JOIN audit a ON a.action = 'command.submit' AND unhex(a.target, '-') = c.id"),
        ids("SELECT id FROM commands c WHERE NOT EXISTS \
            (SELECT 1 FROM deliveries d WHERE d.command_seq = c.seq AND d.state <> 'cancelled')"),
    ]
}

#[test]
fn at_the_moment_of_an_answer_what_it_says_is_in_the_file() {
    let mut world = World::new();
    let pin = world.look_inside();
    pin.execute_batch("BEGIN").unwrap();
    let _: i64 = pin.query_row("SELECT count(*) FROM agents", [], |row| row.get(0)).unwrap();
    let parts = Parts { store: world.store.clone(), actor: world.actor.clone(), file: world.file() };
    let before_bytes = std::fs::metadata(wal(&parts.file)).unwrap().len();
    let answers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(submit_and_cancel(&parts, &answers));
            });
        }
    });
    let mut answers = answers.into_inner().unwrap();
    answers.sort_by_key(|answer| answer.wal_bytes);
    let all_bytes = std::fs::metadata(wal(&parts.file)).unwrap().len();
    assert!(before_bytes < answers[0].wal_bytes && answers[answers.len() - 1].wal_bytes <= all_bytes);
    let groups = world.groups.lock().unwrap().len();
    println!("{} answers, {groups} groups, a log of {all_bytes} bytes", answers.len());
    // At answers, and in the middle of what is being written after them.
    for crash in 0..CRASHES {
        let at = answers[crash * answers.len() / CRASHES].wal_bytes;
        let wal_bytes = (at + [0, 1, 4000, 30_000][crash % 4]).min(all_bytes);
        let [commands, cancelled] = found(&parts.file, wal_bytes);
        for answer in answers.iter().take_while(|answer| answer.wal_bytes <= wal_bytes) {
            let there = if answer.cancelled { &cancelled } else { &commands };
            assert!(there.contains(&answer.command), "answered, and not in the {wal_bytes} bytes of the log");
        }
    }
    drop(pin);
    world.close();
}

/// A delivery that its agent holds.
fn held(world: &mut World) -> Report {
    world.step(&Step::Enqueue { targets: 1, ttl_minutes: 600, timeout_minutes: 1 });
    let agent_seq = world.enrolled[0].seq;
    let begin = BeginSession {
        agent_seq,
        version: "1".into(),
        os: "test".into(),
        challenge: 1,
        last_epoch: 0,
        journal: Vec::new(),
        ability: None,
    };
    let epoch = world.write(begin).unwrap().epoch;
    world.write(Ready { agent_seq, epoch, pin: None }).unwrap();
    let claim = look(world.now_ms, agent_seq, epoch, 1, &HashSet::new());
    let claimed = world.write(claim).unwrap();
    Report { agent_seq, epoch, delivery: claimed.rows[0].id }
}

fn stored(world: &World, delivery: DeliveryId) -> BTreeSet<u64> {
    let conn = world.look_inside();
    let sql = "SELECT o.offset FROM output o JOIN deliveries d ON d.seq = o.delivery_seq WHERE d.id = ?1";
    let mut statement = conn.prepare(sql).unwrap();
    let offsets = statement.query_map([delivery.as_bytes()], |row| row.get(0)).unwrap();
    offsets.collect::<Result<_, _>>().unwrap()
}

#[test]
fn of_a_group_that_a_full_disk_breaks_up_only_what_is_in_the_file_is_answered() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let mut world = World::new_in(TempDir::new_in(disk.path()).unwrap());
    let report = held(&mut world);
    disk.fill(120 * 1024);
    let hold = world.hold();
    let outside = world.runtime.block_on(world.store.queue(LookOutside)).unwrap();
    let pieces: Vec<_> = (0..30)
        .map(|number| {
            let offset = number * OUTPUT_CHUNK_BYTES_MAX as u64;
            let bytes = vec![7; OUTPUT_CHUNK_BYTES_MAX];
            let frame = OutputFrame { delivery: report.delivery, stream: Stream::Stdout, offset, bytes };
            let piece = AppendOutput { agent_seq: report.agent_seq, epoch: report.epoch, frame };
            (offset, world.runtime.block_on(world.store.queue(piece)).unwrap())
        })
        .collect();
    drop(hold);
    let (mut taken, mut refused) = (BTreeSet::new(), BTreeSet::new());
    world.runtime.block_on(async {
        outside.done().await.unwrap();
        for (offset, piece) in pieces {
            match piece.done().await {
                Ok(Progress::Done) => taken.insert(offset),
                Err(StoreError::Full) => refused.insert(offset),
                other => panic!("{other:?}"),
            };
        }
    });
    println!("{} taken, {} refused", taken.len(), refused.len());
    assert!(!refused.is_empty(), "the disk was not full");
    assert_eq!(stored(&world, report.delivery), taken);
    // With room again all goes on, in the same process.
    disk.free();
    world.write(Finish { report, outcome: success() }).unwrap();
    assert_eq!(stored(&world, report.delivery), taken);
    world.close();
}
