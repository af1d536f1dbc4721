//! `postrider bench`, from the first process to the figures.

use super::cost::Reading;
use super::fleet::{self, Muster, TAG};
use super::load::{Aim, Load, Pace, Ticks};
use super::report::Report;
use super::simulated::Fleet;
use super::tally::Tally;
use super::{list, place};
use crate::cli::access;
use crate::cli::args::AccessArgs;
use crate::cli::bench::BenchArgs;
use crate::cli::children::Site;
use crate::cli::client::ApiClient;
use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupts;
use crate::cli::out;
use crate::open_files;
use crate::protocol::name::Tags;
use crate::store::handle::DATABASE_FILE;
use crate::store::seed;
use crate::tasks::Tasks;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Nothing counts before.
const WARM_UP: Duration = Duration::from_secs(2);
/// Most real agents: each is a process.
const REAL_MAX: u32 = 100;
/// Files of this process beside its connections.
const OTHER_FILES: usize = 64;
/// How long what is still under way may take after the end.
const DRAIN: Duration = Duration::from_secs(90);
const TELL_EVERY: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

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
    let tasks = Tasks::default();
    let measured = tokio::select! {
        measured = measure(&args, &mut site, &tasks) => measured,
        () = interrupts.next() => Err(CliError::Interrupted),
    };
    tasks.ask_to_stop();
    if let Some(site) = site {
        site.stop(interrupts.next()).await;
    }
    let report = measured?;
    if args.json {
        out::json(&report)?
    } else {
        out::line(&report.text())?
    }
    Ok(u8::from(!report.is_whole()))
}

fn check(args: &BenchArgs) -> Result<(), CliError> {
    if args.real && args.agents > REAL_MAX {
        return Err(CliError::Usage(format!(
            "{} real agents are too many: each is a process, {REAL_MAX} are allowed; say --agents",
            args.agents
        )));
    }
    if args.real && args.server.is_some() {
        return Err(CliError::Usage("--real agents go with a server of our own: leave out --server".to_owned()));
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

/// What is measured: a server, its address, and agents.
struct Stage<'a> {
    args: &'a BenchArgs,
    client: ApiClient,
    muster: Muster,
    /// None: the agents are real.
    fleet: Option<Arc<Fleet>>,
    aim: Aim,
    report: Report,
}

async fn measure(args: &BenchArgs, site: &mut Option<Site>, tasks: &Tasks) -> Result<Report, CliError> {
    let mut stage = set_up(args, site, tasks).await?;
    if args.restart
        && let Some(site) = site
    {
        stage.restart(site).await?;
    }
    if site.is_some() {
        return stage.load(site).await;
    }
    let (client, muster) = (stage.client.clone(), stage.muster.clone());
    let measured = stage.load(site).await;
    out::note("revoking the agents …");
    tasks.ask_to_stop();
    muster.dismiss(&client).await?;
    measured
}

/// Brings up server and agents.
async fn set_up<'a>(args: &'a BenchArgs, site: &mut Option<Site>, tasks: &Tasks) -> Result<Stage<'a>, CliError> {
    let mut client = match site {
        Some(site) => {
            out::note("starting a server …");
            site.start_server(&flags(args, "127.0.0.1:0")).await?
        }
        None => access::connect(&AccessArgs {
            server: args.server.clone(),
            token_file: args.token_file.clone(),
            ..AccessArgs::default()
        })?,
    };
    let muster = Muster::call(&client, args.agents).await?;
    let mut report = blank(args);
    let (begun, fleet, aim);
    if args.real {
        let Some(site) = site else { return Err(CliError::Usage("--real needs a server of our own".to_owned())) };
        out::note("starting the agents …");
        begun = Instant::now();
        let ids = muster.start_real(site, &client, args.agents).await?;
        (fleet, aim) = (None, Aim::Each(ids.into_iter().map(|id| (id, true)).collect()));
    } else {
        out::note("enrolling the agents …");
        let simulated = muster.enroll(args.agents, args.black_hole).await?;
        if let Some(site) = site
            && args.history > 0
        {
            client = remember(args, site, &client).await?;
        }
        let each = simulated.iter().map(|agent| (agent.id.to_string(), !agent.is_black_holed)).collect();
        aim = match args.all {
            true => Aim::All(Tags::from([(TAG.to_owned(), muster.run.clone())]), args.agents),
            false => Aim::Each(each),
        };
        out::note("connecting them …");
        begun = Instant::now();
        let all = fleet::start(simulated, args.submitters, tasks);
        fleet::all_connected(&all, args.agents as usize, "are connected").await?;
        fleet = Some(all);
    }
    report.connect_s = begun.elapsed().as_secs_f64();
    Ok(Stage { args, client, muster, fleet, aim, report })
}

