//! Submissions: to one agent, to many.

use super::call::{Call, json, parse_json};
use super::error::ApiError;
use super::sealed;
use crate::protocol::access::Role;
use crate::protocol::http::{
    BODY_BYTES_MAX, CommandResponse, IDEMPOTENCY_KEY_BYTES_MAX, NOTE_BYTES_MAX, SubmitRequest, TARGETS_MAX, Targets,
    WAIT_SECS_MAX,
};
use crate::protocol::name::check_tags;
use crate::protocol::scope::Scope;
use crate::protocol::secret_env::SecretEnv;
use crate::protocol::spec::{OUTPUT_BYTES_MAX, SPEC_VERSION, Spec, TIMEOUT_MS_DEFAULT, TTL_MS_DEFAULT};
use crate::secret::sha256;
use crate::store::enqueue::{Enqueue, Enqueued, Selector};
use hyper::StatusCode;
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;
use warp::reply::Response;

/// A waiter of a new command first looks after this long without being rung for: only an end that came before it listened
/// would be missed until then, and no agent is that fast.
const LOOK_FIRST: Duration = Duration::from_millis(20);
/// A waiter looks again this often without being rung for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// `POST /api/agents/{id or name}/command`.
///
/// # Errors
/// 401, 403, 404, 409, 413, 422, 503, 507.
pub async fn to_one(call: Call, key: String) -> Result<Response, ApiError> {
    submit(call, Some(key)).await
}

/// `POST /api/commands`.
///
/// # Errors
/// As [`to_one`].
pub async fn to_many(call: Call) -> Result<Response, ApiError> {
    submit(call, None).await
}

async fn submit(mut call: Call, key: Option<String>) -> Result<Response, ApiError> {
    let (actor, held) = call.authorize_held(Role::Technician).await?;
    let wait = call.query(&["wait"])?.one::<u64>("wait")?.unwrap_or(0);
    if wait > WAIT_SECS_MAX {
        return Err(ApiError::field("wait", format!("is {wait}; at most {WAIT_SECS_MAX} seconds are allowed")));
    }
    let body = call.bytes(BODY_BYTES_MAX).await?;
    let Submission { targets, document, spec, secrets, note, confirm } =
        read(&body, key.clone(), call.app.store.clock.now_ms())?;
    let secrets = sealed::seal(&call.app.seal, &secrets);
    let idempotency = idempotency(&call, key.as_deref(), &body, secrets.is_some())?;
    let scope = actor.scope.clone();
    let brake = call.app.brake;
    let enqueue = Enqueue { actor, targets, document, spec, note, secrets, confirm, brake, idempotency };
    let enqueued = call.app.store.try_write(enqueue).await?;
    let command = if wait > 0 {
        tokio::select! {
            command = wait_for(&call, &enqueued, Duration::from_secs(wait), scope) => command?,
            () = held.over(&call.app) => return Err(ApiError::unauthorized()),
        }
    } else {
        enqueued.command
    };
    let status = if enqueued.replayed { StatusCode::OK } else { StatusCode::CREATED };
    json(status, &command)
}

/// A submission's body, checked.
#[derive(Debug)]
pub struct Submission {
    /// To whom.
    pub targets: Selector,
    /// The specification document, byte for byte.
    pub document: String,
    /// The same, read.
    pub spec: Spec,
    /// The values of its `secret_env`.
    pub secrets: SecretEnv,
    /// For people.
    pub note: Option<String>,
    /// How many agents the submitter says there are.
    pub confirm: Option<u64>,
}

/// Reads a submission's body. `key`: the agent that the path names, if it names one.
///
/// # Errors
/// 400, 422.
pub fn read(body: &[u8], key: Option<String>, now_ms: i64) -> Result<Submission, ApiError> {
    let request: SubmitRequest = parse_json(body)?;
    let targets = match (key, &request.targets) {
        (Some(key), None) => Selector::Agents(vec![key]),
        (Some(_), Some(_)) => {
            return Err(ApiError::field("targets", "goes with POST /api/commands; the path names the agent"));
        }
        (None, targets) => selector(targets.as_ref())?,
    };
    let note = request.note.clone();
    if note.as_ref().is_some_and(|note| note.len() > NOTE_BYTES_MAX) {
        return Err(ApiError::field("note", format!("has more than {NOTE_BYTES_MAX} bytes")));
    }
    let confirm = request.confirm;
    let secrets = request.secret_env.clone().unwrap_or_default();
    let (document, spec) = specification(request, now_ms)?;
    secrets.check()?;
    if !secrets.are_named_by(&spec.secret_env) {
        let message = "has not the names that secret_env in spec has: give a value for each of them, and no others";
        return Err(ApiError::field("secret_env", message));
    }
    Ok(Submission { targets, document, spec, secrets, note, confirm })
}

fn idempotency(
    call: &Call,
    key: Option<&str>,
    body: &[u8],
    has_secrets: bool,
) -> Result<Option<(String, [u8; 32])>, ApiError> {
    let Some(value) = call.headers.get("idempotency-key") else { return Ok(None) };
    let value = value.to_str().ok().filter(|value| !value.is_empty() && value.len() <= IDEMPOTENCY_KEY_BYTES_MAX);
    let Some(value) = value else {
        let message = format!("has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters");
        return Err(ApiError::field("Idempotency-Key", message));
    };
    let submitted = [key.unwrap_or_default().as_bytes(), b"\0", body].concat();
    // By a plain hash of the rest and of a short secret anybody with the database could find the secret.
    let hash = if has_secrets { call.app.seal.mark(&submitted) } else { sha256(&submitted) };
    Ok(Some((value.to_owned(), hash)))
}

