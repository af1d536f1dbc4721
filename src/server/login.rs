//! Operators' sessions over HTTP: a token, with its one-time password where it needs one, for a session that ends by itself.

use super::authorize::{COOKIE_NAME, Caller, Credential};
use super::call::{Call, json};
use super::error::ApiError;
use super::tokens::totp_context;
use super::totp;
use super::web_sessions::{Carrier, LIFE_MS};
use crate::protocol::access::{Role, SessionKind, SessionRequest, SessionResponse};
use crate::store::logins::{CloseLogin, OpenLogin};
use hyper::StatusCode;
use hyper::header::{HeaderValue, SET_COOKIE};
use warp::reply::Response;

/// `POST /api/session`, with the token itself.
///
/// # Errors
/// 401, 422, 429, 503.
pub async fn open(mut call: Call) -> Result<Response, ApiError> {
    let caller = call.known_caller().await?;
    call.query(&[])?;
    if caller.session.is_some() {
        let detail = "a session opens no other: send the token itself";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", detail));
    }
    // Owners too: each session is a row of the audit, which is kept for ever.
    if let Err(wait) = call.app.limits.login(caller.bearer.seq) {
        let detail = "this token opens too many sessions; use one of them, or come again";
        return Err(ApiError::too_many("too_many_requests", detail, wait));
    }
    let request: SessionRequest = call.json().await?;
    let totp_step =
        if caller.bearer.needs_code() { Some(step(&call, &caller, request.code.as_deref())?) } else { None };
    let (seq, hash) = (caller.bearer.seq, *caller.credential.hash());
    let actor = call.actor(&caller, Role::Viewer)?;
    let app = &call.app;
    let now_ms = app.store.clock.now_ms();
    let expires_ms = actor.expires_ms.unwrap_or(i64::MAX).min(now_ms + LIFE_MS);
    let answer = SessionResponse {
        token: None,
        csrf: None,
        expires_ms: Some(expires_ms),
        token_id: actor.token_id.ok_or_else(ApiError::unauthorized)?,
        name: actor.name.clone(),
        role: actor.role,
        scope: actor.scope.clone(),
    };
    if !app.store.try_write(OpenLogin { actor, totp_step, expires_ms }).await? {
        // Since the token was read: revoked, or asked for another password, or this one was used.
        return Err(wrong_code());
    }
    let carrier = match request.kind {
        SessionKind::Cookie => Carrier::Cookie,
        SessionKind::Bearer => Carrier::Bearer,
    };
    let secret = app.web_sessions.open(seq, totp_step.is_some(), carrier, now_ms);
    app.limits.succeeded(call.block(), hash);
    app.limits.succeeded(call.block(), secret.hash());
    if carrier == Carrier::Bearer {
        return json(StatusCode::CREATED, &SessionResponse { token: Some(secret.expose().to_owned()), ..answer });
    }
    let csrf = Some(app.web_sessions.csrf(&secret.hash()));
    let mut response = json(StatusCode::CREATED, &SessionResponse { csrf, ..answer })?;
    set_cookie(&mut response, secret.expose(), (expires_ms - now_ms) / 1000)?;
    Ok(response)
}

/// The time step of a password that is good now and was not used before.
fn step(call: &Call, caller: &Caller, code: Option<&str>) -> Result<i64, ApiError> {
    let (bearer, limits) = (&caller.bearer, &call.app.limits);
    let Some(code) = code else {
        let detail = "this token needs a one-time password: send {\"code\": \"123456\"} with it";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "totp_required", detail));
    };
    if let Some(wait) = limits.codes_locked(bearer.seq) {
        let detail = "too many wrong one-time passwords came with this token; come again later";
        return Err(ApiError::too_many("locked_out", detail, wait));
    }
    let secret = bearer.totp.as_ref().and_then(|sealed| call.app.seal.open(&totp_context(bearer.id), sealed));
    let Some(secret) = secret else {
        let detail = "the token's one-time password secret does not open with this server's seal.key: restore the key, or \
            turn one-time passwords off with another owner's token";
        return Err(ApiError::new(StatusCode::CONFLICT, "conflict", detail));
    };
    let step = totp::step_of(&secret, code, call.app.store.clock.now_ms()).filter(|step| *step > bearer.totp_step);
    step.ok_or_else(|| {
        limits.code_failed(bearer.seq);
        limits.failed(call.block(), None);
        wrong_code()
    })
}

fn wrong_code() -> ApiError {
    let detail = "the one-time password is wrong, or was used before: wait for the next one, and compare the authenticator's clock with the server's";
    ApiError::new(StatusCode::UNAUTHORIZED, "wrong_code", detail)
}

fn set_cookie(response: &mut Response, secret: &str, max_age_s: i64) -> Result<(), ApiError> {
    let cookie = format!("{COOKIE_NAME}={secret}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={max_age_s}");
    let mut value = HeaderValue::from_str(&cookie).map_err(ApiError::internal)?;
    value.set_sensitive(true);
    response.headers_mut().insert(SET_COOKIE, value);
    Ok(())
}

/// `GET /api/session`: who one is here, by session or by token.
///
/// # Errors
/// 401, 429.
pub async fn show(call: Call) -> Result<Response, ApiError> {
    let caller = call.caller().await?;
    call.query(&[])?;
    let csrf = match caller.credential {
        Credential::Session(hash, Carrier::Cookie) => Some(call.app.web_sessions.csrf(&hash)),
        _ => None,
    };
    let bearer = &caller.bearer;
    let session = caller.session.map(|session| session.expires_ms());
    let answer = SessionResponse {
        token: None,
        csrf,
        expires_ms: [session, bearer.expires_ms].into_iter().flatten().min(),
        token_id: bearer.id,
        name: bearer.name.clone(),
        role: bearer.role,
        scope: bearer.scope.clone(),
    };
    json(StatusCode::OK, &answer)
}

/// `DELETE /api/session`: logs out.
///
/// # Errors
/// 401, 403, 404, 429, 503.
pub async fn close(call: Call) -> Result<Response, ApiError> {
    let caller = call.caller().await?;
    call.query(&[])?;
    if caller.session.is_none() {
        let detail = "this came with a token, and no session; a token is revoked";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", detail));
    }
    let hash = *caller.credential.hash();
    let actor = call.actor(&caller, Role::Viewer)?;
    call.app.web_sessions.end(&hash);
    call.app.store.try_write(CloseLogin { actor }).await?;
    let mut response = json(StatusCode::OK, &serde_json::json!({}))?;
    set_cookie(&mut response, "", 0)?;
    Ok(response)
}
