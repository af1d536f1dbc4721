//! Stored output: appended in pieces as they come, read by position.

use super::enqueue::{find_agent, in_scope};
use super::error::StoreError;
use super::handle::Store;
use super::op::Apply;
use super::progress::{Progress, Report};
use crate::protocol::ids::CommandId;
use crate::protocol::output::{OutputFrame, Stream};
use crate::protocol::scope::Scope;
use crate::protocol::state::State;
use rusqlite::{Connection, OptionalExtension};

/// A piece of output.
#[derive(Clone, Debug)]
pub struct AppendOutput {
    /// The agent's row.
    pub agent_seq: i64,
    /// The session's epoch.
    pub epoch: u64,
    /// The piece.
    pub frame: OutputFrame,
}

impl AppendOutput {
    /// Stores what is new of the piece: bytes before the stored end are a repetition, bytes over the specification's
    /// limit are not kept.
    ///
    /// # Errors
    /// `Fenced`; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<Progress, StoreError> {
        const POSITION: &str = "SELECT CASE ?2 WHEN 1 THEN d.stdout_next ELSE d.stderr_next END, \
             CASE ?2 WHEN 1 THEN d.stdout_kept ELSE d.stderr_kept END, c.output_bytes_max \
             FROM deliveries d JOIN commands c ON c.seq = d.command_seq WHERE d.seq = ?1";
        const INSERT: &str = "INSERT INTO output (delivery_seq, stream, offset, bytes) VALUES (?1, ?2, ?3, ?4)";
        const STDOUT: &str = "UPDATE deliveries SET stdout_next = ?2, stdout_kept = stdout_kept + ?3 WHERE seq = ?1";
        const STDERR: &str = "UPDATE deliveries SET stderr_next = ?2, stderr_kept = stderr_kept + ?3 WHERE seq = ?1";
        let frame = &self.frame;
        let report = Report { agent_seq: self.agent_seq, epoch: self.epoch, delivery: frame.delivery };
        let (row, _) = match report.find(apply)? {
            Ok(found) => found,
            Err(progress) => return Ok(progress),
        };
        if row.state.is_terminal() && row.state != State::Lost {
            return Ok(Progress::Ended);
        }
        let number = frame.stream.number();
        let (next, kept, kept_max): (u64, u64, u64) = apply
            .conn
            .prepare_cached(POSITION)?
            .query_row((row.seq, number), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let known = usize::try_from(next.saturating_sub(frame.offset)).unwrap_or(usize::MAX);
        let Some(new) = frame.bytes.get(known..).filter(|new| !new.is_empty()) else { return Ok(Progress::Done) };
        let room = usize::try_from(kept_max.saturating_sub(kept)).unwrap_or(usize::MAX);
        let new = &new[..new.len().min(room)];
        if new.is_empty() {
            return Ok(Progress::Unexpected);
        }
        let offset = frame.offset + known as u64;
        apply.conn.prepare_cached(INSERT)?.execute((row.seq, number, offset, new))?;
        let update = if frame.stream == Stream::Stdout { STDOUT } else { STDERR };
        apply.conn.prepare_cached(update)?.execute((row.seq, offset + new.len() as u64, new.len()))?;
        apply.touched.commands.insert(row.command_seq);
        Ok(Progress::Done)
    }
}

