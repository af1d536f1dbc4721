//! `postrider run`: submit a command and follow it.

use super::access;
use super::args::AccessArgs;
use super::client::ApiClient;
use super::confirm::submit_confirmed;
use super::duration;
use super::error::{CliError, EXIT_INTERRUPTED};
use super::follow::{Followed, Show, follow};
use super::interrupt::Interrupts;
use super::out;
use super::outcome;
use super::secret_env;
use super::table::To;
use super::waiting;
use super::words::{What, what};
use crate::protocol::http::{CommandResponse, SubmitRequest, Targets};
use crate::protocol::name::parse_tag;
use crate::protocol::spec::{SPEC_BYTES_MAX, Shell, TIMEOUT_MS_MAX, TTL_MS_MAX};
use crate::tasks::Tasks;
use clap::Args;
use std::io::Read;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// `postrider run`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "One word after -- is a line for the agent's shell; several words are a program and its arguments, exactly as
typed, without a shell. With --shell they are joined to a line for that shell.

The command is durable once it is accepted: it reaches an agent that is offline when it comes back, until --ttl is
over. Ctrl-C stops following, not the command.

Exit codes: with one agent the command's own (128 + N when signal N ended it); with several 0 when all succeeded,
else 1; 124 timed out; 125 postrider itself failed, or the command ended expired, cancelled, interrupted, refused or
lost; 2 usage; 130 Ctrl-C.

A command to all agents, or a technician's to many, wants their number: you are asked for it at the terminal, and give
it with --confirm elsewhere. On a server with --approve-above one to many waits until a second person approves it.

With --json each event is a line {\"event\": \"transition\" or \"output\", \"data\": …}, and the last line is the command.

Examples:
  postrider run web-1 -- uname -a
  postrider run web-1 -- 'df -h | sort'
  postrider run web-1 web-2 --timeout 5m -- apt-get update
  postrider run --tag site=berlin --tag role=web --note 'ticket 4711' -- systemctl restart nginx
  postrider run --all --confirm 12 --shell bash -- 'for f in /etc/*.conf; do wc -l \"$f\"; done'
  postrider run web-1 --stdin -- sh < script.sh
  DB_PASSWORD=… postrider run web-1 --secret-env DB_PASSWORD -- ./migrate"
)]
pub struct RunArgs {
    /// Agents, by name or id
    #[arg(value_name = "TARGET", required_unless_present_any = ["tags", "all"], conflicts_with_all = ["tags", "all"])]
    pub targets: Vec<String>,
    /// All agents that carry this tag; repeated: all of the tags
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag, conflicts_with = "all")]
    pub tags: Vec<(String, String)>,
    /// All agents
    #[arg(long)]
    pub all: bool,
    /// The process tree is killed after this long [default: 60s, at most 24h]
    #[arg(long, value_name = "TIME", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,
    /// It may wait this long for its start [default: 7d, at most 30d]
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    pub ttl: Option<Duration>,
    /// Print the command's id once the server has it, and do not follow
    #[arg(long)]
    pub no_wait: bool,
    /// Events and the command as JSON, one a line
    #[arg(long)]
    pub json: bool,
    /// The shell for the command: sh, bash, powershell or cmd
    #[arg(long, value_name = "SHELL", value_parser = parse_shell)]
    pub shell: Option<Shell>,
    /// Working folder
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// A variable for its environment; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_env)]
    pub envs: Vec<(String, String)>,
    /// A variable whose value is kept nowhere; it is taken from our own environment, or asked for. May be repeated
    #[arg(long = "secret-env", value_name = "NAME", value_parser = secret_env::parse_name)]
    pub secret_envs: Vec<String>,
    /// Send our standard input along, as text
    #[arg(long)]
    pub stdin: bool,
    /// How many agents it goes to, where the server wants that confirmed and no terminal is there to ask at
    #[arg(long, value_name = "N")]
    pub confirm: Option<u64>,
    /// For people: a ticket number, a reason
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub access: AccessArgs,
    /// The command
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub command: Vec<String>,
}

