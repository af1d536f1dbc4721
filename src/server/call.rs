//! One request: its parts, and its body within limits. Who calls is in `authorize.rs`.

use super::app::App;
use super::error::ApiError;
use super::listener::Connection;
use crate::protocol::http::BODY_BYTES_MAX;
use crate::protocol::ids::RequestId;
use crate::store::audit::Actor;
use bytes::{Buf, BytesMut};
use futures_util::{Stream, StreamExt};
use hyper::{HeaderMap, Method, StatusCode};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use warp::reply::Response;

/// How long a body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A request's body, piece by piece.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<bytes::Bytes, warp::Error>> + Send>>;

/// A request.
pub struct Call {
    /// The server.
    pub app: Arc<App>,
    /// For the log and for problem documents.
    pub request_id: RequestId,
    /// The connection it came on.
    pub connection: Connection,
    /// Its method.
    pub method: Method,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its query string, still encoded.
    pub query: String,
    /// Its body, still to be read. The lock is never taken: it only lets a `Call` be shared.
    pub body: Mutex<Pieces>,
    /// Whom its token belongs to, once that is known; shared with whoever answers an error.
    pub caller: Arc<OnceLock<Actor>>,
    /// The other end's offer to switch protocols.
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
}

/// Query parameters by name. Repeated ones keep all their values.
pub struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    /// The value of a parameter that may be given once.
    ///
    /// # Errors
    /// 422 when it is there twice, or does not parse.
    pub fn one<T>(&self, name: &str) -> Result<Option<T>, ApiError>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        match self.all(name) {
            [] => Ok(None),
            [value] => value.parse().map(Some).map_err(|error| ApiError::field(name, error)),
            _ => Err(ApiError::field(name, "is given more than once")),
        }
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

impl Call {
    /// Reads the query; every parameter must be among `known`.
    ///
    /// # Errors
    /// 422 naming an unknown parameter, 400 for one that cannot be decoded.
    pub fn query(&self, known: &[&str]) -> Result<Query, ApiError> {
        parse_query(&self.query, known)
    }

    /// Reads the whole body, at most `bytes_max`.
    ///
    /// # Errors
    /// 413 over the limit, 408 when it takes longer than [`BODY_TIMEOUT`], 400 when it breaks off.
    pub async fn bytes(&mut self, bytes_max: usize) -> Result<BytesMut, ApiError> {
        let pieces = self.body.get_mut().unwrap_or_else(PoisonError::into_inner);
        let read = async {
            let mut body = BytesMut::new();
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|_| {
                    ApiError::new(StatusCode::BAD_REQUEST, "bad_body", "the body broke off: send it again")
                })?;
                if body.len() + piece.len() > bytes_max {
                    let detail = format!("the body has more than {bytes_max} bytes");
                    return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail));
                }
                body.extend_from_slice(&piece);
            }
            Ok(body)
        };
        tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or_else(|_| {
            let detail = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail))
        })
    }

    /// Reads the body as JSON. An empty body reads as `{}`.
    ///
    /// # Errors
    /// As [`Call::bytes`]; 400 for what is no JSON, 422 naming the field for what does not fit.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let body = self.bytes(BODY_BYTES_MAX).await?;
        parse_json(&body)
    }
}

/// Reads a query string; every parameter must be among `known`.
///
/// # Errors
/// 422 naming an unknown parameter, 400 for one that cannot be decoded.
pub fn parse_query(text: &str, known: &[&str]) -> Result<Query, ApiError> {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(text)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "bad_query", error.to_string()))?;
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in pairs {
        if !known.contains(&name.as_str()) {
            let takes = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(ApiError::field(name, format!("is no parameter here; there are: {takes}")));
        }
        query.entry(name).or_default().push(value);
    }
    Ok(Query(query))
}

/// Reads JSON with the field's name in the error.
///
/// # Errors
/// 400 for what is no JSON, 422 for what does not fit.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = if body.has_remaining() { body } else { b"{}" };
    // Serde would take a list for the fields in their order.
    if !body.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(body).is_ok() {
        return Err(ApiError::field("body", "is JSON, but no object: send {…}"));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if !inner.is_data() {
            return ApiError::new(StatusCode::BAD_REQUEST, "bad_json", format!("the body is not JSON: {inner}"));
        }
        // A document that fails as a whole (a missing or unknown field) has no path; the message names the field.
        let field = if path == "." { quoted_in(&inner.to_string()).unwrap_or(path) } else { path };
        ApiError::field(field, inner)
    })?;
    reader.end().map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_json", format!("the body is not JSON: {error}"))
    })?;
    Ok(value)
}

fn quoted_in(message: &str) -> Option<String> {
    message.split('`').nth(1).map(str::to_owned)
}

/// An answer with a JSON body.
pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Result<Response, ApiError> {
    Ok(json_text(status, serde_json::to_vec(body).map_err(ApiError::internal)?))
}

/// An answer with a body that is JSON already.
pub fn json_text(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}
