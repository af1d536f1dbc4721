//! From a parsed verb to its work.

use super::args::Verb;
use super::error::CliError;
use super::{
    agents, approve, audit, authority, cancel, commands, completions, demo, join, login, man, out, output, rollout,
    run, show, tokens,
};

/// Runs a verb of the command line and gives the exit code. What is of other roles is composed above.
///
/// # Errors
/// [`CliError`], to be told with [`tell`].
pub async fn dispatch(verb: Verb) -> Result<u8, CliError> {
    // Boxed: the verbs' futures differ in size by a lot, and one runs.
    match verb {
        Verb::Demo(args) => Box::pin(demo::run(args)).await,
        Verb::Join(args) => Box::pin(join::run(args)).await,
        Verb::Run(args) => Box::pin(run::run(args)).await,
        Verb::Commands(args) => Box::pin(commands::run(args)).await,
        Verb::Show(args) => Box::pin(show::run(args)).await,
        Verb::Output(args) => Box::pin(output::run(args)).await,
        Verb::Approve(args) => Box::pin(approve::run(args)).await,
        Verb::Cancel(args) => Box::pin(cancel::run(args)).await,
        Verb::Agents(args) => Box::pin(agents::run(args)).await,
        Verb::Rollout(args) => Box::pin(rollout::run(args)).await,
        Verb::Tokens(args) => Box::pin(tokens::run(args)).await,
        Verb::Authority(args) => Box::pin(authority::run(args)).await,
        Verb::Audit(args) => Box::pin(audit::run(args)).await,
        Verb::Login(args) => Box::pin(login::run(args)).await,
        Verb::Completions(args) => completions::run(&args),
        Verb::Man(args) => man::run(&args),
        Verb::Serve(_)
        | Verb::Agent(_)
        | Verb::Bench(_)
        | Verb::Backup(_)
        | Verb::Restore(_)
        | Verb::Upgrade(_)
        | Verb::Doctor(_) => Err(CliError::Usage("this verb is a role of its own".to_owned())),
    }
}

/// Prints an error once, with its cure, and gives the exit code.
pub fn tell(error: &CliError) -> u8 {
    if !error.is_silent() {
        out::note(&format!("postrider: {error}"));
        for candidate in error.candidates() {
            out::note(&format!("  {candidate}"));
        }
        if let Some(cure) = error.cure() {
            out::note(&format!("  {cure}"));
        }
    }
    error.exit_code()
}
