//! Errors as callers see them: problem documents (RFC 9457). The cause of a 5xx goes to the log, not to the caller.

use crate::protocol::http::{Candidate, Problem};
use crate::protocol::ids::RequestId;
use crate::protocol::plain::{PLAIN_CHARS_MAX, plain};
use crate::protocol::spec::SpecError;
use crate::secret::redacted;
use crate::store::error::StoreError;
use hyper::StatusCode;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use std::time::Duration;
use warp::reply::Response;

/// Longest name of a field, in characters: it may be one that the caller made up.
const FIELD_CHARS_MAX: usize = 64;

/// An error on its way to the caller.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: String,
    field: Option<String>,
    /// Boxed: errors are moved about a lot, and few list agents.
    agents: Option<Box<Listed>>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
    /// For the log.
    internal: Option<String>,
}

/// Agents that an error is about.
#[derive(Debug)]
struct Listed {
    candidates: Vec<Candidate>,
    count: Option<u64>,
}

impl ApiError {
    /// An error with a stable `code` and a sentence that says what to do.
    /// The sentence is cut to one line of [`PLAIN_CHARS_MAX`], without tokens: it may repeat what was sent.
    pub fn new(status: StatusCode, code: &'static str, detail: impl AsRef<str>) -> Self {
        Self {
            status,
            code,
            detail: plain(&redacted(detail.as_ref()), PLAIN_CHARS_MAX),
            field: None,
            agents: None,
            retry_after: None,
            allow: None,
            internal: None,
        }
    }

    /// 422: a field has a value that cannot be taken.
    pub fn field(field: impl AsRef<str>, message: impl std::fmt::Display) -> Self {
        let field = plain(field.as_ref(), FIELD_CHARS_MAX);
        let detail = format!("{field}: {message}");
        Self { field: Some(field), ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", detail) }
    }

    /// 401.
    pub fn unauthorized() -> Self {
        let detail = "a good token is needed: send 'Authorization: Bearer TOKEN'; the owner's is in the file owner.token of the server's data folder";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// 401 for a session that is no more.
    pub fn session_ended() -> Self {
        let detail = "the session has ended: log in again (`postrider login`)";
        Self::new(StatusCode::UNAUTHORIZED, "session_ended", detail)
    }

    /// 429: who calls asks too often, or has failed too often.
    pub fn too_many(code: &'static str, detail: impl AsRef<str>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail) }
    }

    /// 404 for a path that is nothing.
    pub fn no_route() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no_such_route",
            "nothing is at this path; GET /healthz shows that the server is up",
        )
    }

    /// 405 with what is allowed.
    pub fn method(allow: &'static str) -> Self {
        let detail = format!("this path takes {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail) }
    }

    /// 503: come again.
    pub fn unavailable(code: &'static str, detail: impl AsRef<str>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail) }
    }

    /// 500: the cause goes to the log.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        let detail = "the server failed; its log has the cause under this request_id";
        Self { internal: Some(cause.to_string()), ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail) }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its stable word.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Its sentence.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What the caller reads.
    pub fn problem(&self, request_id: RequestId) -> Problem {
        Problem {
            status: self.status.as_u16(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            code: self.code.to_owned(),
            detail: self.detail.clone(),
            request_id: request_id.to_string(),
            field: self.field.clone(),
            count: self.agents.as_ref().and_then(|listed| listed.count),
            candidates: self.agents.as_ref().map(|listed| listed.candidates.clone()).unwrap_or_default(),
        }
    }

    /// The answer, and the log line where the error is ours.
    pub fn into_response(self, request_id: RequestId) -> Response {
        if let Some(cause) = &self.internal {
            tracing::error!(%request_id, cause, "a request failed and was answered with 500");
        }
        let problem = self.problem(request_id);
        let mut response = Response::new(serde_json::to_string(&problem).unwrap_or_default().into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil().max(1.0) as u64));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<SpecError> for ApiError {
    fn from(error: SpecError) -> Self {
        // Requests name these two in seconds.
        match error.field {
            "timeout_ms" => Self::field("timeout_s", error.message),
            "not_after_ms" => Self::field("ttl_s", error.message),
            field => Self::field(field, error.message),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        const SOON: Duration = Duration::from_secs(1);
        const LATER: Duration = Duration::from_secs(30);
        let detail = error.to_string();
        match error {
            StoreError::NotFound { what: "agent", .. } => {
                Self::new(StatusCode::NOT_FOUND, "no_such_agent", format!("{detail}; GET /api/agents lists them"))
            }
            StoreError::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, "not_found", detail),
            StoreError::Ambiguous { candidates, .. } => {
                let agents = Some(Box::new(Listed { candidates, count: None }));
                Self { agents, ..Self::new(StatusCode::CONFLICT, "ambiguous_name", format!("{detail}; use an id")) }
            }
            StoreError::NoTargets => Self::field("targets", "no agent matches"),
            StoreError::ConfirmNeeded { count, candidates, .. } => {
                let agents = Some(Box::new(Listed { candidates, count: Some(count) }));
                Self { agents, ..Self::new(StatusCode::CONFLICT, "confirm_needed", detail) }
            }
            StoreError::SamePerson { .. } => Self::new(StatusCode::FORBIDDEN, "same_person", detail),
            StoreError::KeyReused => Self::new(
                StatusCode::CONFLICT,
                "idempotency_key_reused",
                "this Idempotency-Key was used for another request; take a fresh one",
            ),
            StoreError::Conflict(_) => Self::new(StatusCode::CONFLICT, "conflict", detail),
            StoreError::Forbidden(_) => Self::new(StatusCode::FORBIDDEN, "too_weak", detail),
            StoreError::JoinRefused(_) => Self::new(
                StatusCode::FORBIDDEN,
                "join_refused",
                format!("{detail}; `postrider join create` on the server makes a new one"),
            ),
            StoreError::Quota(_) | StoreError::Full => {
                Self { retry_after: Some(LATER), ..Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage_full", detail) }
            }
            StoreError::Busy => Self::unavailable("overloaded", "the server has too much to do; come again", SOON),
            StoreError::Closed => Self::unavailable("draining", "the server is shutting down; come again", SOON),
            StoreError::Fatal(_) | StoreError::Fenced | StoreError::Sql(_) => Self::internal(detail),
        }
    }
}
