//! Commands as people read them: one with everything that happened, lists, and what is new since a cursor.

use super::enqueue::{Prefer, find_one, in_scope};
use super::error::StoreError;
use super::handle::Store;
use super::transition::state_column;
use crate::protocol::http::{
    Approval, CommandResponse, CommandsResponse, DeliveryResponse, LIST_DELIVERIES_MAX, OutputEvent, TransitionEvent,
    TransitionResponse,
};
use crate::protocol::ids::{AgentId, CommandId, DeliveryId};
use crate::protocol::outcome::StreamSummary;
use crate::protocol::output::Stream;
use crate::protocol::scope::Scope;
use crate::protocol::spec::Spec;
use crate::protocol::state::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::{Connection, OptionalExtension, Row};
use std::collections::BTreeMap;

/// A command as read.
#[derive(Clone, Debug)]
pub struct CommandRead {
    /// Its row number, to wait on.
    pub seq: i64,
    /// As answered.
    pub response: CommandResponse,
}

/// Reads a command with at most `deliveries_max` deliveries (none: all), with or without their transitions. What went to
/// agents outside the scope is left out; a command that only went there is not found.
///
/// # Errors
/// `NotFound`; SQLite's.
pub fn command_response(
    conn: &Connection,
    id: CommandId,
    deliveries_max: Option<usize>,
    transitions: bool,
    scope: &Scope,
) -> Result<CommandRead, StoreError> {
    const SQL: &str = "SELECT c.seq, c.created_ms, t.name, c.spec, c.not_after_ms, c.note, c.approval, c.approved_ms, \
         (SELECT name FROM tokens WHERE tokens.seq = c.approved_by) \
         FROM commands c JOIN tokens t ON t.seq = c.token_seq WHERE c.id = ?1";
    const STATES: &str = concat!(
        "SELECT state, count(*) FROM deliveries d WHERE command_seq = ?1 AND (?2 = '{}' OR EXISTS ( \
             SELECT 1 FROM agents a WHERE a.seq = d.agent_seq AND ",
        in_scope!("a.tags", "?2"),
        ")) GROUP BY state"
    );
    let not_found = || StoreError::NotFound { what: "command", key: id.to_string() };
    let scope = scope.to_json();
    let read = conn
        .prepare_cached(SQL)?
        .query_row([id.as_bytes()], |row| {
            let spec: String = row.get(3)?;
            let needed: bool = row.get(6)?;
            let approval = Approval { needed, approved_ms: row.get(7)?, approved_by: row.get(8)? };
            Ok(CommandRead {
                seq: row.get(0)?,
                response: CommandResponse {
                    id,
                    created_ms: row.get(1)?,
                    created_by: row.get(2)?,
                    summary: Spec::parse(spec.as_bytes()).map(|spec| spec.summary()).unwrap_or_default(),
                    spec,
                    not_after_ms: row.get(4)?,
                    note: row.get(5)?,
                    approval: needed.then_some(approval),
                    state: None,
                    states: BTreeMap::new(),
                    deliveries: Vec::new(),
                },
            })
        })
        .optional()?;
    let mut read = read.ok_or_else(not_found)?;
    let response = &mut read.response;
    let mut statement = conn.prepare_cached(STATES)?;
    let states = statement.query_map((read.seq, &scope), |row| Ok((state_column(row, 0)?, row.get(1)?)))?;
    response.states = states.collect::<Result<_, _>>()?;
    if response.states.is_empty() {
        return Err(not_found());
    }
    response.deliveries = deliveries(conn, read.seq, deliveries_max, &scope)?;
    if let [only] = response.deliveries.as_slice() {
        response.state = (response.states.values().sum::<u64>() == 1).then_some(only.state);
    }
    if transitions {
        add_transitions(conn, read.seq, &mut response.deliveries)?;
    }
    Ok(read)
}

