//! The command line's shape: verbs and what several of them share. Each verb's own arguments are in its file.

use super::{
    agents, approve, audit, authority, backup, bench, cancel, commands, completions, demo, doctor, duration, join,
    login, man, output, restore, rollout, run, show, tokens, upgrade,
};
use crate::log::LogFormat;
use crate::protocol::http::CONFIRM_ABOVE;
use crate::protocol::name::{AgentName, parse_tag};
use crate::release::ReleaseKey;
use clap::{Args, Parser, Subcommand};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Where `serve` listens when nothing is said: this host only, until its owner decides otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7717";

/// Longest life of a join string or token that can be asked for, in milliseconds (10 years).
const EXPIRES_MS_MAX: u64 = 365 * 86_400_000;

/// Backups that are made more often would never end.
const BACKUP_EVERY_MIN: Duration = Duration::from_secs(60);

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
    /// Approve a command that waits for a second person
    Approve(approve::ApproveArgs),
    /// Cancel a command
    Cancel(cancel::CancelArgs),
    /// List, show, approve and revoke agents
    Agents(agents::AgentsArgs),
    /// Upgrade agents: roll a signed release out by waves
    Rollout(rollout::RolloutArgs),
    /// Make, list and revoke operators' tokens
    Tokens(tokens::TokensArgs),
    /// List, make and retire the authorities by which agents and users know the server
    Authority(authority::AuthorityArgs),
    /// Show, check and export the record of who did what
    Audit(audit::AuditArgs),
    /// Remember a server and a token for this user
    Login(login::LoginArgs),
    /// Back up a server on this host, which may run
    Backup(backup::BackupArgs),
    /// Put a backup in the place of a server on this host
    Restore(restore::RestoreArgs),
    /// Put a new release in the place of the server that runs on this host, or the old one back
    Upgrade(upgrade::UpgradeArgs),
    /// Look at a server or an agent on this host, and say the cure of what is wrong
    Doctor(doctor::DoctorArgs),
    /// Measure what a server on this host can do
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Write manual pages
    #[command(hide = true)]
    Man(man::ManArgs),
}

