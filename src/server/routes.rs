//! The whole HTTP interface in one table: one `match` reads the path, another names who answers.

use super::app::App;
use super::attempt::Attempt;
use super::call::{Call, Pieces};
use super::error::ApiError;
use super::install::{executables, script};
use super::listener::Connection;
use super::rollout::{answer as rollout, fetch};
use super::{agents, audit, authorities, commands, enroll, events, health, joins, login, submit, tokens, upgrade};
use crate::pin;
use crate::protocol::authorities::PINS_HEADER;
use crate::protocol::ids::RequestId;
use bytes::Buf;
use futures_util::StreamExt;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use warp::path::{self, FullPath};
use warp::reply::Response;
use warp::{Filter, Rejection};

/// What a path names.
#[derive(Clone, Debug)]
enum Resource {
    Commands,
    Command(String),
    CommandOutput(String),
    CommandEvents(String),
    CommandApprove(String),
    CommandCancel(String),
    Agents,
    Agent(String),
    AgentCommand(String),
    AgentApprove(String),
    Joins,
    Join(String),
    Enroll,
    Install(String),
    InstallBinary(String),
    Tokens,
    Token(String),
    Authorities,
    Authority(String),
    TokenTotp(String),
    Session,
    Audit,
    Rollout,
    RolloutChange(String),
    Health,
    Ready,
    Metrics,
    AgentSocket,
    AgentSpec(String),
    AgentRelease(String),
    Nothing(String),
}

impl Resource {
    /// Reads a path. A slash at its end changes nothing.
    fn of(path: &str) -> Self {
        let inner = path.strip_prefix('/').unwrap_or(path);
        let segments: Vec<&str> = inner.strip_suffix('/').unwrap_or(inner).split('/').collect();
        let decoded = |segment: &str| percent_decode_str(segment).decode_utf8_lossy().into_owned();
        if segments.contains(&"") {
            return Self::Nothing(path.to_owned());
        }
        match *segments.as_slice() {
            ["api", "commands"] => Self::Commands,
            ["api", "commands", id] => Self::Command(decoded(id)),
            ["api", "commands", id, "output"] => Self::CommandOutput(decoded(id)),
            ["api", "commands", id, "events"] => Self::CommandEvents(decoded(id)),
            ["api", "commands", id, "approve"] => Self::CommandApprove(decoded(id)),
            ["api", "commands", id, "cancel"] => Self::CommandCancel(decoded(id)),
            ["api", "agents"] => Self::Agents,
            ["api", "agents", key] => Self::Agent(decoded(key)),
            ["api", "agents", key, "command"] => Self::AgentCommand(decoded(key)),
            ["api", "agents", key, "approve"] => Self::AgentApprove(decoded(key)),
            ["api", "join"] => Self::Joins,
            ["api", "join", id] => Self::Join(decoded(id)),
            ["api", "enroll"] => Self::Enroll,
            ["install", join] => Self::Install(decoded(join)),
            ["install", "binary", platform] => Self::InstallBinary(decoded(platform)),
            ["api", "tokens"] => Self::Tokens,
            ["api", "tokens", id] => Self::Token(decoded(id)),
            ["api", "tokens", id, "totp"] => Self::TokenTotp(decoded(id)),
            ["api", "authorities"] => Self::Authorities,
            ["api", "authorities", pin] => Self::Authority(decoded(pin)),
            ["api", "session"] => Self::Session,
            ["api", "audit"] => Self::Audit,
            ["api", "rollout"] => Self::Rollout,
            ["api", "rollout", change] => Self::RolloutChange(decoded(change)),
            ["healthz"] => Self::Health,
            ["readyz"] => Self::Ready,
            ["metrics"] => Self::Metrics,
            ["agent", "ws"] => Self::AgentSocket,
            ["agent", "deliveries", id, "spec"] => Self::AgentSpec(decoded(id)),
            ["agent", "releases", sha256] => Self::AgentRelease(decoded(sha256)),
            _ => Self::Nothing(path.to_owned()),
        }
    }

