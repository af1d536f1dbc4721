//! What must be true after every step, read from the file itself and through the store.

use super::rows::Row;
use super::world::{CLEARANCE_MS, World, output_byte};
use postrider::protocol::http::AgentsResponse;
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::name::Tags;
use postrider::protocol::scope::Scope;
use postrider::protocol::state::State;
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap};

/// Everything.
pub fn all(world: &World) {
    let conn = world.look_inside();
    deliveries(world, &conn);
    transitions(world, &conn);
    truth(world);
    counts(world, &conn);
}

fn state(text: &str) -> State {
    text.parse().unwrap()
}

/// The file's rows are the model's.
fn deliveries(world: &World, conn: &Connection) {
    let sql = "SELECT id, state, attempt, in_doubt, cancel_requested_ms IS NOT NULL, due_ms, held FROM deliveries ORDER BY seq";
    let mut statement = conn.prepare(sql).unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut expected = world.rows.0.iter();
    while let Some(row) = rows.next().unwrap() {
        let id = DeliveryId::from_bytes(row.get(0).unwrap());
        let want = expected.next().unwrap_or_else(|| panic!("{id} should not be there"));
        let found: (DeliveryId, State, u32, bool, bool) = (
            id,
            state(row.get_ref(1).unwrap().as_str().unwrap()),
            row.get(2).unwrap(),
            row.get(3).unwrap(),
            row.get(4).unwrap(),
        );
        assert_eq!(found, (want.id, want.state, want.attempt, want.in_doubt, want.cancel), "{want:?}");
        assert_eq!(row.get::<_, bool>(6).unwrap(), want.held, "{want:?}");
        let due_ms: i64 = row.get(5).unwrap();
        assert!(!want.is_open() || (due_ms - want.due_ms).abs() < CLEARANCE_MS / 2, "due {due_ms}: {want:?}");
    }
    assert!(expected.next().is_none(), "a delivery is missing");
}

/// Each story begins in the outbox, goes on where it was, makes moves that are allowed, and ends where the row is.
fn transitions(world: &World, conn: &Connection) {
    let sql = "SELECT d.id, t.before, t.event, t.attempt FROM transitions t JOIN deliveries d ON d.seq = t.delivery_seq \
        ORDER BY t.seq";
    let mut statement = conn.prepare(sql).unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut stories: HashMap<DeliveryId, (State, u32)> = HashMap::new();
    while let Some(row) = rows.next().unwrap() {
        let id = DeliveryId::from_bytes(row.get(0).unwrap());
        let (before, event): (String, String) = (row.get(1).unwrap(), row.get(2).unwrap());
        let Some((now, attempt)) = stories.get_mut(&id) else {
            assert_eq!((before.as_str(), event.as_str()), ("", "queued"), "{id}");
            stories.insert(id, (State::Queued, 0));
            continue;
        };
        assert_eq!(state(&before), *now, "{id}: {event}");
        match event.as_str() {
            "dispatched" => {
                assert_eq!(*now, State::Queued, "{id} was dispatched");
                let next: u32 = row.get(3).unwrap();
                assert!(next > *attempt, "{id}: attempt {next} after {attempt}");
                *attempt = next;
            }
            "approved" => assert_eq!((*now, *attempt), (State::Queued, 0), "{id} was on hold"),
            "cancel_requested" => assert!(!now.is_terminal(), "{id}"),
            event => {
                let next = state(event);
                assert!(now.may_become(next), "{id}: {now} > {next}");
                assert!(!now.is_terminal() || *now == State::Lost, "{id}: {now} is final, and became {next}");
                *now = next;
            }
        }
    }
    for row in &world.rows.0 {
        // Up to twenty dispatches each is told.
        assert_eq!(stories[&row.id], (row.state, row.attempt.min(20)), "{row:?}");
    }
}

