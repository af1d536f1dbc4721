//! Who calls: a token or a session, good or not, and for how long what it began may go on.
//!
//! Each request is judged by its token's row as the database has it, which is known in memory (`store/bearers.rs`), so
//! revoking it works at once. What fails counts for the address it comes from, and an address that failed too often is refused
//! before anything is read.

use super::app::App;
use super::block::Block;
use super::call::Call;
use super::error::ApiError;
use super::limits::CredentialHash;
use super::web_sessions::{Carrier, SESSION_PREFIX, WebSession};
use crate::protocol::access::Role;
use crate::secret::{SECRET_PREFIXES, Secret};
use crate::store::audit::Actor;
use crate::store::error::StoreError;
use crate::store::logins::{USE_MS, UseToken};
use crate::store::tokens::{Bearer, TokenKey};
use hyper::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use std::sync::Arc;
use std::time::Duration;

/// The session's cookie. Browsers take the prefix as a promise: from this host alone, over TLS alone.
pub const COOKIE_NAME: &str = "__Host-postrider";
/// The header that unsafe requests with the cookie need.
pub const CSRF_HEADER: &str = "x-postrider-csrf";
/// What was begun with a token looks this often, without being rung for, whether the token is still good.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// When it looks for the first time: the token may have been revoked between its row was read and the bell was listened to.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// Query parameters under which a secret may have been sent.
const SECRET_PARAMETERS: [&str; 6] = ["token", "access_token", "authorization", "bearer", "api_key", "apikey"];

/// The code of the error for a token in the address.
pub const TOKEN_IN_QUERY: &str = "token_in_query";
/// A value this long that begins like a secret of ours is one, whatever the parameter is called.
const SECRET_CHARS_MIN: usize = 40;

/// What a request shows.
#[derive(Clone, Copy, Debug)]
pub enum Credential {
    /// A token, by its hash.
    Token(CredentialHash),
    /// A session, by its hash.
    Session(CredentialHash, Carrier),
}

impl Credential {
    /// The hash of its secret.
    pub fn hash(&self) -> &CredentialHash {
        match self {
            Credential::Token(hash) | Credential::Session(hash, _) => hash,
        }
    }
}

/// Who calls.
#[derive(Debug)]
pub struct Caller {
    /// What they showed.
    pub credential: Credential,
    /// Their token's row.
    pub bearer: Arc<Bearer>,
    /// Their session; none: they showed the token itself.
    pub session: Option<WebSession>,
}

impl Caller {
    /// Whether a one-time password is needed and was not given.
    fn lacks_code(&self) -> bool {
        self.bearer.needs_code() && !self.session.is_some_and(|session| session.coded)
    }

    /// When they are good no longer, if nothing happens until then.
    fn ends_ms(&self) -> Option<i64> {
        [self.bearer.expires_ms, self.session.map(|session| session.ends_ms())].into_iter().flatten().min()
    }
}

/// Looks a credential up. None: it is not good.
async fn look_up(app: &App, credential: Credential) -> Result<Option<Caller>, StoreError> {
    let (key, session) = match credential {
        Credential::Token(hash) => (TokenKey::Hash(hash), None),
        Credential::Session(hash, carrier) => match app.web_sessions.get(&hash, carrier, app.store.clock.now_ms()) {
            Some(session) => (TokenKey::Seq(session.token_seq), Some(session)),
            None => return Ok(None),
        },
    };
    Ok(app.store.bearer(key).await?.map(|bearer| Caller { credential, bearer, session }))
}

/// A request that goes on for long, and what it was begun with.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    credential: Credential,
    token_seq: i64,
    ends_ms: Option<i64>,
}

impl Held {
    /// Ends when the credential is good no longer: revoked, expired, logged out.
    pub async fn over(self, app: &App) {
        let tokens = &app.store.watch.tokens;
        let left = |ends_ms: Option<i64>, tick: Duration| {
            let left = ends_ms.map(|at_ms| u64::try_from(at_ms - app.store.clock.now_ms()).unwrap_or(0));
            tokio::time::sleep(left.map_or(tick, |ms| Duration::from_millis(ms).min(tick)))
        };
        // The credential was looked up a moment ago: what is over soon costs no second look.
        tokio::select! {
            () = tokens.listen(self.token_seq) => {}
            () = left(self.ends_ms, FIRST_LOOK) => {}
        }
        loop {
            // Listen before looking, or a change in between is missed.
            let rung = tokens.listen(self.token_seq);
            let caller = match look_up(app, self.credential).await {
                Ok(Some(caller)) if !caller.lacks_code() => caller,
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, "a token could not be read: the event streams that it opened end; clients come again");
                    return;
                }
            };
            tokio::select! {
                () = rung => {}
                () = left(caller.ends_ms(), LOOK_EVERY) => {}
            }
        }
    }
}

