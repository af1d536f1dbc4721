//! `postrider approve`: the second person's word for a command that waits for it.

use super::access;
use super::args::AccessArgs;
use super::error::{About, CliError};
use super::out;
use super::text::{clean, line};
use crate::protocol::http::CommandResponse;
use crate::protocol::ids::CommandId;
use clap::Args;

/// The command's line in the answer is cut to this, in characters.
const SUMMARY_CHARS_MAX: usize = 200;

/// `postrider approve`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "A server with --approve-above holds a command to many agents until somebody else than its submitter approves it.
`postrider show ID` shows what you approve; `postrider cancel ID` refuses it. Approving twice does no harm.

Example:
  postrider approve 01928c3e-5a70-7e63-9f0a-3c1f0d6b2a11"
)]
pub struct ApproveArgs {
    /// The command
    pub id: CommandId,
    /// As JSON
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
pub async fn run(args: ApproveArgs) -> Result<u8, CliError> {
    let client = access::connect(&args.access)?;
    let path = format!("/api/commands/{}/approve", args.id);
    let command: CommandResponse = client.post(&path, &serde_json::json!({}), None, About::Commands).await?;
    if args.json {
        out::json(&command)?;
    } else {
        out::line(&sentence(&command))?;
    }
    Ok(0)
}

fn sentence(command: &CommandResponse) -> String {
    let count: u64 = command.states.values().sum();
    let agents = if count == 1 { "1 agent".to_owned() } else { format!("{count} agents") };
    let summary = line(&command.summary, SUMMARY_CHARS_MAX);
    format!("approved, for {agents}, submitted by {}: {summary}", clean(&command.created_by))
}
