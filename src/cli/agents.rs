//! `postrider agents`: who is connected, and what is known of each.

use super::access;
use super::args::AccessArgs;
use super::client::{ApiClient, part};
use super::duration::{ago, span};
use super::error::{About, CliError};
use super::look::Look;
use super::out;
use super::table::{self, Field, To};
use super::text::{clean, tags_line};
use super::time::moment;
use super::waiting::offline;
use crate::clock::Clock;
use crate::protocol::facts::Facts;
use crate::protocol::http::{AgentResponse, AgentsResponse, PAGE_MAX};
use crate::protocol::ids::AgentId;
use crate::protocol::name::parse_tag;
use clap::{Args, Subcommand};

/// A clash of identities is shown this long, in milliseconds (a day): two hosts that share one push each other out
/// within seconds, if both are up.
const CLASH_SHOWN_MS: i64 = 86_400_000;

/// Agents that wait for approval of which a list tells where they come from.
const PENDING_TOLD_MAX: usize = 20;

/// `postrider agents`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Online means that a round trip to the agent was proven lately. With --json: one agent a line.

Examples:
  postrider agents
  postrider agents --tag site=berlin
  postrider agents show web-1
  postrider agents approve web-1 web-2
  postrider agents revoke web-1")]
pub struct AgentsArgs {
    /// Without one of these verbs: list the agents
    #[command(subcommand)]
    pub verb: Option<AgentsVerb>,
    /// Those that carry this tag; repeated: all of the tags
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
    pub tags: Vec<(String, String)>,
    /// As JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub access: AccessArgs,
}

/// The verbs of `postrider agents`.
#[derive(Clone, Debug, Subcommand)]
pub enum AgentsVerb {
    /// Show one agent with the facts of its host
    Show {
        /// By name or id
        name: String,
    },
    /// Let agents in that wait for approval
    Approve {
        /// By name or id
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Take an agent's right to connect; its waiting commands end as cancelled
    Revoke {
        /// By name or id
        name: String,
    },
}

/// Runs the verb.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: AgentsArgs) -> Result<u8, CliError> {
    if args.verb.is_some() && !args.tags.is_empty() {
        return Err(CliError::Usage("--tag goes with the list of agents only".to_owned()));
    }
    let client = access::connect(&args.access)?;
    match &args.verb {
        None => list(&client, &args).await?,
        Some(AgentsVerb::Show { name }) => {
            let agent: AgentResponse = client.get(&path(name), About::Agents).await?;
            if args.json {
                out::json(&agent)?;
            } else {
                out::line(&page(&agent, Clock::system().now_ms(), Look::stdout()))?;
            }
        }
        Some(AgentsVerb::Approve { names }) => {
            for name in names {
                let path = format!("{}/approve", path(name));
                let agent: AgentResponse = client.post(&path, &serde_json::json!({}), None, About::Agents).await?;
                if args.json {
                    out::json(&agent)?;
                } else {
                    out::note(&format!("{} is approved: it connects within half a minute", clean(&agent.name)));
                }
            }
        }
        Some(AgentsVerb::Revoke { name }) => {
            client.delete(&path(name), About::Agents).await?;
            out::note(&format!("{} is revoked", clean(name)));
        }
    }
    Ok(0)
}

fn path(name: &str) -> String {
    format!("/api/agents/{}", part(name))
}

async fn list(client: &ApiClient, args: &AgentsArgs) -> Result<(), CliError> {
    let agents = all(client, &args.tags).await?;
    if args.json {
        return agents.iter().try_for_each(out::json);
    }
    if agents.is_empty() {
        let cure = "`postrider join create` makes a join string for a new one";
        out::note(&if args.tags.is_empty() { format!("no agents yet: {cure}") } else { "no such agent".to_owned() });
        return Ok(());
    }
    let now_ms = Clock::system().now_ms();
    let rows = agents.iter().map(|agent| row(agent, now_ms)).collect();
    let headings = ["name", "state", "proven", "outbox", "os", "version", "tags", "last close"];
    out::line(&table::draw(&headings, rows, To::Stdout))?;
    for agent in agents.iter().filter(|agent| agent.pending).take(PENDING_TOLD_MAX) {
        let (name, asked) = (clean(&agent.name), enrolled(agent, now_ms));
        out::note(&format!("{name} waits for approval, enrolled {asked}: postrider agents approve {}", agent.id));
    }
    Ok(())
}