/// Whether the actor reaches all agents.
///
/// # Errors
/// 403.
pub fn unscoped(actor: &Actor) -> Result<(), ApiError> {
    if actor.scope.is_all() {
        return Ok(());
    }
    let detail = format!("this concerns all agents; the token reaches only {}", actor.scope);
    Err(ApiError::new(StatusCode::FORBIDDEN, "scope_too_narrow", detail))
}

impl Call {
    /// The caller, if the token is good for `role`.
    ///
    /// # Errors
    /// 401 without a good token, 403 for a role too low or a cookie alone, 429 for too many requests or failures.
    pub async fn authorize(&self, role: Role) -> Result<Actor, ApiError> {
        let caller = self.caller().await?;
        self.actor(&caller, role)
    }

    /// The same, for what concerns everybody: agents of all scopes.
    ///
    /// # Errors
    /// As [`Call::authorize`]; 403 for a token with a scope.
    pub async fn authorize_unscoped(&self, role: Role) -> Result<Actor, ApiError> {
        let actor = self.authorize(role).await?;
        unscoped(&actor)?;
        Ok(actor)
    }

    /// The same with what was shown, for a request that goes on for long.
    ///
    /// # Errors
    /// As [`Call::authorize`].
    pub async fn authorize_held(&self, role: Role) -> Result<(Actor, Held), ApiError> {
        let caller = self.caller().await?;
        let held = Held { credential: caller.credential, token_seq: caller.bearer.seq, ends_ms: caller.ends_ms() };
        Ok((self.actor(&caller, role)?, held))
    }

    /// The caller as one who acts, if their role is no lower than `role`.
    ///
    /// # Errors
    /// 403.
    pub fn actor(&self, caller: &Caller, role: Role) -> Result<Actor, ApiError> {
        let actor = self.acting(caller);
        if actor.role < role {
            let detail = format!("this needs the role {}; the token has {}", role.as_str(), actor.role.as_str());
            return Err(ApiError::new(StatusCode::FORBIDDEN, "role_too_low", detail));
        }
        Ok(actor)
    }

    fn acting(&self, caller: &Caller) -> Actor {
        let bearer = &caller.bearer;
        Actor {
            token_seq: Some(bearer.seq),
            token_id: Some(bearer.id),
            name: bearer.name.clone(),
            peer: Some(self.connection.peer.to_string()),
            role: bearer.role,
            scope: bearer.scope.clone(),
            expires_ms: bearer.expires_ms,
        }
    }

