//! Who may ask how often: by token, by address, by agent.
//!
//! An address that fails to authenticate too often is locked out, but not those at it whose credential was good a while
//! ago: a customer's whole office may be behind one address. Agents are never locked out by address; each has limits of its own.

use super::app::App;
use super::block::Block;
use super::lockout::{Lockout, Rate};
use crate::protocol::ids::AgentId;
use governor::clock::DefaultClock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Requests of one viewer's or technician's token at once. Owners have no such limit: they can do worse than ask often, and
/// whoever measures a server is one.
pub const REQUESTS_BURST: u32 = 400;
/// One more after each of these: 100 a second.
pub const REQUESTS_PERIOD: Duration = Duration::from_millis(10);
/// So many failures of one address within [`LOCKED_OUT`] lock it out: more than a person's mistakes.
pub const FAILURES_MAX: u32 = 20;
/// For so long.
pub const LOCKED_OUT: Duration = Duration::from_secs(60);
/// A credential that was good from an address this long ago is not locked out with it.
pub const KNOWN_FOR: Duration = Duration::from_secs(15 * 60);
/// Most such credentials, each about 100 bytes. Those beyond are not known. Only good ones get in.
const KNOWN_MAX: usize = 16_384;
/// A credential's time is renewed when it is this old.
const KNOWN_RENEWED: Duration = Duration::from_secs(60);
/// Credentials that are looked up in the database at one time, of those not known: as many as it has readers. So a flood
/// of wrong ones costs few reads before it is noticed, and holds up nobody who is known.
const CHECKS_AT_ONCE: usize = 4;
/// So many wrong one-time passwords within [`CODES_LOCKED`] lock a token's: a guess hits with 3 in a million.
pub const CODES_MAX: u32 = 5;
/// For so long.
pub const CODES_LOCKED: Duration = Duration::from_secs(15 * 60);
/// Operators' sessions that one token may open at once: a person has a few devices, a script keeps its session.
pub const LOGINS_BURST: u32 = 20;
/// One more after each of these.
pub const LOGINS_PERIOD: Duration = Duration::from_secs(10);
/// Sessions that one agent may begin at once: its link may break again and again.
pub const SESSIONS_BURST: u32 = 20;
/// One more after each of these: a five-hundredth of what all agents may.
pub const SESSIONS_PERIOD: Duration = Duration::from_secs(1);
/// So many `hello`s of one agent that is not known here, from one address within [`LOCKED_OUT`], and the next are not looked
/// at. Those with a wrong proof for an agent that is known are all looked at: or a neighbour could shut it out in its name.
pub const HELLOS_MAX: u32 = 5;
/// What is over is forgotten this often.
const TIDY_EVERY: Duration = Duration::from_secs(30);

/// The hash of a credential.
pub type CredentialHash = [u8; 32];

/// All limits.
pub struct Limits {
    requests: Rate<i64>,
    addresses: Lockout<Block>,
    codes: Lockout<i64>,
    logins: Rate<i64>,
    sessions: Rate<i64>,
    hellos: Lockout<(Block, AgentId)>,
    known: Mutex<HashMap<(Block, CredentialHash), Instant>>,
    uses: Mutex<HashMap<i64, i64>>,
    /// One permit for each credential that is looked up and not known.
    pub checks: Semaphore,
}

impl Default for Limits {
    fn default() -> Self {
        let clock = DefaultClock::default;
        Self {
            requests: Rate::new(REQUESTS_BURST, REQUESTS_PERIOD, clock()),
            addresses: Lockout::new(FAILURES_MAX, LOCKED_OUT, clock()),
            codes: Lockout::new(CODES_MAX, CODES_LOCKED, clock()),
            logins: Rate::new(LOGINS_BURST, LOGINS_PERIOD, clock()),
            sessions: Rate::new(SESSIONS_BURST, SESSIONS_PERIOD, clock()),
            hellos: Lockout::new(HELLOS_MAX, LOCKED_OUT, clock()),
            known: Mutex::default(),
            uses: Mutex::default(),
            checks: Semaphore::new(CHECKS_AT_ONCE),
        }
    }
}

impl Limits {
    fn known(&self) -> MutexGuard<'_, HashMap<(Block, CredentialHash), Instant>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this credential was good from this address lately.
    pub fn is_known(&self, block: Block, hash: &CredentialHash) -> bool {
        self.known().get(&(block, *hash)).is_some_and(|since| since.elapsed() < KNOWN_FOR)
    }

    /// For how long a request is locked out, if it is: its address is, and its credential is not known there.
    pub fn locked_out(&self, block: Block, hash: Option<&CredentialHash>) -> Option<Duration> {
        let left = self.addresses.left(&block)?;
        let known = hash.is_some_and(|hash| self.is_known(block, hash));
        (!known).then_some(left)
    }

