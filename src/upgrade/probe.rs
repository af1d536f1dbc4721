//! A command through the server, to an agent of our own that lives only as long as the upgrade.
//!
//! It is a real agent, enrolled with a join string for one use; it runs as the user that the server runs as, and refuses every other
//! command, such as one for all agents that somebody submits meanwhile.

use super::rehearsal::run_as_owner;
use crate::agent::config::CHECK_COMMAND;
use crate::cli::access;
use crate::cli::agents;
use crate::cli::args::AccessArgs;
use crate::cli::client::{ApiClient, part};
use crate::cli::error::{About, CliError};
use crate::cli::out;
use crate::cli::text::clean;
use crate::protocol::access::{JoinRequest, JoinResponse};
use crate::protocol::http::{CommandResponse, HealthResponse, SubmitRequest};
use crate::protocol::state::State;
use crate::secret::{hex, random};
use crate::server::folder::OWNER_TOKEN_FILE;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How its agents' names begin.
const NAME: &str = "upgrade-check-";
/// How long the join string is good, in seconds.
const JOIN_SECS: f64 = 300.0;
/// How long one request waits for the end of the command.
const WAIT_SECS: u64 = 10;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the agent may take to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

/// How the server is spoken to.
#[derive(Clone, Debug)]
pub struct Access {
    /// Its data folder, which says where it listens.
    pub data: PathBuf,
    /// A file with an owner's token; none: the data folder's.
    pub token_file: Option<PathBuf>,
}

impl Access {
    /// A client for the server as it listens now.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn client(&self) -> Result<ApiClient, CliError> {
        let args = AccessArgs { server: None, token_file: self.token_file.clone(), data: Some(self.data.clone()) };
        access::connect(&args)
    }

    /// Whether there is a token for it, whether or not it runs.
    ///
    /// # Errors
    /// [`CliError::File`].
    pub fn check_token(&self) -> Result<(), CliError> {
        let args = AccessArgs { server: None, token_file: self.token_file.clone(), data: None };
        match access::named_token(&args)? {
            Some(_) => Ok(()),
            None => access::token_file(&self.data.join(OWNER_TOKEN_FILE)).map(drop),
        }
    }

    /// Waits until submissions are taken.
    ///
    /// # Errors
    /// Why they are not, at the end of the time.
    pub async fn ready(&self, late: Instant) -> Result<(), String> {
        loop {
            let asked = match self.client() {
                Ok(client) => client.get::<HealthResponse>("/readyz", About::Agents).await,
                Err(error) => Err(error),
            };
            let error = match asked {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if Instant::now() >= late {
                return Err(format!("it does not take submissions: {error}"));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// The agent.
#[derive(Debug)]
pub struct Probe {
    access: Access,
    name: String,
    child: Child,
    // Its data goes with it.
    _folder: TempDir,
}

impl Probe {
    /// Enrolls it and starts it, with this very program.
    ///
    /// # Errors
    /// What did not work.
    pub async fn begin(access: &Access) -> Result<Self, CliError> {
        let client = access.client()?;
        remove_stale(&client).await?;
        let request = JoinRequest {
            uses: Some(1),
            expires_s: Some(JOIN_SECS),
            server_url: Some(client.url().to_string()),
            ..JoinRequest::default()
        };
        let join: JoinResponse = client.post("/api/join", &request, None, About::Joins).await?;
        let join = join.join.ok_or_else(|| CliError::Child("the server showed no join string".to_owned()))?;
        let failed = |error: std::io::Error| CliError::Child(format!("the check's agent cannot be started: {error}"));
        let folder = tempfile::Builder::new().prefix("postrider-upgrade-").tempdir().map_err(failed)?;
        let name = format!("{NAME}{}", hex(&random::<4>()));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg("agent").arg("--data").arg(folder.path().join("agent")).args(["--name", &name]);
        command.args(["--exit-with-stdin", "--upgrade-check"]).env("POSTRIDER_JOIN", join);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        run_as_owner(&mut command, &access.data, Some(folder.path())).map_err(failed)?;
        let child = command.spawn().map_err(failed)?;
        Ok(Self { access: access.clone(), name, child, _folder: folder })
    }

    /// Sends it a command and waits for the good end of it.
    ///
    /// # Errors
    /// What came instead, at the end of the time.
    pub async fn round_trip(&mut self, late: Instant) -> Result<(), String> {
        let failed = |error: CliError| format!("a command cannot be submitted: {error}");
        let client = self.access.client().map_err(failed)?;
        self.enrolled(&client, late).await?;
        let path = format!("/api/agents/{}/command?wait={WAIT_SECS}", part(&self.name));
        let request = SubmitRequest {
            command: Some(CHECK_COMMAND.to_owned()),
            ttl_s: Some(JOIN_SECS),
            note: Some("the upgrade's check".to_owned()),
            ..SubmitRequest::default()
        };
        let mut command: CommandResponse = client.post(&path, &request, None, About::Agents).await.map_err(failed)?;
        loop {
            match command.state {
                Some(State::Succeeded) => return Ok(()),
                Some(state) if state.is_terminal() => {
                    let reason = command.deliveries.first().and_then(|delivery| delivery.reason.as_deref());
                    let reason = reason.map_or(String::new(), |reason| format!(": {}", clean(reason)));
                    return Err(format!("the check command ended as {state}{reason}"));
                }
                _ if Instant::now() >= late => {
                    let state = command.state.map_or("nowhere".to_owned(), |state| state.to_string());
                    return Err(format!("the check command was not run in time: it is {state}"));
                }
                _ => {}
            }
            sleep(LOOK_EVERY).await;
            let path = format!("/api/commands/{}", command.id);
            command =
                client.get(&path, About::Commands).await.map_err(|error| format!("the check command: {error}"))?;
        }
    }

    async fn enrolled(&mut self, client: &ApiClient, late: Instant) -> Result<(), String> {
        loop {
            let all =
                agents::all(client, &[]).await.map_err(|error| format!("the agents cannot be listed: {error}"))?;
            if all.iter().any(|agent| agent.name == self.name) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the check's agent ended: {status}"));
            }
            if Instant::now() >= late {
                return Err("the check's agent could not enroll in time".to_owned());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Revokes it and stops it.
    pub async fn end(mut self) {
        let revoked = async {
            let client = self.access.client()?;
            client.delete(&format!("/api/agents/{}", part(&self.name)), About::Agents).await
        };
        if let Err(error) = revoked.await {
            out::note(&format!("postrider: {} could not be revoked: {error}; revoke it by hand", self.name));
        }
        drop(self.child.stdin.take());
        let _ = timeout(STOP_MAX, self.child.wait()).await;
    }
}

/// Revokes what an upgrade that was cut off left.
async fn remove_stale(client: &ApiClient) -> Result<(), CliError> {
    for agent in agents::all(client, &[]).await?.iter().filter(|agent| agent.name.starts_with(NAME)) {
        client.delete(&format!("/api/agents/{}", agent.id), About::Agents).await?;
    }
    Ok(())
}
