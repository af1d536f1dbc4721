//! `postrider rollout`: a release for agents, by waves.

use super::access;
use super::args::AccessArgs;
use super::client::ApiClient;
use super::duration;
use super::error::{About, CliError};
use super::out;
use super::table::{self, Field, To};
use super::text::clean;
use super::time::moment;
use crate::clock::Clock;
use crate::protocol::http::PAGE_MAX;
use crate::protocol::name::{Tags, parse_tag};
use crate::protocol::rollout::{Canary, RolloutAgent, RolloutRequest, RolloutResponse, RolloutStatus, Window};
use crate::protocol::scope::SITE;
use clap::{Args, Subcommand};
use std::time::Duration;

/// Longest soak that can be asked for: the server's.
const SOAK_MAX: Duration = Duration::from_secs(7 * 86_400);

/// `postrider rollout`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "What is rolled out lies signed in the folder agents/ of the server's data folder: postrider-PLATFORM, and its .minisig
beside it. A few agents go first; when they have proven the release, the others follow. An agent that cannot connect
with it goes back to what it ran before, and says why.

Examples:
  postrider rollout start
  postrider rollout start --canary 3 --site berlin --window 22:00-05:00
  postrider rollout
  postrider rollout pause"
)]
pub struct RolloutArgs {
    /// Without one of these verbs: show the latest rollout
    #[command(subcommand)]
    pub verb: Option<RolloutVerb>,
    /// As JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub access: AccessArgs,
}

/// The verbs of `postrider rollout`.
#[derive(Clone, Debug, Subcommand)]
pub enum RolloutVerb {
    /// Offer agents the release that lies signed in agents/
    Start(StartArgs),
    /// Make no more offers for now
    Pause,
    /// Make offers again; what has failed so far counts no longer
    Resume,
    /// Make no more offers at all
    Stop,
}

/// `postrider rollout start`.
#[derive(Clone, Debug, Args)]
pub struct StartArgs {
    /// How many agents go first: a number, or a share like 5%; 0: nobody does [default: 5%, at least one]
    #[arg(long, value_name = "N|N%")]
    pub canary: Option<Canary>,
    /// So many may fail; one more pauses the rollout [default: 0]
    #[arg(long, value_name = "N")]
    pub max_failures: Option<u32>,
    /// How long the first must have run before the others follow [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_soak)]
    pub soak: Option<Duration>,
    /// Hours in which it is offered, in the server's zone, like 22:00-05:00 [default: all]
    #[arg(long, value_name = "FROM-TO")]
    pub window: Option<Window>,
    /// Only agents of this site (short for --tag site=NAME)
    #[arg(long, value_name = "NAME")]
    pub site: Option<String>,
    /// Only agents that carry this tag; repeated: all of the tags
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
    pub tags: Vec<(String, String)>,
    /// All agents, which is the default
    #[arg(long, conflicts_with_all = ["site", "tags"])]
    pub all: bool,
    /// Also a release that is older than what agents run
    #[arg(long)]
    pub allow_downgrade: bool,
}

fn parse_soak(text: &str) -> Result<Duration, String> {
    match duration::parse(text).map_err(|error| error.to_string())? {
        soak if soak <= SOAK_MAX => Ok(soak),
        _ => Err(format!("{text:?} is out of range: at most 7 d")),
    }
}

/// Runs the verb.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: RolloutArgs) -> Result<u8, CliError> {
    let client = access::connect(&args.access)?;
    let nothing = serde_json::json!({});
    let path = "/api/rollout";
    let changed: RolloutStatus = match args.verb {
        None => return show(all(&client).await?.as_ref(), args.json).map(|()| 0),
        Some(RolloutVerb::Start(start)) => client.post(path, &request(start), None, About::Rollout).await?,
        Some(RolloutVerb::Pause) => client.post("/api/rollout/pause", &nothing, None, About::Rollout).await?,
        Some(RolloutVerb::Resume) => client.post("/api/rollout/resume", &nothing, None, About::Rollout).await?,
        Some(RolloutVerb::Stop) => client.post("/api/rollout/stop", &nothing, None, About::Rollout).await?,
    };
    let Some(rollout) = changed.rollout else { return Ok(0) };
    if args.json {
        out::json(&rollout)?;
    } else {
        out::note(&head(&rollout, Clock::system().now_ms()).join("\n"));
    }
    Ok(0)
}

