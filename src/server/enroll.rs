//! What agents ask over HTTP: to be enrolled, and for specifications too large for a frame.

use super::call::{Call, json, parse_json};
use super::commands::id;
use super::error::ApiError;
use crate::protocol::access::{EnrollRequest, EnrollResponse};
use crate::protocol::name::check_tags;
use crate::secret::Secret;
use crate::store::enroll::{Enroll, Enrolled, JOIN_UNKNOWN};
use crate::store::error::StoreError;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use warp::reply::Response;

/// Largest enrollment, in bytes: a name, a key and 32 tags. Strangers may send it, so it is small.
pub const ENROLL_BYTES_MAX: usize = 16 * 1024;

/// `POST /api/enroll`. The join string's secret is the right to do so.
///
/// # Errors
/// 403, 409, 413, 422, 503.
pub async fn enroll(mut call: Call) -> Result<Response, ApiError> {
    call.query(&[])?;
    call.refuse_locked_out(None)?;
    let request: EnrollRequest = parse_json(&call.bytes(ENROLL_BYTES_MAX).await?)?;
    check_tags(&request.tags).map_err(|error| ApiError::field("tags", error))?;
    let public_key = URL_SAFE_NO_PAD
        .decode(&request.public_key)
        .ok()
        .and_then(|key| <[u8; 32]>::try_from(key).ok())
        .ok_or_else(|| ApiError::field("public_key", "is not 32 bytes in URL-safe base64 without padding"))?;
    let store = &call.app.store;
    let operation = Enroll {
        peer: Some(call.connection.peer.to_string()),
        secret_hash: Secret::new(request.secret).hash(),
        public_key,
        name: request.name,
        tags: request.tags,
    };
    // Few at one time, as with other secrets: wrong ones must not fill the database's queue.
    let _permit = call.app.limits.checks.acquire().await.map_err(ApiError::internal)?;
    call.refuse_locked_out(None)?;
    let enrolled = store.try_write(operation).await.inspect_err(|error| {
        if matches!(error, StoreError::JoinRefused(JOIN_UNKNOWN)) {
            call.app.limits.failed(call.block(), None);
        }
    })?;
    let Enrolled { id, name, pending } = enrolled;
    tracing::info!(agent = %id, %name, pending, peer = %call.connection.peer, "agent enrolled");
    let response = EnrollResponse { agent_id: id, name, server_id: store.server_id, pending };
    json(StatusCode::CREATED, &response)
}

/// `GET /agent/deliveries/{id}/spec`, with the fetch token of a session.
///
/// # Errors
/// 401, 404.
pub async fn spec(call: Call, delivery: &str) -> Result<Response, ApiError> {
    let token = call.bearer().ok_or_else(ApiError::unauthorized)?;
    let agent = call.app.fetch_token_agent(token.expose()).ok_or_else(ApiError::unauthorized)?;
    let spec = call.app.store.spec_for(agent, id(delivery)?).await?;
    let mut response = Response::new(spec.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
