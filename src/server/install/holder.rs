//! Who gets the script and the executables: whoever holds a join string that is still good, or is an agent.
//!
//! Looking uses nothing of a join string up: only an enrollment does.

use crate::protocol::join::{JOIN_PREFIX, JoinString};
use crate::server::call::Call;
use crate::server::error::ApiError;
use crate::store::enroll::JOIN_UNKNOWN;
use crate::store::error::StoreError;
use hyper::StatusCode;

/// The join string, if an agent could enroll with it now. A wrong secret counts for the caller's address.
///
/// # Errors
/// 403, 429.
pub async fn join(call: &Call, text: &str) -> Result<JoinString, ApiError> {
    call.refuse_locked_out(None)?;
    let refused = |why: String| ApiError::new(StatusCode::FORBIDDEN, "join_refused", why);
    let join = JoinString::decode(text).map_err(|error| refused(error.to_string()))?;
    if join.server_id != call.app.store.server_id {
        return Err(refused(
            "the join string is another server's: make one with `postrider join create` here".to_owned(),
        ));
    }
    // Few at one time, as with other secrets.
    let _permit = call.app.limits.checks.acquire().await.map_err(ApiError::internal)?;
    call.refuse_locked_out(None)?;
    call.app.store.join_is_good(join.secret.hash()).await.inspect_err(|error| {
        if matches!(error, StoreError::JoinRefused(JOIN_UNKNOWN)) {
            call.app.limits.failed(call.block(), None);
        }
    })?;
    Ok(join)
}

/// Whether the request shows a good join string, or the token that an agent's session was given.
///
/// # Errors
/// 401, 403, 429.
pub async fn authorize(call: &Call) -> Result<(), ApiError> {
    let nobody = || {
        let detail =
            "a join string is needed, or the token of an agent's session: send 'Authorization: Bearer JOINSTRING'";
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    };
    let bearer = call.bearer().ok_or_else(nobody)?;
    if bearer.expose().starts_with(JOIN_PREFIX) {
        return join(call, bearer.expose()).await.map(drop);
    }
    let agent = call.app.fetch_token_agent(bearer.expose()).ok_or_else(nobody)?;
    match call.app.store.agent_key(agent).await? {
        Some(agent) if !agent.revoked => Ok(()),
        _ => Err(nobody()),
    }
}