fn request(start: StartArgs) -> RolloutRequest {
    let mut tags: Tags = start.tags.into_iter().collect();
    tags.extend(start.site.map(|site| (SITE.to_owned(), site)));
    RolloutRequest {
        canary: start.canary,
        failures_max: start.max_failures,
        soak_s: start.soak.map(|soak| u32::try_from(soak.as_secs()).unwrap_or(u32::MAX)),
        window: start.window,
        tags,
        downgrade: start.allow_downgrade,
    }
}

/// The latest rollout with all of its agents.
async fn all(client: &ApiClient) -> Result<Option<RolloutResponse>, CliError> {
    let mut found: Option<RolloutResponse> = None;
    loop {
        let after = found.as_ref().and_then(|found| found.next).map(|id| format!("&after={id}")).unwrap_or_default();
        let page: RolloutStatus = client.get(&format!("/api/rollout?limit={PAGE_MAX}{after}"), About::Rollout).await?;
        let Some(page) = page.rollout else { return Ok(None) };
        found = Some(match found {
            // Another one was started meanwhile: from its beginning.
            Some(mut earlier) if earlier.id == page.id => {
                earlier.agents.extend(page.agents);
                earlier.next = page.next;
                earlier
            }
            Some(_) => RolloutResponse { next: None, ..page },
            None => page,
        });
        if found.as_ref().is_none_or(|found| found.next.is_none()) {
            return Ok(found);
        }
    }
}

fn show(rollout: Option<&RolloutResponse>, json: bool) -> Result<(), CliError> {
    let Some(rollout) = rollout else {
        out::note("there was no rollout yet: `postrider rollout start` starts one");
        return Ok(());
    };
    if json {
        return out::json(rollout);
    }
    let now_ms = Clock::system().now_ms();
    out::line(&head(rollout, now_ms).join("\n"))?;
    let rows = rollout.agents.iter().map(|agent| row(agent, now_ms)).collect();
    out::line(&table::draw(&["agent", "", "wave", "state", "since", "reason"], rows, To::Stdout))
}

fn head(rollout: &RolloutResponse, now_ms: i64) -> Vec<String> {
    let mut lines = Vec::new();
    let state = match &rollout.reason {
        Some(reason) => format!("{}: {}", rollout.state, clean(reason)),
        None => rollout.state.clone(),
    };
    lines.push(format!("rollout   {}", rollout.id));
    lines.push(format!("state     {state}"));
    for release in &rollout.releases {
        let (version, platform) = (clean(&release.version), clean(&release.platform));
        lines.push(format!("release   {version} for {platform}, SHA-256 {}", clean(&release.sha256)));
    }
    let soak = duration::span(i64::from(rollout.soak_s) * 1000);
    let (first, all) = (rollout.canaries, rollout.states.values().sum::<u64>());
    lines.push(match rollout.wave {
        1 => format!("wave      the first {first} of {all}, then {soak} until the others follow"),
        _ => format!("wave      all {all}"),
    });
    lines.push(format!("to        {}", clean(&rollout.scope.to_string())));
    if let Some(window) = rollout.window {
        lines.push(format!("hours     {window}"));
    }
    let started = moment(rollout.created_ms, now_ms);
    lines.push(format!("started   {started} by {}; {} may fail", clean(&rollout.created_by), rollout.failures_max));
    let states: Vec<String> = rollout.states.iter().map(|(state, count)| format!("{count} {}", clean(state))).collect();
    lines.push(format!("agents    {}", states.join(", ")));
    lines
}

fn row(agent: &RolloutAgent, now_ms: i64) -> Vec<Field> {
    vec![
        agent.name.as_str().into(),
        Field::either(agent.online, "online", "offline"),
        agent.wave.map(|wave| wave.to_string()).unwrap_or_default().into(),
        agent.state.as_str().into(),
        moment(agent.changed_ms, now_ms).into(),
        agent.reason.as_deref().unwrap_or_default().into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soak_may_be_nothing_and_not_a_year() {
        assert_eq!(parse_soak("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_soak("2h"), Ok(Duration::from_secs(7200)));
        assert!(parse_soak("8d").is_err() && parse_soak("soon").is_err());
    }
}
