//! The agents of a run: enrolled by one join string, told apart from others by a tag.

use super::flights::Flights;
use super::simulated::{Fleet, Simulated};
use crate::agent::credential::Credential;
use crate::agent::facts;
use crate::cli::children::Site;
use crate::cli::client::ApiClient;
use crate::cli::error::{About, CliError};
use crate::cli::{agents, out};
use crate::http_client::{HttpClient, ServerUrl};
use crate::protocol::access::{EnrollRequest, EnrollResponse, JoinRequest, JoinResponse};
use crate::protocol::http::{BODY_BYTES_MAX, Problem};
use crate::protocol::ids::{AgentId, CommandId, JoinId};
use crate::protocol::join::JoinString;
use crate::protocol::name::{AgentName, Tags};
use crate::secret::Secret;
use crate::tasks::Tasks;
use crate::tls::Trust;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use hyper::Method;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The tag that the agents of a run carry.
pub const TAG: &str = "bench";
/// How long a join string of ours is good, in seconds.
const JOIN_SECS: f64 = 3600.0;
/// Enrollments under way at one time, each on a connection of its own.
const ENROLLING: u32 = 32;
/// How long all agents may take to connect.
const CONNECT_MAX: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the agents of this run enroll with.
#[derive(Clone, Debug)]
pub struct Muster {
    client: ApiClient,
    id: JoinId,
    join: String,
    /// Its value of [`TAG`], which no other run has.
    pub run: String,
}

impl Muster {
    /// Has a join string made for so many.
    ///
    /// # Errors
    /// As [`ApiClient::post`].
    pub async fn call(client: &ApiClient, agents: u32) -> Result<Self, CliError> {
        let run = CommandId::new().to_string();
        let request = JoinRequest {
            uses: Some(agents),
            expires_s: Some(JOIN_SECS),
            // The address by which we reach it, whatever it thinks of itself.
            server_url: Some(client.url().to_string()),
            tags: Tags::from([(TAG.to_owned(), run.clone())]),
            ..JoinRequest::default()
        };
        let made: JoinResponse = client.post("/api/join", &request, None, About::Joins).await?;
        let join = made.join.ok_or_else(|| CliError::Child("the server showed no join string".to_owned()))?;
        Ok(Self { client: client.clone(), id: made.id, join, run })
    }

