//! Agents: listed and shown with their presence, approved, revoked.

use super::app::App;
use super::call::{Call, json, json_text};
use super::commands::{Nothing, page_limit};
use super::error::ApiError;
use crate::protocol::access::Role;
use crate::protocol::name::{Tags, parse_tag};
use crate::store::agent_json::Online;
use crate::store::agents::{ApproveAgent, RevokeAgent};
use hyper::StatusCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use warp::reply::Response;

/// Who is connected, as answers show it.
fn online(app: &Arc<App>) -> impl Fn(i64) -> Option<Online> + Send + use<> {
    let app = Arc::clone(app);
    move |agent_seq| {
        app.presence.get(agent_seq).map(|standing| Online {
            epoch: standing.epoch,
            connected_ms: standing.connected.wall_ms,
            proven_ms: standing.proven_ms.load(Ordering::Relaxed),
        })
    }
}

/// `GET /api/agents`.
///
/// # Errors
/// 401, 403, 404, 422.
pub async fn list(call: Call) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Viewer).await?;
    let query = call.query(&["limit", "after", "tag"])?;
    let limit = page_limit(query.one("limit")?)?;
    let tags: Tags = query
        .all("tag")
        .iter()
        .map(|tag| parse_tag(tag))
        .collect::<Result<_, _>>()
        .map_err(|error| ApiError::field("tag", error))?;
    let (store, online) = (&call.app.store, online(&call.app));
    Ok(json_text(StatusCode::OK, store.agents(query.one("after")?, tags, limit, actor.scope, online).await?))
}

/// `GET /api/agents/{id or name}`.
///
/// # Errors
/// 401, 403, 404, 409.
pub async fn show(call: Call, key: String) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Viewer).await?;
    call.query(&[])?;
    Ok(json_text(StatusCode::OK, call.app.store.agent(key, actor.scope, online(&call.app)).await?))
}

/// `DELETE /api/agents/{id or name}`.
///
/// # Errors
/// 401, 403, 404, 409, 503.
pub async fn revoke(call: Call, key: String) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Owner).await?;
    call.query(&[])?;
    let revoked = call.app.store.try_write(RevokeAgent { actor, key }).await?;
    json(StatusCode::OK, &revoked)
}

/// `POST /api/agents/{id or name}/approve`.
///
/// # Errors
/// 401, 403, 404, 409, 503.
pub async fn approve(mut call: Call, key: String) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Owner).await?;
    call.query(&[])?;
    call.json::<Nothing>().await?;
    let approved = call.app.store.try_write(ApproveAgent { actor, key }).await?;
    json(StatusCode::OK, &approved)
}
