//! From a fresh socket to a TLS connection, within a time limit. Whoever speaks plain HTTP is told so.

use super::certificates::{CHALLENGE_ALPN, Certificates};
use crate::protocol::ids::RequestId;
use crate::server::error::ApiError;
use crate::tls::{Stream, provider};
use hyper::StatusCode;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::{Error, ServerConfig};

/// How long a TLS handshake may take. A slow link needs two or three round trips.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// First byte of every TLS connection: a record of the handshake (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// How long whoever speaks plain HTTP may take to read that it is wrong.
const PLAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of a plain request is read, in bytes: a close with data unread would take the answer back.
const PLAIN_BYTES_MAX: usize = 64 * 1024;

/// Takes connections with TLS 1.2 or 1.3 and these certificates. Sessions are not resumed: agents stay connected, a
/// handshake costs a fraction of a millisecond, and what was retired is retired at once.
///
/// # Errors
/// None that are known: the provider has both versions.
pub fn acceptor(certificates: Arc<Certificates>) -> Result<TlsAcceptor, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"http/1.1".to_vec(), CHALLENGE_ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Does the handshake; answers the name that was asked for, too. None: it was plain HTTP, or an issuer's check, and is
/// over.
///
/// # Errors
/// How it failed.
pub async fn enter(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<Option<(Stream, Option<String>)>> {
    let handshake = async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
            return Ok(Err(stream));
        }
        acceptor.accept(stream).await.map(Ok)
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
    match timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| late())?? {
        Ok(mut stream) if stream.get_ref().1.alpn_protocol() == Some(CHALLENGE_ALPN) => {
            // The certificate in the handshake was all that was asked for (RFC 8737 section 3).
            let _ = timeout(PLAIN_TIMEOUT, stream.shutdown()).await;
            Ok(None)
        }
        Ok(stream) => {
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            Ok(Some((Stream::Tls(Box::new(stream.into())), name)))
        }
        Err(stream) => {
            // Best effort: whoever does not read it does not learn it.
            let _ = timeout(PLAIN_TIMEOUT, refuse_plain(stream)).await;
            Ok(None)
        }
    }
}

async fn refuse_plain(mut stream: TcpStream) -> io::Result<()> {
    let detail = "this port speaks TLS: use https:// and the same host and port";
    let problem = ApiError::new(StatusCode::BAD_REQUEST, "tls_needed", detail).problem(RequestId::new());
    let body = serde_json::to_string(&problem)?;
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nConnection: close";
    let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}\n", body.len() + 1);
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let (mut bytes, mut left) = ([0; 1024], PLAIN_BYTES_MAX);
    while left > 0 {
        match stream.read(&mut bytes).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}
