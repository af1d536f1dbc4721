//! `postrider cancel`: ends a command wherever it stands.

use super::access;
use super::args::AccessArgs;
use super::error::{About, CliError};
use super::out;
use crate::protocol::http::CancelResponse;
use crate::protocol::ids::CommandId;
use clap::Args;

/// `postrider cancel`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "What still waits in the outbox is cancelled at once. What an agent holds is cancelled when the agent hears of it:
before the start it never starts, while it runs its process tree is killed. Cancelling twice does no harm.

Example:
  postrider cancel 01928c3e-5a70-7e63-9f0a-3c1f0d6b2a11"
)]
pub struct CancelArgs {
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
pub async fn run(args: CancelArgs) -> Result<u8, CliError> {
    let client = access::connect(&args.access)?;
    let path = format!("/api/commands/{}/cancel", args.id);
    let answer: CancelResponse = client.post(&path, &serde_json::json!({}), None, About::Commands).await?;
    if args.json {
        out::json(&answer)?;
    } else {
        out::line(&sentence(&answer))?;
    }
    Ok(0)
}

fn sentence(answer: &CancelResponse) -> String {
    let parts = [
        (answer.cancelled, "cancelled"),
        (answer.requested, "asked to end (see `postrider show`)"),
        (answer.ended, "had ended before"),
    ];
    let parts: Vec<_> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if parts.is_empty() { "nothing to cancel".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_in_a_sentence() {
        let answer = |cancelled, requested, ended| {
            sentence(&CancelResponse { id: CommandId::new(), cancelled, requested, ended })
        };
        assert_eq!(answer(1, 0, 0), "1 cancelled");
        assert_eq!(answer(2, 0, 1), "2 cancelled, 1 had ended before");
        assert_eq!(answer(0, 0, 0), "nothing to cancel");
    }
}