fn selector(targets: Option<&Targets>) -> Result<Selector, ApiError> {
    let wrong = |message: &str| Err(ApiError::field("targets", message));
    let Some(targets) = targets else {
        return wrong("is missing; give {\"agents\": […]}, {\"tags\": {…}} or {\"all\": true}");
    };
    match (&targets.agents, &targets.tags, targets.all) {
        (Some(agents), None, None) if agents.is_empty() => wrong("agents is empty"),
        (Some(agents), None, None) if agents.len() > TARGETS_MAX => {
            wrong(&format!("agents names {}; at most {TARGETS_MAX} are allowed", agents.len()))
        }
        (Some(agents), None, None) => Ok(Selector::Agents(agents.clone())),
        (None, Some(tags), None) if tags.is_empty() => wrong("tags is empty; say {\"all\": true} to mean all agents"),
        (None, Some(tags), None) => {
            check_tags(tags).map_err(|error| ApiError::field("targets.tags", error))?;
            Ok(Selector::Tags(tags.clone()))
        }
        (None, None, Some(true)) => Ok(Selector::All),
        _ => wrong("has exactly one of agents, tags, and all, which is true"),
    }
}

/// The document to store, and what it says: sent ready-made and kept byte for byte, or built from the fields.
fn specification(request: SubmitRequest, now_ms: i64) -> Result<(String, Spec), ApiError> {
    if let Some(document) = request.spec {
        let others = [
            ("command", request.command.is_some()),
            ("argv", request.argv.is_some()),
            ("shell", request.shell.is_some()),
            ("cwd", request.cwd.is_some()),
            ("env", request.env.is_some()),
            ("stdin", request.stdin.is_some()),
            ("timeout_s", request.timeout_s.is_some()),
            ("ttl_s", request.ttl_s.is_some()),
            ("output_bytes_max", request.output_bytes_max.is_some()),
        ];
        if let Some((field, _)) = others.iter().find(|(_, given)| *given) {
            return Err(ApiError::field(*field, "does not go with spec, which holds it itself"));
        }
        let wrong = |error: &dyn std::fmt::Display| ApiError::field("spec", error);
        let spec = Spec::parse(document.as_bytes()).map_err(|error| wrong(&error))?;
        spec.check_ttl(now_ms).map_err(|error| wrong(&error))?;
        return Ok((document, spec));
    }
    let timeout_ms = match request.timeout_s {
        None => TIMEOUT_MS_DEFAULT,
        Some(seconds) => u64::try_from(milliseconds("timeout_s", seconds)?).unwrap_or(0),
    };
    let ttl_ms = match request.ttl_s {
        None => TTL_MS_DEFAULT,
        Some(seconds) => milliseconds("ttl_s", seconds)?,
    };
    let spec = Spec {
        v: SPEC_VERSION,
        command: request.command,
        argv: request.argv,
        shell: request.shell,
        cwd: request.cwd,
        env: request.env.unwrap_or_default(),
        secret_env: request.secret_env.as_ref().map(SecretEnv::names).unwrap_or_default(),
        stdin: request.stdin,
        timeout_ms,
        not_after_ms: now_ms.saturating_add(ttl_ms),
        output_bytes_max: request.output_bytes_max.unwrap_or(OUTPUT_BYTES_MAX),
    };
    spec.check()?;
    spec.check_ttl(now_ms)?;
    let document = serde_json::to_string(&spec).map_err(ApiError::internal)?;
    // The size is only known now.
    Spec::parse(document.as_bytes())?;
    Ok((document, spec))
}

/// Seconds as sent, in whole milliseconds. The ranges are the specification's.
fn milliseconds(field: &'static str, seconds: f64) -> Result<i64, ApiError> {
    let ms = seconds * 1000.0;
    if !(1.0..=1e15).contains(&ms) {
        return Err(ApiError::field(field, format!("is {seconds}; a number of seconds above 0 is needed")));
    }
    Ok(ms as i64)
}

/// Holds the answer until every delivery is terminal, the time is up, or the server drains.
async fn wait_for(call: &Call, enqueued: &Enqueued, wait: Duration, scope: Scope) -> Result<CommandResponse, ApiError> {
    let store = &call.app.store;
    let stop = call.app.tasks.stop_token();
    let until = Instant::now() + wait;
    let mut look_at = Instant::now() + if enqueued.replayed { Duration::ZERO } else { LOOK_FIRST };
    let mut rung = pin!(store.watch.ends.listen(enqueued.command_seq));
    loop {
        tokio::select! {
            () = rung.as_mut() => {}
            () = tokio::time::sleep_until(until.min(look_at)) => {}
            () = stop.cancelled() => {}
        }
        // Listen before looking, or a change in between is missed.
        rung.set(store.watch.ends.listen(enqueued.command_seq));
        if let Some(command) = store.command_if_ended(enqueued.command_seq, enqueued.command.id, scope.clone()).await? {
            return Ok(command.response);
        }
        if Instant::now() >= until || stop.is_cancelled() {
            return Ok(store.command(enqueued.command.id, false, scope).await?.response);
        }
        look_at = Instant::now() + LOOK_EVERY;
    }
}
