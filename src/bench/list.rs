//! The list of all agents, as a page or a script asks for it.

use crate::cli::client::ApiClient;
use crate::cli::error::{About, CliError};
use crate::protocol::http::PAGE_MAX;
use crate::protocol::ids::AgentId;
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is asked for; the middle one counts.
const TIMES: usize = 5;

/// How long the server takes for the list, all pages together.
///
/// # Errors
/// As [`ApiClient::get_bytes`].
pub async fn median(client: &ApiClient) -> Result<Duration, CliError> {
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        times.push(once(client).await?);
    }
    times.sort_unstable();
    Ok(times[TIMES / 2])
}

async fn once(client: &ApiClient) -> Result<Duration, CliError> {
    #[derive(Deserialize)]
    struct Page {
        next: Option<AgentId>,
    }
    let (mut took, mut after) = (Duration::ZERO, String::new());
    loop {
        let path = format!("/api/agents?limit={PAGE_MAX}{after}");
        let begun = Instant::now();
        let answer = client.get_bytes(&path, About::Agents).await?;
        took += begun.elapsed();
        match serde_json::from_slice::<Page>(&answer.body).ok().and_then(|page| page.next) {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(took),
        }
    }
}
