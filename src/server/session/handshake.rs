//! Challenge, hello, welcome, ready.

use crate::pin::Pin;
use crate::protocol::close::CloseReason;
use crate::protocol::frame::{
    AgentFrame, EPOCH_MAX, Hello, JOURNAL_ENTRIES_MAX, ServerFrame, decode, encode, hello_signature_input,
};
use crate::protocol::ids::AgentId;
use crate::protocol::plain::plain;
use crate::protocol::upgrade::{Ability, UPGRADE_REASON_BYTES_MAX};
use crate::secret::random;
use crate::server::app::App;
use crate::server::block::Block;
use crate::server::listener::Connection;
use crate::server::presence::Standing;
use crate::server::upgrade::Socket;
use crate::store::agents::AgentKey;
use crate::store::error::StoreError;
use crate::store::session::{BeginSession, Ready};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use ring::signature::{ED25519, UnparsedPublicKey};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

/// What is logged of a connection that becomes no session.
pub const HELLO_LOG: &str = "a connection was not authenticated";
/// Longest version or system name kept, in characters.
const LABEL_CHARS_MAX: usize = 64;
/// How long a close frame may take.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// An authenticated session.
#[derive(Clone, Debug)]
pub struct Session {
    /// The agent's row.
    pub agent_seq: i64,
    /// Its label.
    pub name: String,
    /// What its halves and the lists share.
    pub standing: Arc<Standing>,
    /// The newest pin that it was told, and has kept when it is ready; none: it knows us by none.
    pub pin: Option<Pin>,
}

/// A close frame for a reason.
pub fn close_frame(reason: CloseReason) -> Message {
    Message::Close(Some(CloseFrame { code: reason.code().into(), reason: reason.as_str().into() }))
}

/// Authenticates the peer and begins its session. `claimed` is then which agent it says it is, if it has said so.
///
/// # Errors
/// Why the connection was closed.
pub async fn handshake(
    app: &App,
    socket: &mut Socket,
    connection: &Connection,
    claimed: &mut Option<AgentId>,
) -> Result<Session, CloseReason> {
    until_stop(app, socket, async |socket| authenticate(app, socket, connection, claimed).await).await
}

/// Waits until the agent has the session's epoch in its journal: before that nothing is dispatched to it.
///
/// # Errors
/// Why the connection was closed.
pub async fn ready(app: &App, socket: &mut Socket, session: &Session) -> Result<(), CloseReason> {
    until_stop(app, socket, async |socket| {
        match timeout(app.keepalive.accept_timeout, receive(socket)).await {
            Ok(Ok(AgentFrame::Ready)) => {}
            Ok(Ok(_)) => return Err(CloseReason::ProtocolError),
            Ok(Err(reason)) => return Err(reason),
            Err(_) => return Err(CloseReason::AcceptTimeout),
        }
        let ready = Ready { agent_seq: session.agent_seq, epoch: session.standing.epoch, pin: session.pin };
        app.admission.in_turn(app.store.write(ready)).await.map_err(|error| match error {
            StoreError::Fenced => CloseReason::Superseded,
            error => {
                tracing::warn!(agent = %session.name, %error, "a session could not go on; the agent comes again");
                CloseReason::ServerStorage
            }
        })
    })
    .await
}

/// Does a part of the handshake, unless the server stops meanwhile; says goodbye if it does not come off.
async fn until_stop<T>(
    app: &App,
    socket: &mut Socket,
    part: impl AsyncFnOnce(&mut Socket) -> Result<T, CloseReason>,
) -> Result<T, CloseReason> {
    let stop = app.tasks.stop_token();
    let result = stop.run_until_cancelled(part(socket)).await.unwrap_or(Err(CloseReason::Draining));
    if let Err(reason) = &result {
        let _ = timeout(CLOSE_TIMEOUT, socket.send(close_frame(*reason))).await;
    }
    result
}

