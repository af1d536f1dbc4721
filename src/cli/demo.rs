//! `postrider demo`: the main job in one command, with a server and real agents as child processes.

use super::agents;
use super::children::Site;
use super::client::ApiClient;
use super::error::{About, CliError};
use super::follow::{Followed, Show, follow};
use super::interrupt::Interrupts;
use super::look::Look;
use super::out;
use super::outcome;
use super::submit::submit;
use super::table::To;
use super::text::quoted;
use super::words::{What, what};
use crate::protocol::access::{JoinRequest, JoinResponse};
use crate::protocol::http::{SubmitRequest, Targets};
use crate::tasks::Tasks;
use clap::Args;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Most agents of a demo: each is a process.
const AGENTS_MAX: i64 = 100;
/// How long the agents may take to be online.
const ONLINE_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a join string of the demo is good, in seconds.
const JOIN_SECS: f64 = 3600.0;
/// Shows the host with what every Unix has.
const COMMAND_DEFAULT: &str = "uname -a; uptime 2>/dev/null || date; df -h / 2>/dev/null | tail -1";

/// `postrider demo`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Everything lives in a temporary folder and ends with the demo. One word after -- is a line for the shell, several
are a program and its arguments.

Exit codes: 0; with --once 1 when a delivery did not succeed; 125 when something did not come up.

Examples:
  postrider demo
  postrider demo --agents 5 --once -- uname -a"
)]
pub struct DemoArgs {
    /// How many agents
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=AGENTS_MAX))]
    pub agents: u32,
    /// End after the command, with 0 when every delivery succeeded
    #[arg(long)]
    pub once: bool,
    /// The command [default: shows the host]
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: DemoArgs) -> Result<u8, CliError> {
    let request = request(&args)?;
    let mut interrupts = Interrupts::new()
        .and_then(Interrupts::and_hangup)
        .map_err(|error| CliError::Child(format!("cannot listen for Ctrl-C: {error}")))?;
    let mut site = Site::new("postrider-demo-", &std::env::temp_dir())?;
    let played = tokio::select! {
        played = play(&mut site, &args, &request) => played,
        () = interrupts.next() => Err(CliError::Interrupted),
    };
    let played = match played {
        Ok(_) if !args.once => {
            let stayed = tokio::select! {
                stayed = stay(&mut site) => stayed,
                () = interrupts.next() => Ok(()),
            };
            out::note("");
            stayed.map(|()| 0)
        }
        other => other,
    };
    out::note("stopping the agents and the server …");
    site.stop(interrupts.next()).await;
    played
}

fn request(args: &DemoArgs) -> Result<SubmitRequest, CliError> {
    let mut request = SubmitRequest {
        targets: Some(Targets { all: Some(true), ..Targets::default() }),
        confirm: Some(args.agents.into()),
        note: Some("the demo's command".to_owned()),
        ..SubmitRequest::default()
    };
    if args.command.is_empty() {
        request.command = Some(COMMAND_DEFAULT.to_owned());
        return Ok(request);
    }
    match what(&args.command, None)? {
        What::Command(line) => request.command = Some(line),
        What::Argv(argv) => request.argv = Some(argv),
    }
    Ok(request)
}

