//! Rules of this project that a machine can check: floors, sizes, where SQL is, and documents that say what the code says.

use clap::CommandFactory;
use postrider::cli::args::Cli;
use postrider::protocol::close::CloseReason;
use postrider::protocol::frame::{AgentFrame, ServerFrame};
use postrider::protocol::state::State;
use postrider::server::metrics::{Metrics, StoreMetrics};
use postrider::store::handle::{Committed, Counter};
use postrider::store::migrate::SCHEMA;
use rusqlite::{Connection, ErrorCode};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longest source file, in lines.
const LINES_MAX: usize = 500;
/// What may lie at the top. Files that begin with a dot are the tools'.
const TOP: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "schema.sql",
    "tests",
    "packaging",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of `src`.
struct Source {
    /// Below `src`, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// The crate's module that it belongs to.
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// Its lines of code, without comments, and their numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line.split("//").next().unwrap()))
    }

    /// The modules of the crate that a line of code names.
    fn imports(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().flat_map(|(number, line)| {
            line.split("crate::").skip(1).map(move |rest| {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                (number, &rest[..end])
            })
        })
    }
}

fn read_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { read_below(&path, found) } else { found.push(path) }
    }
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut paths = Vec::new();
    read_below(&src, &mut paths);
    paths.sort();
    let sources: Vec<_> = paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| Source {
            path: path.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/"),
            text: fs::read_to_string(&path).unwrap(),
        })
        .collect();
    assert!(sources.len() > 50, "the sources are elsewhere: {}", src.display());
    sources
}

fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Each module's floor, as `lib.rs` declares it.
fn floors(sources: &[Source]) -> BTreeMap<String, u32> {
    let lib = sources.iter().find(|source| source.path == "lib.rs").unwrap();
    let (mut floors, mut floor) = (BTreeMap::new(), None);
    for line in lib.text.lines() {
        if let Some(rest) = line.strip_prefix("// Floor ") {
            floor = rest.split(':').next().unwrap().parse().ok();
        } else if let Some(module) = line.strip_prefix("pub mod ") {
            floors.insert(module.trim_end_matches(';').to_owned(), floor.expect("a floor above each module"));
        }
    }
    floors
}

fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn imports_go_downwards_only() {
    let sources = sources();
    let floors = floors(&sources);
    assert_eq!(floors.values().max(), Some(&3), "{floors:?}");
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| !matches!(source.path.as_str(), "lib.rs" | "main.rs")) {
        let own = source.module();
        let floor = *floors.get(own).unwrap_or_else(|| panic!("src/{} is of no module of lib.rs", source.path));
        for (number, module) in source.imports().filter(|(_, module)| *module != own) {
            let Some(below) = floors.get(module) else { continue };
            let allowed = match own {
                // Both ends share its words; a client of another make could too.
                "protocol" => matches!(module, "secret" | "pin"),
                // What time it is, an agent is told by its server.
                "agent" if module == "clock" => false,
                // They speak to the server, never to its database.
                "agent" | "cli" => *below < 2,
                _ if floor == 0 => *below == 0,
                _ => *below < floor,
            };
            if !allowed {
                wrong.push(format!("src/{}:{number}: {own} (floor {floor}) must not use {module}", source.path));
            }
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn lower_floors_do_no_io() {
    let rules: [(&str, &[&str]); 3] = [
        ("protocol", &["std::fs", "std::net", "tokio::", "hyper::", "rusqlite::"]),
        ("store", &["std::net", "tokio::net", "hyper::", "warp::", "tungstenite"]),
        ("cli", &["rusqlite::", "warp::", "tungstenite"]),
    ];
    let mut wrong = Vec::new();
    for source in sources() {
        for (_, names) in rules.iter().filter(|(module, _)| *module == source.module()) {
            for (number, line) in source.code() {
                let found = names.iter().filter(|name| line.contains(**name));
                wrong.extend(found.map(|name| format!("src/{}:{number}: {name}", source.path)));
            }
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("src/{} has {lines} lines; at most {LINES_MAX}", source.path));
        }
        if !source.text.starts_with("//!") {
            wrong.push(format!("src/{} does not begin with //!", source.path));
        }
        if source.path.ends_with("/mod.rs") {
            let stray = source
                .code()
                .map(|(number, line)| (number, line.trim()))
                .filter(|(_, line)| !line.is_empty() && !line.starts_with("pub mod ") && !line.starts_with("#["));
            wrong.extend(stray.map(|(number, line)| format!("src/{}:{number}: {line}", source.path)));
        }
    }
    nothing_wrong(&wrong);
}

fn is_sql(line: &str) -> bool {
    let updates = line.split("UPDATE ").skip(1).any(|rest| rest.contains(" SET "));
    updates || ["SELECT ", "INSERT INTO", "DELETE FROM", "CREATE TABLE"].iter().any(|word| line.contains(word))
}

#[test]
fn sql_stays_in_the_stores() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for source in sources() {
        let allowed = source.module() == "store" || source.path.starts_with("agent/journal");
        for (number, line) in source.text.lines().enumerate().filter(|(_, line)| is_sql(line)) {
            seen += 1;
            if !allowed {
                wrong.push(format!("src/{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    assert!(seen > 50, "the search finds SQL at all");
    nothing_wrong(&wrong);
}

#[test]
fn nothing_else_lies_at_the_top() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with('.') && name != "target" && !TOP.contains(&name.as_str()) {
            wrong.push(format!("{name} at the top"));
        }
    }
    nothing_wrong(&wrong);
}

/// Whether `text` has `word` with no letter, digit or underscore on either side.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part) && !text[at + word.len()..].chars().next().is_some_and(part)
    })
}

