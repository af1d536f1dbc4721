//! Fetching an offered release: into a file of its own, from where the last try left off.

use super::take::Given;
use crate::agent::data::private;
use crate::agent::link::wait::retry_after;
use crate::http_client::{HttpClient, HttpClientError};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Method, StatusCode};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

/// How long the next piece may take.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// A release that was not fetched to its end.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server offers it no more, or does not know this session: another offer comes, or none.
    #[error("the server does not give it any more ({0})")]
    Gone(StatusCode),
    /// It may be asked again.
    #[error("{why}")]
    Later {
        /// What happened.
        why: String,
        /// How long the server wants us to wait.
        at_least: Option<Duration>,
    },
    /// The disk.
    #[error("it cannot be written: {0}")]
    Disk(#[from] io::Error),
}

impl From<HttpClientError> for FetchError {
    fn from(error: HttpClientError) -> Self {
        Self::Later { why: error.to_string(), at_least: None }
    }
}

fn later(why: impl Into<String>) -> FetchError {
    FetchError::Later { why: why.into(), at_least: None }
}

/// Appends what is missing to `path`, until it has the offered length.
///
/// # Errors
/// [`FetchError`]; what has arrived is kept.
pub async fn fetch(given: &Given, path: &Path) -> Result<(), FetchError> {
    let bytes = given.offer.bytes;
    let mut from = std::fs::metadata(path).map_or(0, |found| found.len());
    if from > bytes {
        // It cannot be a beginning of that.
        std::fs::remove_file(path)?;
        from = 0;
    }
    if from == bytes {
        return Ok(());
    }
    let mut client = HttpClient::connect(&given.url, &given.trust).await?;
    let bearer = format!("Bearer {}", given.token.expose());
    let target = format!("/agent/releases/{}?from={from}", given.offer.sha256);
    let headers = [("authorization", bearer.as_str())];
    let (head, mut body) =
        client.open(Method::GET, &target, &headers, Bytes::new(), Duration::ZERO).await?.into_parts();
    match head.status {
        StatusCode::OK => {}
        status @ (StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND) => return Err(FetchError::Gone(status)),
        status => {
            let why = format!("the server answers {status}");
            return Err(FetchError::Later { why, at_least: retry_after(&head.headers) });
        }
    }
    let mut file = private().append(true).create(true).open(path)?;
    while from < bytes {
        let next = tokio::time::timeout(PIECE_TIMEOUT, body.frame()).await;
        let next = next.map_err(|_| later(format!("nothing came for {} s", PIECE_TIMEOUT.as_secs())))?;
        let frame = next.ok_or_else(|| later(format!("it ended after {from} of {bytes} bytes")))?;
        let Ok(piece) = frame.map_err(|error| later(format!("it broke off: {error}")))?.into_data() else { continue };
        let fits = usize::try_from(bytes - from).unwrap_or(usize::MAX).min(piece.len());
        // Blocks for a moment, as long as a piece takes to get into the page cache.
        file.write_all(&piece[..fits])?;
        from += fits as u64;
    }
    Ok(())
}