/// Brings everything up and runs the command. 0: every delivery succeeded.
async fn play(site: &mut Site, args: &DemoArgs, request: &SubmitRequest) -> Result<u8, CliError> {
    let look = Look::stderr();
    let begun = Instant::now();
    out::note("starting the server …");
    let client = site.start_server(&["--listen", "127.0.0.1:0"]).await?;
    out::note(&format!("  {}  (data in {})", client.url(), site.data().display()));
    let join = JoinRequest { uses: Some(args.agents), expires_s: Some(JOIN_SECS), ..JoinRequest::default() };
    let join: JoinResponse = client.post("/api/join", &join, None, About::Joins).await?;
    let join = join.join.ok_or_else(|| CliError::Child("the server showed no join string".to_owned()))?;
    out::note(&format!("starting {} …", counted(args.agents)));
    for number in 1..=args.agents {
        site.start_agent(&format!("demo-{number}"), &["--tag", "site=demo"], &join)?;
    }
    all_online(site, &client, args.agents).await?;
    out::note(&format!("  {0} of {0} online, {1} ms after the start", args.agents, begun.elapsed().as_millis()));

    let shown = request.command.clone().or_else(|| request.argv.as_ref().map(|argv| line_of(argv)));
    out::note(&format!("running on all of them: {}\n", look.bold(&shown.unwrap_or_default())));
    let submitted = Instant::now();
    let command = submit(&client, request).await?;
    let tasks = Tasks::default();
    // Ctrl-C ends the whole demo, above.
    let never = CancellationToken::new();
    let followed = follow(&client, &tasks, command, Show::default(), &never).await?;
    let Followed::Ended(command) = followed else { return Err(CliError::Interrupted) };
    let took = submitted.elapsed().as_millis();
    out::note(&format!("\n{}", outcome::table(&command.deliveries, To::Stderr)));
    let count = outcome::count(&command.deliveries);
    out::note(&format!("\n{count}; {took} ms from the submission to the last outcome\n"));
    let all_good = command.deliveries.iter().all(|delivery| delivery.state == crate::protocol::state::State::Succeeded);
    if !args.once {
        tell_next(site, &command.id.to_string(), args.agents);
    }
    Ok(u8::from(!all_good))
}

async fn all_online(site: &mut Site, client: &ApiClient, wanted: u32) -> Result<(), CliError> {
    let late = Instant::now() + ONLINE_MAX;
    loop {
        let online: Vec<String> =
            agents::all(client, &[]).await?.into_iter().filter(|agent| agent.online).map(|agent| agent.name).collect();
        if online.len() >= wanted as usize {
            return Ok(());
        }
        site.check()?;
        if Instant::now() > late {
            let missing = (1..=wanted).find(|number| !online.contains(&format!("demo-{number}"))).unwrap_or(1);
            let within = ONLINE_MAX.as_secs();
            let what =
                format!("{} of {wanted} agents came online within {within} s; demo-{missing} did not", online.len());
            return Err(site.gave_up(missing as usize, &what));
        }
        sleep(LOOK_EVERY).await;
    }
}

fn tell_next(site: &Site, id: &str, agents: u32) {
    let program = quoted(&site.program().to_string_lossy());
    let data = quoted(&site.data().to_string_lossy());
    let set: Vec<_> =
        ["POSTRIDER_SERVER", "POSTRIDER_TOKEN"].into_iter().filter(|name| std::env::var_os(name).is_some()).collect();
    let unset = if set.is_empty() { String::new() } else { format!("  unset {}\n", set.join(" ")) };
    out::note(&format!(
        "Everything stays up. Try in another terminal:

{unset}  export POSTRIDER_DATA={data}
  {program} agents
  {program} run demo-1 -- 'ls -l /'
  {program} run --all --confirm {agents} -- 'sleep 3; date'
  {program} commands
  {program} show {id}

Ctrl-C ends the demo and removes its folder."
    ));
}

/// Until a child ends by itself.
async fn stay(site: &mut Site) -> Result<(), CliError> {
    loop {
        sleep(Duration::from_millis(500)).await;
        site.check()?;
    }
}

fn counted(agents: u32) -> String {
    if agents == 1 { "1 agent".to_owned() } else { format!("{agents} agents") }
}

fn line_of(argv: &[String]) -> String {
    argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_by_the_same_rule_as_in_run() {
        let of = |words: &[&str]| {
            let command = words.iter().map(|word| (*word).to_owned()).collect();
            request(&DemoArgs { agents: 3, once: true, command }).unwrap()
        };
        assert_eq!(of(&["uname", "-a"]).argv.unwrap(), ["uname", "-a"]);
        assert_eq!(of(&["a | b"]).command.unwrap(), "a | b");
        assert_eq!(of(&[]).command.unwrap(), COMMAND_DEFAULT);
        assert_eq!(line_of(&["a b".into(), "c".into()]), "'a b' c");
    }
}
