//! The command line's shape: verbs and what several of them share. Each verb's own arguments are in its file.

use super::{agents, audit, cancel, commands, completions, demo, duration, join, login, output, run, show, tokens};
use crate::protocol::name::{AgentName, parse_tag};
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where `serve` listens when nothing is said: this host only, until its owner decides otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7717";

/// Longest life of a join string or token that can be asked for, in milliseconds (10 years).
const EXPIRES_MS_MAX: u64 = 365 * 86_400_000;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "postrider",
    version,
    about = "Gets a command to an endpoint, runs it at most once and brings back the truth",
    after_help = "Examples:
  postrider demo                                 a server and three agents here, to look around
  postrider serve                                the server
  postrider join create                          a join string for a new endpoint
  postrider agent --join STRING                  the endpoint's side
  postrider run web-1 -- uname -a                a command and its output
  postrider run --tag site=berlin -- 'df -h /'   on every agent of a site

The server is found by --server or POSTRIDER_SERVER, by --data or POSTRIDER_DATA on the server's own host,
or by what `postrider login` wrote to ~/.config/postrider/config.toml. A token in the environment variable
POSTRIDER_TOKEN or the file of --token-file goes before the others."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Try it: a server and real agents as child processes in a temporary folder
    Demo(demo::DemoArgs),
    /// Run the server
    Serve(ServeArgs),
    /// Run the agent: the endpoint's side
    Agent(AgentArgs),
    /// Make, list and revoke join strings for new agents
    Join(join::JoinArgs),
    /// Submit a command to agents and follow it
    Run(run::RunArgs),
    /// List what was submitted
    Commands(commands::CommandsArgs),
    /// Show one command with everything that happened to it
    Show(show::ShowArgs),
    /// Print a command's output
    Output(output::OutputArgs),
    /// Cancel a command
    Cancel(cancel::CancelArgs),
    /// List, show and revoke agents
    Agents(agents::AgentsArgs),
    /// Make, list and revoke operators' tokens
    Tokens(tokens::TokensArgs),
    /// Show, check and export the record of who did what
    Audit(audit::AuditArgs),
    /// Remember a server and a token for this user
    Login(login::LoginArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// How a client verb finds its server and token.
#[derive(Clone, Debug, Default, Args)]
pub struct AccessArgs {
    /// The server's address, like http://127.0.0.1:7717
    #[arg(long, value_name = "URL", env = "POSTRIDER_SERVER", global = true, help_heading = "Server")]
    pub server: Option<String>,
    /// A file that holds the token (POSTRIDER_TOKEN holds the token itself)
    #[arg(long, value_name = "FILE", global = true, help_heading = "Server")]
    pub token_file: Option<PathBuf>,
    /// The server's data folder, on the server's own host
    #[arg(long, value_name = "DIR", env = "POSTRIDER_DATA", global = true, help_heading = "Server")]
    pub data: Option<PathBuf>,
}

/// `postrider serve`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "On first start it makes its database, its keys and the owner's token (DIR/owner.token, mode 0600).
SIGTERM and Ctrl-C drain: requests under way are answered, agents are told to come back. POSTRIDER_LOG sets
what is logged (error, warn, info, debug).

Examples:
  postrider serve
  postrider serve --listen 10.8.0.1:7717 --behind-proxy     an address inside a WireGuard tunnel
  postrider serve --behind-proxy --public-url http://msp.example:7717"
)]
pub struct ServeArgs {
    /// Where everything is kept [default: /var/lib/postrider, else ~/.local/share/postrider]
    #[arg(long, value_name = "DIR", env = "POSTRIDER_DATA")]
    pub data: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = LISTEN_DEFAULT)]
    pub listen: SocketAddr,
    /// The address that join strings carry, where agents reach this server by another one
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// A tunnel in front keeps strangers out: needed to listen on anything but loopback, because postrider speaks plain
    /// HTTP
    #[arg(long)]
    pub behind_proxy: bool,
    /// Stop when standard input ends: for a parent that must leave nothing behind
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

/// `postrider agent`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "With a join string it enrolls once and keeps its credential in DIR; after that the string is not needed.
It never ends because of the network.

Examples:
  postrider agent --join prj1_…
  postrider agent --join prj1_… --name web-1 --tag site=berlin --tag role=web
  POSTRIDER_JOIN=prj1_… postrider agent        (the string is not seen in the list of processes)"
)]
pub struct AgentArgs {
    /// The join string that `postrider join create` printed; needed once
    #[arg(long, value_name = "STRING", env = "POSTRIDER_JOIN", hide_env_values = true)]
    pub join: Option<String>,
    /// Where credential and journal are kept [default: /var/lib/postrider-agent, else ~/.local/share/postrider-agent]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The name to enroll with [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<AgentName>,
    /// A tag to enroll with; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
    pub tags: Vec<(String, String)>,
    /// Stop when standard input ends: for a parent that must leave nothing behind
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

/// A value parser for how long a join string or a token is good.
///
/// # Errors
/// No length of time, or out of range.
pub fn parse_expires(text: &str) -> Result<Duration, duration::DurationError> {
    duration::parse_up_to(text, EXPIRES_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn access_goes_before_and_after_the_second_verb() {
        for line in [
            "postrider agents --server http://a:1 show web-1 --json",
            "postrider agents show web-1 --server http://a:1",
            "postrider join list --server http://a:1",
            "postrider tokens create ann --role technician --server http://a:1",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_command_needs_its_dashes_and_a_unit_its_sense() {
        let wrong = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap_err().exit_code();
        assert_eq!(wrong("postrider run web-1"), 2);
        assert_eq!(wrong("postrider run web-1 --timeout 25h -- true"), 2);
        assert_eq!(wrong("postrider run web-1 --timeout -1s -- true"), 2);
        assert_eq!(wrong("postrider run web-1 --tag berlin -- true"), 2);
        assert_eq!(wrong("postrider frobnicate"), 2);
    }
}
