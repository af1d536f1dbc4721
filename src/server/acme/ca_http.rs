//! The way to the CA: instant-acme's requests over our HTTP client. A connection for each request: an order has a
//! dozen, a few times a year.
//!
//! What the library does not show is read here: `Retry-After`, and the status of an answer that is no problem document
//! (a proxy's, or of a CA that is down).

use crate::clock::Clock;
use crate::http_client::{Answer, HttpClient as Connection, HttpClientError, ServerUrl};
use crate::tls::{TlsError, Trust};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Largest answer, in bytes. A chain of certificates has a few thousand.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Longest wait that a CA is obeyed in: Let's Encrypt counts by the week.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(7 * 86_400);

/// The client that the library asks through. Clones share what the CA last asked for.
#[derive(Clone, Debug)]
pub struct CaHttp {
    trust: Trust,
    clock: Clock,
    retry_after: Arc<Mutex<Option<Duration>>>,
}

/// What the CA's side did not answer as ACME says.
#[derive(Debug, thiserror::Error)]
pub enum CaHttpError {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpClientError),
    /// Its own server cannot be trusted.
    #[error(
        "the certificate of {0} itself is of an authority that this host does not trust; for a CA of your own name its \
         root in SSL_CERT_FILE"
    )]
    Untrusted(ServerUrl),
    /// An address that is none, from the directory.
    #[error("{0:?} is no https:// address")]
    Address(String),
    /// An error that is no problem document.
    #[error("{address} answered {status}")]
    Status {
        /// What was asked.
        address: String,
        /// How it was answered.
        status: StatusCode,
    },
}

impl CaHttp {
    /// For one order. `trust` says whom the CA's own server is trusted by.
    pub fn new(trust: Trust, clock: Clock) -> Self {
        Self { trust, clock, retry_after: Arc::default() }
    }

    /// How long the CA asked to be left alone in its last answer, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, CaHttpError> {
        let (head, body) = request.into_parts();
        let address = head.uri.to_string();
        let wrong = || CaHttpError::Address(address.clone());
        let (Some("https"), Some(authority)) = (head.uri.scheme_str(), head.uri.authority()) else {
            return Err(wrong());
        };
        let url = ServerUrl::parse(&format!("https://{authority}")).map_err(|_| wrong())?;
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let Ok(body) = body.collect().await;
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let headers: Vec<_> = content_type.map(|value| ("content-type", value)).into_iter().collect();
        let mut connection = match Connection::connect(&url, &self.trust).await {
            Err(HttpClientError::Tls { source: TlsError::UnknownAuthority, .. }) => {
                return Err(CaHttpError::Untrusted(url));
            }
            connected => connected?,
        };
        let answer =
            connection.send(head.method, path, &headers, body.to_bytes(), Duration::ZERO, ANSWER_BYTES_MAX).await?;
        let asked = retry_after(&answer, self.clock.now_ms());
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        let refused = answer.status.is_client_error() || answer.status.is_server_error();
        if refused && !is_json(&answer) {
            return Err(CaHttpError::Status { address, status: answer.status });
        }
        let mut response = Response::new(Full::new(answer.body));
        (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
        Ok(BytesResponse::from(response))
    }
}

impl HttpClient for CaHttp {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let asked = self.clone().ask(request);
        Box::pin(async move { asked.await.map_err(|error| Error::Other(Box::new(error))) })
    }
}

fn is_json(answer: &Answer) -> bool {
    let content_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.contains("json"))
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(answer: &Answer, now_ms: i64) -> Option<Duration> {
    let text = answer.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond();
            Duration::from_millis(u64::try_from(date - now_ms).unwrap_or(0))
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::HeaderMap;

    #[test]
    fn both_kinds_of_retry_after_are_read() {
        let after = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            let answer = Answer { status: StatusCode::TOO_MANY_REQUESTS, headers, body: Bytes::new() };
            retry_after(&answer, 946_684_740_000)
        };
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(after("Sat, 01 Jan 2000 00:00:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(after("Fri, 31 Dec 1999 00:00:00 GMT"), Some(Duration::ZERO), "it is over");
        assert_eq!(after("99999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(after("soon"), None);
    }
}
