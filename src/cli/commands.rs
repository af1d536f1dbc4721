//! `postrider commands`: what was submitted, newest first.

use super::access;
use super::args::AccessArgs;
use super::client::{ApiClient, part};
use super::error::{About, CliError};
use super::out;
use super::table::{self, Field, To};
use super::text::line;
use super::time::moment;
use crate::clock::Clock;
use crate::protocol::http::{CommandResponse, CommandsResponse, PAGE_MAX};
use crate::protocol::ids::CommandId;
use crate::protocol::state::State;
use clap::Args;

/// A command's line in the table is cut to this, in characters.
const SUMMARY_CHARS_MAX: usize = 60;

/// `postrider commands`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "With --json: one command a line.

Examples:
  postrider commands
  postrider commands --state queued
  postrider commands --agent web-1 --limit 100 --json")]
pub struct CommandsArgs {
    /// Those with a delivery in this state (queued, accepted, running, succeeded, failed, timed_out, …)
    #[arg(long, value_name = "STATE")]
    pub state: Option<State>,
    /// Those for this agent, by name or id
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<String>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Those before this command
    #[arg(long, value_name = "ID")]
    pub before: Option<CommandId>,
    /// As JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub access: AccessArgs,
}

/// Runs the verb.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: CommandsArgs) -> Result<u8, CliError> {
    let client = access::connect(&args.access)?;
    let mut rows = Vec::new();
    let mut before = args.before;
    let mut left = args.limit;
    let now_ms = Clock::system().now_ms();
    while left > 0 {
        let page = page(&client, &args, before, left.min(PAGE_MAX)).await?;
        left = left.saturating_sub(u32::try_from(page.commands.len()).unwrap_or(u32::MAX));
        for command in &page.commands {
            if args.json {
                out::json(command)?;
            } else {
                rows.push(row(command, now_ms));
            }
        }
        before = page.next;
        if before.is_none() || page.commands.is_empty() {
            before = None;
            break;
        }
    }
    if args.json {
        return Ok(0);
    }
    if rows.is_empty() {
        out::note("no such command");
        return Ok(0);
    }
    out::line(&table::draw(&["id", "submitted", "by", "state", "agents", "command"], rows, To::Stdout))?;
    if let Some(before) = before {
        out::note(&format!("there are more: --limit N, or --before {before}"));
    }
    Ok(0)
}

async fn page(
    client: &ApiClient,
    args: &CommandsArgs,
    before: Option<CommandId>,
    limit: u32,
) -> Result<CommandsResponse, CliError> {
    let mut path = format!("/api/commands?limit={limit}");
    if let Some(state) = args.state {
        path.push_str(&format!("&state={state}"));
    }
    if let Some(agent) = &args.agent {
        path.push_str(&format!("&agent={}", part(agent)));
    }
    if let Some(before) = before {
        path.push_str(&format!("&before={before}"));
    }
    let about = if args.agent.is_some() { About::Agents } else { About::Commands };
    client.get(&path, about).await
}

fn row(command: &CommandResponse, now_ms: i64) -> Vec<Field> {
    let total: u64 = command.states.values().sum();
    let state = match (command.states.len(), command.states.keys().next()) {
        (1, Some(_)) if command.awaits_approval() => "queued, approval needed".into(),
        (1, Some(state)) => Field::state(*state),
        _ => command
            .states
            .iter()
            .map(|(state, count)| format!("{count} {}", state.to_string().replace('_', " ")))
            .collect::<Vec<_>>()
            .join(", ")
            .into(),
    };
    let agents = match &command.deliveries[..] {
        [one] if total <= 1 => Field::from(&one.agent_name),
        [first, ..] => format!("{} and {} more", first.agent_name, total.saturating_sub(1)).into(),
        [] => total.to_string().into(),
    };
    vec![
        command.id.to_string().into(),
        moment(command.created_ms, now_ms).into(),
        Field::from(&command.created_by),
        state,
        agents,
        line(&command.summary, SUMMARY_CHARS_MAX).into(),
    ]
}
