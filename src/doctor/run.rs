//! The order of the looks, and what comes of them.

use super::{endpoint, host, server, stored};
use crate::cli::error::CliError;
use crate::cli::out;
use crate::cli::text::clean;
use crate::server::check::{Finding, Verdict, check};
use crate::server::serve::ServeConfig;
use std::path::{Path, PathBuf};

/// Something is wrong.
const EXIT_WRONG: u8 = 1;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file of an owner's token; none: the data folder's.
    pub token_file: Option<PathBuf>,
    /// The unit.
    pub unit: String,
    /// The folder of releases.
    pub releases: PathBuf,
}

/// A server's host.
pub async fn server(config: &ServeConfig, place: &Place, now_ms: i64) -> Vec<Finding> {
    let mut found = check(config, now_ms);
    found.extend(stored::look(config, now_ms));
    found.push(stored::upgrade(&place.releases));
    found.push(host::clock().await);
    found.push(host::unit(&place.unit).await);
    found.extend(server::look(&config.data, place.token_file.as_deref(), now_ms).await);
    found
}

/// An endpoint.
pub async fn endpoint(data: &Path, unit: &str) -> Vec<Finding> {
    let mut found = endpoint::look(data).await;
    found.push(host::clock().await);
    found.push(host::unit(unit).await);
    found
}

/// Prints what was found; answers the exit code.
///
/// # Errors
/// [`CliError::StdoutClosed`], [`CliError::Stdout`].
pub fn tell(found: &[Finding], json: bool) -> Result<u8, CliError> {
    let wrong = found.iter().filter(|finding| finding.verdict == Verdict::Wrong).count();
    if json {
        found.iter().try_for_each(out::json)?;
    } else {
        found.iter().try_for_each(|finding| out::line(&clean(&finding.to_string())))?;
        let notes = found.iter().filter(|finding| finding.verdict == Verdict::Note).count();
        out::line(&match (wrong, notes) {
            (0, 0) => "all is well".to_owned(),
            (0, notes) => format!("nothing is wrong; {notes} to know"),
            (wrong, _) => format!("{wrong} wrong: each line says the cure"),
        })?;
    }
    Ok(if wrong == 0 { 0 } else { EXIT_WRONG })
}