fn deliveries(
    conn: &Connection,
    command_seq: i64,
    max: Option<usize>,
    scope: &str,
) -> Result<Vec<DeliveryResponse>, StoreError> {
    const SQL: &str = concat!(
        "SELECT d.id, a.id, a.name, d.state, d.attempt, d.exit_code, d.signal, d.reason, \
         d.cancel_requested_ms, d.accepted_ms, d.started_ms, d.finished_ms, d.duration_ms, \
         d.stdout_next, d.stdout_kept, d.stdout_bytes, d.stderr_next, d.stderr_kept, d.stderr_bytes, d.held \
         FROM deliveries d JOIN agents a ON a.seq = d.agent_seq WHERE d.command_seq = ?1 AND ",
        in_scope!("a.tags", "?3"),
        " ORDER BY d.seq LIMIT ?2"
    );
    fn stream(row: &Row<'_>, first: usize) -> rusqlite::Result<StreamSummary> {
        let (next, kept, all): (u64, u64, Option<u64>) = (row.get(first)?, row.get(first + 1)?, row.get(first + 2)?);
        let bytes = all.unwrap_or(next);
        Ok(StreamSummary { bytes, dropped: bytes.saturating_sub(kept) })
    }
    let limit = max.and_then(|max| i64::try_from(max).ok()).unwrap_or(-1);
    let mut statement = conn.prepare_cached(SQL)?;
    let rows = statement.query_map((command_seq, limit, scope), |row| {
        Ok(DeliveryResponse {
            id: DeliveryId::from_bytes(row.get(0)?),
            agent_id: AgentId::from_bytes(row.get(1)?),
            agent_name: row.get(2)?,
            state: state_column(row, 3)?,
            attempt: row.get(4)?,
            exit_code: row.get(5)?,
            signal: row.get(6)?,
            reason: row.get(7)?,
            cancel_requested_ms: row.get(8)?,
            accepted_ms: row.get(9)?,
            started_ms: row.get(10)?,
            finished_ms: row.get(11)?,
            duration_ms: row.get(12)?,
            stdout: stream(row, 13)?,
            stderr: stream(row, 16)?,
            held: row.get(19)?,
            transitions: Vec::new(),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn transition(row: &Row<'_>, first: usize) -> rusqlite::Result<TransitionResponse> {
    Ok(TransitionResponse {
        at_ms: row.get(first)?,
        event: row.get(first + 1)?,
        epoch: row.get(first + 2)?,
        attempt: row.get(first + 3)?,
        cause: row.get(first + 4)?,
    })
}

fn add_transitions(conn: &Connection, command_seq: i64, rows: &mut [DeliveryResponse]) -> Result<(), StoreError> {
    const SQL: &str = "SELECT d.id, t.at_ms, t.event, t.epoch, t.attempt, t.cause FROM deliveries d \
         JOIN transitions t ON t.delivery_seq = d.seq WHERE d.command_seq = ?1 ORDER BY d.seq, t.seq"; // transitions_delivery
    let mut by_id: BTreeMap<DeliveryId, Vec<TransitionResponse>> = BTreeMap::new();
    let mut statement = conn.prepare_cached(SQL)?;
    let mut found = statement.query([command_seq])?;
    while let Some(row) = found.next()? {
        by_id.entry(DeliveryId::from_bytes(row.get(0)?)).or_default().push(transition(row, 1)?);
    }
    for delivery in rows {
        delivery.transitions = by_id.remove(&delivery.id).unwrap_or_default();
    }
    Ok(())
}

/// Where an event stream stands: the last transition and the last piece of output that it has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// `transitions.seq`.
    pub transition: i64,
    /// `output.seq`.
    pub output: i64,
}

/// Most events of one read.
pub const EVENTS_MAX: u32 = 256;

/// What is new.
#[derive(Debug, Default)]
pub struct Events {
    /// In the order in which to show them, each with the cursor after it.
    pub events: Vec<(Cursor, Event)>,
    /// Every delivery has ended, and nothing more is to be shown.
    pub ended: bool,
}

/// One piece of news.
#[derive(Debug)]
pub enum Event {
    /// Something happened to a delivery.
    Transition(TransitionEvent),
    /// Output came.
    Output(OutputEvent),
}

/// A page of history ends early when its specifications have more bytes than this: a thousand large ones would be
/// hundreds of megabytes.
pub const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Filters of a history list.
#[derive(Clone, Debug, Default)]
pub struct HistoryFilter {
    /// Commands with a delivery in this state.
    pub state: Option<State>,
    /// Commands for this agent (id or name).
    pub agent: Option<String>,
    /// Older than this command.
    pub before: Option<CommandId>,
    /// At most this many.
    pub limit: u32,
    /// Commands for agents of this scope.
    pub scope: Scope,
}

impl Store {
    /// One command with all deliveries of a scope, with or without transitions.
    ///
    /// # Errors
    /// `NotFound`; SQLite's.
    pub async fn command(&self, id: CommandId, transitions: bool, scope: Scope) -> Result<CommandRead, StoreError> {
        self.read(move |conn| command_response(conn, id, None, transitions, &scope)).await
    }

    /// The same without transitions, if every delivery of the command has ended.
    ///
    /// # Errors
    /// `NotFound`; SQLite's.
    pub async fn command_if_ended(
        &self,
        command_seq: i64,
        id: CommandId,
        scope: Scope,
    ) -> Result<Option<CommandRead>, StoreError> {
        self.read(move |conn| match all_ended(conn, command_seq, &Scope::default().to_json())? {
            true => command_response(conn, id, None, false, &scope).map(Some),
            false => Ok(None),
        })
        .await
    }

    /// Commands, newest first.
    ///
    /// # Errors
    /// `NotFound` for an agent or a `before` that is not known, `Ambiguous`; SQLite's.
    pub async fn history(&self, filter: HistoryFilter) -> Result<CommandsResponse, StoreError> {
        self.read(move |conn| history(conn, &filter)).await
    }

    /// What is new of a command since `cursor`, at most [`EVENTS_MAX`] of each kind, as far as the scope goes.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn events(&self, command_seq: i64, cursor: Cursor, scope: Scope) -> Result<Events, StoreError> {
        self.read(move |conn| events(conn, command_seq, cursor, &scope.to_json())).await
    }
}

fn history(conn: &Connection, filter: &HistoryFilter) -> Result<CommandsResponse, StoreError> {
    // Outside the scope it is not known, like the command itself.
    const BEFORE: &str = concat!(
        "SELECT seq FROM commands c WHERE id = ?1 AND EXISTS (SELECT 1 FROM deliveries d \
         JOIN agents a ON a.seq = d.agent_seq WHERE d.command_seq = c.seq AND ",
        in_scope!("a.tags", "?2"),
        ")"
    );
    const OF_AGENT: &str = "SELECT c.id FROM deliveries d JOIN commands c ON c.seq = d.command_seq \
         WHERE d.agent_seq = ?1 AND d.command_seq < ?2 AND (?3 IS NULL OR d.state = ?3) \
         ORDER BY d.command_seq DESC LIMIT ?4"; // deliveries_agent
    const ALL: &str = concat!(
        "SELECT c.id FROM commands c WHERE c.seq < ?2 AND (?3 IS NULL AND ?1 = '{}' OR EXISTS ( \
             SELECT 1 FROM deliveries d JOIN agents a ON a.seq = d.agent_seq \
             WHERE d.command_seq = c.seq AND (?3 IS NULL OR d.state = ?3) AND ",
        in_scope!("a.tags", "?1"),
        ")) ORDER BY c.seq DESC LIMIT ?4"
    );
    let before = match filter.before {
        None => i64::MAX,
        Some(id) => conn
            .prepare_cached(BEFORE)?
            .query_row((id.as_bytes(), filter.scope.to_json()), |row| row.get(0))
            .optional()?
            .ok_or_else(|| StoreError::NotFound { what: "command", key: id.to_string() })?,
    };
    let agent = filter.agent.as_deref().map(|key| find_agent_ever(conn, key, &filter.scope)).transpose()?;
    let state = filter.state.map(State::as_str);
    let (limit, id) = (filter.limit + 1, |row: &Row<'_>| Ok(CommandId::from_bytes(row.get(0)?)));
    let mut ids: Vec<CommandId> = match agent {
        Some(agent) => {
            conn.prepare_cached(OF_AGENT)?.query_map((agent, before, state, limit), id)?.collect::<Result<_, _>>()?
        }
        None => conn
            .prepare_cached(ALL)?
            .query_map((filter.scope.to_json(), before, state, limit), id)?
            .collect::<Result<_, _>>()?,
    };
    let mut more = ids.len() > filter.limit as usize;
    ids.truncate(filter.limit as usize);
    let (mut commands, mut bytes) = (Vec::with_capacity(ids.len()), 0);
    for id in ids {
        if bytes > LIST_BYTES_MAX {
            more = true;
            break;
        }
        let command = command_response(conn, id, Some(LIST_DELIVERIES_MAX), false, &filter.scope)?.response;
        bytes += command.spec.len();
        commands.push(command);
    }
    let next = commands.last().map(|command| command.id).filter(|_| more);
    Ok(CommandsResponse { commands, next })
}

/// An agent of a scope by id, revoked or not, or by name.
fn find_agent_ever(conn: &Connection, key: &str, scope: &Scope) -> Result<i64, StoreError> {
    const SQL: &str = concat!("SELECT seq FROM agents WHERE id = ?1 AND ", in_scope!("agents.tags", "?2"));
    if let Ok(id) = key.parse::<AgentId>()
        && let Some(seq) =
            conn.prepare_cached(SQL)?.query_row((id.as_bytes(), scope.to_json()), |row| row.get(0)).optional()?
    {
        return Ok(seq);
    }
    find_one(conn, key, scope, Prefer::Approved).map(|agent| agent.seq)
}

fn events(conn: &Connection, command_seq: i64, mut cursor: Cursor, scope: &str) -> Result<Events, StoreError> {
    // One snapshot, so that an end is never seen without the output before it.
    let tx = conn.unchecked_transaction()?;
    let transitions = new_transitions(&tx, command_seq, cursor, scope)?;
    let outputs = new_outputs(&tx, command_seq, cursor, scope)?;
    let full = |count: usize| count >= EVENTS_MAX as usize;
    let (transitions_full, outputs_full) = (full(transitions.len()), full(outputs.len()));
    let is_end = |event: &TransitionEvent| event.transition.event.parse().is_ok_and(State::is_terminal);
    // Ends are shown after the output; while output is cut off they wait for the next read.
    let shown = transitions.iter().position(|(_, event)| is_end(event)).unwrap_or(transitions.len());
    let mut events = Events::default();
    let mut transitions = transitions.into_iter();
    for (seq, event) in transitions.by_ref().take(shown) {
        cursor.transition = seq;
        events.events.push((cursor, Event::Transition(event)));
    }
    for (seq, event) in outputs {
        cursor.output = seq;
        events.events.push((cursor, Event::Output(event)));
    }
    if outputs_full {
        return Ok(events);
    }
    for (seq, event) in transitions {
        cursor.transition = seq;
        events.events.push((cursor, Event::Transition(event)));
    }
    events.ended = !transitions_full && all_ended(&tx, command_seq, scope)?;
    Ok(events)
}

fn all_ended(conn: &Connection, command_seq: i64, scope: &str) -> Result<bool, StoreError> {
    const OPEN: &str = concat!(
        "SELECT 1 FROM deliveries d WHERE command_seq = ?1 AND finished_ms IS NULL \
         AND (?2 = '{}' OR EXISTS (SELECT 1 FROM agents a WHERE a.seq = d.agent_seq AND ",
        in_scope!("a.tags", "?2"),
        "))"
    );
    Ok(!conn.prepare_cached(OPEN)?.exists((command_seq, scope))?)
}

fn new_transitions(
    conn: &Connection,
    command_seq: i64,
    cursor: Cursor,
    scope: &str,
) -> Result<Vec<(i64, TransitionEvent)>, StoreError> {
    const SQL: &str = concat!(
        "SELECT t.seq, d.id, a.id, a.name, d.exit_code, d.reason, \
         t.at_ms, t.event, t.epoch, t.attempt, t.cause \
         FROM deliveries d JOIN agents a ON a.seq = d.agent_seq JOIN transitions t ON t.delivery_seq = d.seq \
         WHERE d.command_seq = ?1 AND t.seq > ?2 AND ",
        in_scope!("a.tags", "?4"),
        " ORDER BY t.seq LIMIT ?3"
    ); // transitions_delivery
    let mut statement = conn.prepare_cached(SQL)?;
    let rows = statement.query_map((command_seq, cursor.transition, EVENTS_MAX, scope), |row| {
        let transition = transition(row, 6)?;
        let ended = transition.event.parse().is_ok_and(State::is_terminal);
        let event = TransitionEvent {
            delivery: DeliveryId::from_bytes(row.get(1)?),
            agent_id: AgentId::from_bytes(row.get(2)?),
            agent_name: row.get(3)?,
            transition,
            exit_code: if ended { row.get(4)? } else { None },
            reason: if ended { row.get(5)? } else { None },
        };
        Ok((row.get(0)?, event))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn new_outputs(
    conn: &Connection,
    command_seq: i64,
    cursor: Cursor,
    scope: &str,
) -> Result<Vec<(i64, OutputEvent)>, StoreError> {
    const SQL: &str = concat!(
        "SELECT o.seq, d.id, a.id, a.name, o.stream, o.offset, o.bytes \
         FROM deliveries d JOIN agents a ON a.seq = d.agent_seq JOIN output o ON o.delivery_seq = d.seq \
         WHERE d.command_seq = ?1 AND o.seq > ?2 AND ",
        in_scope!("a.tags", "?4"),
        " ORDER BY o.seq LIMIT ?3"
    );
    let mut statement = conn.prepare_cached(SQL)?;
    let rows = statement.query_map((command_seq, cursor.output, EVENTS_MAX, scope), |row| {
        let event = OutputEvent {
            delivery: DeliveryId::from_bytes(row.get(1)?),
            agent_id: AgentId::from_bytes(row.get(2)?),
            agent_name: row.get(3)?,
            stream: Stream::from_number(row.get(4)?).unwrap_or(Stream::Stdout),
            offset: row.get(5)?,
            data: STANDARD.encode(row.get_ref(6)?.as_blob().map_err(rusqlite::Error::from)?),
        };
        Ok((row.get(0)?, event))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