fn parse_timeout(text: &str) -> Result<Duration, duration::DurationError> {
    duration::parse_up_to(text, TIMEOUT_MS_MAX)
}

fn parse_ttl(text: &str) -> Result<Duration, duration::DurationError> {
    duration::parse_up_to(text, TTL_MS_MAX.unsigned_abs())
}

fn parse_shell(text: &str) -> Result<Shell, String> {
    [Shell::Sh, Shell::Bash, Shell::Powershell, Shell::Cmd]
        .into_iter()
        .find(|shell| shell.to_string() == text)
        .ok_or_else(|| "the shells are sh, bash, powershell and cmd".to_owned())
}

fn parse_env(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a variable is NAME=VALUE".to_owned()),
    }
}

/// Runs the verb.
///
/// # Errors
/// [`CliError`]; what the command itself came to is the exit code.
pub async fn run(args: RunArgs) -> Result<u8, CliError> {
    let mut request = request(&args)?;
    let client = access::connect(&args.access)?;
    if !args.secret_envs.is_empty() {
        request.secret_env = Some(secret_env::read(&args.secret_envs)?);
    }
    if args.stdin {
        request.stdin = Some(read_stdin(std::io::stdin().lock())?);
    }
    let watch = Watch::new();
    let command = tokio::select! {
        command = submit_confirmed(&client, request) => command?,
        () = watch.leave.cancelled() => {
            out::note("postrider: interrupted while submitting; `postrider commands` shows whether it was");
            return Err(CliError::Interrupted);
        }
    };
    if args.no_wait {
        if args.json {
            out::json(&command)?;
        } else {
            out::line(&command.id.to_string())?;
            if command.awaits_approval() {
                out::note(&format!("postrider: {}", waiting::approval(command.id)));
            }
        }
        return Ok(0);
    }
    watch.follow(&client, command, Show { json: args.json, ..Show::default() }).await
}

/// Following with Ctrl-C as the way out. From its making on, Ctrl-C no longer ends the process by itself.
#[derive(Debug)]
pub struct Watch {
    tasks: Tasks,
    leave: CancellationToken,
}

impl Watch {
    /// Listens for Ctrl-C. Must be called within a runtime.
    #[allow(clippy::new_without_default)] // It takes over the process's signals.
    pub fn new() -> Self {
        let (tasks, leave) = (Tasks::default(), CancellationToken::new());
        if let Ok(mut interrupts) = Interrupts::new() {
            let leave = leave.clone();
            tasks.spawn("interrupts", async move {
                interrupts.next().await;
                leave.cancel();
                interrupts.next().await;
                // Whoever asks twice does not want to wait for anything.
                std::process::exit(i32::from(EXIT_INTERRUPTED));
            });
        }
        Self { tasks, leave }
    }

    /// Follows a command, says what it came to, and gives the exit code.
    ///
    /// # Errors
    /// Those of [`follow`], and [`CliError::Interrupted`].
    pub async fn follow(&self, client: &ApiClient, command: CommandResponse, show: Show) -> Result<u8, CliError> {
        let id = command.id;
        match follow(client, &self.tasks, command, show, &self.leave).await? {
            Followed::Ended(command) => {
                say_outcome(&command, show)?;
                Ok(outcome::exit_code(&command.deliveries))
            }
            Followed::Left => {
                out::note(&format!(
                    "postrider: not following any more; the command goes on\n  follow again:  postrider output {id} --follow\n  see it:        postrider show {id}\n  cancel it:     postrider cancel {id}"
                ));
                Err(CliError::Interrupted)
            }
        }
    }
}

fn say_outcome(command: &CommandResponse, show: Show) -> Result<(), CliError> {
    if show.json {
        return out::json(command);
    }
    match &command.deliveries[..] {
        [one] => {
            if let Some(remark) = outcome::remark(one) {
                out::note(&format!("postrider: {remark}"));
            }
        }
        several => out::note(&format!("\n{}", outcome::table(several, To::Stderr))),
    }
    Ok(())
}

