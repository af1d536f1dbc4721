//! Operators' sessions: a token exchanged for something that ends by itself. In memory only: a restart logs out.
//!
//! A session holds no rights: each request is judged by its token's row, so revoking the token ends all of them.

use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How the secrets of sessions begin.
pub const SESSION_PREFIX: &str = "prs_";
/// How long a session is good, in milliseconds: a working day.
pub const LIFE_MS: i64 = 8 * 3_600_000;
/// A session without a request for so long ends, in milliseconds.
pub const IDLE_MS: i64 = 30 * 60_000;
/// Most sessions; the oldest goes.
const SESSIONS_MAX: usize = 1000;
/// Most sessions of one token; the oldest goes.
const SESSIONS_OF_TOKEN_MAX: usize = 20;

/// How a session's secret is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// By a browser, in a cookie: also when a foreign page makes it ask.
    Cookie,
    /// In the header, by whoever put it there.
    Bearer,
}

/// A session as it is now.
#[derive(Clone, Copy, Debug)]
pub struct WebSession {
    /// The row of the token that it was opened with.
    pub token_seq: i64,
    /// Whether a one-time password was given for it.
    pub coded: bool,
    /// How its secret is sent.
    pub carrier: Carrier,
    /// When it was opened, in Unix milliseconds.
    begun_ms: i64,
    /// When it was last used.
    used_ms: i64,
    number: u64,
}

impl WebSession {
    /// When it ends, if it is not used.
    pub fn ends_ms(&self) -> i64 {
        (self.begun_ms + LIFE_MS).min(self.used_ms + IDLE_MS)
    }

    /// When it ends, however much it is used.
    pub fn expires_ms(&self) -> i64 {
        self.begun_ms + LIFE_MS
    }

    fn is_good(&self, now_ms: i64) -> bool {
        // A clock that is set back does not make it last longer.
        now_ms < self.ends_ms() && now_ms > self.used_ms - IDLE_MS
    }
}

/// All of them, by the SHA-256 of their secret.
pub struct WebSessions {
    sessions: Mutex<HashMap<[u8; 32], WebSession>>,
    csrf_key: hmac::Key,
}

impl Default for WebSessions {
    fn default() -> Self {
        let key = crate::secret::random::<32>();
        Self { sessions: Mutex::default(), csrf_key: hmac::Key::new(hmac::HMAC_SHA256, &key) }
    }
}

impl WebSessions {
    fn sessions(&self) -> MutexGuard<'_, HashMap<[u8; 32], WebSession>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens one; answers its secret.
    pub fn open(&self, token_seq: i64, coded: bool, carrier: Carrier, now_ms: i64) -> Secret {
        let secret = Secret::generate(SESSION_PREFIX);
        let mut sessions = self.sessions();
        sessions.retain(|_, session| session.is_good(now_ms));
        let of_token = sessions.values().filter(|session| session.token_seq == token_seq).count();
        let oldest = |only_of_token: bool| {
            let candidates = sessions.iter().filter(|(_, s)| !only_of_token || s.token_seq == token_seq);
            candidates.min_by_key(|(_, session)| session.number).map(|(hash, _)| *hash)
        };
        let goes = if of_token >= SESSIONS_OF_TOKEN_MAX {
            oldest(true)
        } else if sessions.len() >= SESSIONS_MAX {
            oldest(false)
        } else {
            None
        };
        let number = sessions.values().map(|session| session.number).max().unwrap_or(0) + 1;
        if let Some(goes) = goes {
            sessions.remove(&goes);
        }
        let session = WebSession { token_seq, coded, carrier, begun_ms: now_ms, used_ms: now_ms, number };
        sessions.insert(secret.hash(), session);
        secret
    }

    /// The session with this secret, if it is good and comes as it should.
    pub fn get(&self, hash: &[u8; 32], carrier: Carrier, now_ms: i64) -> Option<WebSession> {
        let session = *self.sessions().get(hash)?;
        (session.carrier == carrier && session.is_good(now_ms)).then_some(session)
    }

