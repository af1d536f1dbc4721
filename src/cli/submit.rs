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
use std::time::Duration;

/// How long a submission is repeated: longer than a server's restart, short enough to sit and watch.
const SUBMIT_PATIENCE: Duration = Duration::from_secs(90);
const WAIT_FIRST: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Submits `request` (with targets) and returns the command, which is durable then.
///
/// # Errors
/// The last try's, when repeating it is in vain or took too long. A server that was never reached is not waited for.
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
        let not_reached = matches!(
            error,
            CliError::Unreachable(HttpClientError::Connect { .. } | HttpClientError::Timeout { .. }) if !reached
        );
        reached |= !not_reached;
        let Some(at_least) = is_worth_repeating(&error).filter(|_| !not_reached) else { return Err(error) };
        let wait = backoff.next(at_least);
        waited += wait;
        if waited > SUBMIT_PATIENCE {
            return Err(error);
        }
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        out::note(&format!("postrider: not submitted yet: {error}; trying again in {}", span(wait_ms)));
        tokio::time::sleep(wait).await;
    }
}