    /// The route's name in metrics: the path with its variables.
    fn route(&self) -> &'static str {
        match self {
            Self::Commands => "/api/commands",
            Self::Command(_) => "/api/commands/{id}",
            Self::CommandOutput(_) => "/api/commands/{id}/output",
            Self::CommandEvents(_) => "/api/commands/{id}/events",
            Self::CommandApprove(_) => "/api/commands/{id}/approve",
            Self::CommandCancel(_) => "/api/commands/{id}/cancel",
            Self::Agents => "/api/agents",
            Self::Agent(_) => "/api/agents/{agent}",
            Self::AgentCommand(_) => "/api/agents/{agent}/command",
            Self::AgentApprove(_) => "/api/agents/{agent}/approve",
            Self::Joins => "/api/join",
            Self::Join(_) => "/api/join/{id}",
            Self::Enroll => "/api/enroll",
            Self::Install(_) => "/install/{join}",
            Self::InstallBinary(_) => "/install/binary/{platform}",
            Self::Tokens => "/api/tokens",
            Self::Token(_) => "/api/tokens/{id}",
            Self::Authorities => "/api/authorities",
            Self::Authority(_) => "/api/authorities/{pin}",
            Self::TokenTotp(_) => "/api/tokens/{id}/totp",
            Self::Session => "/api/session",
            Self::Audit => "/api/audit",
            Self::Rollout => "/api/rollout",
            Self::RolloutChange(_) => "/api/rollout/{change}",
            Self::Health => "/healthz",
            Self::Ready => "/readyz",
            Self::Metrics => "/metrics",
            Self::AgentSocket => "/agent/ws",
            Self::AgentSpec(_) => "/agent/deliveries/{id}/spec",
            Self::AgentRelease(_) => "/agent/releases/{sha256}",
            Self::Nothing(_) => "none",
        }
    }

    /// What the path says in the place of a variable; for a path that is nothing, all of it.
    fn asked(&self) -> Option<&str> {
        match self {
            Self::Command(asked)
            | Self::CommandOutput(asked)
            | Self::CommandEvents(asked)
            | Self::CommandApprove(asked)
            | Self::CommandCancel(asked)
            | Self::Agent(asked)
            | Self::AgentApprove(asked)
            | Self::AgentCommand(asked)
            | Self::Join(asked)
            | Self::Token(asked)
            | Self::TokenTotp(asked)
            | Self::Authority(asked)
            | Self::AgentSpec(asked)
            | Self::InstallBinary(asked)
            | Self::AgentRelease(asked)
            | Self::RolloutChange(asked)
            | Self::Nothing(asked) => Some(asked),
            // The variable is a secret.
            Self::Install(_)
            | Self::Commands
            | Self::Agents
            | Self::Joins
            | Self::Enroll
            | Self::Tokens
            | Self::Session
            | Self::Authorities
            | Self::Audit
            | Self::Rollout
            | Self::Health
            | Self::Ready
            | Self::Metrics
            | Self::AgentSocket => None,
        }
    }
}

/// Who answers what.
async fn answer(resource: Resource, call: Call) -> Result<Response, ApiError> {
    use Resource as R;
    call.refuse_token_in_query()?;
    match (resource, call.method.as_str()) {
        (R::Commands, "GET") => commands::list(call).await,
        (R::Commands, "POST") => submit::to_many(call).await,
        (R::Command(id), "GET") => commands::show(call, &id).await,
        (R::CommandOutput(id), "GET") => commands::output(call, &id).await,
        (R::CommandEvents(id), "GET") => events::stream(call, &id).await,
        (R::CommandApprove(id), "POST") => commands::approve(call, &id).await,
        (R::CommandCancel(id), "POST") => commands::cancel(call, &id).await,
        (R::Agents, "GET") => agents::list(call).await,
        (R::Agent(key), "GET") => agents::show(call, key).await,
        (R::Agent(key), "DELETE") => agents::revoke(call, key).await,
        (R::AgentCommand(key), "POST") => submit::to_one(call, key).await,
        (R::AgentApprove(key), "POST") => agents::approve(call, key).await,
        (R::Joins, "GET") => joins::list(call).await,
        (R::Joins, "POST") => joins::create(call).await,
        (R::Join(id), "DELETE") => joins::revoke(call, &id).await,
        (R::Enroll, "POST") => enroll::enroll(call).await,
        (R::Install(join), "GET") => script::script(call, &join).await,
        (R::InstallBinary(platform), "GET") => executables::download(call, &platform).await,
        (R::Tokens, "GET") => tokens::list(call).await,
        (R::Tokens, "POST") => tokens::create(call).await,
        (R::Token(id), "DELETE") => tokens::revoke(call, &id).await,
        (R::Authorities, "GET") => authorities::list(call).await,
        (R::Authorities, "POST") => authorities::create(call).await,
        (R::Authority(pin), "DELETE") => authorities::retire(call, &pin).await,
        (R::TokenTotp(id), "POST") => tokens::totp_new(call, &id).await,
        (R::TokenTotp(id), "PUT") => tokens::totp_prove(call, &id).await,
        (R::TokenTotp(id), "DELETE") => tokens::totp_off(call, &id).await,
        (R::Session, "POST") => login::open(call).await,
        (R::Session, "GET") => login::show(call).await,
        (R::Session, "DELETE") => login::close(call).await,
        (R::Audit, "GET") => audit::list(call).await,
        (R::Rollout, "GET") => rollout::show(call).await,
        (R::Rollout, "POST") => rollout::start(call).await,
        (R::RolloutChange(change), "POST") => rollout::change(call, &change).await,
        (R::Health, "GET") => health::alive(call).await,
        (R::Ready, "GET") => health::ready(call).await,
        (R::Metrics, "GET") => health::metrics(call).await,
        (R::AgentSocket, "GET") => upgrade::socket(call).await,
        (R::AgentSpec(id), "GET") => enroll::spec(call, &id).await,
        (R::AgentRelease(sha256), "GET") => fetch::release(call, &sha256).await,
        (R::Nothing(_), _) => Err(ApiError::no_route()),
        (R::Commands | R::Joins | R::Tokens | R::Authorities | R::Rollout, _) => Err(ApiError::method("GET, POST")),
        (R::Agent(_), _) => Err(ApiError::method("GET, DELETE")),
        (R::TokenTotp(_), _) => Err(ApiError::method("POST, PUT, DELETE")),
        (R::Session, _) => Err(ApiError::method("GET, POST, DELETE")),
        (R::Join(_) | R::Token(_) | R::Authority(_), _) => Err(ApiError::method("DELETE")),
        (
            R::CommandApprove(_)
            | R::CommandCancel(_)
            | R::AgentCommand(_)
            | R::AgentApprove(_)
            | R::RolloutChange(_)
            | R::Enroll,
            _,
        ) => Err(ApiError::method("POST")),
        (
            R::Command(_)
            | R::CommandOutput(_)
            | R::CommandEvents(_)
            | R::Agents
            | R::Audit
            | R::Health
            | R::Ready
            | R::Metrics
            | R::AgentSocket
            | R::AgentSpec(_)
            | R::Install(_)
            | R::InstallBinary(_)
            | R::AgentRelease(_),
            _,
        ) => Err(ApiError::method("GET")),
    }
}

