//! Calls to the server's HTTP interface: a token on each, problem documents turned into errors.
//!
//! Each call has a connection of its own, so that a long one never stands before a short one.

use super::config;
use super::error::{About, CliError};
use super::out;
use crate::http_client::{Answer, HttpClient, HttpClientError, ServerUrl};
use crate::pin::parse_list;
use crate::protocol::authorities::PINS_HEADER;
use crate::protocol::http::Problem;
use crate::secret::Secret;
use crate::tls::Trust;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use hyper::{HeaderMap, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Largest answer that is read, in bytes: a command to 10,000 agents with all its transitions has about 20 MB.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest problem document that is read, in bytes.
const PROBLEM_BYTES_MAX: usize = 1024 * 1024;
/// The longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Text as one part of a path or a query.
pub fn part(text: &str) -> String {
    utf8_percent_encode(text, PART).to_string()
}

/// A server and the token for it.
#[derive(Clone, Debug)]
pub struct ApiClient {
    url: ServerUrl,
    trust: Trust,
    token: Secret,
    remembered: Option<Arc<Path>>,
}

/// A stream of server-sent events, not yet taken apart.
#[derive(Debug)]
pub struct EventBody {
    body: Incoming,
    // The connection ends with it.
    _connection: HttpClient,
}

impl EventBody {
    /// The next bytes; none: the server ended the stream. May be dropped while it waits.
    ///
    /// # Errors
    /// How the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(bytes) = frame?.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

impl ApiClient {
    /// For that server.
    pub fn new(url: ServerUrl, trust: Trust, token: Secret) -> Self {
        Self { url, trust, token, remembered: None }
    }

    /// It is the server that this configuration file remembers: its new pins go there.
    pub fn remembered_in(self, config: &Path) -> Self {
        Self { remembered: Some(config.into()), ..self }
    }

    /// Where the server is.
    pub fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// Whom it trusts.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// `GET`, and the answer's JSON.
    ///
    /// # Errors
    /// [`CliError::Unreachable`], [`CliError::Problem`], [`CliError::Answer`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str, about: About) -> Result<T, CliError> {
        let answer = self.call(Method::GET, path, None, Bytes::new(), about).await?;
        self.read(&answer)
    }

    /// `POST` of JSON, and the answer's JSON. With `key` the server answers a repetition with the first result.
    ///
    /// # Errors
    /// Like [`ApiClient::get`].
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        key: Option<&str>,
        about: About,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| self.not_ours(&error.to_string()))?;
        let answer = self.call(Method::POST, path, key, body.into(), about).await?;
        self.read(&answer)
    }

    /// `PUT` of JSON, and the answer's JSON.
    ///
    /// # Errors
    /// Like [`ApiClient::get`].
    pub async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        about: About,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| self.not_ours(&error.to_string()))?;
        let answer = self.call(Method::PUT, path, None, body.into(), about).await?;
        self.read(&answer)
    }

    /// `DELETE`; what the answer says beyond its status is not looked at.
    ///
    /// # Errors
    /// Like [`ApiClient::get`].
    pub async fn delete(&self, path: &str, about: About) -> Result<(), CliError> {
        self.call(Method::DELETE, path, None, Bytes::new(), about).await.map(drop)
    }

    /// `GET` of bytes as they are.
    ///
    /// # Errors
    /// [`CliError::Unreachable`], [`CliError::Problem`].
    pub async fn get_bytes(&self, path: &str, about: About) -> Result<Answer, CliError> {
        self.call(Method::GET, path, None, Bytes::new(), about).await
    }

    /// Opens a stream of server-sent events, after the event `last_id` if there is one.
    ///
    /// # Errors
    /// [`CliError::Unreachable`], [`CliError::Problem`], [`CliError::Answer`].
    pub async fn events(&self, path: &str, last_id: Option<&str>, about: About) -> Result<EventBody, CliError> {
        let authorization = self.authorization();
        let mut headers = vec![(ACCEPT.as_str(), "text/event-stream"), (AUTHORIZATION.as_str(), &*authorization)];
        if let Some(id) = last_id {
            headers.push(("last-event-id", id));
        }
        let mut connection = HttpClient::connect(&self.url, &self.trust).await.map_err(CliError::Unreachable)?;
        let response = connection
            .open(Method::GET, path, &headers, Bytes::new(), Duration::ZERO)
            .await
            .map_err(CliError::Unreachable)?;
        let (head, body) = response.into_parts();
        if head.status == StatusCode::OK {
            return Ok(EventBody { body, _connection: connection });
        }
        let body = tokio::time::timeout(Duration::from_secs(10), Limited::new(body, PROBLEM_BYTES_MAX).collect()).await;
        let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Err(self.problem(head.status, &head.headers, &body, about))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Bytes,
        about: About,
    ) -> Result<Answer, CliError> {
        let authorization = self.authorization();
        let mut headers = vec![(AUTHORIZATION.as_str(), &*authorization)];
        if matches!(method, Method::POST | Method::PUT) {
            headers.push((CONTENT_TYPE.as_str(), "application/json"));
        }
        if let Some(key) = key {
            headers.push(("idempotency-key", key));
        }
        let mut connection = HttpClient::connect(&self.url, &self.trust).await.map_err(CliError::Unreachable)?;
        let answer = connection
            .send(method, path, &headers, body, Duration::ZERO, ANSWER_BYTES_MAX)
            .await
            .map_err(CliError::Unreachable)?;
        self.learn(&answer.headers);
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(self.problem(answer.status, &answer.headers, &answer.body, about))
    }

    /// Remembers the server's pins where it has others than we knew it by. Whatever goes wrong with it, the old ones are
    /// good until their authority is retired.
    fn learn(&self, headers: &HeaderMap) {
        let Some(path) = self.remembered.as_deref().filter(|_| self.url.is_tls()) else { return };
        let known = self.trust.pins();
        let pins = headers.get(PINS_HEADER).and_then(|value| value.to_str().ok()).map(parse_list).unwrap_or_default();
        if known.is_empty() || pins.is_empty() || pins == known {
            return;
        }
        if let Err(error) = config::learn(path, &self.url.to_string(), known, pins) {
            out::note(&format!("the server's new pins are not remembered: {error}"));
        }
    }

    /// The header `Authorization` of each call. It holds the token.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.token.expose())
    }

    fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, CliError> {
        let reader = &mut serde_json::Deserializer::from_slice(&answer.body);
        serde_path_to_error::deserialize(reader).map_err(|error| self.not_ours(&error.to_string()))
    }

    fn problem(&self, status: StatusCode, headers: &HeaderMap, body: &[u8], about: About) -> CliError {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => CliError::Problem { problem: Box::new(problem), retry_after: retry_after(headers), about },
            Err(_) => self.not_ours(&format!("status {status}")),
        }
    }

    fn not_ours(&self, message: &str) -> CliError {
        CliError::Answer { url: self.url.to_string(), message: message.to_owned() }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let secs: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(secs).min(RETRY_AFTER_MAX))
}

