//! Health, readiness, metrics.

use super::app::App;
use super::call::{Call, json};
use super::error::ApiError;
use crate::crash;
use crate::protocol::http::HealthResponse;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use warp::reply::Response;

fn health(call: &Call, status: &str) -> HealthResponse {
    HealthResponse {
        status: status.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        server_id: call.app.store.server_id,
    }
}

/// Why submissions are not taken, if they are not.
pub fn unwell(app: &App) -> Option<String> {
    if app.tasks.stop_token().is_cancelled() {
        return Some("draining".to_owned());
    }
    if crash::is_broken("never-ready") {
        return Some("broken by a test".to_owned());
    }
    app.store.watch.fatal_reason().or_else(|| app.store.watch.refusal())
}

/// `GET /healthz`: the process answers.
///
/// # Errors
/// 401, 403.
pub async fn alive(call: Call) -> Result<Response, ApiError> {
    call.authorize_health().await?;
    json(StatusCode::OK, &health(&call, "ok"))
}

/// `GET /readyz`: submissions are taken. 503 with the reason when they are not.
///
/// # Errors
/// 401, 403.
pub async fn ready(call: Call) -> Result<Response, ApiError> {
    call.authorize_health().await?;
    match unwell(&call.app) {
        None => {
            // The database answers a read, too.
            call.app.store.outbox_size().await?;
            json(StatusCode::OK, &health(&call, "ok"))
        }
        Some(why) => json(StatusCode::SERVICE_UNAVAILABLE, &health(&call, &why)),
    }
}

/// `GET /metrics`.
///
/// # Errors
/// 401, 403.
pub async fn metrics(call: Call) -> Result<Response, ApiError> {
    call.authorize_health().await?;
    let app = &call.app;
    app.metrics.agents_connected.set(i64::try_from(app.presence.count()).unwrap_or(i64::MAX));
    app.metrics.outbox_deliveries.set(i64::try_from(app.store.outbox_size().await?).unwrap_or(i64::MAX));
    let mut response = Response::new(app.metrics.text().into());
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
