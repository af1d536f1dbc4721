//! What fuzzing runs: each function takes any bytes and panics if a property does not hold. Shared with `tests/fuzz`.
//!
//! Nothing here may need more than the crate itself, `serde` and `serde_json`.

use postrider::cli::duration;
use postrider::cli::sse::SseParser;
use postrider::http_client::ServerUrl;
use postrider::protocol::access::{EnrollRequest, JoinRequest, TokenRequest};
use postrider::protocol::frame::{AgentFrame, FrameError, ServerFrame, decode, encode};
use postrider::protocol::http::{NOTE_BYTES_MAX, TARGETS_MAX};
use postrider::protocol::ids::{CommandId, RequestId, ServerId};
use postrider::protocol::join::{JOIN_BYTES_MAX, JoinString};
use postrider::protocol::name::{AgentName, TAG_CHARS_MAX, parse_tag};
use postrider::protocol::outcome::REASON_BYTES_MAX;
use postrider::protocol::output::{OUTPUT_CHUNK_BYTES_MAX, OutputFrame};
use postrider::protocol::secret_env::{SECRETS_BYTES_MAX, SECRETS_MAX};
use postrider::protocol::spec::{ITEMS_MAX, OUTPUT_BYTES_MAX, SPEC_BYTES_MAX, Spec, TIMEOUT_MS_MAX, TTL_MS_MAX};
use postrider::protocol::state::State;
use postrider::secret::{Secret, sha256};
use postrider::server::call::{parse_json, parse_query};
use postrider::server::error::ApiError;
use postrider::server::events::read_cursor;
use postrider::server::joins::expires_ms;
use postrider::server::submit::read;
use postrider::store::enqueue::Selector;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{Debug, Display};

/// A moment, in Unix milliseconds.
const NOW_MS: i64 = 1_800_000_000_000;
/// Longest error that anybody has to read, in bytes: some of the text that was wrong, and what is allowed.
const ERROR_BYTES_MAX: usize = 2048;

/// An error text is one line, and no longer than a screen.
fn fit_to_read(error: &dyn Display) {
    let text = error.to_string();
    assert!(
        text.len() <= ERROR_BYTES_MAX,
        "an error of {} bytes: {}",
        text.len(),
        &text[..text.floor_char_boundary(200)]
    );
    assert!(!text.contains(char::is_control), "{text:?}");
}

/// What the caller of a request reads.
fn problem_fit_to_read(error: &ApiError) {
    let problem = error.problem(RequestId::new());
    assert!((400..500).contains(&problem.status), "{problem:?}");
    fit_to_read(&problem.detail);
    fit_to_read(&problem.field.unwrap_or_default());
}

fn reads_back<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(frame: &T) {
    assert_eq!(decode::<T>(&encode(frame)).as_ref(), Ok(frame));
}

/// Fractions are read with an error in the last digit; nothing of the protocol is one.
fn has_fractions(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_fractions),
        Value::Object(fields) => fields.values().any(has_fractions),
        _ => false,
    }
}

fn frame_error(error: &FrameError) {
    fit_to_read(error);
    let answer = error.answer();
    fit_to_read(&answer.message);
    // Whoever is answered must be able to read it.
    reads_back(&ServerFrame::Error(answer));
}

