//! A small HTTP/1.1 client: one connection, one request. Used by the agent and by the command line.
//!
//! Plain or with TLS, as the address says. Connecting and the answer's head have time limits; a body that is collected
//! has a size limit.

use crate::tls::{Stream, TlsError, Trust};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long connecting may take, name resolution included; and as long again a TLS handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the answer's head may take, beyond what the caller asks the server to wait.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a server is: `http://HOST:PORT` or `https://HOST:PORT`, no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    tls: bool,
    host: String,
    port: u16,
}

/// What can go wrong between here and an answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// The address cannot be read.
    #[error("{0:?} is not a server address: it looks like https://HOST:PORT")]
    Url(String),
    /// The server is not the one that is meant, or speaks no TLS.
    #[error("cannot speak to {url}: {source}")]
    Tls {
        /// Where to.
        url: String,
        /// Why not.
        source: TlsError,
    },
    /// Nobody listens there, or the name does not resolve.
    #[error("cannot reach {url}: {source}")]
    Connect {
        /// Where to.
        url: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Something took too long.
    #[error("{url} did not answer within {} s", .after.as_secs())]
    Timeout {
        /// Where to.
        url: String,
        /// How long was waited.
        after: Duration,
    },
    /// The connection broke, or the peer does not speak HTTP.
    #[error("the connection to {url} broke: {source}")]
    Http {
        /// Where to.
        url: String,
        /// How.
        source: hyper::Error,
    },
    /// The request has a part that HTTP cannot carry.
    #[error("the request cannot be sent: {0}")]
    Request(#[from] hyper::http::Error),
    /// The body broke off or is over the limit.
    #[error("the answer of {url} cannot be read: {message}")]
    Body {
        /// Where from.
        url: String,
        /// Why.
        message: String,
    },
}

impl ServerUrl {
    /// Reads `http://HOST[:PORT]` (port 80 if none) or `https://HOST[:PORT]` (443); a trailing slash is allowed.
    ///
    /// # Errors
    /// [`HttpClientError::Url`].
    pub fn parse(text: &str) -> Result<Self, HttpClientError> {
        let wrong = || HttpClientError::Url(text.chars().take(200).collect());
        let uri: Uri = text.trim().parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let host = authority.host();
        // What is neither host nor port (a second bracket, a port above 65535) must not be dropped in silence.
        let whole = authority.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        if host.is_empty() || authority.as_str() != whole {
            return Err(wrong());
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host: host.to_owned(), port })
    }

    /// `HOST:PORT`. IPv6 addresses keep their brackets.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// What the `Host` header says: no port where it is the scheme's own. A CA compares it with what we signed.
    pub fn host_header(&self) -> String {
        match (self.tls, self.port) {
            (false, 80) | (true, 443) => self.host.clone(),
            _ => self.authority(),
        }
    }

    /// Whether TLS is spoken there.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The host. IPv6 addresses keep their brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether the host is this one.
    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }

    /// Opens a connection with Nagle's algorithm off: frames are small and waited for. With TLS to whom `trust` names.
    ///
    /// # Errors
    /// [`HttpClientError::Connect`], [`HttpClientError::Timeout`], [`HttpClientError::Tls`].
    pub async fn dial(&self, trust: &Trust) -> Result<Stream, HttpClientError> {
        let address = self.authority();
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(&address))
            .await
            .map_err(|_| HttpClientError::Timeout { url: self.to_string(), after: CONNECT_TIMEOUT })?;
        let stream = connected.map_err(|source| HttpClientError::Connect { url: self.to_string(), source })?;
        stream.set_nodelay(true).map_err(|source| HttpClientError::Connect { url: self.to_string(), source })?;
        if !self.tls {
            return Ok(Stream::Plain(stream));
        }
        timeout(CONNECT_TIMEOUT, trust.connect(&self.host, stream))
            .await
            .map_err(|_| HttpClientError::Timeout { url: self.to_string(), after: CONNECT_TIMEOUT })?
            .map_err(|source| HttpClientError::Tls { url: self.to_string(), source })
    }
}

impl std::fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}:{}", if self.tls { "https" } else { "http" }, self.host, self.port)
    }
}

/// An answer whose body has been read.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// One connection to a server, for one request after another.
#[derive(Debug)]
pub struct HttpClient {
    url: ServerUrl,
    sender: http1::SendRequest<Full<Bytes>>,
    driver: tokio::task::AbortHandle,
}

impl Drop for HttpClient {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl HttpClient {
    /// Connects.
    ///
    /// # Errors
    /// As [`ServerUrl::dial`]; [`HttpClientError::Http`].
    #[allow(clippy::disallowed_methods)] // The connection's driver lives and dies with this value.
    pub async fn connect(url: &ServerUrl, trust: &Trust) -> Result<Self, HttpClientError> {
        let stream = url.dial(trust).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| HttpClientError::Http { url: url.to_string(), source })?;
        let driver = tokio::spawn(async move {
            // A broken connection shows in the request that is under way.
            let _ = connection.await;
        })
        .abort_handle();
        Ok(Self { url: url.clone(), sender, driver })
    }

    /// Sends a request and returns the answer with its body still to be read. `path` starts with `/`; `patience` is
    /// how long the server was asked to hold the answer.
    ///
    /// # Errors
    /// All but the first three of [`HttpClientError`].
    pub async fn open(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        patience: Duration,
    ) -> Result<Response<Incoming>, HttpClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.url.host_header())
            .header(USER_AGENT, concat!("postrider/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let after = ANSWER_TIMEOUT + patience;
        let answered = timeout(after, async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        })
        .await
        .map_err(|_| HttpClientError::Timeout { url: self.url.to_string(), after })?;
        answered.map_err(|source| HttpClientError::Http { url: self.url.to_string(), source })
    }

    /// Sends a request and reads the whole answer, up to `bytes_max`.
    ///
    /// # Errors
    /// All but the first three of [`HttpClientError`].
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        patience: Duration,
        bytes_max: usize,
    ) -> Result<Answer, HttpClientError> {
        let response = self.open(method, path, headers, body, patience).await?;
        let (head, incoming) = response.into_parts();
        let unread = |message: String| HttpClientError::Body { url: self.url.to_string(), message };
        let body = timeout(ANSWER_TIMEOUT, Limited::new(incoming, bytes_max).collect())
            .await
            .map_err(|_| unread(format!("it did not end within {} s", ANSWER_TIMEOUT.as_secs())))?
            .map_err(|error| unread(error.to_string()))?
            .to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(ServerUrl::parse("http://[::1]:80/").unwrap().authority(), "[::1]:80");
        assert_eq!(ServerUrl::parse(" http://msp.example ").unwrap().to_string(), "http://msp.example:80");
        assert_eq!(ServerUrl::parse("https://msp.example/").unwrap().to_string(), "https://msp.example:443");
        assert_eq!(ServerUrl::parse("https://msp.example").unwrap().host_header(), "msp.example");
        assert_eq!(ServerUrl::parse("http://msp.example:443").unwrap().host_header(), "msp.example:443");
        assert_ne!(ServerUrl::parse("https://a:80").unwrap(), ServerUrl::parse("http://a").unwrap());
        for bad in ["", "msp", "http://", "http://a/b", "http://u@h:1", "ftp://x", "http://a?b"] {
            assert!(ServerUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
