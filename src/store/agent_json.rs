//! Agents as JSON, straight from their rows: a list may have ten thousand of them.
//!
//! What is written is an [`AgentResponse`](crate::protocol::http::AgentResponse), field by field in its order; a test holds
//! the two together. Facts are not looked into: the schema lets in nothing but JSON.

use crate::protocol::close::CloseReason;
use crate::protocol::http::LastClose;
use crate::protocol::ids::{AgentId, JoinId};
use rusqlite::{Error, Row};
use serde::Serialize;
use std::collections::BTreeMap;

/// SQL: agents as [`write_agent`] takes them, as `a`; the rest of the statement follows. The outbox count is one look into
/// deliveries_outbox an agent.
macro_rules! select_agents {
    ($($rest:expr),+) => {
        concat!(
            "SELECT a.seq, a.id, a.name, a.approved_ms IS NULL, a.epoch, a.connected_ms, a.proven_ms, a.close_reason, \
             a.closed_ms, a.clash_ms, (SELECT count(*) FROM deliveries d WHERE d.agent_seq = a.seq AND \
             d.state = 'queued' AND d.held = 0), a.tags, a.facts, a.enrolled_ms, a.enrolled_from, j.id, a.version, a.os \
             FROM agents a LEFT JOIN joins j ON j.seq = a.join_seq ",
            $($rest),+
        )
    };
}
pub(super) use select_agents;

/// A session that stands, as lists show it.
#[derive(Clone, Copy, Debug)]
pub struct Online {
    /// Its epoch.
    pub epoch: u64,
    /// When it was authenticated, in Unix milliseconds.
    pub connected_ms: i64,
    /// Its last proven round trip, in Unix milliseconds.
    pub proven_ms: i64,
}

/// The fields before the tags.
#[derive(Serialize)]
struct Head<'a> {
    id: AgentId,
    name: &'a str,
    online: bool,
    pending: bool,
    epoch: u64,
    connected_ms: Option<i64>,
    proven_ms: Option<i64>,
    last_close: Option<LastClose>,
    clash_ms: Option<i64>,
    outbox: u64,
}

/// The fields after the facts.
#[derive(Serialize)]
struct Tail<'a> {
    enrolled_ms: i64,
    enrolled_from: Option<&'a str>,
    join_id: JoinId,
    version: Option<&'a str>,
    os: Option<&'a str>,
}

