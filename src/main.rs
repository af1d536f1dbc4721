//! Composes the roles: reads the command line, sets up logging, the runtime and the signals, and calls one role.

use clap::Parser;
use postrider::agent::config::{AgentConfig, Role, STARTS_PER_MINUTE_DEFAULT};
use postrider::cli::args::{AgentArgs, Cli, ServeArgs, Verb};
use postrider::cli::backup::BackupArgs;
use postrider::cli::default_dir;
use postrider::cli::dispatch::{dispatch, tell};
use postrider::cli::error::CliError;
use postrider::cli::interrupt::Interrupts;
use postrider::cli::restore::RestoreArgs;
use postrider::cli::serve_file::{Origin, with_file};
use postrider::clock::Clock;
use postrider::secret::Secret;
use postrider::server::acme::config::AcmeConfig;
use postrider::server::backup::crypt::Recipients;
use postrider::server::backup::make::{BackupOrder, make};
use postrider::server::backup::restore::RestoreOrder;
use postrider::server::check::{Finding, Verdict};
use postrider::server::proxy::Proxy;
use postrider::server::serve::ServeConfig;
use postrider::server::tls::own::OwnCertificate;
use postrider::store::brake::Brake;
use postrider::{bench, cli, server};
use std::future::Future;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The hidden verb of the agent's supervising child. It must stay small, so it is not the command line's.
const SUPERVISE: &str = "supervise";
/// A role failed.
const EXIT_ROLE_FAILED: u8 = 1;
/// How long threads that are still busy may keep a role from ending.
const LINGER: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|verb| verb == SUPERVISE) {
        return supervise();
    }
    match Cli::parse().verb {
        Verb::Serve(args) if args.check => check(args),
        Verb::Serve(args) => match with_file(args) {
            Ok((args, origin)) => {
                role(Builder::new_multi_thread(), args.exit_with_stdin, |stop| serve(args, origin, stop))
            }
            Err(error) => ExitCode::from(tell(&error)),
        },
        Verb::Agent(args) => {
            let exit_with_stdin = args.exit_with_stdin || args.supervised;
            role(Builder::new_current_thread(), exit_with_stdin, |stop| agent(args, stop))
        }
        Verb::Backup(args) => host(backup(args)),
        Verb::Restore(args) => host(restore(args)),
        Verb::Bench(args) => client(Builder::new_multi_thread(), bench::run::run(args)),
        verb => client(Builder::new_current_thread(), dispatch(verb)),
    }
}

/// A verb that uses a server, until it ends by itself.
fn client(builder: Builder, verb: impl Future<Output = Result<u8, CliError>>) -> ExitCode {
    let code = match runtime(builder) {
        Ok(runtime) => {
            let ended = runtime.block_on(verb);
            runtime.shutdown_background();
            ended.unwrap_or_else(|error| tell(&error))
        }
        Err(error) => fail(&error),
    };
    ExitCode::from(code)
}

/// A verb that does the server's part on this host.
fn host(done: Result<(), CliError>) -> ExitCode {
    ExitCode::from(done.map_or_else(|error| tell(&error), |()| 0))
}

fn backup(args: BackupArgs) -> Result<(), CliError> {
    let made = Recipients::parse(&args.recipient).and_then(|recipients| {
        let data = server_data(args.data);
        let order = BackupOrder { data, file: args.file, force: args.force, recipients };
        make(&order, &Clock::system(), &CancellationToken::new())
    });
    cli::backup::show(&made.map_err(|error| CliError::Host(error.to_string()))?, args.json)
}

fn restore(args: RestoreArgs) -> Result<(), CliError> {
    let order = RestoreOrder { data: server_data(args.data), file: args.file, identity: args.identity };
    let restored = server::backup::restore::restore(&order, &Clock::system());
    cli::restore::show(&restored.map_err(|error| CliError::Host(error.to_string()))?, args.json)
}

fn server_data(named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(default_dir::server)
}

/// The agent's child that runs one command.
fn supervise() -> ExitCode {
    ExitCode::from(u8::try_from(postrider::agent::supervise::main()).unwrap_or(EXIT_ROLE_FAILED))
}

/// The server, until `stop`. What is wrong with a setting is told with its place in the configuration file.
async fn serve(args: ServeArgs, origin: Origin, stop: CancellationToken) -> anyhow::Result<()> {
    let served = async { Ok(postrider::server::serve::serve(configured(args)?, stop).await?) };
    served.await.map_err(|error: anyhow::Error| anyhow::anyhow!("{error}{}", origin.of(&error.to_string())))
}

