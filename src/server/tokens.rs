//! Operators' tokens: made, listed, revoked, and given one-time passwords. Only owners do any of it, and one with a scope
//! sees no token that reaches beyond it.

use super::authorize::unscoped;
use super::call::{Call, json};
use super::commands::id;
use super::error::ApiError;
use super::joins::expires_ms;
use super::serve::TOKEN_PREFIX;
use super::totp;
use crate::protocol::access::{Role, TokenRequest, TokensResponse, TotpRequest, TotpResponse};
use crate::protocol::ids::TokenId;
use crate::secret::Secret;
use crate::store::audit::Actor;
use crate::store::tokens::{CreateToken, RevokeToken, TokenKey};
use crate::store::totp::{ClearTotp, ProveTotp, SetTotp};
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
    let actor = call.authorize(Role::Owner).await?;
    call.query(&[])?;
    json(StatusCode::OK, &TokensResponse { tokens: call.app.store.tokens(actor.scope).await? })
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

/// Under which a token's secret is sealed.
pub fn totp_context(id: TokenId) -> Vec<u8> {
    format!("totp {id}").into_bytes()
}

/// A secret is for whoever holds the token alone: other owners would know their passwords.
fn own(actor: &Actor, id: TokenId) -> Result<(), ApiError> {
    if actor.token_id == Some(id) {
        return Ok(());
    }
    let detail = "one-time passwords are turned on with the token itself, by whoever holds it";
    Err(ApiError::new(StatusCode::FORBIDDEN, "not_your_token", detail))
}

/// `POST /api/tokens/{id}/totp`: a fresh secret, not in force before a password proves that it arrived.
///
/// # Errors
/// 401, 403, 404, 409, 503.
pub async fn totp_new(call: Call, token: &str) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Owner).await?;
    call.query(&[])?;
    let id = id(token)?;
    own(&actor, id)?;
    let secret = totp::new_secret();
    let response = TotpResponse { secret: totp::base32(&secret), url: totp::url(&actor.name, &secret) };
    let sealed = call.app.seal.seal(&totp_context(id), &secret);
    call.app.store.try_write(SetTotp { actor, id, sealed }).await?;
    json(StatusCode::CREATED, &response)
}

/// `PUT /api/tokens/{id}/totp`: the password that puts the secret in force. From then on the token alone opens sessions only.
///
/// # Errors
/// 401, 403, 404, 409, 422, 503.
pub async fn totp_prove(mut call: Call, token: &str) -> Result<Response, ApiError> {
    let caller = call.caller().await?;
    let (credential, session) = (caller.credential, caller.session);
    let actor = call.actor(&caller, Role::Owner)?;
    call.query(&[])?;
    let id = id(token)?;
    own(&actor, id)?;
    let request: TotpRequest = call.json().await?;
    let app = &call.app;
    let none = || ApiError::new(StatusCode::CONFLICT, "conflict", "there is no secret to prove: ask for one first");
    let seq = actor.token_seq.unwrap_or_default();
    let bearer = app.store.bearer(TokenKey::Seq(seq)).await?.ok_or_else(ApiError::unauthorized)?;
    let sealed = bearer.totp.clone().filter(|_| bearer.totp_step == 0).ok_or_else(none)?;
    let secret = app.seal.open(&totp_context(id), &sealed).ok_or_else(none)?;
    let step = totp::step_of(&secret, &request.code, app.store.clock.now_ms()).ok_or_else(|| {
        ApiError::field("code", "is not what the authenticator shows now; compare its clock with the server's")
    })?;
    if !app.store.try_write(ProveTotp { actor, id, sealed, step }).await? {
        return Err(none());
    }
    app.web_sessions.keep_only(seq, session.map(|_| credential.hash()));
    json(StatusCode::OK, &serde_json::json!({}))
}

/// `DELETE /api/tokens/{id}/totp`, by whoever holds the token (in a session, so with a password), or by an owner without a scope.
///
/// # Errors
/// 401, 403, 404, 503.
pub async fn totp_off(call: Call, token: &str) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Owner).await?;
    call.query(&[])?;
    let id = id(token)?;
    if actor.token_id != Some(id) {
        unscoped(&actor)?;
    }
    call.app.store.try_write(ClearTotp { actor, id }).await?;
    json(StatusCode::OK, &serde_json::json!({}))
}
