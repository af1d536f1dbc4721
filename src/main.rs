//! Composes the roles: reads the command line, sets up logging, the runtime and the signals, and calls one role.

use clap::Parser;
use postrider::agent::config::{AgentConfig, Role, STARTS_PER_MINUTE_DEFAULT};
use postrider::cli::args::{AgentArgs, Cli, ServeArgs, Verb};
use postrider::cli::backup::BackupArgs;
use postrider::cli::default_dir;
use postrider::cli::dispatch::{dispatch, tell};
use postrider::cli::doctor::DoctorArgs;
use postrider::cli::error::CliError;
use postrider::cli::interrupt::Interrupts;
use postrider::cli::restore::RestoreArgs;
use postrider::cli::serve_file::{Origin, of_server, with_file};
use postrider::cli::upgrade::{RELEASES_DEFAULT, UpgradeArgs};
use postrider::clock::Clock;
use postrider::doctor::run::Place;
use postrider::log::{self, LogFormat};
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
use postrider::upgrade::error::UpgradeError;
use postrider::upgrade::journal::history;
use postrider::upgrade::probe::Access;
use postrider::upgrade::recover::Host;
use postrider::upgrade::releases::Releases;
use postrider::upgrade::run::{Order, recover_if_cut_off, rollback, rollback_after_crash};
use postrider::upgrade::service::Service;
use postrider::upgrade::show::show;
use postrider::{bench, cli, doctor, server};
use std::future::Future;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// The hidden verb of the agent's supervising child. It must stay small, so it is not the command line's.
const SUPERVISE: &str = "supervise";
/// A role failed.
const EXIT_ROLE_FAILED: u8 = 1;
/// Where the package puts the server's configuration.
const CONFIG: &str = "/etc/postrider/postrider.toml";
/// By what the unit and the command line find the release that runs: systemd and shells look here before they look into
/// /usr/bin, where the package's executable is.
const LINK: &str = "/usr/local/bin/postrider";
/// Where backups before upgrades go.
const BACKUPS: &str = "/var/backups/postrider";
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
                let (format, with_stdin) = (args.log, args.exit_with_stdin);
                role(Builder::new_multi_thread(), format, with_stdin, |stop| serve(args, origin, stop))
            }
            Err(error) => {
                let _ = write!(std::io::stderr(), "{}", log::error_mark());
                ExitCode::from(tell(&error))
            }
        },
        Verb::Agent(args) => {
            let (format, with_stdin) = (args.log, args.exit_with_stdin || args.supervised);
            role(Builder::new_current_thread(), format, with_stdin, |stop| agent(args, stop))
        }
        Verb::Backup(args) => host(backup(args)),
        Verb::Restore(args) => host(restore(args)),
        Verb::Upgrade(args) => client(Builder::new_current_thread(), upgrade(args)),
        Verb::Doctor(args) => client(Builder::new_current_thread(), look(args)),
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

/// Looks at a server's host, or an endpoint.
async fn look(args: DoctorArgs) -> Result<u8, CliError> {
    if args.agent {
        let data = args.data.unwrap_or_else(default_dir::agent);
        let unit = args.unit.unwrap_or_else(|| "postrider-agent.service".to_owned());
        return doctor::run::tell(&doctor::run::endpoint(&data, &unit).await, args.json);
    }
    let config = packaged(args.config);
    let place = Place {
        token_file: args.token_file,
        unit: args.unit.unwrap_or_else(|| "postrider.service".to_owned()),
        releases: PathBuf::from(RELEASES_DEFAULT),
    };
    let settings = of_server(config.as_deref(), args.data.as_deref());
    let found = match settings.map_err(anyhow::Error::from).and_then(|(args, _)| configured(args)) {
        Ok(config) => doctor::run::server(&config, &place, Clock::system().now_ms()).await,
        Err(error) => vec![Finding::settings(error)],
    };
    doctor::run::tell(&found, args.json)
}

/// The configuration that is named, else the package's where it is there.
fn packaged(named: Option<PathBuf>) -> Option<PathBuf> {
    named.or_else(|| Some(PathBuf::from(CONFIG)).filter(|packaged| packaged.is_file()))
}

/// Exchanges the server's program. No signal breaks it off half-way.
async fn upgrade(args: UpgradeArgs) -> Result<u8, CliError> {
    let failed = |error: UpgradeError| CliError::Host(error.to_string());
    let config = packaged(args.config);
    if args.history {
        let all = history(&Releases::at(&args.releases)).map_err(failed)?;
        return show(&all, args.json).map(|()| 0);
    }
    let releases = Releases::open(&args.releases).map_err(failed)?;
    let (serve, origin) = of_server(config.as_deref(), args.data.as_deref())?;
    let serve =
        configured(serve).map_err(|error| CliError::Host(format!("{error}{}", origin.of(&error.to_string()))))?;
    let host = Host { releases, access: Access { data: serve.data, token_file: args.token_file }, config };
    if args.recover {
        let done = recover_if_cut_off(&host, None, args.deadline).await.map_err(failed)?;
        done.iter().for_each(|done| cli::out::note(&format!("postrider: {done}")));
        return Ok(0);
    }
    let link = args.service.is_none().then(|| PathBuf::from(LINK));
    let recipients = Recipients::parse(&serve.backup_recipient).map_err(|error| CliError::Host(error.to_string()))?;
    let order = Order {
        host,
        service: args.service.map_or(Service::Unit(args.unit), Service::Program),
        link,
        key: serve.release_key,
        backup_to: args.backup_to.or(serve.backup_to).unwrap_or_else(|| PathBuf::from(BACKUPS)),
        recipients,
        longest: args.deadline,
        by: ["SUDO_USER", "USER"].into_iter().find_map(|name| std::env::var(name).ok()).unwrap_or("root".to_owned()),
    };
    let interrupts = Interrupts::new().and_then(Interrupts::and_hangup);
    let mut interrupts = interrupts.map_err(|error| CliError::Host(format!("cannot listen for signals: {error}")))?;
    let done = async {
        match args.file {
            Some(file) => postrider::upgrade::run::upgrade(&order, &file).await.map(Some),
            None if args.after_crash => rollback_after_crash(&order).await,
            None => rollback(&order).await.map(Some),
        }
    };
    let deaf = async {
        loop {
            interrupts.next().await;
            cli::out::note("postrider: an upgrade is not broken off; it comes to its end by itself");
        }
    };
    let done = tokio::select! {
        done = done => done,
        never = deaf => never,
    };
    match done {
        Ok(Some(past)) => show(&[past], args.json).map(|()| 0),
        Ok(None) => {
            cli::out::note("postrider: what runs is no fresh release: nothing to go back to by itself");
            Ok(0)
        }
        Err(error @ UpgradeError::RolledBack { .. }) => {
            cli::out::note(&format!("postrider: {error}"));
            Ok(EXIT_ROLE_FAILED)
        }
        Err(error) => Err(failed(error)),
    }
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
        enroll_only: args.enroll_only,
        name: args.name,
        tags: args.tags.into_iter().collect(),
        upgrade_check: args.upgrade_check,
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
fn role<R, F>(builder: Builder, format: LogFormat, exit_with_stdin: bool, run: R) -> ExitCode
where
    R: FnOnce(CancellationToken) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    log::start(format);
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

fn fail(error: &anyhow::Error) -> u8 {
    // Our errors tell their causes themselves.
    // `eprintln!` panics where it cannot be written.
    let _ = writeln!(std::io::stderr(), "{}postrider: {error}", log::error_mark());
    EXIT_ROLE_FAILED
}
