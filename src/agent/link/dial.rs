//! Opening the socket and making it a WebSocket, with every buffer bounded.

use super::wait::{Leave, retry_after};
use crate::http_client::ServerUrl;
use crate::protocol::frame::{FRAME_BYTES_MAX, SUBPROTOCOL};
use crate::tls::{Stream, Trust};
use crate::websocket::limits;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// How long the upgrade may take.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// Kernel send buffer, in bytes. Larger ones only hide longer that the server does not read.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// The kernel gives up on data that is not acknowledged for this long: above our own deadlines, below its own minutes.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The WebSocket.
pub type Socket = WebSocketStream<Stream>;

/// Connects and upgrades.
///
/// # Errors
/// [`Leave`].
pub async fn dial(url: &ServerUrl, trust: &Trust) -> Result<Socket, Leave> {
    let stream = url.dial(trust).await?;
    bound(stream.tcp()).map_err(|error| Leave::Broken(error.to_string()))?;
    tokio::time::timeout(UPGRADE_TIMEOUT, upgrade(url, stream)).await.map_err(|_| Leave::Late("answer the upgrade"))?
}

/// Asks by our HTTP client: tungstenite's takes an answer in very small pieces for an attack.
async fn upgrade(url: &ServerUrl, stream: Stream) -> Result<Socket, Leave> {
    let key = generate_key();
    let request = Request::get("/agent/ws")
        .header(HOST, url.authority())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key)
        .header(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
        .body(Empty::<Bytes>::new())
        .map_err(|error| Leave::Broken(error.to_string()))?;
    let broken = |error: hyper::Error| Leave::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // The connection ends with the sender, and with the body of an answer that is a refusal.
    let answer = async move { sender.send_request(request).await.map(|answer| answer.into_parts().0) };
    let (answer, connection) = futures_util::future::join(answer, connection.without_shutdown()).await;
    let answer = answer.map_err(broken)?;
    if answer.status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Leave::Declined { status: answer.status.as_u16(), retry_after: retry_after(&answer.headers) });
    }
    check(&answer.headers, &key)?;
    let connection = connection.map_err(broken)?;
    let (stream, begun) = (connection.io.into_inner(), connection.read_buf.to_vec());
    Ok(Socket::from_partially_read(stream, begun, Role::Client, Some(limits(FRAME_BYTES_MAX))).await)
}

fn bound(stream: &TcpStream) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

/// The server's half of the handshake (RFC 6455 section 4.1).
fn check(headers: &HeaderMap, key: &str) -> Result<(), Leave> {
    let is =
        |name: HeaderName, value: &str| headers.get(name).is_some_and(|found| found.as_bytes() == value.as_bytes());
    if !is(SEC_WEBSOCKET_ACCEPT, &derive_accept_key(key.as_bytes())) {
        return Err(Leave::Broken("the server switches to something else".to_owned()));
    }
    if !is(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(Leave::Broken(format!("the server does not speak {SUBPROTOCOL}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// What `dial` makes of a server that says this and keeps the connection.
    async fn dialled(answer: &str) -> Leave {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = ServerUrl::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            while let Ok(1..) = stream.read(&mut [0; 1024]).await {}
        };
        let (leave, ()) = futures_util::future::join(dial(&url, &Trust::default()), serve).await;
        leave.unwrap_err()
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_wait_and_a_strangers_welcome_is_none() {
        let body = "x".repeat(100_000);
        let refusal = format!("HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let leave = dialled(&refusal).await;
        let seven = Some(Duration::from_secs(7));
        assert!(matches!(leave, Leave::Declined { status: 503, retry_after } if retry_after == seven), "{leave}");
        for answer in [
            "HTTP/1.1 101 Ok\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
            "HTTP/1.1 101 Ok\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
        ] {
            let leave = dialled(answer).await;
            assert!(matches!(leave, Leave::Broken(_)), "{answer}: {leave}");
        }
    }
}
