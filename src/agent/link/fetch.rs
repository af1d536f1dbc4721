//! Fetching a specification that is too large for a dispatch frame.

use crate::http_client::{HttpClient, HttpClientError, ServerUrl};
use crate::protocol::ids::DeliveryId;
use crate::protocol::spec::SPEC_BYTES_MAX;
use crate::secret::Secret;
use crate::tls::Trust;
use bytes::Bytes;
use hyper::{Method, StatusCode};
use std::time::Duration;

/// A specification that could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The network.
    #[error(transparent)]
    Http(#[from] HttpClientError),
    /// The server has none: the delivery has ended there meanwhile.
    #[error("the server does not have it any more")]
    Gone,
    /// The server says something else.
    #[error("the server answers {0}")]
    Status(StatusCode),
}

/// Fetches the document of a delivery.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch(url: &ServerUrl, trust: &Trust, token: &Secret, delivery: DeliveryId) -> Result<Bytes, FetchError> {
    let mut client = HttpClient::connect(url, trust).await?;
    let bearer = format!("Bearer {}", token.expose());
    let path = format!("/agent/deliveries/{delivery}/spec");
    let headers = [("authorization", bearer.as_str())];
    let answer = client.send(Method::GET, &path, &headers, Bytes::new(), Duration::ZERO, SPEC_BYTES_MAX).await?;
    match answer.status {
        StatusCode::OK => Ok(answer.body),
        StatusCode::NOT_FOUND => Err(FetchError::Gone),
        status => Err(FetchError::Status(status)),
    }
}
