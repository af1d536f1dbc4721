//! What every part of the server holds: a leaf, so that the parts need not know each other.

use super::admission::Admission;
use super::metrics::Metrics;
use super::presence::Presence;
use super::refusals::Refusals;
use crate::protocol::frame::WINDOW_DEFAULT;
use crate::protocol::ids::AgentId;
use crate::seal::SealKey;
use crate::secret::random;
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
            poll_interval: Duration::from_secs(15),
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
    pub url: String,
    /// Whether health and metrics are open to loopback: not behind a proxy, where everybody is loopback.
    pub open_on_loopback: bool,
    /// For small secrets that the database keeps for a while.
    pub seal: SealKey,
    fetch_key: hmac::Key,
}

impl App {
    /// Puts the parts together.
    pub fn new(
        store: Store,
        metrics: Arc<Metrics>,
        tasks: Tasks,
        keepalive: Keepalive,
        url: String,
        open_on_loopback: bool,
        seal: SealKey,
    ) -> Self {
        Self {
            store,
            presence: Presence::default(),
            admission: Admission::default(),
            challenges: AtomicI64::new(0),
            refusals: Refusals::default(),
            turned_away: Refusals::default(),
            metrics,
            tasks,
            keepalive,
            url,
            open_on_loopback,
            seal,
            fetch_key: hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()),
        }
    }

    /// A bearer token with which an agent fetches its specifications while this process lives.
    pub fn fetch_token(&self, agent: AgentId) -> String {
        let tag = hmac::sign(&self.fetch_key, agent.as_bytes());
        URL_SAFE_NO_PAD.encode([agent.as_bytes(), tag.as_ref()].concat())
    }

    /// Whose fetch token this is, if it is one. Compares in constant time.
    pub fn fetch_token_agent(&self, token: &str) -> Option<AgentId> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (id, tag) = bytes.split_first_chunk::<16>()?;
        hmac::verify(&self.fetch_key, id, tag).ok()?;
        Some(AgentId::from_bytes(*id))
    }
}
