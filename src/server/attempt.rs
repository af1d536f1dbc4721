//! One request as the audit tells it when it is refused: who tried what, and nothing of its body.

use super::app::App;
use super::error::ApiError;
use super::proxy::Peer;
use crate::protocol::ids::RequestId;
use crate::protocol::plain::plain;
use crate::store::audit::{Actor, Refuse};
use hyper::{Method, StatusCode};
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
    /// Whether an error means that somebody was kept from something. Mistakes in the form of a request, and reads of what
    /// is not there, are not that.
    fn is_refused(&self, status: StatusCode) -> bool {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => true,
            StatusCode::NOT_FOUND | StatusCode::CONFLICT => !self.method.is_safe(),
            _ => false,
        }
    }

    /// Writes it into the audit, if this error is a refusal.
    pub fn note(self, error: &ApiError) {
        let status = error.status();
        if !self.is_refused(status) {
            return;
        }
        let asked = self.asked.as_deref();
        let target = asked.and_then(|asked| asked.parse::<RequestId>().ok()).map(|id| id.to_string());
        // What a body named that is not there, is in the sentence.
        let asked = asked.or_else(|| (status == StatusCode::NOT_FOUND).then(|| error.detail()));
        let mut detail = serde_json::json!({ "code": error.code(), "status": status.as_u16() });
        if let Some(asked) = asked.filter(|_| target.is_none()) {
            detail["asked"] = plain(asked, ASKED_CHARS_MAX).into();
        }
        let peer = Some(self.peer.to_string());
        let actor = self.caller.get().cloned().unwrap_or_else(|| Actor::nobody(NOBODY, peer));
        let action = format!("{} {}", plain(self.method.as_str(), METHOD_CHARS_MAX), self.route);
        let refuse = Refuse { actor, action, target, detail };
        self.app.refusals.note(&self.app.store, self.peer.ip(), error.code(), refuse);
    }
}