/// How a client verb finds its server and token.
#[derive(Clone, Debug, Default, Args)]
pub struct AccessArgs {
    /// The server's address, https://HOST:PORT, or its login string
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
On anything but loopback it speaks TLS, with an authority of its own that join and login strings pin.
SIGTERM and Ctrl-C drain: requests under way are answered, agents are told to come back. POSTRIDER_LOG sets
what is logged (error, warn, info, debug).

Examples:
  postrider serve --listen 0.0.0.0:7717 --public-url https://msp.example:7717
  postrider serve --listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem
  postrider serve --listen 0.0.0.0:443 --acme msp.example --public-url https://msp.example
  postrider serve --behind-proxy --public-url https://msp.example     a TLS proxy on this host
  postrider serve --backup-to /mnt/backups                            a backup a day, the newest seven kept
  postrider serve                                                     plain HTTP, for this host alone
  postrider serve --config /etc/postrider/postrider.toml --check      would it start?"
)]
pub struct ServeArgs {
    /// A file with these settings; a flag goes before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Look whether it would start: at these settings, the data folder, its keys and its database; change nothing
    #[arg(long)]
    pub check: bool,
    /// Where everything is kept [default: /var/lib/postrider, else ~/.local/share/postrider]
    #[arg(long, value_name = "DIR", env = "POSTRIDER_DATA")]
    pub data: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = LISTEN_DEFAULT)]
    pub listen: SocketAddr,
    /// The address that join strings carry, where agents reach this server by another one
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Speak TLS on loopback, too
    #[arg(long)]
    pub tls: bool,
    /// Your own certificate for browsers and scripts: the chain in PEM, the leaf first; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Order a certificate for this domain, for browsers and scripts, and renew it; may be repeated. The CA checks the
    /// domain at its port 443, which must lead here. Saying it means to agree to the CA's terms
    #[arg(long, value_name = "DOMAIN", conflicts_with_all = ["tls_cert", "tls_key", "behind_proxy"])]
    pub acme: Vec<String>,
    /// An e-mail address at which the CA reaches you
    #[arg(long, value_name = "EMAIL", requires = "acme")]
    pub acme_contact: Option<String>,
    /// The CA's ACME directory [default: Let's Encrypt's]
    #[arg(long, value_name = "URL", requires = "acme")]
    pub acme_directory: Option<String>,
    /// A TLS proxy stands in front: speak plain HTTP to it alone, on this host or at ADDR, and believe its
    /// X-Forwarded-For
    #[arg(long, value_name = "ADDR", num_args = 0..=1, conflicts_with_all = ["tls", "tls_cert", "tls_key"])]
    pub behind_proxy: Option<Option<IpAddr>>,
    /// A technician's command to more agents than this wants their number confirmed; one to all always does
    #[arg(long, value_name = "N", default_value_t = CONFIRM_ABOVE)]
    pub confirm_above: u64,
    /// A command to more agents than this waits until a second person approves it [default: never]
    #[arg(long, value_name = "N")]
    pub approve_above: Option<u64>,
    /// Make backups by itself, in this folder, which must be there
    #[arg(long, value_name = "DIR")]
    pub backup_to: Option<PathBuf>,
    /// How old the newest of them may be, a minute or more
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_backup_every, requires = "backup_to")]
    pub backup_every: Duration,
    /// How many of them are kept
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..), requires = "backup_to")]
    pub backup_keep: u32,
    /// Encrypt them for this age recipient; may be repeated
    #[arg(long, value_name = "RECIPIENT", requires = "backup_to")]
    pub backup_recipient: Vec<String>,
    /// The public key (minisign) of whoever signs releases: an upgrade takes only what it signed [default: none is taken]
    #[arg(long, value_name = "KEY")]
    pub release_key: Option<ReleaseKey>,
    /// What the log is written as: text for people, or one JSON object a line
    #[arg(long, value_name = "FORMAT", env = "POSTRIDER_LOG_FORMAT", value_enum, default_value_t)]
    pub log: LogFormat,
    /// Make a fresh owner's token at this start and write it to DIR/owner.token, because the earlier ones are lost
    #[arg(long)]
    pub new_owner_token: bool,
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
    /// Enroll, if that is still to be done, and end: what starts the agent later needs no join string
    #[arg(long)]
    pub enroll_only: bool,
    /// Where credential and journal are kept [default: /var/lib/postrider-agent, else ~/.local/share/postrider-agent]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The name to enroll with [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<AgentName>,
    /// A tag to enroll with; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
    pub tags: Vec<(String, String)>,
    /// Run as a release, for the installed agent that started it
    #[arg(long, hide = true)]
    pub supervised: bool,
    /// As one that has to prove itself
    #[arg(long, hide = true, requires = "supervised")]
    pub probation: bool,
    /// Commands that start within a minute, 1 to 60000; beyond that they wait [default: 3000]
    #[arg(long, value_name = "N")]
    pub starts_per_minute: Option<u32>,
    /// What the log is written as: text for people, or one JSON object a line
    #[arg(long, value_name = "FORMAT", env = "POSTRIDER_LOG_FORMAT", value_enum, default_value_t)]
    pub log: LogFormat,
    /// Refuse all but the check of an upgrade, whose agent this is
    #[arg(long, hide = true)]
    pub upgrade_check: bool,
    /// Stop when standard input ends: for a parent that must leave nothing behind
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

/// A value parser for how often backups are made.
///
/// # Errors
/// No length of time, or out of range.
pub fn parse_backup_every(text: &str) -> Result<Duration, String> {
    let every = parse_expires(text).map_err(|error| error.to_string())?;
    if every < BACKUP_EVERY_MIN { Err(format!("{text:?} is too often: a minute or more")) } else { Ok(every) }
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
        for proxy in ["--behind-proxy", "--behind-proxy=192.0.2.1", "--behind-proxy 192.0.2.1"] {
            assert!(Cli::try_parse_from(format!("postrider serve {proxy}").split(' ')).is_ok(), "{proxy}");
            assert_eq!(wrong(&format!("postrider serve {proxy} --tls")), 2);
            assert_eq!(wrong(&format!("postrider serve --tls-cert a --tls-key b {proxy}")), 2);
        }
        assert_eq!(wrong("postrider serve --tls-cert a"), 2);
        for other in ["--behind-proxy", "--tls-cert a --tls-key b"] {
            assert_eq!(wrong(&format!("postrider serve --acme a.example {other}")), 2);
        }
        for alone in ["--acme-contact a@b", "--acme-directory https://a"] {
            assert_eq!(wrong(&format!("postrider serve {alone}")), 2);
        }
    }
}