/// Whether the same request may succeed if it is sent again: the connection broke or the server has too much to do.
/// Gives how long to wait at least, if the server said so.
pub fn is_worth_repeating(error: &CliError) -> Option<Option<Duration>> {
    match error {
        CliError::Unreachable(HttpClientError::Request(_)) => None,
        CliError::Unreachable(HttpClientError::Tls { source, .. }) if source.is_identity() => None,
        CliError::Unreachable(_) => Some(None),
        CliError::Problem { problem, retry_after, .. } if matches!(problem.status, 429 | 502..=504) => {
            Some(*retry_after)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_path_are_encoded() {
        assert_eq!(part("web-1.a_b~"), "web-1.a_b~");
        assert_eq!(part("a/../b?c=d&e f%"), "a%2F..%2Fb%3Fc%3Dd%26e%20f%25");
    }

    #[test]
    fn only_what_may_pass_is_repeated() {
        let client = ApiClient::new(ServerUrl::parse("http://a:1").unwrap(), Trust::default(), Secret::new("t"));
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "7".parse().unwrap());
        let answer = |status: u16| {
            let body = format!(r#"{{"status":{status},"title":"","code":"x","detail":"d","request_id":"r"}}"#);
            client.problem(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes(), About::Agents)
        };
        assert_eq!(is_worth_repeating(&answer(503)), Some(Some(Duration::from_secs(7))));
        assert_eq!(is_worth_repeating(&answer(429)), Some(Some(Duration::from_secs(7))));
        assert_eq!(is_worth_repeating(&answer(404)), None);
        assert_eq!(is_worth_repeating(&answer(507)), None);
        let garbage = client.problem(StatusCode::BAD_GATEWAY, &headers, b"<html>", About::Agents);
        assert!(matches!(garbage, CliError::Answer { .. }));
    }
}
