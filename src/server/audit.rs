//! The audit, for owners whose token reaches all agents: its rows tell of all of them.

use super::call::{Call, json};
use super::commands::page_limit;
use super::error::ApiError;
use crate::protocol::access::Role;
use crate::store::trail::Page;
use hyper::StatusCode;
use warp::reply::Response;

/// `GET /api/audit`.
///
/// # Errors
/// 401, 403, 422.
pub async fn list(call: Call) -> Result<Response, ApiError> {
    call.authorize_unscoped(Role::Owner).await?;
    let query = call.query(&["after", "before", "limit"])?;
    let page = match (query.one("after")?, query.one("before")?) {
        (Some(_), Some(_)) => return Err(ApiError::field("before", "does not go with after; give one of them")),
        (after, None) => Page::After(after.unwrap_or(0)),
        (None, Some(before)) => Page::Before(before),
    };
    json(StatusCode::OK, &call.app.store.audit(page, page_limit(query.one("limit")?)?).await?)
}
