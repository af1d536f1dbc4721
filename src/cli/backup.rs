//! `postrider backup`: its shape and its words. Making one is the server's part, composed above.

use super::error::CliError;
use super::out;
use super::text::clean;
use crate::protocol::backup::{BackupReport, Manifest};
use clap::Args;
use std::path::PathBuf;

/// `postrider backup`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "For the server's own host, as the user that the server runs as, or as root. The server may run: it goes on meanwhile.
The file holds the database, the keys and the certificates: whoever has it can be the server. It is written beside its
place, read back and checked, and then gets its name. `tar xzf FILE` opens it, too. With --recipient only who has the
identity of it can: `age-keygen` makes both. Keep the identity where the server is not.

Examples:
  postrider backup /mnt/usb/postrider.backup
  postrider backup --data /var/lib/postrider --force postrider.backup
  postrider backup --recipient age1… /mnt/nas/postrider.backup.age"
)]
pub struct BackupArgs {
    /// The file to make
    pub file: PathBuf,
    /// The server's data folder [default: /var/lib/postrider, else ~/.local/share/postrider]
    #[arg(long, value_name = "DIR", env = "POSTRIDER_DATA")]
    pub data: Option<PathBuf>,
    /// Encrypt it for this age recipient (age1…); may be repeated
    #[arg(long, value_name = "RECIPIENT")]
    pub recipient: Vec<String>,
    /// Replace the file if it is there
    #[arg(long)]
    pub force: bool,
    /// As JSON, one object
    #[arg(long)]
    pub json: bool,
}

/// Says what was made.
///
/// # Errors
/// [`CliError::StdoutClosed`], [`CliError::Stdout`].
pub fn show(report: &BackupReport, json: bool) -> Result<(), CliError> {
    if json {
        return out::json(report);
    }
    let kind = if report.encrypted { ", encrypted" } else { "" };
    out::line(&clean(&format!("{}: {} bytes{kind}, read back and checked", report.file, report.bytes)))?;
    out::line(&holds(&report.manifest))
}

/// What is in a backup, for people.
pub fn holds(manifest: &Manifest) -> String {
    let rows = |table: &str| manifest.rows.get(table).copied().unwrap_or_default();
    let (agents, commands, deliveries) = (rows("agents"), rows("commands"), rows("deliveries"));
    clean(&format!(
        "  server {}, schema {}: {agents} agents, {commands} commands, {deliveries} deliveries; {} files",
        manifest.server_id,
        manifest.schema,
        manifest.files.len()
    ))
}