fn request(args: &RunArgs) -> Result<SubmitRequest, CliError> {
    let targets = if args.all {
        Targets { all: Some(true), ..Targets::default() }
    } else if args.tags.is_empty() {
        Targets { agents: Some(args.targets.clone()), ..Targets::default() }
    } else {
        Targets { tags: Some(args.tags.iter().cloned().collect()), ..Targets::default() }
    };
    let mut request = SubmitRequest {
        targets: Some(targets),
        shell: args.shell,
        cwd: args.cwd.clone(),
        env: (!args.envs.is_empty()).then(|| args.envs.iter().cloned().collect()),
        timeout_s: args.timeout.map(|timeout| timeout.as_secs_f64()),
        ttl_s: args.ttl.map(|ttl| ttl.as_secs_f64()),
        note: args.note.clone(),
        confirm: args.confirm,
        ..SubmitRequest::default()
    };
    match what(&args.command, args.shell)? {
        What::Command(line) => request.command = Some(line),
        What::Argv(argv) => request.argv = Some(argv),
    }
    Ok(request)
}

fn read_stdin(reader: impl Read) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let limit = SPEC_BYTES_MAX as u64 + 1;
    reader.take(limit).read_to_end(&mut bytes).map_err(|error| CliError::Stdin(error.to_string()))?;
    if bytes.len() > SPEC_BYTES_MAX {
        let message = format!("it has more than {SPEC_BYTES_MAX} bytes: let the command fetch what it needs instead");
        return Err(CliError::Stdin(message));
    }
    String::from_utf8(bytes)
        .map_err(|_| CliError::Stdin("it is not UTF-8 text, and nothing else can be sent".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Verb};
    use super::*;
    use clap::Parser;

    fn parsed(line: &[&str]) -> SubmitRequest {
        let line = ["postrider", "run"].iter().chain(line);
        let Verb::Run(args) = Cli::try_parse_from(line).unwrap().verb else { panic!("run") };
        request(&args).unwrap()
    }

    fn json(line: &[&str]) -> String {
        serde_json::to_string(&parsed(line)).unwrap()
    }

    #[test]
    fn arguments_become_a_request() {
        assert_eq!(
            json(&["web-1", "--timeout", "1500ms", "--", "uname", "-a"]),
            r#"{"targets":{"agents":["web-1"]},"argv":["uname","-a"],"timeout_s":1.5}"#
        );
        assert_eq!(
            json(&["--tag", "a=b", "--tag", "c=d", "--env", "X=1=2", "--shell", "bash", "--", "echo", "$X"]),
            r#"{"targets":{"tags":{"a":"b","c":"d"}},"command":"echo $X","shell":"bash","env":{"X":"1=2"}}"#
        );
        assert_eq!(
            json(&["--all", "--ttl", "7d", "--note", "n", "--", "true"]),
            r#"{"targets":{"all":true},"command":"true","ttl_s":604800.0,"note":"n"}"#
        );
    }

    #[test]
    fn targets_exclude_each_other() {
        for line in [
            &["--", "true"][..],
            &["web-1", "--all", "--", "true"],
            &["--all", "--tag", "a=b", "--", "true"],
            &["web-1", "--env", "=x", "--", "true"],
            &["web-1", "--shell", "fish", "--", "true"],
        ] {
            let line = ["postrider", "run"].iter().chain(line);
            assert_eq!(Cli::try_parse_from(line).unwrap_err().exit_code(), 2);
        }
    }

    #[test]
    fn standard_input_has_limits() {
        assert_eq!(read_stdin(&b"h\xc3\xa4"[..]).unwrap(), "hä");
        assert!(read_stdin(&b"\xff"[..]).unwrap_err().to_string().contains("UTF-8"));
        assert!(read_stdin(std::io::repeat(b'x')).unwrap_err().to_string().contains("bytes"));
    }
}
