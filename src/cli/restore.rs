//! `postrider restore`: its shape and its words. Restoring is the server's part, composed above.

use super::backup::holds;
use super::error::CliError;
use super::out;
use super::text::clean;
use super::time::moment;
use crate::clock::Clock;
use crate::protocol::backup::RestoreReport;
use clap::Args;
use std::path::PathBuf;

/// `postrider restore`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "For the server's own host, as the user that the server runs as, or as root. The server must not run. All of the backup
is checked before anything changes; then it takes the data folder's place in one step, and what was there is kept beside
it as DIR.before-restore-TIME. Start the server afterwards: agents reconcile when they connect.

Examples:
  postrider restore /mnt/usb/postrider.backup
  postrider restore --identity key.txt /mnt/nas/postrider.backup.age
  postrider restore --data /srv/postrider postrider.backup     on a new host"
)]
pub struct RestoreArgs {
    /// The backup
    pub file: PathBuf,
    /// The file with the age identity that it was encrypted for
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// The server's data folder [default: /var/lib/postrider, else ~/.local/share/postrider]
    #[arg(long, value_name = "DIR", env = "POSTRIDER_DATA")]
    pub data: Option<PathBuf>,
    /// As JSON, one object
    #[arg(long)]
    pub json: bool,
}

/// Says what was done, and what is to be done now.
///
/// # Errors
/// [`CliError::StdoutClosed`], [`CliError::Stdout`].
pub fn show(report: &RestoreReport, json: bool) -> Result<(), CliError> {
    if json {
        return out::json(report);
    }
    let made = moment(report.manifest.made_ms, Clock::system().now_ms());
    out::line(&clean(&format!("{} is now as it was at {made}, from {}", report.data, report.file)))?;
    out::line(&holds(&report.manifest))?;
    if let Some(kept) = &report.kept_aside {
        out::line(&clean(&format!("  what was there before is in {kept}")))?;
    }
    if report.authorities > 0 {
        out::line(&format!("  newer authorities that were taken over: {}", report.authorities))?;
    }
    if !report.owner_token {
        out::line("  no owner.token that it knows was there: use another token, or start once with --new-owner-token")?;
    }
    out::line("  start the server now. What was revoked after the backup is good again: revoke it again")
}