/// Says what a start of the server would find.
fn check(args: ServeArgs) -> ExitCode {
    let found = match with_file(args) {
        Err(error) => vec![Finding::settings(error)],
        Ok((args, origin)) => {
            let placed = |error: String| Finding::settings(format!("{error}{}", origin.of(&error)));
            match configured(args) {
                Err(error) => vec![placed(error.to_string())],
                Ok(config) => postrider::server::check::check(&config, Clock::system().now_ms()),
            }
        }
    };
    let wrong = found.iter().filter(|finding| finding.verdict == Verdict::Wrong).count();
    let verdict = if wrong == 0 { "it would start" } else { "it would not start" };
    let lines: String = found.iter().map(|finding| format!("{finding}\n")).collect();
    // Nobody may be there to read it; the exit code says it, too.
    let _ = writeln!(std::io::stdout(), "{lines}{verdict}; nothing was changed");
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_ROLE_FAILED) }
}

/// How to serve, from the command line and the file.
fn configured(args: ServeArgs) -> anyhow::Result<ServeConfig> {
    let data = server_data(args.data);
    let acme = (!args.acme.is_empty())
        .then(|| AcmeConfig::new(args.acme, args.acme_contact, args.acme_directory))
        .transpose()?;
    Ok(ServeConfig {
        acme,
        listen: args.listen,
        public_url: args.public_url,
        behind_proxy: args.behind_proxy.map(|address| address.map_or(Proxy::Here, Proxy::At)),
        tls: args.tls,
        own_certificate: args.tls_cert.zip(args.tls_key).map(|(chain, key)| OwnCertificate { chain, key }),
        brake: Brake { confirm_above: args.confirm_above, approve_above: args.approve_above },
        backup_to: args.backup_to,
        backup_every: args.backup_every,
        backup_keep: args.backup_keep,
        backup_recipient: args.backup_recipient,
        release_key: args.release_key,
        new_owner_token: args.new_owner_token,
        ..ServeConfig::new(data)
    })
}

/// The agent, until `stop`.
async fn agent(args: AgentArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let config = AgentConfig {
        join: args.join.map(Secret::new),
        name: args.name,
        tags: args.tags.into_iter().collect(),
        starts_per_minute: args.starts_per_minute.unwrap_or(STARTS_PER_MINUTE_DEFAULT),
        waits_for_lock: true,
        role: match (args.supervised, args.probation) {
            (false, _) => Role::Installed,
            (true, false) => Role::Release,
            (true, true) => Role::Trial,
        },
        ..AgentConfig::new(args.data.unwrap_or_else(default_dir::agent))
    };
    #[cfg(unix)]
    return Ok(postrider::agent::upgrade::host::host(config, stop).await?);
    #[cfg(not(unix))]
    Ok(postrider::agent::run::run(config, stop).await?)
}

/// Runs a role until it ends, a signal asks it to, or (if so asked) standard input ends.
fn role<R, F>(builder: Builder, exit_with_stdin: bool, run: R) -> ExitCode
where
    R: FnOnce(CancellationToken) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    start_log();
    let runtime = match runtime(builder) {
        Ok(runtime) => runtime,
        Err(error) => return ExitCode::from(fail(&error)),
    };
    let stop = CancellationToken::new();
    if exit_with_stdin {
        stop_with_stdin(stop.clone());
    }
    let ended = runtime.block_on(async {
        let interrupts = Interrupts::new()?;
        tokio::select! {
            ended = run(stop.clone()) => ended,
            never = obey(interrupts, &stop) => match never {},
        }
    });
    runtime.shutdown_timeout(LINGER);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(fail(&error)),
    }
}

/// The first signal asks to stop, the second ends the process at once.
async fn obey(mut interrupts: Interrupts, stop: &CancellationToken) -> std::convert::Infallible {
    interrupts.next().await;
    tracing::info!("stopping; a second signal ends at once");
    stop.cancel();
    interrupts.next().await;
    std::process::exit(i32::from(EXIT_ROLE_FAILED));
}

/// A thread of its own, because a read of standard input cannot be taken back.
fn stop_with_stdin(stop: CancellationToken) {
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut bytes = [0; 256];
        while matches!(stdin.read(&mut bytes), Ok(1..)) {}
        stop.cancel();
    });
}

fn runtime(mut builder: Builder) -> anyhow::Result<Runtime> {
    Ok(builder.enable_all().build()?)
}

fn start_log() {
    let filter = EnvFilter::try_from_env("POSTRIDER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let stderr = std::io::stderr;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_target(false);
    // Or a full disk under the log would panic whoever logs: that error is told on standard error, too.
    let log = log.log_internal_errors(false);
    let log = log.with_ansi(stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    // The journal of systemd has times of its own.
    if std::env::var_os("JOURNAL_STREAM").is_some() { log.without_time().init() } else { log.init() }
}

fn fail(error: &anyhow::Error) -> u8 {
    // Our errors tell their causes themselves.
    // `eprintln!` panics where it cannot be written.
    let _ = writeln!(std::io::stderr(), "postrider: {error}");
    EXIT_ROLE_FAILED
}