    /// A credential was good.
    pub fn succeeded(&self, block: Block, hash: CredentialHash) {
        let mut known = self.known();
        let room = known.len() < KNOWN_MAX;
        match known.get_mut(&(block, hash)) {
            Some(since) if since.elapsed() < KNOWN_RENEWED => {}
            Some(since) => *since = Instant::now(),
            None if room => drop(known.insert((block, hash), Instant::now())),
            None => {}
        }
    }

    /// A credential was wrong, or there was none where one is needed to be let in.
    pub fn failed(&self, block: Block, hash: Option<&CredentialHash>) {
        if let Some(hash) = hash {
            self.known().remove(&(block, *hash));
        }
        self.addresses.failed(&block);
    }

    /// A request of a viewer's or technician's token.
    ///
    /// # Errors
    /// Too many: how long to wait.
    pub fn request(&self, token_seq: i64) -> Result<(), Duration> {
        self.requests.take(&token_seq)
    }

    /// An operator's session is opened with a token.
    ///
    /// # Errors
    /// Too many: how long to wait.
    pub fn login(&self, token_seq: i64) -> Result<(), Duration> {
        self.logins.take(&token_seq)
    }

    /// For how long no one-time password of this token is looked at, if so.
    pub fn codes_locked(&self, token_seq: i64) -> Option<Duration> {
        self.codes.left(&token_seq)
    }

    /// A one-time password was wrong.
    pub fn code_failed(&self, token_seq: i64) {
        self.codes.failed(&token_seq);
    }

    /// An agent that has proven itself wants to begin a session.
    ///
    /// # Errors
    /// It began too many: how long to wait.
    pub fn session(&self, agent_seq: i64) -> Result<(), Duration> {
        self.sessions.take(&agent_seq)
    }

    /// Whether a `hello` in this agent's name is to be looked at.
    pub fn hears(&self, block: Block, agent: AgentId) -> bool {
        self.hellos.left(&(block, agent)).is_none()
    }

    /// A `hello` of an agent that is not known here. It does not count for the address: after the loss of a database a whole
    /// site's agents are not known, and are enrolled anew from there.
    pub fn unknown_agent(&self, block: Block, agent: AgentId) {
        self.hellos.failed(&(block, agent));
    }

    /// Whether this use of a token is to be stored: the first in that minute.
    pub fn is_new_use(&self, token_seq: i64, minute: i64) -> bool {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).insert(token_seq, minute) != Some(minute)
    }

    /// Forgets what is over.
    pub fn tidy(&self) {
        self.requests.tidy();
        self.logins.tidy();
        self.addresses.tidy();
        self.codes.tidy();
        self.sessions.tidy();
        self.hellos.tidy();
        self.known().retain(|_, since| since.elapsed() < KNOWN_FOR);
        // At worst the same minute is stored again.
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Forgets what is over, until the tasks are asked to stop.
pub async fn tidy(app: Arc<App>) {
    let stop = app.tasks.stop_token().clone();
    while stop.run_until_cancelled(tokio::time::sleep(TIDY_EVERY)).await.is_some() {
        app.limits.tidy();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_an_ipv4_address_or_an_ipv6_network() {
        let block = |text: &str| Block::of(text.parse().unwrap());
        assert_eq!(block("192.0.2.1"), block("::ffff:192.0.2.1"));
        assert_ne!(block("192.0.2.1"), block("192.0.2.2"));
        assert_eq!(block("2001:db8::1"), block("2001:db8::ffff:2"));
        assert_ne!(block("2001:db8::1"), block("2001:db8:0:1::1"));
    }

    #[test]
    fn what_was_good_is_not_locked_out_until_it_is_good_no_longer() {
        let limits = Limits::default();
        let (here, there) = (Block::of([192, 0, 2, 1].into()), Block::of([192, 0, 2, 2].into()));
        let (good, other) = ([1; 32], [2; 32]);
        limits.succeeded(here, good);
        for _ in 0..FAILURES_MAX {
            assert_eq!(limits.locked_out(here, Some(&other)), None);
            limits.failed(here, Some(&other));
        }
        assert!(limits.locked_out(here, Some(&other)).is_some() && limits.locked_out(here, None).is_some());
        assert_eq!(limits.locked_out(here, Some(&good)), None);
        assert_eq!(limits.locked_out(there, Some(&other)), None);
        limits.tidy();
        assert_eq!(limits.locked_out(here, Some(&good)), None);
        limits.failed(here, Some(&good));
        assert!(limits.locked_out(here, Some(&good)).is_some());
    }

    #[test]
    fn one_unknown_agents_hellos_are_not_anothers() {
        let limits = Limits::default();
        let here = Block::of([192, 0, 2, 1].into());
        let (wrong, other) = (AgentId::new(), AgentId::new());
        for _ in 0..HELLOS_MAX {
            assert!(limits.hears(here, wrong));
            limits.unknown_agent(here, wrong);
        }
        assert!(!limits.hears(here, wrong) && limits.hears(here, other));
        assert!(limits.hears(Block::of([192, 0, 2, 2].into()), wrong));
    }
}