/// "5 min ago from 192.0.2.7:51234 with join string 01a2…": what somebody needs who decides about an agent.
fn enrolled(agent: &AgentResponse, now_ms: i64) -> String {
    let from = agent.enrolled_from.as_ref().map(|from| format!(" from {}", clean(from))).unwrap_or_default();
    format!("{}{from} with join string {}", ago(now_ms - agent.enrolled_ms), agent.join_id)
}

/// All agents that carry all of the tags, page by page.
///
/// # Errors
/// Like [`ApiClient::get`].
pub async fn all(client: &ApiClient, tags: &[(String, String)]) -> Result<Vec<AgentResponse>, CliError> {
    let tags: String = tags.iter().map(|(key, value)| format!("&tag={}", part(&format!("{key}={value}")))).collect();
    let mut agents: Vec<AgentResponse> = Vec::new();
    let mut after: Option<AgentId> = None;
    loop {
        let cursor = after.map(|id| format!("&after={id}")).unwrap_or_default();
        let path = format!("/api/agents?limit={PAGE_MAX}{tags}{cursor}");
        let page: AgentsResponse = client.get(&path, About::Agents).await?;
        let is_empty = page.agents.is_empty();
        agents.extend(page.agents);
        // A cursor that does not move would be asked for for ever.
        if page.next.is_none() || page.next == after || is_empty {
            return Ok(agents);
        }
        after = page.next;
    }
}

fn row(agent: &AgentResponse, now_ms: i64) -> Vec<Field> {
    let proven = agent.proven_ms.map_or_else(|| "never".to_owned(), |ms| ago(now_ms - ms));
    let close = agent.last_close.map(|close| format!("{} {}", close.reason, ago(now_ms - close.at_ms)));
    let state = if agent.pending {
        Field::from("pending")
    } else if clashes(agent, now_ms) {
        Field::from(if agent.online { "online, clash" } else { "offline, clash" })
    } else {
        Field::either(agent.online, "online", "offline")
    };
    vec![
        Field::from(&agent.name),
        state,
        proven.into(),
        agent.outbox.to_string().into(),
        agent.os.as_deref().unwrap_or_default().into(),
        agent.version.as_deref().unwrap_or_default().into(),
        tags_line(&agent.tags).into(),
        close.unwrap_or_default().into(),
    ]
}

/// Whether to say so: a clash that goes on is seen at every connection, one that is long over was cured.
fn clashes(agent: &AgentResponse, now_ms: i64) -> bool {
    agent.clash_ms.is_some_and(|ms| now_ms - ms < CLASH_SHOWN_MS)
}

