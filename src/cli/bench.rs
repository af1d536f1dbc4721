//! `postrider bench`: its arguments. The load generator itself is a role of its own.

use super::duration::parse_up_to;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Most simulated agents: one join string enrolls so many.
const AGENTS_MAX: i64 = 10_000;
/// Most submitters: each is a connection.
const SUBMITTERS_MAX: i64 = 2_000;
/// Highest rate, in commands a second.
const RATE_MAX: i64 = 100_000;
/// Longest run, in milliseconds (a day).
const DURATION_MS_MAX: u64 = 86_400_000;
/// Largest payload, in bytes: larger specifications are fetched over HTTP, which is another matter.
const PAYLOAD_MAX: i64 = 24 * 1024;
/// Most rows of history: more would be over the default limit of history, which the server keeps.
const HISTORY_MAX: i64 = 2_000_000;

/// `postrider bench`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Without --server it starts a server of its own with the usual settings, in a temporary folder on a real disk
(TMPDIR, else /var/tmp), and removes it at the end. Agents are simulated in this process, over real sockets: they take a
command and answer at once. With a rate, latency counts from the moment at which a command was due, so a server that
stands still is not flattered.

Exit codes: 0 the load was carried; 1 it was not, and the last line says why; 2 usage; 125 something did not come up; 130
Ctrl-C.

Examples:
  postrider bench                                          what this host can do: 1,000 agents, as fast as it goes
  postrider bench --agents 2000 --rate 200 --duration 2m   will it carry this fleet?
  postrider bench --agents 10000 --rate 0                  what a quiet fleet costs
  postrider bench --agents 10000 --all --submitters 1      one command to everybody
  postrider bench --agents 1 --submitters 1 --real         a real agent that runs `true`"
)]
pub struct BenchArgs {
    /// How many agents
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=AGENTS_MAX))]
    pub agents: u32,
    /// How many submit at one time, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=SUBMITTERS_MAX))]
    pub submitters: u32,
    /// Submit so many commands a second, whatever becomes of them; 0: none, the fleet is idle
    #[arg(long, value_name = "R", conflicts_with = "closed", value_parser = clap::value_parser!(u32).range(0..=RATE_MAX))]
    pub rate: Option<u32>,
    /// Each submitter waits for the outcome before it submits again; so it is without --rate
    #[arg(long)]
    pub closed: bool,
    /// For how long it is measured, after two seconds of warming up
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = |text: &str| parse_up_to(text, DURATION_MS_MAX))]
    pub duration: Duration,
    /// Bytes of standard input that each command carries
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=PAYLOAD_MAX))]
    pub payload: u32,
    /// Each command goes to all agents
    #[arg(long)]
    pub all: bool,
    /// Finished deliveries that the database holds before the start
    #[arg(long, value_name = "ROWS", default_value_t = 0, conflicts_with_all = ["server", "real"], value_parser = clap::value_parser!(u32).range(0..=HISTORY_MAX))]
    pub history: u32,
    /// So many of a hundred agents read nothing and answer nothing once they are connected; the figures are the others'
    #[arg(long, value_name = "PERCENT", default_value_t = 0, conflicts_with_all = ["real", "all"], value_parser = clap::value_parser!(u32).range(0..=99))]
    pub black_hole: u32,
    /// Kill the server once all agents are connected, start it again, and measure until all are back
    #[arg(long, conflicts_with_all = ["server", "real", "black_hole"])]
    pub restart: bool,
    /// Speak TLS
    #[arg(long, conflicts_with = "server")]
    pub tls: bool,
    /// Real agents as processes, which run `true`; at most 100
    #[arg(long, conflicts_with_all = ["all", "server"])]
    pub real: bool,
    /// Measure this server instead, with an owner's token: agents are enrolled there, and revoked at the end
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// A file that holds the token for --server (POSTRIDER_TOKEN holds the token itself)
    #[arg(long, value_name = "FILE", requires = "server")]
    pub token_file: Option<PathBuf>,
    /// Print the figures as one line of JSON
    #[arg(long)]
    pub json: bool,
}