/// The filter for one connection after the other. Every request gets an answer, errors too.
pub fn routes(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone {
    path::full()
        .map(|path: FullPath| Resource::of(path.as_str()))
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::ext::get::<Connection>())
        .and(warp::ext::optional::<hyper::upgrade::OnUpgrade>())
        .and(warp::body::stream())
        .then(move |resource: Resource, method, headers, query, connection, upgrade, body| {
            let body: Pieces = Box::pin(StreamExt::map(body, whole));
            let app = Arc::clone(&app);
            respond(app, resource, method, headers, query, connection, upgrade, body)
        })
        .recover(|rejection: Rejection| async move {
            // Every path is taken, so this is one of warp's own objections.
            let error = ApiError::internal(format!("{rejection:?}"));
            Ok::<_, Infallible>(error.into_response(RequestId::new()))
        })
        .unify()
}

fn whole<B: Buf>(piece: Result<B, warp::Error>) -> Result<bytes::Bytes, warp::Error> {
    piece.map(|mut piece| piece.copy_to_bytes(piece.remaining()))
}

#[allow(clippy::too_many_arguments)] // The parts of a request, as warp hands them over.
async fn respond(
    app: Arc<App>,
    resource: Resource,
    method: Method,
    headers: HeaderMap,
    query: String,
    connection: Connection,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    body: Pieces,
) -> Response {
    let request_id = RequestId::new();
    let (route, is_script) = (resource.route(), matches!(resource, Resource::Install(_)));
    let metrics = Arc::clone(&app.metrics);
    // Whoever knows us by a pin learns of the others.
    let tls = app.tls.clone().filter(|_| connection.pin.is_some());
    let caller = Arc::default();
    let attempt = Attempt {
        app: Arc::clone(&app),
        peer: connection.peer,
        method: method.clone(),
        route,
        asked: resource.asked().map(str::to_owned),
        caller: Arc::clone(&caller),
    };
    let call = Call { app, request_id, connection, method, headers, query, body: Mutex::new(body), caller, upgrade };
    let mut response = answer(resource, call).await.unwrap_or_else(|error| {
        attempt.note(&error);
        metrics.refused(error.code());
        if is_script { script::refusal(error, request_id) } else { error.into_response(request_id) }
    });
    metrics.answered(route, response.status().as_u16());
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&request_id.to_string()) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    if let Some(pins) = tls.and_then(|tls| HeaderValue::from_str(&pin::list(&tls.authorities.pins())).ok()) {
        headers.insert(HeaderName::from_static(PINS_HEADER), pins);
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
