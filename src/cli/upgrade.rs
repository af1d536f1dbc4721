//! `postrider upgrade`: its arguments. The upgrade itself is a role of its own.

use super::duration::parse_up_to;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Longest time that a release may be given, in milliseconds (a day).
const DEADLINE_MS_MAX: u64 = 86_400_000;

/// Where releases are kept.
pub const RELEASES_DEFAULT: &str = "/usr/local/lib/postrider/releases";

/// `postrider upgrade`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "For the server's own host, as root. FILE.minisig, the signature, lies beside FILE; release_key in the configuration says
whose it must be. The new release is asked first whether it would start on this data, and a backup is made. Then the server
is stopped, which drains it, and the new one is started; it must answer and get a command to an agent and back. If any of
this fails, the old one runs again, and that is said. What is accepted is not lost, whichever of them accepted it.

Exit codes: 0 the new release runs; 1 the old one was put back; 2 usage; 125 nothing was changed, or neither runs, and the last
lines say which.

Examples:
  postrider upgrade ./postrider                  with ./postrider.minisig beside it
  postrider upgrade --history
  postrider upgrade --rollback                   back to what ran before"
)]
pub struct UpgradeArgs {
    /// The new release's executable
    #[arg(value_name = "FILE", required_unless_present_any = ["rollback", "history", "recover"])]
    pub file: Option<PathBuf>,
    /// Go back to what ran before
    #[arg(long, conflicts_with_all = ["file", "history"])]
    pub rollback: bool,
    /// List what became of all upgrades
    #[arg(long, conflicts_with = "file")]
    pub history: bool,
    /// The server's configuration [default: /etc/postrider/postrider.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The server's data folder [default: the configuration's, else /var/lib/postrider]
    #[arg(long, value_name = "DIR", env = "POSTRIDER_DATA")]
    pub data: Option<PathBuf>,
    /// The file of an owner's token [default: the data folder's owner.token]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Where releases are kept
    #[arg(long, value_name = "DIR", default_value = RELEASES_DEFAULT)]
    pub releases: PathBuf,
    /// Where the backups before upgrades go [default: the configuration's backup_to, else /var/backups/postrider]
    #[arg(long, value_name = "DIR")]
    pub backup_to: Option<PathBuf>,
    /// The server's unit
    #[arg(long, value_name = "UNIT", default_value = "postrider.service")]
    pub unit: String,
    /// Where there is no systemd: a program that `stop`s and `start`s the server, which it runs as RELEASES/current/postrider
    #[arg(long, value_name = "PROGRAM", conflicts_with = "unit")]
    pub service: Option<PathBuf>,
    /// How long the new release may take to start, and then to prove itself
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = |text: &str| parse_up_to(text, DEADLINE_MS_MAX))]
    pub deadline: Duration,
    /// As JSON, one object a line
    #[arg(long)]
    pub json: bool,
    /// Finish or undo what was cut off; the unit does it before each start
    #[arg(long, hide = true, conflicts_with_all = ["file", "rollback", "history"])]
    pub recover: bool,
    /// With --rollback: only if what crashes is a fresh release; the unit does it when it gives up
    #[arg(long, hide = true, requires = "rollback")]
    pub after_crash: bool,
}