    /// Enrolls simulated agents; so many of a hundred will be black-holed.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn enroll(&self, agents: u32, black_hole: u32) -> Result<Vec<Simulated>, CliError> {
        let join = JoinString::decode(&self.join).map_err(|error| CliError::Child(error.to_string()))?;
        let url = ServerUrl::parse(&join.url).map_err(CliError::Address)?;
        let trust = Trust::new(&join.pins);
        let (url, trust, secret) = (&url, &trust, &join.secret);
        // Spread over the fleet evenly: every so manyth.
        let is_black_holed = |number: u32| (number + 1) * black_hole / 100 > number * black_hole / 100;
        let hands = (0..agents.min(ENROLLING)).map(|hand| async move {
            let mut client = HttpClient::connect(url, trust).await.map_err(CliError::Unreachable)?;
            let mut enrolled = Vec::new();
            for number in (hand..agents).step_by(ENROLLING as usize) {
                let name: AgentName =
                    format!("bench-{number}").parse().map_err(|_| CliError::Child("a bad name".to_owned()))?;
                let mut credential = Credential::generate(url.clone(), join.server_id, name);
                credential.trust = trust.clone();
                let id = enroll(&mut client, secret, &credential).await?;
                enrolled.push((number, Simulated { credential, id, is_black_holed: is_black_holed(number) }));
            }
            Ok::<_, CliError>(enrolled)
        });
        let mut simulated = Vec::with_capacity(agents as usize);
        let mut hands = stream::iter(hands).buffer_unordered(ENROLLING as usize);
        while let Some(enrolled) = hands.next().await {
            simulated.append(&mut enrolled?);
        }
        // By number, so that black-holed ones do not come in a row.
        simulated.sort_unstable_by_key(|(number, _)| *number);
        Ok(simulated.into_iter().map(|(_, agent)| agent).collect())
    }

    /// Starts real agents, and waits until they are connected; answers their names.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn start_real(&self, site: &mut Site, agents: u32) -> Result<Vec<String>, CliError> {
        // Each starts as much as it can: the default limit is for a fleet that somebody takes over.
        let flags = ["--starts-per-minute", "60000"];
        let names: Vec<String> = (0..agents).map(|number| format!("bench-{number}")).collect();
        for name in &names {
            site.start_agent(name, &flags, &self.join)?;
        }
        let late = Instant::now() + CONNECT_MAX;
        let tags = [(TAG.to_owned(), self.run.clone())];
        loop {
            let online: Vec<_> =
                agents::all(&self.client, &tags).await?.into_iter().filter(|agent| agent.online).collect();
            if online.len() >= names.len() {
                return Ok(online.into_iter().map(|agent| agent.id.to_string()).collect());
            }
            site.check()?;
            if Instant::now() > late {
                return Err(CliError::Child(format!("{} of {agents} agents came online", online.len())));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Takes the join string and the agents out of a server that stays. The string goes first, so that none comes after.
    ///
    /// # Errors
    /// As [`ApiClient::delete`]; the others are taken out all the same.
    pub async fn dismiss(&self) -> Result<(), CliError> {
        let client = &self.client;
        client.delete(&format!("/api/join/{}", self.id), About::Joins).await?;
        let tags = [(TAG.to_owned(), self.run.clone())];
        let paths = agents::all(client, &tags).await?.into_iter().map(|agent| format!("/api/agents/{}", agent.id));
        let mut revoked = stream::iter(paths)
            .map(|path| async move { client.delete(&path, About::Agents).await })
            .buffer_unordered(ENROLLING as usize);
        let mut all = Ok(());
        while let Some(one) = revoked.next().await {
            all = all.and(one);
        }
        all
    }
}

async fn enroll(client: &mut HttpClient, secret: &Secret, credential: &Credential) -> Result<AgentId, CliError> {
    let request = EnrollRequest {
        secret: secret.expose().to_owned(),
        public_key: credential.public_key(),
        name: credential.name.clone(),
        tags: Tags::new(),
    };
    let body = Bytes::from(serde_json::to_vec(&request).expect("plain data with string keys"));
    let headers = [("content-type", "application/json")];
    let answer = client
        .send(Method::POST, "/api/enroll", &headers, body, Duration::ZERO, BODY_BYTES_MAX)
        .await
        .map_err(CliError::Unreachable)?;
    let enrolled = serde_json::from_slice::<EnrollResponse>(&answer.body);
    enrolled.map(|enrolled| enrolled.agent_id).map_err(|_| {
        let problem = serde_json::from_slice::<Problem>(&answer.body).map(|problem| problem.detail);
        let why = problem.unwrap_or_else(|_| format!("the server answered with status {}", answer.status));
        CliError::Child(format!("an agent could not enroll: {why}"))
    })
}

/// Lets simulated agents live.
pub fn start(simulated: Vec<Simulated>, submitters: u32, tasks: &Tasks) -> Arc<Fleet> {
    let fleet = Arc::new(Fleet {
        flights: Flights::new(submitters),
        connected: AtomicUsize::new(0),
        facts: facts::collect(),
        stop: tasks.stop_token().clone(),
    });
    for agent in simulated {
        let fleet = Arc::clone(&fleet);
        tasks.spawn("simulated agent", agent.live(fleet));
    }
    fleet
}

/// Waits until so many are connected.
///
/// # Errors
/// [`CliError::Child`] when they are not within five minutes.
pub async fn all_connected(fleet: &Fleet, agents: usize) -> Result<(), CliError> {
    let (begun, mut told) = (Instant::now(), Instant::now());
    loop {
        let connected = fleet.connected.load(Ordering::Relaxed);
        if connected >= agents {
            return Ok(());
        }
        if begun.elapsed() > CONNECT_MAX {
            return Err(CliError::Child(format!(
                "{connected} of {agents} agents are connected after {} s",
                CONNECT_MAX.as_secs()
            )));
        }
        if told.elapsed() >= Duration::from_secs(2) {
            told = Instant::now();
            out::note(&format!("  {connected} of {agents} agents are connected"));
        }
        sleep(LOOK_EVERY).await;
    }
}
