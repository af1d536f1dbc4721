//! The agents' WebSocket: our own upgrade, so that its buffers can be sized.

use super::call::Call;
use super::error::ApiError;
use super::session::run::run;
use crate::protocol::frame::{FRAME_BYTES_MAX, SUBPROTOCOL};
use crate::websocket::limits;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{HeaderMap, StatusCode};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use warp::reply::Response;

/// How long the switch of protocols may take.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's end of an agent's connection.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// `GET /agent/ws`: switches to the WebSocket and starts a session.
///
/// # Errors
/// 400 for what is no such request, 503 when draining or when too many come at once.
pub async fn socket(mut call: Call) -> Result<Response, ApiError> {
    let key = check(&call.headers)?;
    let upgrade = call.upgrade.take().ok_or_else(|| not_websocket("the connection cannot be upgraded"))?;
    if call.app.tasks.stop_token().is_cancelled() {
        return Err(ApiError::unavailable(
            "draining",
            "the server is shutting down; come again",
            Duration::from_secs(2),
        ));
    }
    if let Some(wait) = call.app.admission.crowded() {
        let detail = "many agents are connecting; come again later";
        return Err(ApiError::unavailable("too_many_agents", detail, wait));
    }
    let app = Arc::clone(&call.app);
    call.app.tasks.spawn("session", async move {
        let connection = call.connection;
        match tokio::time::timeout(UPGRADE_TIMEOUT, switched(upgrade)).await {
            Ok(Ok(socket)) => run(app, socket, connection).await,
            Ok(Err(error)) => tracing::debug!(peer = %connection.peer, %error, "the upgrade failed"),
            Err(_) => tracing::debug!(peer = %connection.peer, "the upgrade took too long"),
        }
    });
    let mut response = Response::new("".into());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&key).map_err(ApiError::internal)?);
    Ok(response)
}

async fn switched(upgrade: OnUpgrade) -> Result<Socket, hyper::Error> {
    let upgraded = TokioIo::new(upgrade.await?);
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(limits(FRAME_BYTES_MAX))).await)
}

fn not_websocket(why: &str) -> ApiError {
    let detail = format!("{why}; this path speaks WebSocket version 13 with the subprotocol {SUBPROTOCOL} to agents");
    ApiError::new(StatusCode::BAD_REQUEST, "not_websocket", detail)
}

/// Checks the handshake (RFC 6455 section 4.2.1) and answers the accept key.
fn check(headers: &HeaderMap) -> Result<String, ApiError> {
    let has = |name, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(word))
    };
    if !has(UPGRADE, "websocket") || !has(CONNECTION, "upgrade") {
        return Err(not_websocket("the request asks for no WebSocket"));
    }
    if !has(SEC_WEBSOCKET_VERSION, "13") {
        return Err(not_websocket("the request names another version"));
    }
    if !has(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(not_websocket("the request does not offer the subprotocol"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| not_websocket("the request has no key"))?;
    Ok(derive_accept_key(key.as_bytes()))
}
