//! Opening the socket and making it a WebSocket, with every buffer bounded.

use super::wait::{Leave, retry_after};
use crate::http_client::ServerUrl;
use crate::protocol::frame::{FRAME_BYTES_MAX, SUBPROTOCOL};
use crate::websocket::limits;
use socket2::SockRef;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// How long the upgrade may take.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// Kernel send buffer, in bytes. Larger ones only hide longer that the server does not read.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// The kernel gives up on data that is not acknowledged for this long: above our own deadlines, below its own minutes.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The WebSocket.
pub type Socket = WebSocketStream<TcpStream>;

/// Connects and upgrades.
///
/// # Errors
/// [`Leave`].
pub async fn dial(url: &ServerUrl) -> Result<Socket, Leave> {
    let stream = url.dial().await?;
    bound(&stream).map_err(|error| Leave::Broken(error.to_string()))?;
    let mut request = format!("ws://{}/agent/ws", url.authority())
        .into_client_request()
        .map_err(|error| Leave::Broken(error.to_string()))?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    let upgrade = client_async_with_config(request, stream, Some(limits(FRAME_BYTES_MAX)));
    let (socket, response) = tokio::time::timeout(UPGRADE_TIMEOUT, upgrade)
        .await
        .map_err(|_| Leave::Late("answer the upgrade"))?
        .map_err(declined)?;
    check(&response)?;
    Ok(socket)
}

fn bound(stream: &TcpStream) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

fn declined(error: Error) -> Leave {
    match error {
        Error::Http(response) => {
            Leave::Declined { status: response.status().as_u16(), retry_after: retry_after(response.headers()) }
        }
        error => Leave::Broken(error.to_string()),
    }
}

fn check(response: &Response) -> Result<(), Leave> {
    match response.headers().get(SEC_WEBSOCKET_PROTOCOL).map(HeaderValue::as_bytes) {
        Some(echoed) if echoed == SUBPROTOCOL.as_bytes() => Ok(()),
        _ => Err(Leave::Broken(format!("the server does not speak {SUBPROTOCOL}"))),
    }
}