fn page(agent: &AgentResponse, now_ms: i64, look: Look) -> String {
    let mut lines = vec![("id", agent.id.to_string())];
    let state = match (agent.online, agent.connected_ms) {
        (true, Some(since)) => format!("online since {}", moment(since, now_ms)),
        (true, None) => "online".to_owned(),
        (false, _) if agent.pending => format!("pending: `postrider agents approve {}` lets it in", agent.id),
        (false, _) => offline(agent, now_ms),
    };
    lines.push(("state", state));
    if let Some(proven) = agent.proven_ms {
        lines.push(("proven", format!("{} ({})", ago(now_ms - proven), moment(proven, now_ms))));
    }
    lines.push(("epoch", agent.epoch.to_string()));
    if let Some(close) = agent.last_close {
        lines.push(("last close", format!("{} at {}", close.reason, moment(close.at_ms, now_ms))));
    }
    if let Some(clash_ms) = agent.clash_ms.filter(|_| clashes(agent, now_ms)) {
        let cure = "its data folder was copied, moved, restored or emptied. Seen again and again, two hosts share it: \
             revoke this agent and enroll each host anew";
        lines.push(("clash", format!("{}: {cure}", ago(now_ms - clash_ms))));
    }
    lines.push(("outbox", agent.outbox.to_string()));
    lines.push(("tags", tags_line(&agent.tags)));
    lines.push(("enrolled", format!("{} ({})", moment(agent.enrolled_ms, now_ms), enrolled(agent, now_ms))));
    lines.push(("version", agent.version.clone().unwrap_or_default()));
    let facts = agent.facts.as_ref().and_then(|facts| serde_json::from_str::<Facts>(facts.get()).ok());
    match &facts {
        Some(facts) => facts_lines(facts, now_ms, &mut lines),
        None => lines.push(("os", agent.os.clone().unwrap_or_default())),
    }
    let lines = lines.iter().filter(|(_, value)| !value.is_empty());
    let lines: String = lines.map(|(name, value)| format!("\n{name:12}{}", clean(value))).collect();
    format!("{}{lines}", look.bold(&clean(&agent.name)))
}

fn facts_lines(facts: &Facts, now_ms: i64, lines: &mut Vec<(&'static str, String)>) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    lines.push(("host", text(&facts.hostname)));
    let os = facts.os_version.clone().or_else(|| facts.os.clone());
    lines.push(("os", [text(&os), text(&facts.kernel), text(&facts.arch)].join(" ").trim().to_owned()));
    lines.push(("addresses", facts.addresses.join(" ")));
    let cpus = facts.cpu_count.map(|count| format!("{count} × ")).unwrap_or_default();
    lines.push(("cpu", format!("{cpus}{}", text(&facts.cpu))));
    if let Some(memory) = facts.memory_bytes {
        let free = facts.memory_available_bytes.map(|free| format!(", {} available", size(free))).unwrap_or_default();
        lines.push(("memory", format!("{}{free}", size(memory))));
    }
    for disk in &facts.disks {
        lines.push(("disk", format!("{}  {}, {} free", disk.mount, size(disk.bytes), size(disk.free_bytes))));
    }
    if let Some(booted) = facts.booted_ms {
        lines.push(("up for", span(now_ms - booted)));
    }
    lines.push(("users", facts.users.join(" ")));
    if facts.reboot_needed == Some(true) {
        lines.push(("reboot", "needed".to_owned()));
    }
}

/// Bytes for people, in binary units.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut tenths = 0;
    let mut unit = 0;
    while value >= 1024 && unit + 1 < UNITS.len() {
        tenths = value % 1024 * 10 / 1024;
        value /= 1024;
        unit += 1;
    }
    if unit == 0 || value >= 100 {
        format!("{value} {}", UNITS[unit])
    } else {
        format!("{value}.{tenths} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::super::waiting::tests::agent;
    use super::*;

    #[test]
    fn sizes_for_people() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(16 << 30), "16.0 GiB");
        assert_eq!(size(500 << 30), "500 GiB");
    }

    #[test]
    fn facts_cannot_paint() {
        let now = 1_700_000_000_000;
        let mut host = agent("web-1");
        let facts = serde_json::json!({"hostname": "a\u{1b}]0;x\u{7}", "memory_bytes": 2048, "new_field": 1});
        host.facts = serde_json::value::to_raw_value(&facts).ok();
        let text = page(&host, now, Look::default());
        assert!(!text.contains('\u{1b}') && text.contains("\nhost        a]0;x\n"), "{text:?}");
        assert!(text.contains("\nmemory      2.0 KiB"), "{text}");
        assert!(text.contains("\nstate       offline, never connected\n"), "{text}");
    }
}
