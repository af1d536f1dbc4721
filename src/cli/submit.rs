//! Submitting a command so that it is submitted once, whatever the connection does.
//!
//! Every try carries the same idempotency key: if an answer is lost, the repetition gets the first result.

use super::client::{ApiClient, is_worth_repeating};
use super::duration::span;
use super::error::{About, CliError};
use super::out;
use crate::backoff::Backoff;
use crate::http_client::HttpClientError;
use crate::protocol::http::{CommandResponse, SubmitRequest};
use crate::secret::Secret;
use std::io;
use std::time::Duration;

/// How long a submission is repeated: longer than a server's restart, short enough to sit and watch.
const SUBMIT_PATIENCE: Duration = Duration::from_secs(90);
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// A restart takes seconds: who waits longer than this between two tries would be the last to notice that it is over.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a server that was never reached, because nothing listens there, is waited for: as long as one that restarts may
/// take, and no longer than somebody with a wrong address wants to wait.
const REFUSED_PATIENCE: Duration = Duration::from_secs(10);

/// Submits `request` (with targets) and returns the command, which is durable then.
///
/// # Errors
/// The last try's, when repeating it is in vain or took too long. For a server that was never reached that is soon, and at
/// once where its name or its network is not there.
pub async fn submit(client: &ApiClient, request: &SubmitRequest) -> Result<CommandResponse, CliError> {
    let key = Secret::generate("");
    let mut backoff = Backoff::new(WAIT_FIRST, WAIT_MAX);
    let mut waited = Duration::ZERO;
    let mut reached = false;
    loop {
        let error = match client.post("/api/commands", request, Some(key.expose()), About::Agents).await {
            Ok(command) => return Ok(command),
            Err(error) => error,
        };
        let patience = match &error {
            _ if reached => SUBMIT_PATIENCE,
            CliError::Unreachable(HttpClientError::Connect { source, .. }) => match source.kind() {
                io::ErrorKind::ConnectionRefused => REFUSED_PATIENCE,
                _ => Duration::ZERO,
            },
            CliError::Unreachable(HttpClientError::Timeout { .. }) => Duration::ZERO,
            _ => {
                reached = true;
                SUBMIT_PATIENCE
            }
        };
        let Some(at_least) = is_worth_repeating(&error) else { return Err(error) };
        let wait = backoff.next(at_least);
        waited += wait;
        if waited > patience {
            return Err(error);
        }
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        out::note(&format!("postrider: not submitted yet: {error}; trying again in {}", span(wait_ms)));
        tokio::time::sleep(wait).await;
    }
}
