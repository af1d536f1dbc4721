//! What every part of the server holds: a leaf, so that the parts need not know each other.

use super::admission::Admission;
use super::install::executables::Executables;
use super::limits::Limits;
use super::metrics::Metrics;
use super::presence::Presence;
use super::refusals::Refusals;
use super::rollout::releases::Releases;
use super::tls::start::Tls;
use super::web_sessions::WebSessions;
use crate::http_client::ServerUrl;
use crate::pin::Pin;
use crate::protocol::frame::WINDOW_DEFAULT;
use crate::protocol::ids::AgentId;
use crate::protocol::login::LoginString;
use crate::seal::SealKey;
use crate::secret::random;
use crate::store::brake::Brake;
use crate::store::handle::Store;
use crate::tasks::Tasks;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

/// Times of an agent's session. The defaults find a black hole in either direction in at most 20 s: a ping (8 s + 20 %)
/// and its deadline (10 s).
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// Between pings; each wait is drawn within ±20 %.
    pub ping_interval: Duration,
    /// A ping unanswered for this long ends the session.
    pub pong_timeout: Duration,
    /// A frame not written after this long ends the session.
    pub write_timeout: Duration,
    /// A dispatch not accepted after this long ends the session, though pings are answered.
    pub accept_timeout: Duration,
    /// A connection without a `hello` after this long is closed.
    pub hello_timeout: Duration,
    /// A writer looks at its outbox this often without being rung for.
    pub poll_interval: Duration,
    /// How many unfinished deliveries an agent may hold.
    pub window: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(8),
            pong_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            accept_timeout: Duration::from_secs(30),
            hello_timeout: Duration::from_secs(10),
            poll_interval: Duration::from_secs(60),
            window: WINDOW_DEFAULT,
        }
    }
}

/// The server's shared parts.
pub struct App {
    /// The database.
    pub store: Store,
    /// Who is connected.
    pub presence: Presence,
    /// Who may connect now.
    pub admission: Admission,
    /// Who may ask how often.
    pub limits: Limits,
    /// Operators who logged in.
    pub web_sessions: WebSessions,
    /// Challenges given out so far: which of two connections of an agent is the later one.
    pub challenges: AtomicI64,
    /// Requests that were refused lately.
    pub refusals: Refusals,
    /// Agents that were turned away lately.
    pub turned_away: Refusals,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// All tasks, and the wish to stop.
    pub tasks: Tasks,
    /// Times of sessions.
    pub keepalive: Keepalive,
    /// The address for join strings that name none.
    pub url: ServerUrl,
    /// Authorities and certificates; none: this server speaks plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// Whether health and metrics are open to loopback: not behind a proxy, where everybody is loopback.
    pub open_on_loopback: bool,
    /// Above which numbers of agents a submission is not just taken.
    pub brake: Brake,
    /// For small secrets that the database keeps for a while.
    pub seal: SealKey,
    /// What hosts get from here to become agents.
    pub executables: Executables,
    /// What agents may become, by a rollout.
    pub releases: Releases,
    /// Signs the tokens with which agents fetch their specifications.
    pub fetch_key: FetchKey,
}

/// A key that lives as long as the process.
pub struct FetchKey(hmac::Key);

impl Default for FetchKey {
    fn default() -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()))
    }
}

impl App {
    /// The pins for a join or login string with this address; none: there the address decides.
    pub fn pins_for(&self, url: &ServerUrl) -> Vec<Pin> {
        self.tls.as_ref().filter(|_| url.is_tls()).map_or_else(Vec::new, |tls| tls.authorities.pins())
    }

    /// The login string.
    pub fn login_string(&self) -> String {
        let (url, pins) = (self.url.to_string(), self.pins_for(&self.url));
        LoginString { url, server_id: self.store.server_id, pins }.encode()
    }

    /// A bearer token with which an agent fetches its specifications while this process lives.
    pub fn fetch_token(&self, agent: AgentId) -> String {
        let tag = hmac::sign(&self.fetch_key.0, agent.as_bytes());
        URL_SAFE_NO_PAD.encode([agent.as_bytes(), tag.as_ref()].concat())
    }

    /// Whose fetch token this is, if it is one. Compares in constant time.
    pub fn fetch_token_agent(&self, token: &str) -> Option<AgentId> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (id, tag) = bytes.split_first_chunk::<16>()?;
        hmac::verify(&self.fetch_key.0, id, tag).ok()?;
        Some(AgentId::from_bytes(*id))
    }
}
