//! `postrider bench`, from the first process to the figures, and nothing left behind.

use super::fleet::Muster;
use super::place;
use super::stage;
use crate::cli::bench::BenchArgs;
use crate::cli::children::Site;
use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupts;
use crate::cli::out;
use crate::open_files;
use crate::tasks::Tasks;

/// Most real agents: each is a process.
const REAL_MAX: u32 = 100;
/// Files of this process beside its connections.
const OTHER_FILES: usize = 64;

/// Runs the verb.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: BenchArgs) -> Result<u8, CliError> {
    check(&args)?;
    let mut interrupts = Interrupts::new()
        .and_then(Interrupts::and_hangup)
        .map_err(|error| CliError::Child(format!("cannot listen for Ctrl-C: {error}")))?;
    let mut site = match args.server {
        None => Some(Site::new("postrider-bench-", &place::folder()?)?),
        Some(_) => None,
    };
    let (tasks, mut called) = (Tasks::default(), None);
    let measured = tokio::select! {
        measured = stage::measure(&args, &mut site, &mut called, &tasks) => measured,
        () = interrupts.next() => Err(CliError::Interrupted),
    };
    tasks.ask_to_stop();
    let left = match (site, called) {
        (Some(site), _) => {
            site.stop(interrupts.next()).await;
            Ok(())
        }
        (None, Some(muster)) => tokio::select! {
            left = leave(&muster) => left,
            () = interrupts.next() => Err(CliError::Interrupted),
        },
        (None, None) => Ok(()),
    };
    if let Err(error) = &left {
        out::note(&format!("not all agents of this run are revoked, nor may its join string be: {error}"));
    }
    let report = measured?;
    if args.json {
        out::json(&report)?
    } else {
        out::line(&report.text())?
    }
    left.map(|()| u8::from(!report.carried))
}

async fn leave(muster: &Muster) -> Result<(), CliError> {
    out::note("revoking the agents …");
    muster.dismiss().await
}

fn check(args: &BenchArgs) -> Result<(), CliError> {
    if args.real && args.agents > REAL_MAX {
        return Err(CliError::Usage(format!(
            "{} real agents are too many: each is a process, {REAL_MAX} are allowed; say --agents",
            args.agents
        )));
    }
    if args.black_hole > 0 && args.agents * args.black_hole < 100 {
        return Err(CliError::Usage(format!(
            "{} of a hundred of {} agents is less than one: raise --agents or --black-hole",
            args.black_hole, args.agents
        )));
    }
    let files = if args.real { 0 } else { args.agents as usize } + args.submitters as usize + OTHER_FILES;
    let allowed = open_files::raise(files);
    if allowed < files {
        return Err(CliError::Usage(format!(
            "{files} open files are needed, and {allowed} are allowed: raise the limit (ulimit -Hn)"
        )));
    }
    Ok(())
}
