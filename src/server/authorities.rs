//! The server's authorities: listed, made, retired. Only owners do any of it.

use super::app::App;
use super::call::{Call, json};
use super::error::ApiError;
use super::folder::PINS_FILE;
use super::tls::authorities::AuthorityError;
use super::tls::start::Tls;
use crate::pin::Pin;
use crate::protocol::access::Role;
use crate::protocol::authorities::{AuthoritiesResponse, AuthorityResponse};
use crate::protocol::close::CloseReason;
use crate::store::authorities::{CreateAuthority, RetireAuthority};
use hyper::StatusCode;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::oneshot;
use warp::reply::Response;

/// `GET /api/authorities`.
///
/// # Errors
/// 401, 403, 409 where no TLS is spoken.
pub async fn list(call: Call) -> Result<Response, ApiError> {
    call.authorize_unscoped(Role::Owner).await?;
    call.query(&[])?;
    let tls = tls(&call.app)?;
    json(StatusCode::OK, &response(&call.app, &tls).await?)
}

/// `POST /api/authorities`: makes another one, which is the newest, and has all agents come back to learn of it.
///
/// # Errors
/// 401, 403, 409, 503.
pub async fn create(call: Call) -> Result<Response, ApiError> {
    let actor = call.authorize_unscoped(Role::Owner).await?;
    call.query(&[])?;
    let app = Arc::clone(&call.app);
    let tls = tls(&app)?;
    let now_ms = app.store.clock.now_ms();
    detached(&app.clone(), async move {
        let pin = on_disk(&tls, move |tls| tls.authorities.create(now_ms)).await?;
        app.presence.end_all(CloseReason::AuthorityChanged);
        tracing::info!(%pin, "another authority is the newest; agents come back to learn of it");
        app.store.write(CreateAuthority { actor, pin }).await?;
        write_pins(&tls).await?;
        json(StatusCode::CREATED, &response(&app, &tls).await?)
    })
    .await
}

/// `DELETE /api/authorities/{pin}`: whoever knows no newer one is a stranger from then on.
///
/// # Errors
/// 401, 403, 404, 409 for the newest, or while agents depend on it and nobody says `?force=true`; 503.
pub async fn retire(call: Call, pin: &str) -> Result<Response, ApiError> {
    let actor = call.authorize_unscoped(Role::Owner).await?;
    let force = call.query(&["force"])?.one("force")?.unwrap_or(false);
    let app = Arc::clone(&call.app);
    let tls = tls(&app)?;
    let pin: Pin = pin.parse().map_err(|error| ApiError::field("pin", error))?;
    tls.authorities.check_retirement(pin)?;
    detached(&app.clone(), async move {
        app.store.try_write(RetireAuthority { actor, pin, force }).await?;
        let now_ms = app.store.clock.now_ms();
        on_disk(&tls, move |tls| tls.authorities.retire(pin, now_ms)).await?;
        tracing::info!(%pin, "an authority is retired");
        write_pins(&tls).await?;
        // They come back and forget it: its key may be in other hands.
        app.presence.end_all(CloseReason::AuthorityChanged);
        json(StatusCode::OK, &serde_json::json!({}))
    })
    .await
}

/// Goes on to its end though the caller may go: half of a change must not be left.
async fn detached(
    app: &App,
    work: impl Future<Output = Result<Response, ApiError>> + Send + 'static,
) -> Result<Response, ApiError> {
    let (sender, answer) = oneshot::channel();
    app.tasks.spawn("authorities", async move {
        // Whether anybody waits for it changes nothing.
        let _ = sender.send(work.await);
    });
    answer.await.map_err(ApiError::internal)?
}

fn tls(app: &App) -> Result<Arc<Tls>, ApiError> {
    app.tls.clone().ok_or_else(|| {
        let detail = "this server speaks plain HTTP and has no authorities; \
                      `postrider serve` without --behind-proxy speaks TLS";
        ApiError::new(StatusCode::CONFLICT, "no_tls", detail)
    })
}

async fn response(app: &App, tls: &Tls) -> Result<AuthoritiesResponse, ApiError> {
    let agents = app.store.authority_agents().await?;
    let row = |(at, (pin, created_ms)): (usize, (Pin, i64))| AuthorityResponse {
        pin,
        created_ms,
        newest: at == 0,
        agents: agents.get(&pin).copied().unwrap_or(0),
    };
    let authorities = tls.authorities.list().into_iter().enumerate().map(row).collect();
    Ok(AuthoritiesResponse { authorities, login: app.login_string() })
}

/// Work on files.
async fn on_disk<T: Send + 'static>(
    tls: &Arc<Tls>,
    work: impl FnOnce(&Tls) -> Result<T, AuthorityError> + Send + 'static,
) -> Result<T, ApiError> {
    let tls = Arc::clone(tls);
    tokio::task::spawn_blocking(move || work(&tls)).await.map_err(ApiError::internal)?.map_err(ApiError::from)
}

/// For the command line on this host.
async fn write_pins(tls: &Arc<Tls>) -> Result<(), ApiError> {
    on_disk(tls, |tls| tls.write_pins().map_err(AuthorityError::from)).await.inspect_err(|_| {
        tracing::warn!("the file {PINS_FILE} of the data folder could not be written; the next start does it");
    })
}

impl From<AuthorityError> for ApiError {
    fn from(error: AuthorityError) -> Self {
        let detail = error.to_string();
        match error {
            AuthorityError::Full => ApiError::new(StatusCode::CONFLICT, "too_many", detail),
            AuthorityError::Newest => ApiError::new(StatusCode::CONFLICT, "newest", detail),
            AuthorityError::Unknown(_) => {
                ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("{detail}; GET /api/authorities lists them"))
            }
            AuthorityError::Folder(_) | AuthorityError::Damaged { .. } | AuthorityError::Make(_) => {
                ApiError::internal(detail)
            }
        }
    }
}
