//! Join strings: made, listed, revoked.

use super::call::{Call, json};
use super::commands::id;
use super::error::ApiError;
use super::install::line;
use crate::http_client::ServerUrl;
use crate::protocol::access::{JoinRequest, JoinsResponse, Role};
use crate::protocol::join::JoinString;
use crate::protocol::name::{Tags, check_tags};
use crate::protocol::scope::SITE;
use crate::secret::Secret;
use crate::store::joins::{CreateJoin, RevokeJoin};
use hyper::StatusCode;
use warp::reply::Response;

/// Good for this long when nothing is said, in seconds.
pub const EXPIRES_S_DEFAULT: f64 = 86_400.0;
/// Longest life of a join string or limited token, in seconds (a year).
pub const EXPIRES_S_MAX: f64 = 365.0 * 86_400.0;
/// Most agents of one join string.
pub const USES_MAX: u32 = 10_000;

/// Reads a life time, in milliseconds.
///
/// # Errors
/// 422 outside one second to a year.
pub fn expires_ms(seconds: f64) -> Result<i64, ApiError> {
    if (1.0..=EXPIRES_S_MAX).contains(&seconds) {
        Ok((seconds * 1000.0) as i64)
    } else {
        Err(ApiError::field("expires_s", format!("is {seconds}; 1 to {EXPIRES_S_MAX} seconds are allowed")))
    }
}

/// `POST /api/join`.
///
/// # Errors
/// 401, 403, 422, 503.
pub async fn create(mut call: Call) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Owner).await?;
    call.query(&[])?;
    let request: JoinRequest = call.json().await?;
    let uses_max = request.uses.unwrap_or(1);
    if !(1..=USES_MAX).contains(&uses_max) {
        return Err(ApiError::field("uses", format!("is {uses_max}; 1 to {USES_MAX} are allowed")));
    }
    let life_ms = expires_ms(request.expires_s.unwrap_or(EXPIRES_S_DEFAULT))?;
    let url = match request.server_url {
        None => call.app.url.clone(),
        Some(url) => ServerUrl::parse(&url).map_err(|error| ApiError::field("server_url", error))?,
    };
    if call.app.tls.is_some() && !url.is_tls() {
        return Err(ApiError::field("server_url", "is an http:// address, but this server speaks TLS: say https://"));
    }
    if !url.is_tls() && !url.is_loopback() {
        let message = format!(
            "would be {url}, where the secret and all commands travel in clear: name the proxy's https:// address, or start the server with --public-url"
        );
        return Err(ApiError::field("server_url", message));
    }
    let pins = call.app.pins_for(&url);
    let tags = tags(request.tags, request.site)?;
    let store = &call.app.store;
    let secret = Secret::generate("");
    let expires_ms = store.clock.now_ms() + life_ms;
    let operation = CreateJoin { actor, hash: secret.hash(), uses_max, expires_ms, tags, approve: request.approve };
    let mut made = store.try_write(operation).await?;
    let join = JoinString { url: url.to_string(), server_id: store.server_id, secret, pins }.encode();
    made.install = Some(line::line(&call.app, &url, &join));
    made.join = Some(join);
    json(StatusCode::CREATED, &made)
}

/// The tags of a join string's agents: `site` is short for the tag of that name.
fn tags(mut tags: Tags, site: Option<String>) -> Result<Tags, ApiError> {
    if let Some(site) = site
        && let Some(other) = tags.insert(SITE.to_owned(), site.clone())
        && other != site
    {
        return Err(ApiError::field("site", format!("is {site:?}, and the tag site is {other:?}: give one of them")));
    }
    check_tags(&tags).map_err(|error| ApiError::field("tags", error))?;
    Ok(tags)
}

/// `GET /api/join`.
///
/// # Errors
/// 401, 403.
pub async fn list(call: Call) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Owner).await?;
    call.query(&[])?;
    json(StatusCode::OK, &JoinsResponse { joins: call.app.store.joins(actor.scope).await? })
}

/// `DELETE /api/join/{id}`.
///
/// # Errors
/// 401, 403, 404, 503.
pub async fn revoke(call: Call, join: &str) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Owner).await?;
    call.query(&[])?;
    call.app.store.try_write(RevokeJoin { actor, id: id(join)? }).await?;
    json(StatusCode::OK, &serde_json::json!({}))
}