async fn authenticate(
    app: &App,
    socket: &mut Socket,
    connection: &Connection,
    claimed: &mut Option<AgentId>,
) -> Result<Session, CloseReason> {
    // Who knows us by a pin is told all of ours.
    let (pinned, block) = (connection.pin.is_some(), Block::of(connection.peer.ip()));
    let nonce = random::<32>();
    let challenge_number = app.challenges.fetch_add(1, Ordering::Relaxed) + 1;
    let challenge = ServerFrame::Challenge { nonce: URL_SAFE_NO_PAD.encode(nonce), server_id: app.store.server_id };
    send(app, socket, &challenge).await?;
    let hello =
        timeout(app.keepalive.hello_timeout, receive_hello(socket)).await.unwrap_or(Err(CloseReason::HelloTimeout))?;
    *claimed = Some(hello.agent_id);
    let key = app.admission.in_turn(check(app, &nonce, &hello, block)).await?;
    // Before it takes a place: one agent alone could take all of them.
    app.limits.session(key.seq).map_err(|_| CloseReason::TooOften)?;
    // Only now: a stranger must not use up the places of agents.
    tokio::time::sleep(app.admission.take_place()).await;
    let begin = BeginSession {
        agent_seq: key.seq,
        version: label(&hello.version),
        os: label(&hello.os),
        challenge: challenge_number,
        last_epoch: hello.last_epoch,
        journal: hello.journal,
        ability: hello.upgrade.map(|ability| within_limits(*ability)),
    };
    let begun = app.admission.in_turn(app.store.write(begin)).await.map_err(|error| match error {
        // Revoked since the key was read.
        StoreError::NotFound { .. } => CloseReason::Revoked,
        StoreError::Fenced => CloseReason::Superseded,
        error => {
            tracing::warn!(agent = %key.name, %error, "a session could not be begun; the agent comes again");
            CloseReason::ServerStorage
        }
    })?;
    if begun.clash {
        tracing::warn!(agent = %key.name, last_epoch = hello.last_epoch, "identity clash: the agent's data folder was \
            copied, moved, restored or emptied; if this repeats, two hosts share it: revoke the agent and enroll each anew");
    }
    let now_ms = app.store.clock.now_ms();
    let standing = Arc::new(Standing::new(begun.epoch, now_ms));
    let keepalive = &app.keepalive;
    let pins = app.tls.as_ref().filter(|_| pinned).map_or_else(Vec::new, |tls| tls.authorities.pins());
    let pin = pins.first().copied();
    let welcome = ServerFrame::Welcome {
        epoch: begun.epoch,
        server_time_ms: now_ms,
        ping_interval_ms: ms(keepalive.ping_interval),
        pong_timeout_ms: ms(keepalive.pong_timeout),
        window: keepalive.window,
        fetch_token: app.fetch_token(hello.agent_id),
        pins,
        release_key: app.releases.key.as_ref().map(ToString::to_string),
        journal: begun.verdicts,
    };
    send(app, socket, &welcome).await?;
    Ok(Session { agent_seq: key.seq, name: key.name, standing, pin })
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What an agent says of upgrades, with texts that fit the database.
fn within_limits(ability: Ability) -> Ability {
    let Ability { platform, release, cannot, last } = ability;
    let last = last.map(|mut last| {
        last.cut_reason();
        last.reason = last.reason.map(|reason| plain(&reason, UPGRADE_REASON_BYTES_MAX));
        last
    });
    let short = |text: String| plain(&text, UPGRADE_REASON_BYTES_MAX);
    Ability { platform: platform.as_deref().map(label), release, cannot: cannot.map(short), last }
}

fn label(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LABEL_CHARS_MAX).collect()
}

async fn send(app: &App, socket: &mut Socket, frame: &ServerFrame) -> Result<(), CloseReason> {
    match timeout(app.keepalive.write_timeout, socket.send(Message::text(encode(frame)))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(CloseReason::ConnectionLost),
        Err(_) => Err(CloseReason::WriteTimeout),
    }
}

async fn receive_hello(socket: &mut Socket) -> Result<Hello, CloseReason> {
    match receive(socket).await? {
        AgentFrame::Hello(hello) if hello.journal.len() <= JOURNAL_ENTRIES_MAX && hello.last_epoch <= EPOCH_MAX => {
            Ok(hello)
        }
        _ => Err(CloseReason::ProtocolError),
    }
}

async fn receive(socket: &mut Socket) -> Result<AgentFrame, CloseReason> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return decode(&text).map_err(|_| CloseReason::ProtocolError),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(Some(frame)))) => return Err(CloseReason::from_code(frame.code.into())),
            Some(Ok(Message::Close(None))) | None => return Err(CloseReason::ConnectionLost),
            Some(Ok(_)) => return Err(CloseReason::ProtocolError),
            Some(Err(SocketError::Capacity(_))) => return Err(CloseReason::FrameTooLong),
            Some(Err(_)) => return Err(CloseReason::ConnectionLost),
        }
    }
}

async fn check(app: &App, nonce: &[u8; 32], hello: &Hello, block: Block) -> Result<AgentKey, CloseReason> {
    if !app.limits.hears(block, hello.agent_id) {
        return Err(CloseReason::TooOften);
    }
    let found = app.store.agent_key(hello.agent_id).await.map_err(|_| CloseReason::ServerStorage)?;
    let Some(key) = found else {
        app.limits.unknown_agent(block, hello.agent_id);
        return Err(CloseReason::Unauthorized);
    };
    let signature = URL_SAFE_NO_PAD.decode(&hello.signature).unwrap_or_default();
    let signed = hello_signature_input(nonce, app.store.server_id, hello.agent_id);
    UnparsedPublicKey::new(&ED25519, key.public_key).verify(&signed, &signature).map_err(|_| {
        app.limits.failed(block, None);
        CloseReason::Unauthorized
    })?;
    // Only whoever holds the key learns that it was revoked, or that it waits.
    match (key.revoked, key.pending) {
        (true, _) => Err(CloseReason::Revoked),
        (false, true) => Err(CloseReason::Pending),
        (false, false) => Ok(key),
    }
}
