//! `postrider doctor`: its arguments. What it looks at is above the roles.

use clap::Args;
use std::path::PathBuf;

/// `postrider doctor`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "For the host of a server, as its user or as root; with --agent for an endpoint. It changes nothing. Each line says what was
looked at: `ok`, `note` (good to know), or `WRONG` with the cure.

Exit codes: 0 nothing is wrong; 1 something is; 2 usage.

Examples:
  postrider doctor
  postrider doctor --json
  postrider doctor --agent                       on an endpoint"
)]
pub struct DoctorArgs {
    /// Look at an agent on this host, not at a server
    #[arg(long, conflicts_with_all = ["config", "token_file"])]
    pub agent: bool,
    /// The server's configuration [default: /etc/postrider/postrider.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data folder [default: the configuration's, else /var/lib/postrider, or /var/lib/postrider-agent]
    #[arg(long, value_name = "DIR", env = "POSTRIDER_DATA")]
    pub data: Option<PathBuf>,
    /// The file of an owner's token [default: the data folder's owner.token]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The unit [default: postrider.service, or postrider-agent.service]
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,
    /// As JSON, one object a line
    #[arg(long)]
    pub json: bool,
}
