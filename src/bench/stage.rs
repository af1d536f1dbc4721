//! What is measured: a server and agents, brought up, loaded, and read.

use super::cost::Reading;
use super::fleet::{self, Muster, TAG};
use super::list;
use super::load::{Aim, Load, Pace, Ticks};
use super::report::Report;
use super::simulated::Fleet;
use super::tally::Tally;
use crate::cli::access;
use crate::cli::args::AccessArgs;
use crate::cli::bench::BenchArgs;
use crate::cli::children::Site;
use crate::cli::client::ApiClient;
use crate::cli::error::CliError;
use crate::cli::out;
use crate::protocol::name::Tags;
use crate::store::handle::DATABASE_FILE;
use crate::store::seed;
use crate::tasks::Tasks;
use std::num::NonZero;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Nothing counts before.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long what is under way at the end may take. Each submission gives up by itself before: after 20 s for the
/// connection, 90 s for the answer and 60 s for the outcome.
const DRAIN: Duration = Duration::from_secs(180);
/// How long agents may take to come back.
const BACK_MAX: Duration = Duration::from_secs(300);
/// What a server takes from one address that is not its own host's: connections that are no agent's session.
const STRANGERS: u32 = 256;
const TELL_EVERY: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it is looked whether our children live.
const CHECK_EVERY: Duration = Duration::from_millis(500);

struct Stage<'a> {
    args: &'a BenchArgs,
    client: ApiClient,
    /// None: the agents are real.
    fleet: Option<Arc<Fleet>>,
    aim: Aim,
    report: Report,
}

/// Measures. What has to be taken out of a server that stays is in `called`, from the moment on at which it is there.
///
/// # Errors
/// [`CliError`].
pub async fn measure(
    args: &BenchArgs,
    site: &mut Option<Site>,
    called: &mut Option<Muster>,
    tasks: &Tasks,
) -> Result<Report, CliError> {
    let mut stage = set_up(args, site, called, tasks).await?;
    if args.restart
        && let Some(site) = site
    {
        stage.restart(site).await?;
    }
    alive(site, stage.load(tasks)).await
}

/// Brings up server and agents.
async fn set_up<'a>(
    args: &'a BenchArgs,
    site: &mut Option<Site>,
    called: &mut Option<Muster>,
    tasks: &Tasks,
) -> Result<Stage<'a>, CliError> {
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
    if !client.url().is_loopback() && args.submitters > STRANGERS / 2 {
        out::note(&format!(
            "a server on another host takes at most {STRANGERS} connections from one address beside its agents': with {} \
             submitters it may close some",
            args.submitters
        ));
    }
    let muster = Muster::call(&client, args.agents).await?;
    let (muster, mut report) = (&*called.insert(muster), blank(args, &client));
    let (begun, fleet, aim);
    if args.real {
        let Some(site) = site else { return Err(CliError::Usage("--real needs a server of our own".to_owned())) };
        out::note("starting the agents …");
        begun = Instant::now();
        let ids = muster.start_real(site, args.agents).await?;
        (fleet, aim) = (None, Aim::Each(ids.into_iter().map(|id| (id, true)).collect()));
    } else {
        out::note("enrolling the agents …");
        let simulated = muster.enroll(args.agents, args.black_hole).await?;
        if let Some(site) = site
            && args.history > 0
        {
            client = remember(args, site, &client).await?;
        }
        report.black_holed = simulated.iter().map(|agent| u32::from(agent.is_black_holed)).sum();
        let each = simulated.iter().map(|agent| (agent.id.to_string(), !agent.is_black_holed)).collect();
        aim = match args.all {
            true => Aim::All(Tags::from([(TAG.to_owned(), muster.run.clone())]), args.agents),
            false => Aim::Each(each),
        };
        out::note("connecting them …");
        begun = Instant::now();
        let all = fleet::start(simulated, args.submitters, tasks);
        alive(site, fleet::all_connected(&all, args.agents as usize)).await?;
        fleet = Some(all);
    }
    report.connect_s = begun.elapsed().as_secs_f64();
    Ok(Stage { args, client, fleet, aim, report })
}