    /// A request came with it: its time of rest begins anew.
    pub fn touch(&self, hash: &[u8; 32], now_ms: i64) {
        if let Some(session) = self.sessions().get_mut(hash) {
            session.used_ms = now_ms;
        }
    }

    /// Ends one.
    pub fn end(&self, hash: &[u8; 32]) {
        self.sessions().remove(hash);
    }

    /// One-time passwords are asked for with this token from now on: the session that proved it stays, the others end.
    pub fn keep_only(&self, token_seq: i64, proven: Option<&[u8; 32]>) {
        self.sessions().retain(|hash, session| {
            if session.token_seq == token_seq {
                session.coded = proven == Some(hash);
            }
            session.token_seq != token_seq || session.coded
        });
    }

    /// What unsafe requests with this session's cookie must send along. A foreign page cannot read it.
    pub fn csrf(&self, hash: &[u8; 32]) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.csrf_key, hash))
    }

    /// Whether this is that. Compares in constant time.
    pub fn is_csrf(&self, hash: &[u8; 32], given: &str) -> bool {
        URL_SAFE_NO_PAD.decode(given).is_ok_and(|given| hmac::verify(&self.csrf_key, hash, &given).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_by_rest_by_age_and_by_a_clock_set_back() {
        let sessions = WebSessions::default();
        let secret = sessions.open(1, false, Carrier::Cookie, 0).hash();
        let good = |now_ms| sessions.get(&secret, Carrier::Cookie, now_ms).is_some();
        assert!(good(IDLE_MS - 1) && !good(IDLE_MS) && !good(-IDLE_MS));
        assert!(sessions.get(&secret, Carrier::Bearer, 0).is_none());
        for used_ms in (0..LIFE_MS).step_by(IDLE_MS as usize / 2) {
            assert!(good(used_ms), "{used_ms}");
            sessions.touch(&secret, used_ms);
        }
        assert!(good(LIFE_MS - 1) && !good(LIFE_MS));
    }

    #[test]
    fn their_number_has_a_limit_for_each_token_and_for_all() {
        let sessions = WebSessions::default();
        let first = sessions.open(0, false, Carrier::Cookie, 0).hash();
        let crowd: Vec<_> =
            (0..=SESSIONS_OF_TOKEN_MAX).map(|_| sessions.open(1, false, Carrier::Cookie, 0).hash()).collect();
        let good = |hash| sessions.get(hash, Carrier::Cookie, 0).is_some();
        assert!(good(&first) && !good(&crowd[0]) && crowd[1..].iter().all(good));
        for token in 2..2000 {
            sessions.open(token, false, Carrier::Cookie, 0);
        }
        assert!(!good(&first));
        assert_eq!(sessions.sessions().len(), SESSIONS_MAX);
    }

    #[test]
    fn what_goes_with_one_cookie_goes_with_no_other() {
        let sessions = WebSessions::default();
        let [a, b] = [1, 2].map(|token| sessions.open(token, false, Carrier::Cookie, 0).hash());
        assert!(sessions.is_csrf(&a, &sessions.csrf(&a)) && !sessions.is_csrf(&a, &sessions.csrf(&b)));
        for bad in ["", "x", "é", &"A".repeat(43)] {
            assert!(!sessions.is_csrf(&a, bad), "{bad}");
        }
    }

    #[test]
    fn a_proof_ends_the_others_of_its_token() {
        let sessions = WebSessions::default();
        let [a, b] = [1, 1].map(|token| sessions.open(token, false, Carrier::Cookie, 0).hash());
        let other = sessions.open(2, false, Carrier::Cookie, 0).hash();
        sessions.keep_only(1, Some(&a));
        let get = |hash| sessions.get(hash, Carrier::Cookie, 0);
        assert!(get(&a).is_some_and(|session| session.coded) && get(&b).is_none() && get(&other).is_some());
    }
}