    /// Who calls, with all that they need to have shown.
    ///
    /// # Errors
    /// 401, 403, 429.
    pub async fn caller(&self) -> Result<Caller, ApiError> {
        let caller = self.known_caller().await?;
        if caller.lacks_code() {
            let detail = "this token needs a one-time password: open a session with both (`postrider login`, or POST /api/session)";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "totp_required", detail));
        }
        let (limits, block, hash) = (&self.app.limits, self.block(), *caller.credential.hash());
        if caller.session.is_some_and(|session| session.carrier == Carrier::Cookie) {
            self.check_csrf(&hash)?;
        }
        if caller.bearer.role < Role::Owner
            && let Err(wait) = limits.request(caller.bearer.seq)
        {
            let detail = "this token asks too often; come again";
            return Err(ApiError::too_many("too_many_requests", detail, wait));
        }
        limits.succeeded(block, hash);
        let now_ms = self.app.store.clock.now_ms();
        if caller.session.is_some() {
            self.app.web_sessions.touch(&hash, now_ms);
        }
        if limits.is_new_use(caller.bearer.seq, now_ms.div_euclid(USE_MS)) {
            let from = self.connection.peer.ip().to_string();
            // It may as well not be stored.
            let _ = self.app.store.offer(UseToken { token_seq: caller.bearer.seq, from });
        }
        Ok(caller)
    }

    /// Who calls, though they may have to show more. A wrong credential counts for the address.
    ///
    /// # Errors
    /// 401, 429.
    pub async fn known_caller(&self) -> Result<Caller, ApiError> {
        let credential = self.credential();
        self.refuse_locked_out(credential.as_ref())?;
        let credential = credential.ok_or_else(ApiError::unauthorized)?;
        let (limits, block) = (&self.app.limits, self.block());
        // Of those that are not known few are looked up at one time, and who waited may be locked out by now.
        let _permit = if limits.is_known(block, credential.hash()) {
            None
        } else {
            let permit = limits.checks.acquire().await.map_err(ApiError::internal)?;
            self.refuse_locked_out(Some(&credential))?;
            Some(permit)
        };
        match look_up(&self.app, credential).await? {
            Some(caller) => {
                // A token that is not enough has an owner all the same.
                let _ = self.caller.set(self.acting(&caller));
                Ok(caller)
            }
            None => {
                limits.failed(block, Some(credential.hash()));
                Err(match credential {
                    Credential::Token(_) => ApiError::unauthorized(),
                    Credential::Session(..) => ApiError::session_ended(),
                })
            }
        }
    }

    /// Refuses an address that failed too often, unless what it shows was good there lately.
    ///
    /// # Errors
    /// 429.
    pub fn refuse_locked_out(&self, credential: Option<&Credential>) -> Result<(), ApiError> {
        match self.app.limits.locked_out(self.block(), credential.map(Credential::hash)) {
            None => Ok(()),
            Some(wait) => {
                let detail = "too many wrong tokens or passwords came from this address; come again later";
                Err(ApiError::too_many("locked_out", detail, wait))
            }
        }
    }

    /// The caller's address, as limits know it.
    pub fn block(&self) -> Block {
        Block::of(self.connection.peer.ip())
    }

    /// What the request shows. A bearer goes before a cookie.
    fn credential(&self) -> Option<Credential> {
        if self.headers.contains_key(AUTHORIZATION) {
            let bearer = self.bearer()?;
            return Some(if bearer.expose().starts_with(SESSION_PREFIX) {
                Credential::Session(bearer.hash(), Carrier::Bearer)
            } else {
                Credential::Token(bearer.hash())
            });
        }
        let cookies = self.headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, secret) = pairs.find(|(name, _)| *name == COOKIE_NAME)?;
        Some(Credential::Session(Secret::new(secret).hash(), Carrier::Cookie))
    }

    /// The bearer token in the request, good or not.
    pub fn bearer(&self) -> Option<Secret> {
        let (scheme, token) = self.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(token.trim()))
    }

    /// Browsers send a cookie with what foreign pages make them ask, but not this header.
    fn check_csrf(&self, hash: &CredentialHash) -> Result<(), ApiError> {
        if matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        let wrong = |detail: &str| Err(ApiError::new(StatusCode::FORBIDDEN, "csrf", detail));
        let csrf = self.headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !self.app.web_sessions.is_csrf(hash, csrf) {
            return wrong(
                "with the cookie this needs the header x-postrider-csrf with what GET /api/session calls csrf",
            );
        }
        let Some(origin) = self.headers.get(ORIGIN) else { return Ok(()) };
        let host_of = |url: &str| url.split_once("://").map(|(_, host)| host.trim_end_matches('/').to_lowercase());
        let origin = origin.to_str().ok().and_then(host_of);
        let host = self.headers.get(HOST).and_then(|host| host.to_str().ok()).map(str::to_lowercase);
        // A proxy in front may have changed the host that the browser asked for.
        if origin.is_some() && (origin == host || origin == Some(self.app.url.host_header().to_lowercase())) {
            return Ok(());
        }
        wrong("the request comes from a page of another site")
    }

    /// A token in the address stands in logs and histories by now.
    ///
    /// # Errors
    /// 400.
    pub fn refuse_token_in_query(&self) -> Result<(), ApiError> {
        let is_secret = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = percent_decode_str(name).decode_utf8_lossy().to_lowercase();
            let value = percent_decode_str(value).decode_utf8_lossy();
            SECRET_PARAMETERS.contains(&name.as_str())
                || SECRET_PREFIXES.iter().any(|p| value.starts_with(p) && value.len() >= SECRET_CHARS_MIN)
        };
        if !self.query.split('&').any(is_secret) {
            return Ok(());
        }
        let detail = "a token does not belong into the address: it stands in logs now. Revoke it, make another one, and send it in the header Authorization";
        Err(ApiError::new(StatusCode::BAD_REQUEST, TOKEN_IN_QUERY, detail))
    }

    /// Health and metrics: open on loopback, elsewhere with any token.
    ///
    /// # Errors
    /// As [`Call::authorize`].
    pub async fn authorize_health(&self) -> Result<(), ApiError> {
        if self.app.open_on_loopback && self.connection.peer.ip().is_loopback() {
            return Ok(());
        }
        self.authorize(Role::Viewer).await.map(drop)
    }
}