/// The `type`s of a frame, as serde lists them.
fn types<T: DeserializeOwned>() -> Vec<String> {
    let Err(error) = serde_json::from_str::<T>(r#"{"type":"?"}"#) else { panic!("no frame has that type") };
    let types: Vec<_> = error.to_string().split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect();
    assert!(types.len() > 3, "{error}");
    types
}

fn all_in(path: &str, names: impl IntoIterator<Item = String>) {
    let text = document(path);
    let missing: Vec<_> =
        names.into_iter().filter(|name| !has_word(&text, name)).map(|name| format!("{path} lacks {name}")).collect();
    nothing_wrong(&missing);
}

#[test]
fn the_protocol_document_has_every_word_of_the_protocol() {
    let states = State::ALL.map(|state| state.to_string());
    let reasons = CloseReason::ALL.into_iter().flat_map(|reason| [reason.to_string(), reason.code().to_string()]);
    let frames = [types::<ServerFrame>(), types::<AgentFrame>()].concat();
    all_in("src/protocol/PROTOCOL.md", states.into_iter().chain(reasons).chain(frames));
}

#[test]
fn the_operations_document_has_every_metric() {
    let metrics = Arc::new(Metrics::default());
    // A family without a member is not shown.
    metrics.evicted(CloseReason::PongTimeout);
    metrics.answered("/healthz", 200);
    let store = StoreMetrics(Arc::clone(&metrics));
    store.moved(State::Queued);
    store.committed(Committed { operations: 1, rows: 1, took: Duration::ZERO });
    let text = metrics.text();
    let names: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect();
    assert!(names.iter().any(|name| name == "postrider_evictions_total"), "{names:?}");
    all_in("packaging/OPERATIONS.md", names);
}

#[test]
fn the_operations_document_has_every_route() {
    let table = document("src/server/routes.rs");
    let routes: Vec<_> = table
        .lines()
        .filter(|line| line.trim_start().starts_with("Self::"))
        .filter_map(|line| line.split('"').nth(1))
        .filter(|route| route.starts_with('/'))
        .collect();
    assert!(routes.contains(&"/api/commands/{id}/events"), "{routes:?}");
    let text = document("packaging/OPERATIONS.md");
    // A longer path does not stand for a shorter one.
    let on = |c: char| c.is_ascii_alphanumeric() || "_-/{".contains(c);
    let has =
        |route: &str| text.match_indices(route).any(|(at, _)| !text[at + route.len()..].chars().next().is_some_and(on));
    let missing: Vec<_> = routes.into_iter().filter(|route| !has(route)).map(str::to_owned).collect();
    nothing_wrong(&missing);
}

#[test]
fn the_documents_have_every_verb() {
    let text = document("packaging/OPERATIONS.md") + &document("README.md");
    let missing: Vec<_> = Cli::command()
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .map(|verb| format!("postrider {}", verb.get_name()))
        .filter(|verb| !has_word(&text, verb))
        .collect();
    nothing_wrong(&missing);
}

/// `file::test` between backticks, where `file` is one of these files or folders.
#[test]
fn the_tests_that_the_documents_name_are_there() {
    let text = document("ARCHITECTURE.md") + &document("packaging/THREATS.md");
    let named: Vec<_> = text.split('`').filter_map(|word| word.split_once("::")).collect();
    assert!(named.len() > 30, "{named:?}");
    let has = |module: &str, test: &str| {
        let path = |rest: &str| format!("{}/tests/it/{module}{rest}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(path("")).into_iter().flatten().map(|entry| entry.unwrap().path());
        let mut files = files.chain([path(".rs").into()]);
        files.any(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {test}()"))))
    };
    let missing: Vec<_> =
        named.iter().filter(|(module, test)| !has(module, test)).map(|name| format!("{name:?}")).collect();
    nothing_wrong(&missing);
}

/// A database of the current schema that takes rows without their parents.
fn schema() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.pragma_update(None, "foreign_keys", false).unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    conn
}

fn takes(conn: &Connection, before: &str, event: &str) -> bool {
    let sql = "INSERT INTO transitions (delivery_seq, at_ms, before, event) VALUES (1, 1, ?1, ?2)";
    match conn.execute(sql, (before, event)) {
        Ok(_) => true,
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_schema_knows_the_same_moves_as_the_state_machine() {
    let conn = schema();
    for to in State::ALL {
        for from in State::ALL {
            assert_eq!(takes(&conn, from.as_str(), to.as_str()), from.may_become(to), "{from} > {to}");
        }
        assert_eq!(takes(&conn, "", to.as_str()), to == State::Queued, "the first state: {to}");
        assert!(!takes(&conn, to.as_str(), "dancing") && !takes(&conn, "dancing", to.as_str()), "{to}");
        assert!(takes(&conn, to.as_str(), "dispatched") && takes(&conn, to.as_str(), "cancel_requested"), "{to}");
    }
}

#[test]
fn the_schema_knows_the_same_states_and_which_have_ended() {
    let conn = schema();
    let sql = "INSERT INTO deliveries (id, command_seq, agent_seq, due_ms, state, accepted_ms, started_ms, \
        finished_ms, exit_code) VALUES (randomblob(16), ?1, 1, 1, ?2, ?3, ?4, ?5, ?6)";
    for (command, state) in State::ALL.into_iter().enumerate() {
        let accepted = (state != State::Queued).then_some(1);
        let started = (!matches!(state, State::Queued | State::Accepted)).then_some(1);
        let exit_code = (state == State::Succeeded).then_some(0);
        let insert = |finished: bool| {
            let finished = finished.then_some(1);
            conn.execute(sql, (command, state.as_str(), accepted, started, finished, exit_code)).is_ok()
        };
        assert!(!insert(!state.is_terminal()), "{state} has an end if and only if it is terminal");
        assert!(insert(state.is_terminal()), "{state}");
    }
    assert!(conn.execute(sql, (99, "dancing", 1, 1, 1, None::<i32>)).is_err());
}
