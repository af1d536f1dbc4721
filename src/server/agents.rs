//! Agents: listed and shown with their presence, approved, revoked.

use super::app::App;
use super::call::{Call, json};
use super::commands::{Nothing, page_limit};
use super::error::ApiError;
use crate::protocol::access::Role;
use crate::protocol::http::{AgentResponse, AgentsResponse};
use crate::protocol::name::{Tags, parse_tag};
use crate::store::agents::{AgentRow, ApproveAgent, RevokeAgent};
use hyper::StatusCode;
use std::sync::atomic::Ordering;
use warp::reply::Response;

fn with_presence(app: &App, row: AgentRow) -> AgentResponse {
    let mut response = row.response;
    if let Some(standing) = app.presence.get(row.seq) {
        response.online = true;
        response.epoch = standing.epoch;
        response.connected_ms = Some(standing.connected.wall_ms);
        response.proven_ms = Some(standing.proven_ms.load(Ordering::Relaxed));
    }
    response
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
    let mut rows = call.app.store.agents(query.one("after")?, tags, limit + 1, actor.scope).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| more).map(|row| row.response.id);
    let agents = rows.into_iter().map(|row| with_presence(&call.app, row)).collect();
    json(StatusCode::OK, &AgentsResponse { agents, next })
}

/// `GET /api/agents/{id or name}`.
///
/// # Errors
/// 401, 403, 404, 409.
pub async fn show(call: Call, key: String) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Viewer).await?;
    call.query(&[])?;
    let row = call.app.store.agent(key, actor.scope).await?;
    json(StatusCode::OK, &with_presence(&call.app, row))
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
