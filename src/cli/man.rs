//! `postrider man`, hidden: writes manual pages, one for each verb. For those who make packages.

use super::args::Cli;
use super::error::CliError;
use clap::{Args, CommandFactory};
use std::path::PathBuf;

/// `postrider man`.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// The folder to write them to
    pub dir: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// [`CliError::File`].
pub fn run(args: &ManArgs) -> Result<u8, CliError> {
    let wrong = |error: std::io::Error| CliError::File { path: args.dir.clone(), message: error.to_string() };
    std::fs::create_dir_all(&args.dir).map_err(wrong)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(wrong)?;
    Ok(0)
}
