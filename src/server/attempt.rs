//! One request as the audit tells it when it is refused: who tried what, and nothing of its body.

use super::app::App;
use super::authorize::TOKEN_IN_QUERY;
use super::error::ApiError;
use super::proxy::Peer;
use crate::protocol::ids::RequestId;
use crate::protocol::plain::plain;
use crate::secret::redacted;
use crate::store::audit::{Actor, Refuse};
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use std::sync::{Arc, OnceLock};

/// How the audit calls somebody who has no good token.
pub const NOBODY: &str = "nobody";
/// Longest text of what was asked for, in characters: enough for a name or an id.
const ASKED_CHARS_MAX: usize = 80;
/// Longest method, in characters: a caller may invent one.
const METHOD_CHARS_MAX: usize = 16;

/// A request that may be refused.
pub struct Attempt {
    /// The server.
    pub app: Arc<App>,
    /// Where it comes from.
    pub peer: Peer,
    /// Its method.
    pub method: Method,
    /// Its route's name.
    pub route: &'static str,
    /// What its path says in the place of a variable.
    pub asked: Option<String>,
    /// Whom its token belongs to, once that is known.
    pub caller: Arc<OnceLock<Actor>>,
}

impl Attempt {
    /// Whether an error means that somebody was kept from something. Mistakes in the form of a request are not that, nor
    /// reads of what is not there, but for callers with a scope: for them it may be outside.
    fn is_refused(&self, error: &ApiError) -> bool {
        match error.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => true,
            StatusCode::NOT_FOUND if self.caller.get().is_some_and(|caller| !caller.scope.is_all()) => true,
            StatusCode::NOT_FOUND | StatusCode::CONFLICT => !self.method.is_safe(),
            _ => error.code() == TOKEN_IN_QUERY,
        }
    }

    /// Writes it into the audit, if this error is a refusal.
    pub fn note(self, error: &ApiError) {
        if !self.is_refused(error) {
            return;
        }
        let status = error.status();
        let asked = self.asked.as_deref();
        let target = asked.and_then(|asked| asked.parse::<RequestId>().ok()).map(|id| id.to_string());
        // What a body named that is not there, is in the sentence.
        let asked = asked.or_else(|| (status == StatusCode::NOT_FOUND).then(|| error.detail()));
        let mut detail = serde_json::json!({ "code": error.code(), "status": status.as_u16() });
        if let Some(asked) = asked.filter(|_| target.is_none()) {
            // It may be a token that was put in the wrong place, and the audit keeps it for ever.
            let asked = redacted(&percent_decode_str(asked).decode_utf8_lossy());
            detail["asked"] = plain(&asked, ASKED_CHARS_MAX).into();
        }
        let peer = Some(self.peer.to_string());
        let actor = self.caller.get().cloned().unwrap_or_else(|| Actor::nobody(NOBODY, peer));
        let action = format!("{} {}", plain(self.method.as_str(), METHOD_CHARS_MAX), self.route);
        let refuse = Refuse { actor, action, target, detail };
        self.app.refusals.note(&self.app.store, self.peer.ip(), error.code(), refuse);
    }
}
