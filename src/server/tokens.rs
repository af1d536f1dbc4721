//! Operators' tokens: made, listed, revoked. Only owners do any of it.

use super::call::{Call, json};
use super::commands::id;
use super::error::ApiError;
use super::joins::expires_ms;
use super::serve::TOKEN_PREFIX;
use crate::protocol::access::{Role, TokenRequest, TokensResponse};
use crate::secret::Secret;
use crate::store::tokens::{CreateToken, RevokeToken};
use hyper::StatusCode;
use warp::reply::Response;

/// `POST /api/tokens`.
///
/// # Errors
/// 401, 403, 409, 422, 503.
pub async fn create(mut call: Call) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Owner).await?;
    call.query(&[])?;
    let request: TokenRequest = call.json().await?;
    let scope = request.scope.unwrap_or_else(|| actor.scope.clone());
    scope.check().map_err(|error| ApiError::field("scope", error))?;
    let store = &call.app.store;
    let life_ms = request.expires_s.map(expires_ms).transpose()?;
    let expires_ms = life_ms.map(|life_ms| store.clock.now_ms() + life_ms).or(actor.expires_ms);
    let token = Secret::generate(TOKEN_PREFIX);
    let name = request.name.to_string();
    let operation = CreateToken { actor, name, role: request.role, scope, hash: token.hash(), expires_ms };
    let mut made = store.try_write(operation).await?;
    made.token = Some(token.expose().to_owned());
    json(StatusCode::CREATED, &made)
}

/// `GET /api/tokens`.
///
/// # Errors
/// 401, 403.
pub async fn list(call: Call) -> Result<Response, ApiError> {
    call.authorize(Role::Owner).await?;
    call.query(&[])?;
    json(StatusCode::OK, &TokensResponse { tokens: call.app.store.tokens().await? })
}

/// `DELETE /api/tokens/{id}`.
///
/// # Errors
/// 401, 403, 404, 409, 503.
pub async fn revoke(call: Call, token: &str) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Owner).await?;
    call.query(&[])?;
    call.app.store.try_write(RevokeToken { actor, id: id(token)? }).await?;
    json(StatusCode::OK, &serde_json::json!({}))
}
