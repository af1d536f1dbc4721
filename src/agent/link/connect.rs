//! From a socket to a session: the server's challenge, our signed `hello`, its `welcome`.

use super::dial::{Socket, dial};
use super::wait::Leave;
use crate::agent::board::Board;
use crate::agent::boot::boot_id;
use crate::agent::credential::Credential;
use crate::pin::Pin;
use crate::protocol::close::CloseReason;
use crate::protocol::frame::{AgentFrame, Hello, JournalEntry, JournalVerdict, ServerFrame, decode, encode};
use crate::protocol::ids::{AgentId, ServerId};
use crate::protocol::upgrade::Ability;
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio_tungstenite::tungstenite::{Error, Message};

/// How long the server may take for its next frame of the handshake. A server that restarts with many agents checks
/// many signatures.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection that the server has welcomed.
#[derive(Debug)]
pub struct Welcomed {
    /// The socket.
    pub socket: Socket,
    /// The connection's epoch.
    pub epoch: u64,
    /// The server's clock when it said so.
    pub server_time_ms: i64,
    /// Ping about this often.
    pub ping_interval_ms: u64,
    /// Leave after this long without the pong.
    pub pong_timeout_ms: u64,
    /// For fetching large specifications.
    pub fetch_token: Secret,
    /// The server's pins, newest first; empty: we keep ours.
    pub pins: Vec<Pin>,
    /// By whose signature releases are known there; none: it has none.
    pub release_key: Option<String>,
    /// What `hello` said.
    pub told: Vec<JournalEntry>,
    /// What the server says to that.
    pub verdicts: Vec<JournalVerdict>,
}

/// Opens a connection and proves who we are.
///
/// # Errors
/// [`Leave`].
pub async fn connect(
    credential: &Credential,
    agent: AgentId,
    last_epoch: u64,
    board: &Board,
    ability: Option<Ability>,
) -> Result<Welcomed, Leave> {
    let mut socket = dial(&credential.url, &credential.trust).await?;
    let (nonce, found) = match next(&mut socket, "send its challenge").await? {
        ServerFrame::Challenge { nonce, server_id } => (nonce, server_id),
        other => return Err(unexpected(&other)),
    };
    check_server(credential.server_id, found)?;
    let nonce: [u8; 32] = URL_SAFE_NO_PAD
        .decode(nonce)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Leave::left(CloseReason::ProtocolError, "the challenge has no nonce of 32 bytes"))?;
    let told = board.journal();
    let hello = AgentFrame::Hello(Hello {
        agent_id: agent,
        signature: credential.sign_hello(&nonce, agent),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        os: std::env::consts::OS.to_owned(),
        boot_id: boot_id(),
        last_epoch,
        journal: told.clone(),
        upgrade: ability.map(Box::new),
    });
    tokio::time::timeout(HANDSHAKE_TIMEOUT, socket.send(Message::text(encode(&hello))))
        .await
        .map_err(|_| Leave::Late("take our hello"))?
        .map_err(|error| broken(&error))?;
    match next(&mut socket, "answer our hello").await? {
        ServerFrame::Welcome {
            epoch,
            server_time_ms,
            ping_interval_ms,
            pong_timeout_ms,
            window: _,
            fetch_token,
            pins,
            release_key,
            journal: verdicts,
        } => Ok(Welcomed {
            socket,
            epoch,
            server_time_ms,
            ping_interval_ms,
            pong_timeout_ms,
            fetch_token: Secret::new(fetch_token),
            pins,
            release_key,
            told,
            verdicts,
        }),
        other => Err(unexpected(&other)),
    }
}

fn check_server(expected: ServerId, found: ServerId) -> Result<(), Leave> {
    if found == expected { Ok(()) } else { Err(Leave::OtherServer { expected, found }) }
}

async fn next(socket: &mut Socket, what: &'static str) -> Result<ServerFrame, Leave> {
    let read = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return decode(&text).map_err(|error| Leave::left(CloseReason::ProtocolError, error.to_string()));
                }
                Some(Ok(message)) => closed(message).map_or(Ok(()), Err)?,
                Some(Err(error)) => return Err(broken(&error)),
                None => return Err(lost()),
            }
        }
    };
    tokio::time::timeout(HANDSHAKE_TIMEOUT, read).await.map_err(|_| Leave::Late(what))?
}

/// The server's close frame as a reason; none for any other message.
pub fn closed(message: Message) -> Option<Leave> {
    let Message::Close(frame) = message else { return None };
    let (code, text) = frame.map_or((0, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
    Some(Leave::Closed { reason: CloseReason::from_code(code), text })
}

/// What the WebSocket layer could not cope with.
pub fn broken(error: &Error) -> Leave {
    match error {
        Error::Capacity(what) => Leave::left(CloseReason::FrameTooLong, what.to_string()),
        Error::Protocol(what) => Leave::Broken(what.to_string()),
        error => Leave::Broken(error.to_string()),
    }
}

/// The stream ended without a close frame.
pub fn lost() -> Leave {
    Leave::Broken("the server ended it without a word".to_owned())
}

fn unexpected(frame: &ServerFrame) -> Leave {
    let what = match frame {
        ServerFrame::Error(error) => format!("{}: {}", error.code, error.message),
        _ => "a frame out of order".to_owned(),
    };
    Leave::left(CloseReason::ProtocolError, format!("the server sent {what}"))
}