fn flags<'a>(args: &BenchArgs, listen: &'a str) -> Vec<&'a str> {
    let mut flags = vec!["--listen", listen];
    if args.tls {
        flags.push("--tls");
    }
    flags
}

/// Puts history into the database while its server is away.
async fn remember(args: &BenchArgs, site: &mut Site, client: &ApiClient) -> Result<ApiClient, CliError> {
    out::note(&format!("writing {} finished deliveries …", args.history));
    site.end_server(false).await;
    let path = site.data().join(DATABASE_FILE);
    let rows = args.history;
    let seeded = tokio::task::spawn_blocking(move || seed::seed(&path, rows)).await;
    let failed = |error: &dyn std::fmt::Display| CliError::Child(format!("the history cannot be written: {error}"));
    seeded.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    site.start_server(&flags(args, &client.url().authority())).await
}

fn blank(args: &BenchArgs) -> Report {
    Report {
        agents: args.agents,
        submitters: args.submitters,
        rate: args.rate,
        payload: args.payload,
        deliveries_per_command: if args.all { args.agents } else { 1 },
        history: args.history,
        black_hole: args.black_hole,
        real: args.real,
        tls: args.tls,
        ..Report::default()
    }
}

impl Stage<'_> {
    /// Kills the server and waits until all agents are back: welcomed, and counted by the server.
    async fn restart(&mut self, site: &mut Site) -> Result<(), CliError> {
        out::note("killing the server, and starting it again …");
        let begun = Instant::now();
        site.end_server(true).await;
        self.client = site.start_server(&flags(self.args, &self.client.url().authority())).await?;
        let wanted = f64::from(self.args.agents);
        while Reading::take(&self.client).await?.connected < wanted {
            site.check()?;
            sleep(LOOK_EVERY).await;
        }
        self.report.restart_s = Some(begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Submits, and counts.
    async fn load(self, site: &mut Option<Site>) -> Result<Report, CliError> {
        let Stage { args, client, fleet, aim, mut report, .. } = self;
        let (tally, hands, begin) = (Arc::new(Tally::default()), Tasks::default(), Instant::now());
        let from = begin + WARM_UP;
        let until = from + args.duration;
        tally.begin(from, until);
        if args.rate != Some(0) {
            out::note("submitting …");
            let pace = match args.rate {
                None => Pace::Closed(until),
                Some(rate) => Pace::Open(Ticks::start(rate, begin, until)),
            };
            let (client, tally, payload) = (client.clone(), Arc::clone(&tally), args.payload as usize);
            let load = Arc::new(Load { client, fleet, aim, pace, payload, tally, turn: AtomicUsize::new(0) });
            for slot in 0..args.submitters {
                hands.spawn("submitter", Arc::clone(&load).submit(slot));
            }
        }
        sleep_until(from).await;
        let before = Reading::take(&client).await?;
        let mut told = 0;
        while Instant::now() < until {
            sleep_until(until.min(Instant::now() + TELL_EVERY)).await;
            if let Some(site) = site {
                site.check()?;
            }
            let completed = tally.completed();
            out::note(&format!("  {:>4} s: {} completed", from.elapsed().as_secs(), completed - told));
            told = completed;
        }
        let after = Reading::take(&client).await?;
        if !hands.drained(DRAIN).await {
            out::note("  some submissions are still under way, and are not waited for");
        }
        report.list_ms = list::median(&client).await?.as_secs_f64() * 1000.0;
        report.count(tally.totals(), &before, &after, args.duration.as_secs_f64());
        Ok(report)
    }
}
