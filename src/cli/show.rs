//! `postrider show`: one command with everything that happened to it.

use super::access;
use super::args::AccessArgs;
use super::client::{ApiClient, part};
use super::duration::span;
use super::error::{About, CliError};
use super::look::Look;
use super::out;
use super::outcome;
use super::text::{clean, line};
use super::time::{moment, step};
use super::waiting;
use crate::clock::Clock;
use crate::protocol::http::{AgentResponse, CommandResponse, DeliveryResponse, TransitionResponse};
use crate::protocol::ids::CommandId;
use crate::protocol::outcome::StreamSummary;
use crate::protocol::spec::Spec;
use anstyle::AnsiColor;
use clap::Args;
use std::fmt::Write as _;

/// Deliveries for which the server is asked why they wait.
const EXPLAINED_MAX: usize = 50;

/// `postrider show`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Times are local; each step has the connection's epoch and its cause. With --json: the command as the server
gives it, on one line.

Example:
  postrider show 01928c3e-5a70-7e63-9f0a-3c1f0d6b2a11"
)]
pub struct ShowArgs {
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
pub async fn run(args: ShowArgs) -> Result<u8, CliError> {
    let client = access::connect(&args.access)?;
    let command: CommandResponse = client.get(&format!("/api/commands/{}", args.id), About::Commands).await?;
    if args.json {
        return out::json(&command).map(|()| 0);
    }
    let now_ms = Clock::system().now_ms();
    let look = Look::stdout();
    out::line(&header(&command, now_ms, look))?;
    let mut explained = 0;
    for delivery in &command.deliveries {
        let waits = if delivery.state.is_terminal() || explained == EXPLAINED_MAX {
            None
        } else {
            explained += 1;
            let agent = agent_of(&client, delivery).await;
            waiting::sentence(delivery, agent.as_ref(), command.not_after_ms, now_ms)
        };
        out::line(&section(delivery, waits.as_deref(), now_ms, look))?;
    }
    Ok(0)
}

async fn agent_of(client: &ApiClient, delivery: &DeliveryResponse) -> Option<AgentResponse> {
    let path = format!("/api/agents/{}", part(&delivery.agent_id.to_string()));
    client.get(&path, About::Agents).await.ok()
}

fn header(command: &CommandResponse, now_ms: i64, look: Look) -> String {
    let left = command.not_after_ms - now_ms;
    let expires = match left {
        1.. if command.deliveries.iter().any(|d| !d.state.is_terminal()) => format!(" (in {})", span(left)),
        _ => String::new(),
    };
    let mut text = format!(
        "{}\ncommand    {}\nsubmitted  {} by {}\nexpires    {}{expires}\n",
        look.bold(&line(&command.summary, 400)),
        command.id,
        moment(command.created_ms, now_ms),
        clean(&command.created_by),
        moment(command.not_after_ms, now_ms),
    );
    for name in Spec::parse(command.spec.as_bytes()).map(|spec| spec.secret_env).unwrap_or_default() {
        text.push_str(&format!("secret_env {} (not kept)\n", clean(&name)));
    }
    if let Some(note) = &command.note {
        text.push_str(&format!("note       {}\n", clean(note)));
    }
    if let Some(approval) = &command.approval {
        let approval = match (&approval.approved_by, approval.approved_ms) {
            (Some(by), Some(at_ms)) => format!("by {} {}", clean(by), moment(at_ms, now_ms)),
            _ if command.awaits_approval() => waiting::approval(command.id),
            _ => "needed, and not given".to_owned(),
        };
        text.push_str(&format!("approval   {approval}\n"));
    }
    if command.deliveries.len() > 1 {
        text.push_str(&format!("agents     {}\n", outcome::count(&command.deliveries)));
    }
    text
}

fn section(delivery: &DeliveryResponse, waits: Option<&str>, now_ms: i64, look: Look) -> String {
    let mut facts = vec![delivery.state.to_string()];
    let exit = outcome::exit(delivery);
    if !exit.is_empty() {
        facts.push(format!("exit {exit}"));
    }
    if delivery.duration_ms.is_some() {
        facts.push(format!("ran for {}", outcome::duration(delivery)));
    }
    if delivery.attempt > 1 {
        facts.push(format!("{} dispatches", delivery.attempt));
    }
    let mut text = format!("{}  {}", look.paint(AnsiColor::Cyan, &clean(&delivery.agent_name)), facts.join(", "));
    // Writing to a String does not fail.
    let mut add = |addition: String| {
        let _ = write!(text, "\n  {addition}");
    };
    if let Some(reason) = &delivery.reason {
        add(format!("reason: {}", clean(reason)));
    }
    if let Some(waits) = waits {
        add(waits.to_owned());
    }
    for (name, stream) in [("stdout", delivery.stdout), ("stderr", delivery.stderr)] {
        if let Some(size) = size(stream) {
            add(format!("{name}: {size}"));
        }
    }
    for transition in &delivery.transitions {
        add(look.dim(&transition_line(transition, now_ms)));
    }
    text.push('\n');
    text
}

fn size(stream: StreamSummary) -> Option<String> {
    match (stream.bytes, stream.dropped) {
        (0, _) => None,
        (bytes, 0) => Some(format!("{bytes} bytes")),
        (bytes, dropped) => Some(format!("{bytes} bytes, {dropped} of them dropped from the middle")),
    }
}

fn transition_line(transition: &TransitionResponse, now_ms: i64) -> String {
    let mut details = Vec::new();
    if let Some(attempt) = transition.attempt {
        details.push(format!("attempt {attempt}"));
    }
    if let Some(epoch) = transition.epoch {
        details.push(format!("epoch {epoch}"));
    }
    if let Some(cause) = &transition.cause {
        details.push(clean(cause));
    }
    let event = clean(&transition.event).replace('_', " ");
    let line = format!("{}  {event:16} {}", step(transition.at_ms, now_ms), details.join(", "));
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::waiting::tests::delivery;
    use super::*;
    use crate::protocol::state::State;

    #[test]
    fn a_delivery_tells_its_story() {
        let now = 1_700_000_000_000;
        let mut one = delivery("web-1", State::Failed);
        one.exit_code = Some(3);
        one.duration_ms = Some(1_200);
        one.attempt = 2;
        one.reason = Some("because\u{7}".into());
        one.stdout = StreamSummary { bytes: 10, dropped: 4 };
        one.transitions = vec![TransitionResponse {
            at_ms: now,
            event: "dispatched".into(),
            epoch: Some(4),
            attempt: Some(2),
            cause: None,
        }];
        let at = step(now, now);
        assert_eq!(
            section(&one, Some("waits"), now, Look::default()),
            format!(
                "web-1  failed, exit 3, ran for 1.2 s, 2 dispatches\n  reason: because\n  waits\n  stdout: 10 bytes, 4 of them dropped from the middle\n  {at}  dispatched       attempt 2, epoch 4\n"
            )
        );
    }
}