/// Frames of either side: control and output.
pub fn frames(data: &[u8]) {
    match OutputFrame::decode(data) {
        Ok(frame) => {
            assert_eq!(frame.encode(), data);
            assert!((1..=OUTPUT_CHUNK_BYTES_MAX).contains(&frame.bytes.len()));
            assert!(i64::try_from(frame.offset + frame.bytes.len() as u64).is_ok(), "it fits the database");
        }
        Err(error) => fit_to_read(&error),
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    match decode::<AgentFrame>(text) {
        Ok(AgentFrame::Facts { facts }) if has_fractions(&facts) => {}
        Ok(frame) => {
            reads_back(&frame);
            if let AgentFrame::Finished { mut outcome, .. } = frame {
                outcome.cut_reason();
                assert!(outcome.reason.is_none_or(|reason| reason.len() <= REASON_BYTES_MAX));
            }
        }
        Err(error) => frame_error(&error),
    }
    match decode::<ServerFrame>(text) {
        Ok(frame) => reads_back(&frame),
        Err(error) => frame_error(&error),
    }
}

/// What is taken is within its limits, and says the same when it is written anew.
fn is_sound(spec: &Spec) {
    assert!(spec.command.is_some() != spec.argv.is_some());
    assert!(spec.argv.as_ref().is_none_or(|argv| (1..=ITEMS_MAX).contains(&argv.len())));
    assert!(spec.env.len() <= ITEMS_MAX && spec.secret_env.len() <= SECRETS_MAX);
    assert!(!spec.secret_env.iter().any(|name| name.is_empty() || name.contains('=') || spec.env.contains_key(name)));
    assert!((1..=TIMEOUT_MS_MAX).contains(&spec.timeout_ms) && spec.output_bytes_max <= OUTPUT_BYTES_MAX);
    let texts = spec.command.iter().chain(spec.argv.iter().flatten()).chain(&spec.cwd).chain(&spec.secret_env);
    assert!(!texts.chain(spec.env.iter().flat_map(|(name, value)| [name, value])).any(|text| text.contains('\0')));
    let anew = serde_json::to_string(spec).unwrap();
    assert!(anew.len() > SPEC_BYTES_MAX || Spec::parse(anew.as_bytes()).as_ref() == Ok(spec));
    assert!(!spec.summary().is_empty());
}

/// A specification, by itself and inside a submission.
pub fn spec(data: &[u8]) {
    match Spec::parse(data) {
        Ok(spec) => {
            assert!(data.len() <= SPEC_BYTES_MAX);
            is_sound(&spec);
            let text = std::str::from_utf8(data).expect("JSON is UTF-8");
            let values: BTreeMap<_, _> = spec.secret_env.iter().map(|name| (name.as_str(), "s")).collect();
            let body = serde_json::json!({ "spec": text, "secret_env": values }).to_string();
            match read(body.as_bytes(), Some("web-1".to_owned()), NOW_MS) {
                Ok(taken) => {
                    assert!(taken.document == text && taken.spec == spec, "byte for byte");
                    assert!(taken.secrets.are_named_by(&spec.secret_env));
                }
                Err(error) => {
                    let long = values.keys().map(|name| name.len() + 1).sum::<usize>() > SECRETS_BYTES_MAX;
                    assert!(long || spec.check_ttl(NOW_MS).is_err(), "{error:?}");
                    problem_fit_to_read(&error);
                }
            }
        }
        Err(error) => fit_to_read(&error),
    }
}

fn submission(body: &[u8], key: Option<&str>) {
    let taken = match read(body, key.map(str::to_owned), NOW_MS) {
        Ok(taken) => taken,
        Err(error) => return problem_fit_to_read(&error),
    };
    is_sound(&taken.spec);
    assert!(taken.secrets.are_named_by(&taken.spec.secret_env) && taken.secrets.check().is_ok());
    assert_eq!(Spec::parse(taken.document.as_bytes()).as_ref(), Ok(&taken.spec));
    assert!((1..=TTL_MS_MAX).contains(&(taken.spec.not_after_ms - NOW_MS)));
    assert!(taken.note.is_none_or(|note| note.len() <= NOTE_BYTES_MAX));
    match (key, taken.targets) {
        (Some(key), Selector::Agents(agents)) => assert_eq!(agents, [key]),
        (None, Selector::Agents(agents)) => assert!((1..=TARGETS_MAX).contains(&agents.len())),
        (None, Selector::Tags(tags)) => assert!(!tags.is_empty()),
        (None, Selector::All) => assert!(body.windows(5).any(|word| word == b"\"all\"" || word[0] == b'\\')),
        (Some(_), targets) => panic!("the path names one agent: {targets:?}"),
    }
}

fn body<T: serde::de::DeserializeOwned>(data: &[u8]) -> Option<T> {
    parse_json(data).map_err(|error| problem_fit_to_read(&error)).ok()
}

/// Request bodies.
pub fn bodies(data: &[u8]) {
    submission(data, None);
    submission(data, Some("web-1"));
    let seconds = [
        body::<JoinRequest>(data).and_then(|request| request.expires_s),
        body::<TokenRequest>(data).and_then(|request| request.expires_s),
    ];
    for seconds in seconds.into_iter().flatten() {
        match expires_ms(seconds) {
            Ok(ms) => assert!(ms > 0, "{seconds} s"),
            Err(error) => problem_fit_to_read(&error),
        }
    }
    if let Some(request) = body::<EnrollRequest>(data) {
        name(request.name.as_str());
    }
}

fn name(text: &str) {
    match text.parse::<AgentName>() {
        Ok(name) => assert!(!name.as_str().contains(|c: char| c.is_control() || c.is_whitespace())),
        Err(error) => fit_to_read(&error),
    }
    // Whatever a host calls itself, it becomes a name.
    let name = AgentName::from_host(text);
    assert_eq!(name.as_str().parse::<AgentName>().unwrap(), name);
}

fn join(text: &str) {
    match JoinString::decode(text) {
        Ok(join) => {
            let anew = join.encode();
            assert!(anew.len() > JOIN_BYTES_MAX || JoinString::decode(&anew) == Ok(join));
        }
        Err(error) => fit_to_read(&error),
    }
}

/// Words that people type and paste: join strings, names, tags, ids, addresses, durations.
pub fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    join(text);
    // Random bytes never have the checksum: give any document one.
    let made = JoinString {
        url: text.to_owned(),
        server_id: ServerId::from_bytes([7; 16]),
        secret: Secret::new(text.to_owned()),
        pins: Vec::new(),
    };
    let made = (made.encode(), made);
    assert!(made.0.len() > JOIN_BYTES_MAX || JoinString::decode(&made.0) == Ok(made.1), "{text:?}");
    name(text);
    match parse_tag(text) {
        Ok((key, value)) => assert!(key.len() <= TAG_CHARS_MAX && value.len() <= TAG_CHARS_MAX && !key.is_empty()),
        Err(error) => fit_to_read(&error),
    }
    match text.parse::<CommandId>() {
        Ok(id) => assert_eq!(id.to_string().parse::<CommandId>().unwrap(), id),
        Err(error) => fit_to_read(&error),
    }
    match text.parse::<State>() {
        Ok(state) => assert_eq!(state.as_str(), text),
        Err(error) => fit_to_read(&error),
    }
    match ServerUrl::parse(text) {
        Ok(url) => assert_eq!(ServerUrl::parse(&url.to_string()).unwrap().authority(), url.authority(), "{text:?}"),
        Err(error) => fit_to_read(&error),
    }
    match duration::parse_up_to(text, 1000) {
        Ok(parsed) => assert!((1..=1000).contains(&parsed.as_millis()), "{text:?}"),
        Err(error) => fit_to_read(&error),
    }
    assert_eq!(sha256(data), sha256(text.as_bytes()));
}

/// Query strings, cursors of event streams, and the streams themselves.
pub fn queries(data: &[u8]) {
    events(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(cursor) = read_cursor(text) {
        let written = format!("{}.{}", cursor.transition, cursor.output);
        assert_eq!(read_cursor(&written), Some(cursor));
    }
    let query = match parse_query(text, &["wait", "limit", "tag"]) {
        Ok(query) => query,
        Err(error) => return problem_fit_to_read(&error),
    };
    for error in
        [query.one::<u64>("wait").err(), query.one::<CommandId>("limit").err(), query.one::<State>("tag").err()]
    {
        error.iter().for_each(problem_fit_to_read);
    }
    query.all("tag").iter().filter_map(|tag| parse_tag(tag).err()).for_each(|error| fit_to_read(&error));
}

/// An event stream says the same however its bytes are cut.
fn events(data: &[u8]) {
    let (mut whole, mut cut) = (Vec::new(), Vec::new());
    SseParser::default().push(data, &mut whole).expect("it is short");
    let mut parser = SseParser::default();
    let middle = data.len() / 2;
    for piece in data[..middle].chunks(1).chain([&data[middle..]]) {
        parser.push(piece, &mut cut).expect("it is short");
    }
    assert_eq!(whole, cut);
}