/// What the server says is what happened.
fn truth(world: &World) {
    for agent in &world.agents {
        assert!(agent.starts.values().all(|starts| *starts == 1), "one start for each: {:?}", agent.starts);
    }
    for row in &world.rows.0 {
        let agent = &world.agents[row.agent];
        let started = agent.starts.contains_key(&row.id);
        let entry = agent.journal.iter().find(|entry| entry.delivery == row.id);
        match row.state {
            State::Cancelled | State::Expired if row.by_server => {
                assert!(!started, "the server said alone that it never ran, and it ran: {row:?}");
            }
            State::Queued if row.held => assert!(row.attempt == 0 && entry.is_none(), "nobody has it: {row:?}"),
            State::Queued if row.attempt == 0 => assert!(entry.is_none(), "it never left, and is there: {row:?}"),
            State::Queued | State::Lost => {}
            State::Accepted => assert!(entry.is_some(), "{row:?}"),
            State::Running => assert!(started, "{row:?}"),
            end => assert_eq!(entry.map(|entry| entry.state), Some(end), "{row:?}"),
        }
    }
}

/// What is counted: the outbox, epochs, audit rows.
fn counts(world: &World, conn: &Connection) {
    let queued = |row: &&Row| row.state == State::Queued && !row.held;
    let size = world.runtime.block_on(world.store.outbox_size()).unwrap();
    assert_eq!(size, world.rows.0.iter().filter(queued).count() as u64);
    let listed = world.store.agents(None, Tags::new(), 100, Scope::default(), |_| None);
    let listed: AgentsResponse = serde_json::from_slice(&world.runtime.block_on(listed).unwrap()).unwrap();
    for (number, enrolled) in world.enrolled.iter().enumerate() {
        let found = listed.agents.iter().find(|agent| agent.id == enrolled.id);
        assert_eq!(found.is_none(), enrolled.revoked);
        let Some(agent) = found else { continue };
        let outbox = world.rows.0.iter().filter(queued).filter(|row| row.agent == number).count() as u64;
        assert_eq!((agent.outbox, agent.epoch), (outbox, enrolled.epoch));
    }
    let mut statement = conn.prepare("SELECT action, count(*) FROM audit GROUP BY action").unwrap();
    let audited = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let audited: BTreeMap<String, u64> = audited.collect::<Result<_, _>>().unwrap();
    let expected: BTreeMap<String, u64> =
        world.audited.iter().map(|(action, count)| ((*action).to_owned(), *count)).collect();
    assert_eq!(audited, expected);
}

/// After everything: nothing is open, nothing that the agents know is missing, and the file is sound.
pub fn at_the_end(world: &World) {
    let conn = world.look_inside();
    let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    assert!(!conn.prepare("PRAGMA foreign_key_check").unwrap().exists([]).unwrap());
    for row in &world.rows.0 {
        assert!(!row.is_open(), "{row:?} has no end");
        if !row.by_server {
            output(world, &conn, row);
        }
    }
}

/// All that the process wrote was there before its end, each byte in its place.
fn output(world: &World, conn: &Connection, row: &Row) {
    let entry = world.agents[row.agent].journal.iter().find(|entry| entry.delivery == row.id).unwrap();
    let sql = "SELECT o.offset, o.bytes FROM output o JOIN deliveries d ON d.seq = o.delivery_seq WHERE d.id = ?1 \
        ORDER BY o.offset";
    let mut statement = conn.prepare(sql).unwrap();
    let mut pieces = statement.query([row.id.as_bytes()]).unwrap();
    let mut next = 0;
    while let Some(piece) = pieces.next().unwrap() {
        assert_eq!(piece.get::<_, u64>(0).unwrap(), next, "{row:?}");
        for byte in piece.get_ref(1).unwrap().as_blob().unwrap() {
            assert_eq!(*byte, output_byte(next), "{row:?}");
            next += 1;
        }
    }
    assert_eq!(next, entry.written, "{row:?}");
}

/// After everything healed: what is still `lost` never ran.
pub fn nothing_known_is_lost(world: &World) {
    for row in world.rows.0.iter().filter(|row| row.state == State::Lost && !world.enrolled[row.agent].revoked) {
        assert!(!world.agents[row.agent].starts.contains_key(&row.id), "{row:?} ran, and its end is known");
    }
}
