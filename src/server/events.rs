//! Server-sent events of one command: transitions and output as they come.
//!
//! A task reads from the database by cursor and feeds a small channel; a reader that does not take an event for
//! [`SLOW_TIMEOUT`] is dropped and comes back with `Last-Event-ID`. Nobody is waited for by anybody else. A reader whose
//! token is good no longer is told nothing more.

use super::app::App;
use super::call::Call;
use super::commands::id;
use super::error::ApiError;
use crate::protocol::access::Role;
use crate::protocol::ids::CommandId;
use crate::protocol::scope::Scope;
use crate::store::error::StoreError;
use crate::store::history::{Cursor, Event as StoreEvent};
use futures_util::stream;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use warp::reply::{Reply, Response};
use warp::sse::Event;

/// Events between the task and the socket.
const CHANNEL: usize = 16;
/// How long a reader may leave an event untaken.
pub const SLOW_TIMEOUT: Duration = Duration::from_secs(30);
/// Comments that keep proxies from closing a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The task looks again this often without being rung for.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// `GET /api/commands/{id}/events`.
///
/// # Errors
/// 401, 403, 404, 422.
pub async fn stream(call: Call, command: &str) -> Result<Response, ApiError> {
    let (actor, held) = call.authorize_held(Role::Viewer).await?;
    call.query(&[])?;
    let command: CommandId = id(command)?;
    let cursor = match call.headers.get("last-event-id") {
        None => Cursor::default(),
        Some(value) => value.to_str().ok().and_then(read_cursor).ok_or_else(|| {
            ApiError::field("Last-Event-ID", "is not the id of an event of this stream; leave it out to start over")
        })?,
    };
    let seq = call.app.store.command(command, false, actor.scope.clone()).await?.seq;
    let (sender, receiver) = mpsc::channel(CHANNEL);
    let app = Arc::clone(&call.app);
    let cut = CancellationToken::new();
    let cutter = cut.clone();
    call.app.tasks.spawn("events", async move {
        tokio::select! {
            () = feed(&app, command, seq, cursor, actor.scope, sender) => {}
            // What waits in the channel is not told either.
            () = held.over(&app) => cutter.cancel(),
        }
    });
    let events = stream::unfold((receiver, cut), |(mut receiver, cut)| async move {
        let event: Event = tokio::select! {
            biased;
            () = cut.cancelled() => return None,
            event = receiver.recv() => event?,
        };
        Some((Ok::<_, Infallible>(event), (receiver, cut)))
    });
    let events = warp::sse::keep_alive().interval(KEEP_ALIVE).stream(events);
    Ok(warp::sse::reply(events).into_response())
}

async fn feed(app: &App, command: CommandId, seq: i64, mut cursor: Cursor, scope: Scope, sender: mpsc::Sender<Event>) {
    let stop = app.tasks.stop_token();
    loop {
        // Listen before looking, or a change in between is missed.
        let rung = app.store.watch.commands.listen(seq);
        match news(app, command, seq, &mut cursor, &scope, &sender).await {
            Ok(More::Wait) => {}
            Ok(More::AtOnce) => continue,
            Ok(More::Never) => return,
            Err(error) => {
                // The stream breaks off; the reader comes back with its cursor.
                tracing::warn!(%command, %error, "an event stream broke off; the client comes back and goes on");
                return;
            }
        }
        tokio::select! {
            () = rung => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = sender.closed() => return,
            () = stop.cancelled() => return,
        }
    }
}

enum More {
    Wait,
    AtOnce,
    Never,
}

async fn news(
    app: &App,
    command: CommandId,
    seq: i64,
    cursor: &mut Cursor,
    scope: &Scope,
    sender: &mpsc::Sender<Event>,
) -> Result<More, StoreError> {
    let events = app.store.events(seq, *cursor, scope.clone()).await?;
    let quiet = events.events.is_empty();
    for (after, event) in events.events {
        *cursor = after;
        let event = match event {
            StoreEvent::Transition(event) => named("transition", *cursor, &event),
            StoreEvent::Output(event) => named("output", *cursor, &event),
        };
        if !send(app, sender, event).await {
            return Ok(More::Never);
        }
    }
    if events.ended {
        let last = app.store.command(command, false, scope.clone()).await?.response;
        send(app, sender, named("end", *cursor, &last)).await;
        return Ok(More::Never);
    }
    Ok(if quiet { More::Wait } else { More::AtOnce })
}

async fn send(app: &App, sender: &mpsc::Sender<Event>, event: Event) -> bool {
    let sent = sender.send_timeout(event, SLOW_TIMEOUT);
    app.tasks.stop_token().run_until_cancelled(sent).await.is_some_and(|sent| sent.is_ok())
}

fn named<T: serde::Serialize>(name: &str, cursor: Cursor, data: &T) -> Event {
    let text = serde_json::to_string(data).unwrap_or_default();
    Event::default().event(name).id(format!("{}.{}", cursor.transition, cursor.output)).data(text)
}

/// Reads an event's id, as `Last-Event-ID` gives it back.
pub fn read_cursor(text: &str) -> Option<Cursor> {
    let (transition, output) = text.split_once('.')?;
    Some(Cursor { transition: transition.parse().ok()?, output: output.parse().ok()? })
}
