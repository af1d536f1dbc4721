//! Commands: history, one with everything that happened, stored output, approval, cancel.

use super::call::{Call, json};
use super::error::ApiError;
use crate::protocol::access::Role;
use crate::protocol::http::{PAGE_DEFAULT, PAGE_MAX};
use crate::protocol::ids::CommandId;
use crate::protocol::output::Stream;
use crate::store::approval::ApproveCommand;
use crate::store::cancel::Cancel;
use crate::store::history::HistoryFilter;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use warp::reply::Response;

/// Reads a `limit` parameter.
///
/// # Errors
/// 422 outside 1 to [`PAGE_MAX`].
pub fn page_limit(limit: Option<u32>) -> Result<u32, ApiError> {
    match limit.unwrap_or(PAGE_DEFAULT) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        limit => Err(ApiError::field("limit", format!("is {limit}; 1 to {PAGE_MAX} are allowed"))),
    }
}

/// Reads an id in a path. What is no id is not found either.
///
/// # Errors
/// 404.
pub fn id<T: std::str::FromStr>(text: &str) -> Result<T, ApiError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| ApiError::new(StatusCode::NOT_FOUND, "not_found", error.to_string()))
}

/// `GET /api/commands`.
///
/// # Errors
/// 401, 403, 404, 409, 422.
pub async fn list(call: Call) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Viewer).await?;
    let query = call.query(&["state", "agent", "limit", "before"])?;
    let filter = HistoryFilter {
        state: query.one("state")?,
        agent: query.one("agent")?,
        before: query.one("before")?,
        limit: page_limit(query.one("limit")?)?,
        scope: actor.scope,
    };
    json(StatusCode::OK, &call.app.store.history(filter).await?)
}

/// `GET /api/commands/{id}`.
///
/// # Errors
/// 401, 403, 404.
pub async fn show(call: Call, command: &str) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Viewer).await?;
    call.query(&[])?;
    let command = call.app.store.command(id(command)?, true, actor.scope).await?;
    json(StatusCode::OK, &command.response)
}

/// `GET /api/commands/{id}/output`. The header `x-postrider-start` is the position of the first byte (after `from` where
/// bytes between were dropped); an answer ends where a gap begins. `x-postrider-next` says where to go on; an empty body there means that
/// nothing more is stored, and `x-postrider-ended: true` that nothing more will come.
///
/// # Errors
/// 401, 403, 404, 409, 422.
pub async fn output(call: Call, command: &str) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Viewer).await?;
    let query = call.query(&["agent", "stream", "from"])?;
    let stream = query.one("stream")?.unwrap_or(Stream::Stdout);
    let from = query.one("from")?.unwrap_or(0);
    let read = call.app.store.output(id(command)?, query.one("agent")?, stream, from, actor.scope).await?;
    let mut response = Response::new(read.bytes.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(HeaderName::from_static("x-postrider-start"), HeaderValue::from(read.start));
    headers.insert(HeaderName::from_static("x-postrider-next"), HeaderValue::from(read.next));
    let ended = HeaderValue::from_static(if read.ended { "true" } else { "false" });
    headers.insert(HeaderName::from_static("x-postrider-ended"), ended);
    // Output is what a machine of a customer wrote: nobody's browser may take it for a page.
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// `POST /api/commands/{id}/approve`.
///
/// # Errors
/// 401, 403, 404, 409, 503.
pub async fn approve(mut call: Call, command: &str) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Technician).await?;
    call.query(&[])?;
    call.json::<Nothing>().await?;
    let command: CommandId = id(command)?;
    json(StatusCode::OK, &call.app.store.try_write(ApproveCommand { actor, command }).await?)
}

/// `POST /api/commands/{id}/cancel`.
///
/// # Errors
/// 401, 403, 404, 503.
pub async fn cancel(mut call: Call, command: &str) -> Result<Response, ApiError> {
    let actor = call.authorize(Role::Technician).await?;
    call.query(&[])?;
    call.json::<Nothing>().await?;
    let command: CommandId = id(command)?;
    let cancelled = call.app.store.try_write(Cancel { actor, command }).await?;
    json(StatusCode::ACCEPTED, &cancelled.response)
}

/// A body without fields.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}
