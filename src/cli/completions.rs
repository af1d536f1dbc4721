//! `postrider completions`: a completion script for a shell.

use super::args::Cli;
use super::error::CliError;
use super::out::written;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::Write;

/// `postrider completions`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  postrider completions bash > /etc/bash_completion.d/postrider
  postrider completions zsh > ~/.zfunc/_postrider
  postrider completions fish > ~/.config/fish/completions/postrider.fish")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Runs the verb.
///
/// # Errors
/// [`CliError::StdoutClosed`], [`CliError::Stdout`].
pub fn run(args: &CompletionsArgs) -> Result<u8, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "postrider", &mut script);
    written(std::io::stdout().lock().write_all(&script)).map(|()| 0)
}