fn flags<'a>(args: &BenchArgs, listen: &'a str) -> Vec<&'a str> {
    let mut flags = vec!["--listen", listen];
    if args.tls {
        flags.push("--tls");
    }
    flags
}

/// Waits for `work` as long as our children live.
async fn alive<T>(site: &mut Option<Site>, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let Some(site) = site else { return work.await };
    let mut work = pin!(work);
    let done = loop {
        tokio::select! {
            done = work.as_mut() => break done,
            () = sleep(CHECK_EVERY) => site.check()?,
        }
    };
    if done.is_err() {
        // A death is seen first by whoever was speaking to the dead.
        sleep(CHECK_EVERY).await;
        site.check()?;
    }
    done
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

fn blank(args: &BenchArgs, client: &ApiClient) -> Report {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    Report {
        server: args.server.is_some().then(|| client.url().to_string()),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        agents: args.agents,
        submitters: args.submitters,
        rate: args.rate,
        payload: args.payload,
        deliveries_per_command: if args.all { args.agents } else { 1 },
        history: args.history,
        real: args.real,
        tls: client.url().is_tls(),
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
        loop {
            let connected = Reading::take(&self.client).await?.connected;
            if connected >= f64::from(self.args.agents) {
                self.report.restart_s = Some(begun.elapsed().as_secs_f64());
                return Ok(());
            }
            if begun.elapsed() > BACK_MAX {
                let (agents, secs) = (self.args.agents, BACK_MAX.as_secs());
                return Err(CliError::Child(format!(
                    "{connected} of {agents} agents are back {secs} s after the kill"
                )));
            }
            site.check()?;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Submits, and counts.
    async fn load(self, tasks: &Tasks) -> Result<Report, CliError> {
        let Stage { args, client, fleet, aim, mut report } = self;
        let (tally, hands, begin) = (Arc::new(Tally::default()), Tasks::default(), Instant::now());
        let from = begin + WARM_UP;
        let until = from + args.duration;
        tally.begin(from, until);
        let mut ticks = None;
        if args.rate != Some(0) {
            out::note("submitting …");
            let pace = match args.rate {
                None => Pace::Closed(until),
                Some(rate) => Pace::Open(Arc::clone(ticks.insert(Ticks::start(rate, begin, until)))),
            };
            let (client, tally, payload) = (client.clone(), Arc::clone(&tally), args.payload as usize);
            let (fleet, turn) = (fleet.clone(), AtomicUsize::new(0));
            let load = Arc::new(Load { client, fleet, aim, pace, payload, tally, turn });
            for slot in 0..args.submitters {
                let (stop, submitter) = (tasks.stop_token().clone(), Arc::clone(&load).submit(slot));
                hands.spawn("submitter", async move {
                    // With the run, or at the end of what is due.
                    let _ = stop.run_until_cancelled(submitter).await;
                });
            }
        }
        sleep_until(from).await;
        let before = Reading::take(&client).await?;
        tell(&tally, from, until).await;
        let after = Reading::take(&client).await?;
        let connected = fleet.map(|fleet| fleet.connected.load(Ordering::Relaxed));
        report.connected = connected.map_or(after.connected as u32, |connected| connected as u32);
        if !hands.drained(TELL_EVERY).await {
            out::note("  waiting for what is still under way …");
            // Whoever has not ended then counts below.
            hands.drained(DRAIN).await;
        }
        if let (Some(ticks), Some(rate)) = (ticks, args.rate) {
            let due = (f64::from(rate) * args.duration.as_secs_f64()) as u64;
            (report.due, report.not_submitted) = (Some(due), ticks.left().min(due));
        }
        let mut totals = tally.totals();
        totals.unanswered += hands.running() as u64;
        report.list_ms = list::median(&client).await?.as_secs_f64() * 1000.0;
        report.count(totals, &before, &after, args.duration.as_secs_f64());
        Ok(report)
    }
}

/// Says how it goes, until the end.
async fn tell(tally: &Tally, from: Instant, until: Instant) {
    let mut told = 0;
    while Instant::now() < until {
        sleep_until(until.min(Instant::now() + TELL_EVERY)).await;
        let completed = tally.completed();
        out::note(&format!("  {:>4} s: {} completed", from.elapsed().as_secs(), completed - told));
        told = completed;
    }
}
