//! `postrider output`: a command's stored output, and following it.

use super::access;
use super::args::AccessArgs;
use super::client::{ApiClient, part};
use super::error::{About, CliError};
use super::follow::Show;
use super::out;
use super::printer::Printer;
use super::run::Watch;
use super::text::clean;
use crate::protocol::http::{CommandResponse, DeliveryResponse};
use crate::protocol::ids::CommandId;
use crate::protocol::output::Stream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde::Serialize;

/// The answer's header that says where the next piece starts.
const NEXT_HEADER: &str = "x-postrider-next";

/// `postrider output`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Standard output goes to standard output and standard error to standard error; with several agents each line
carries the agent's name. With --follow the exit code is that of `run`.

With --json: one object a piece, {\"agent_id\", \"agent_name\", \"stream\", \"next\", \"data\"}, data in base64.

Examples:
  postrider output 01928c3e-5a70-7e63-9f0a-3c1f0d6b2a11
  postrider output 01928c3e-5a70-7e63-9f0a-3c1f0d6b2a11 --agent web-1 --stream stdout > web-1.txt
  postrider output 01928c3e-5a70-7e63-9f0a-3c1f0d6b2a11 --follow"
)]
pub struct OutputArgs {
    /// The command
    pub id: CommandId,
    /// This agent's only, by name or id
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<String>,
    /// This stream only: stdout or stderr
    #[arg(long, value_name = "STREAM")]
    pub stream: Option<Stream>,
    /// Go on with what comes, until the command has ended
    #[arg(long, short)]
    pub follow: bool,
    /// As JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub access: AccessArgs,
}

#[derive(Serialize)]
struct Piece<'a> {
    agent_id: String,
    agent_name: &'a str,
    stream: Stream,
    next: u64,
    data: String,
}

/// Runs the verb.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: OutputArgs) -> Result<u8, CliError> {
    let client = access::connect(&args.access)?;
    let mut command: CommandResponse = client.get(&format!("/api/commands/{}", args.id), About::Commands).await?;
    let of_agent = args.agent.as_deref().map(|agent| only(&command, agent)).transpose()?;
    if args.follow {
        let show = Show { json: args.json, agent: of_agent.map(|delivery| delivery.agent_id), stream: args.stream };
        return Watch::new().follow(&client, command, show).await;
    }
    if let Some(delivery) = of_agent {
        command.deliveries = vec![delivery];
    }
    let mut printer = Printer::new(&command.deliveries);
    for delivery in &command.deliveries {
        for stream in Stream::ALL {
            if args.stream.is_none_or(|only| only == stream) {
                print(&client, args.id, delivery, stream, &mut printer, args.json).await?;
            }
        }
    }
    Ok(0)
}

fn only(command: &CommandResponse, agent: &str) -> Result<DeliveryResponse, CliError> {
    let wanted = |delivery: &&DeliveryResponse| {
        delivery.agent_name == agent
            || agent.parse().is_ok_and(|id: crate::protocol::ids::AgentId| id == delivery.agent_id)
    };
    let mut found = command.deliveries.iter().filter(wanted);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(_), Some(_)) => Err(CliError::Usage(format!(
            "several agents of this command are named {agent:?}: give the id (`postrider show {}` has them)",
            command.id
        ))),
        (None, _) => Err(CliError::Usage(format!(
            "the command was not for an agent {agent:?}; `postrider show {}` lists them",
            command.id
        ))),
    }
}

async fn print(
    client: &ApiClient,
    id: CommandId,
    delivery: &DeliveryResponse,
    stream: Stream,
    printer: &mut Printer,
    json: bool,
) -> Result<(), CliError> {
    let agent = part(&delivery.agent_id.to_string());
    // The server leaves out the dropped middle: its offsets jump there, ours count what was shown.
    let (mut from, mut shown) = (0, 0);
    loop {
        let path = format!("/api/commands/{id}/output?agent={agent}&stream={stream}&from={from}");
        let answer = client.get_bytes(&path, About::Commands).await?;
        let length = answer.body.len() as u64;
        let next = answer.headers.get(NEXT_HEADER).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let next = next.unwrap_or(from + length);
        if length == 0 || next <= from {
            break;
        }
        if json {
            out::json(&Piece {
                agent_id: delivery.agent_id.to_string(),
                agent_name: &delivery.agent_name,
                stream,
                next,
                data: STANDARD.encode(&answer.body),
            })?;
        } else {
            printer.output(delivery.id, stream, shown, &answer.body)?;
        }
        (from, shown) = (next, shown + length);
    }
    printer.end(delivery.id)?;
    let summary = if stream == Stream::Stdout { delivery.stdout } else { delivery.stderr };
    if summary.dropped > 0 && !json {
        let (name, dropped) = (clean(&delivery.agent_name), summary.dropped);
        printer.note(&format!("[… {name}: {dropped} bytes of {stream} were dropped from the middle …]"));
    }
    Ok(())
}