/// Adds an agent to `out`; answers its id. `online` knows the session of a row, if one stands; without one, the times are
/// those of the latest that ended.
///
/// # Errors
/// SQLite's.
pub fn write_agent(
    row: &Row<'_>,
    online: &impl Fn(i64) -> Option<Online>,
    out: &mut Vec<u8>,
) -> rusqlite::Result<AgentId> {
    let id = AgentId::from_bytes(row.get(1)?);
    let online = online(row.get(0)?);
    let reason = row.get_ref(7)?.as_str_or_null()?;
    let reason = reason.and_then(|word| CloseReason::ALL.into_iter().find(|reason| reason.as_str() == word));
    let closed_ms: Option<i64> = row.get(8)?;
    let head = Head {
        id,
        name: row.get_ref(2)?.as_str()?,
        online: online.is_some(),
        pending: row.get(3)?,
        epoch: online.map_or_else(|| row.get(4), |online| Ok(online.epoch))?,
        connected_ms: online.map_or_else(|| row.get(5), |online| Ok(Some(online.connected_ms)))?,
        proven_ms: online.map_or_else(|| row.get(6), |online| Ok(Some(online.proven_ms)))?,
        last_close: reason.zip(closed_ms).map(|(reason, at_ms)| LastClose { reason, at_ms }),
        clash_ms: row.get(9)?,
        outbox: row.get(10)?,
    };
    let tags = row.get_ref(11)?.as_str()?;
    // The schema wants an object, which another program could write in a way that readers do not know. Labels need no
    // escapes, so that nothing is copied to see that they are such.
    let tags = serde_json::from_str::<BTreeMap<&str, &str>>(tags).map_or("{}", |_| tags);
    let facts = row.get_ref(12)?.as_str_or_null()?.unwrap_or("null");
    let tail = Tail {
        enrolled_ms: row.get(13)?,
        enrolled_from: row.get_ref(14)?.as_str_or_null()?,
        join_id: JoinId::from_bytes(row.get(15)?),
        version: row.get_ref(16)?.as_str_or_null()?,
        os: row.get_ref(17)?.as_str_or_null()?,
    };
    let unwritten = |error| Error::ToSqlConversionFailure(Box::<serde_json::Error>::new(error));
    serde_json::to_writer(&mut *out, &head).map_err(unwritten)?;
    // One object of two: a comma between the fields in place of the braces.
    out.pop();
    for text in [r#","tags":"#, tags, r#","facts":"#, facts] {
        out.extend_from_slice(text.as_bytes());
    }
    let comma = out.len();
    serde_json::to_writer(&mut *out, &tail).map_err(unwritten)?;
    out[comma] = b',';
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::AgentResponse;
    use crate::store::migrate::SCHEMA;
    use rusqlite::Connection;

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(SCHEMA).unwrap();
        conn.execute_batch(
            "INSERT INTO joins (seq, id, hash, created_ms, created_by, expires_ms, uses_max) \
                 VALUES (1, randomblob(16), randomblob(32), 1, 'owner', 2, 1);
             INSERT INTO agents (seq, id, name, public_key, tags, join_seq, enrolled_ms) \
                 VALUES (1, randomblob(16), 'new', randomblob(32), '{}', 1, 3);
             INSERT INTO agents (seq, id, name, public_key, tags, join_seq, enrolled_ms, enrolled_from, approved_ms, epoch, \
                 clash_ms, connected_ms, proven_ms, close_reason, closed_ms, version, os, facts) \
                 VALUES (2, randomblob(16), 'a\"\\\u{1}ü', randomblob(32), '{\"a\":\"b\",\"c\":\"d\"}', 1, 4, '::1', 5, 6, 7, \
                 8, 9, 'pong_timeout', 10, '1\"', 'linux\\', '{\"b\":[1,{}],\"a\":\"}\"}');",
        )
        .unwrap();
        conn
    }

    fn text(conn: &Connection, seq: i64, online: Option<Online>) -> String {
        let mut json = Vec::new();
        let see = |asked: i64| online.filter(|_| asked == seq);
        conn.query_row(select_agents!("WHERE a.seq = ?1"), [seq], |row| write_agent(row, &see, &mut json)).unwrap();
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn what_is_written_is_the_type_that_readers_know() {
        let conn = database();
        let online = Online { epoch: 11, connected_ms: 12, proven_ms: 13 };
        for (seq, online) in [(1, None), (1, Some(online)), (2, None), (2, Some(online))] {
            let text = text(&conn, seq, online);
            let read: AgentResponse = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
            let seen = (read.epoch, read.connected_ms, read.proven_ms);
            match (seq, online) {
                (_, Some(_)) => assert_eq!(seen, (11, Some(12), Some(13))),
                (1, None) => assert_eq!(seen, (0, None, None)),
                (_, None) => assert_eq!(seen, (6, Some(8), Some(9))),
            }
            assert_eq!((read.online, read.pending), (online.is_some(), seq == 1));
        }
        let read: AgentResponse = serde_json::from_str(&text(&conn, 2, None)).unwrap();
        assert_eq!(read.name, "a\"\\\u{1}ü");
        assert!(read.last_close.is_some_and(|close| close.reason == CloseReason::PongTimeout && close.at_ms == 10));
        assert_eq!((read.clash_ms, read.enrolled_ms, read.enrolled_from.as_deref()), (Some(7), 4, Some("::1")));
        assert_eq!((read.version.as_deref(), read.os.as_deref()), (Some("1\""), Some("linux\\")));
        assert_eq!(read.facts.unwrap().get(), r#"{"b":[1,{}],"a":"}"}"#);
        assert_eq!(read.tags.len(), 2);
    }

    #[test]
    fn tags_that_only_sqlite_takes_spoil_no_answer() {
        let conn = database();
        for tags in ["{a: 'b'}", r#"{"a": 1}"#, r#"{"a": null}"#] {
            conn.execute("UPDATE agents SET tags = ?1 WHERE seq = 1", [tags]).unwrap();
            let read: AgentResponse = serde_json::from_str(&text(&conn, 1, None)).unwrap();
            assert!(read.tags.is_empty(), "{tags}");
        }
        let wrong = conn.execute("UPDATE agents SET facts = '{a: 1}' WHERE seq = 1", []);
        assert!(wrong.is_err(), "facts are JSON and nothing else");
    }
}