/// The stored ends of both streams: where the agent goes on.
///
/// # Errors
/// SQLite's.
pub fn positions(conn: &Connection, delivery_seq: i64) -> Result<(u64, u64), StoreError> {
    const SQL: &str = "SELECT stdout_next, stderr_next FROM deliveries WHERE seq = ?1";
    Ok(conn.prepare_cached(SQL)?.query_row([delivery_seq], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Most bytes of one answer to a read.
pub const READ_BYTES_MAX: usize = 256 * 1024;

/// A read of stored output.
#[derive(Debug)]
pub struct OutputRead {
    /// The bytes, without those that were dropped.
    pub bytes: Vec<u8>,
    /// Position of the first of them: after `from` where bytes between were dropped.
    pub start: u64,
    /// Position after the last of them.
    pub next: u64,
    /// Whether the delivery has ended, so that nothing more comes.
    pub ended: bool,
}

impl Store {
    /// Reads one stream of one delivery from position `from` on, at most [`READ_BYTES_MAX`] bytes and none beyond a
    /// gap, where bytes were dropped. `agent` may be left out when the command has one delivery.
    ///
    /// # Errors
    /// `NotFound`, `Ambiguous`; `Conflict` when an agent must be named.
    pub async fn output(
        &self,
        command: CommandId,
        agent: Option<String>,
        stream: Stream,
        from: u64,
        scope: Scope,
    ) -> Result<OutputRead, StoreError> {
        self.read(move |conn| {
            let (delivery, state) = find_delivery(conn, command, agent.as_deref(), &scope)?;
            let mut read = read_output(conn, delivery, stream, from)?;
            read.ended = state.is_terminal() && state != State::Lost;
            Ok(read)
        })
        .await
    }
}

fn find_delivery(
    conn: &Connection,
    command: CommandId,
    agent: Option<&str>,
    scope: &Scope,
) -> Result<(i64, State), StoreError> {
    const SQL: &str = concat!(
        "SELECT d.seq, d.state FROM deliveries d JOIN commands c ON c.seq = d.command_seq \
         JOIN agents a ON a.seq = d.agent_seq WHERE c.id = ?1 AND (?2 IS NULL OR d.agent_seq = ?2) AND ",
        in_scope!("a.tags", "?3"),
        " ORDER BY d.seq LIMIT 2"
    );
    let agent_seq = agent.map(|agent| find_agent_of(conn, command, agent, scope)).transpose()?;
    let mut statement = conn.prepare_cached(SQL)?;
    let found: Vec<(i64, State)> = statement
        .query_map((command.as_bytes(), agent_seq, scope.to_json()), |row| {
            Ok((row.get(0)?, super::transition::state_column(row, 1)?))
        })?
        .collect::<Result<_, _>>()?;
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(StoreError::NotFound { what: "command", key: command.to_string() }),
        _ => Err(StoreError::Conflict("the command went to several agents: name one with agent=".to_owned())),
    }
}

/// An agent of this command by id or name, revoked or not.
fn find_agent_of(conn: &Connection, command: CommandId, key: &str, scope: &Scope) -> Result<i64, StoreError> {
    const SQL: &str = concat!(
        "SELECT a.seq FROM deliveries d JOIN commands c ON c.seq = d.command_seq \
         JOIN agents a ON a.seq = d.agent_seq WHERE c.id = ?1 AND (a.name = ?2 OR a.id = ?3) AND ",
        in_scope!("a.tags", "?4"),
        " LIMIT 2"
    );
    let id = key.parse::<crate::protocol::ids::AgentId>().ok();
    let mut statement = conn.prepare_cached(SQL)?;
    let found: Vec<i64> = statement
        .query_map((command.as_bytes(), key, id.as_ref().map(|id| id.as_bytes()), scope.to_json()), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(StoreError::NotFound { what: "agent of this command", key: key.chars().take(80).collect() }),
        _ => find_agent(conn, key, scope).map(|agent| agent.seq),
    }
}

fn read_output(conn: &Connection, delivery: i64, stream: Stream, from: u64) -> Result<OutputRead, StoreError> {
    // The piece that `from` lies in may begin before it.
    const FIRST: &str = "SELECT offset FROM output WHERE delivery_seq = ?1 AND stream = ?2 AND offset <= ?3 \
         ORDER BY offset DESC LIMIT 1"; // output_position
    const REST: &str = "SELECT offset, bytes FROM output WHERE delivery_seq = ?1 AND stream = ?2 AND offset >= ?3 \
         ORDER BY offset"; // output_position
    let number = stream.number();
    let position = i64::try_from(from).unwrap_or(i64::MAX);
    let first: Option<i64> =
        conn.prepare_cached(FIRST)?.query_row((delivery, number, position), |row| row.get(0)).optional()?;
    let mut read = OutputRead { bytes: Vec::new(), start: from, next: from, ended: false };
    let mut statement = conn.prepare_cached(REST)?;
    let mut rows = statement.query((delivery, number, first.unwrap_or(0)))?;
    while let Some(row) = rows.next()? {
        let offset: u64 = row.get(0)?;
        let bytes = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        let skip = usize::try_from(read.next.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(new) = bytes.get(skip..).filter(|new| !new.is_empty()) else { continue };
        let gap = offset > read.next;
        if !read.bytes.is_empty() && (gap || read.bytes.len() + new.len() > READ_BYTES_MAX) {
            break;
        }
        if gap {
            read.start = offset;
        }
        read.bytes.extend_from_slice(new);
        read.next = offset + bytes.len() as u64;
    }
    Ok(read)
}
