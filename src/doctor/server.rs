//! The server that runs, asked as the command line asks it.

use crate::cli::access;
use crate::cli::agents;
use crate::cli::args::AccessArgs;
use crate::cli::client::ApiClient;
use crate::cli::error::{About, CliError};
use crate::protocol::http::{AgentResponse, CommandsResponse, HealthResponse};
use crate::server::check::{Finding, Verdict};
use std::path::Path;

/// An agent that was not there for so long is silent.
const SILENT_MS: i64 = 7 * DAY_MS;
const DAY_MS: i64 = 86_400_000;
/// A newest row that is so much later than now comes from a clock that was set back.
const CLOCK_BACK_MS: i64 = 60_000;
/// So many agents are named.
const NAMED_MAX: usize = 5;

/// Whether it answers, and what it knows.
pub async fn look(data: &Path, token_file: Option<&Path>, now_ms: i64) -> Vec<Finding> {
    let finding = |verdict, text: String| vec![Finding::new(verdict, "server", text)];
    let args = AccessArgs { server: None, token_file: token_file.map(Path::to_owned), data: Some(data.to_owned()) };
    let client = match access::connect(&args) {
        Ok(client) => client,
        Err(error) => return finding(Verdict::Wrong, format!("it cannot be asked: {error}")),
    };
    match ask(&client, now_ms).await {
        Ok(found) => found,
        Err(CliError::Unreachable(error)) => {
            finding(Verdict::Wrong, format!("{error}: is it running? see its unit and its log"))
        }
        Err(error) => finding(Verdict::Wrong, format!("{}: {error}", client.url())),
    }
}

async fn ask(client: &ApiClient, now_ms: i64) -> Result<Vec<Finding>, CliError> {
    let mut found = Vec::new();
    found.push(match client.get::<HealthResponse>("/readyz", About::Agents).await {
        Ok(health) if health.version == env!("CARGO_PKG_VERSION") => Finding::new(
            Verdict::Good,
            "server",
            format!("{} takes submissions, version {}", client.url(), health.version),
        ),
        Ok(health) => {
            let text = format!(
                "{} runs version {}, and this is {}: restart it, or upgrade",
                client.url(),
                health.version,
                env!("CARGO_PKG_VERSION")
            );
            Finding::new(Verdict::Note, "server", text)
        }
        // It answers, but not well.
        Err(CliError::Answer { message, .. }) => {
            Finding::new(Verdict::Wrong, "server", format!("{} takes no submissions: {message}", client.url()))
        }
        Err(CliError::Problem { problem, .. }) if problem.status == 503 => {
            Finding::new(Verdict::Wrong, "server", format!("{} takes no submissions: {}", client.url(), problem.detail))
        }
        Err(error) => return Err(error),
    });
    let newest: CommandsResponse = client.get("/api/commands?limit=1", About::Commands).await?;
    if let Some(newest) = newest.commands.first().filter(|newest| newest.created_ms > now_ms + CLOCK_BACK_MS) {
        let minutes = (newest.created_ms - now_ms) / 60_000;
        let text = format!(
            "the newest command is {minutes} min from the future: the clock was set back; see that a time server keeps it"
        );
        found.push(Finding::new(Verdict::Wrong, "clock", text));
    }
    found.extend(agents_found(&agents::all(client, &[]).await?, now_ms));
    Ok(found)
}

/// What the list of agents tells.
fn agents_found(all: &[AgentResponse], now_ms: i64) -> Vec<Finding> {
    let online = all.iter().filter(|agent| agent.online).count();
    let mut found = vec![Finding::new(Verdict::Good, "agents", format!("{online} of {} are online", all.len()))];
    let mut some = |verdict, agents: Vec<&AgentResponse>, what: &str, cure: &str| {
        if !agents.is_empty() {
            let text = format!("{} {what}: {}; {cure}", agents.len(), names(&agents));
            found.push(Finding::new(verdict, "agents", text));
        }
    };
    let last_ms = |agent: &AgentResponse| agent.proven_ms.or(agent.connected_ms).unwrap_or(agent.enrolled_ms);
    let silent = |agent: &&AgentResponse| !agent.online && !agent.pending && now_ms - last_ms(agent) > SILENT_MS;
    some(
        Verdict::Note,
        all.iter().filter(silent).collect(),
        "were silent for a week or longer",
        "look at their hosts, or `postrider agents revoke` what is gone",
    );
    let clash = |agent: &&AgentResponse| agent.clash_ms.is_some_and(|clash_ms| now_ms - clash_ms < SILENT_MS);
    some(
        Verdict::Wrong,
        all.iter().filter(clash).collect(),
        "had their data folder copied, moved or restored within a week",
        "where two hosts share one identity, enroll one of them anew",
    );
    some(
        Verdict::Note,
        all.iter().filter(|agent| agent.pending).collect(),
        "wait for approval",
        "`postrider agents approve` or `revoke`",
    );
    some(
        Verdict::Note,
        all.iter().filter(|agent| !agent.online && agent.outbox > 0).collect(),
        "are offline and have commands waiting",
        "`postrider agents show NAME` says how many; they expire by their time",
    );
    found
}

fn names(agents: &[&AgentResponse]) -> String {
    let named: Vec<_> = agents.iter().take(NAMED_MAX).map(|agent| agent.name.as_str()).collect();
    let more = agents.len().saturating_sub(NAMED_MAX);
    if more > 0 { format!("{} and {more} more", named.join(", ")) } else { named.join(", ") }
}
