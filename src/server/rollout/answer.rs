//! What operators ask: start, show, pause, resume and stop a rollout. It concerns agents of all scopes.

use crate::protocol::access::Role;
use crate::protocol::rollout::{Canary, RolloutRequest, RolloutStatus};
use crate::protocol::scope::Scope;
use crate::server::app::App;
use crate::server::call::{Call, json};
use crate::server::commands::{Nothing, page_limit};
use crate::server::error::ApiError;
use crate::store::rollout::{ChangeRollout, RolloutChange, StartRollout};
use hyper::StatusCode;
use std::sync::Arc;
use warp::reply::Response;

/// Who goes first when nothing is said.
pub const CANARY_DEFAULT: Canary = Canary::Percent(5);
/// How many may fail when nothing is said: the first that does is looked at by a person.
pub const FAILURES_MAX_DEFAULT: u32 = 0;
/// How long the first must have run when nothing is said, in seconds.
pub const SOAK_S_DEFAULT: u32 = 600;
/// Longest that can be asked for, in seconds (a week).
const SOAK_S_MAX: u32 = 7 * 86_400;

/// `GET /api/rollout`.
///
/// # Errors
/// 401, 403, 404, 422.
pub async fn show(call: Call) -> Result<Response, ApiError> {
    call.authorize_unscoped(Role::Viewer).await?;
    let query = call.query(&["limit", "after"])?;
    let limit = page_limit(query.one("limit")?)?;
    let rollout = call.app.store.rollout(query.one("after")?, limit).await?;
    json(StatusCode::OK, &RolloutStatus { rollout })
}

/// `POST /api/rollout`.
///
/// # Errors
/// 401, 403, 409, 422, 503.
pub async fn start(mut call: Call) -> Result<Response, ApiError> {
    let actor = call.authorize_unscoped(Role::Owner).await?;
    call.query(&[])?;
    let request: RolloutRequest = call.json().await?;
    let soak_s = request.soak_s.unwrap_or(SOAK_S_DEFAULT);
    if soak_s > SOAK_S_MAX {
        return Err(ApiError::field("soak_s", format!("is {soak_s}; at most {SOAK_S_MAX} are allowed")));
    }
    crate::protocol::name::check_tags(&request.tags).map_err(|error| ApiError::field("tags", error))?;
    let app = Arc::clone(&call.app);
    let verified = tokio::task::spawn_blocking(move || app.releases.signed()).await;
    let releases = verified.map_err(ApiError::internal)??;
    let start = StartRollout {
        actor,
        releases,
        scope: Scope::of_tags(&request.tags),
        canary: request.canary.unwrap_or(CANARY_DEFAULT),
        failures_max: request.failures_max.unwrap_or(FAILURES_MAX_DEFAULT),
        soak_ms: i64::from(soak_s) * 1000,
        window: request.window,
        downgrade: request.downgrade,
    };
    let id = call.app.store.try_write(start).await?;
    tracing::info!(rollout = %id, "a rollout is started");
    call.app.releases.wake();
    answer(&call.app, StatusCode::CREATED).await
}

/// `POST /api/rollout/{change}`.
///
/// # Errors
/// 401, 403, 404, 409, 503.
pub async fn change(mut call: Call, change: &str) -> Result<Response, ApiError> {
    let actor = call.authorize_unscoped(Role::Owner).await?;
    call.query(&[])?;
    let change = match change {
        "pause" => RolloutChange::Pause,
        "resume" => RolloutChange::Resume,
        "stop" => RolloutChange::Stop,
        _ => return Err(ApiError::no_route()),
    };
    call.json::<Nothing>().await?;
    call.app.store.try_write(ChangeRollout { actor, change }).await?;
    call.app.releases.wake();
    answer(&call.app, StatusCode::OK).await
}

async fn answer(app: &App, status: StatusCode) -> Result<Response, ApiError> {
    json(status, &RolloutStatus { rollout: app.store.rollout(None, page_limit(None)?).await? })
}
