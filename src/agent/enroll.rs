//! Enrollment: once, with a join string. What the network does is waited out; a "no" of the server is final.

use super::credential::Credential;
use super::data::DataFolder;
use super::error::AgentError;
use super::link::wait::{BACKOFF_FIRST, BACKOFF_MAX, retry_after};
use crate::backoff::Backoff;
use crate::http_client::{Answer, HttpClient, HttpClientError, ServerUrl};
use crate::protocol::access::{EnrollRequest, EnrollResponse};
use crate::protocol::http::{BODY_BYTES_MAX, Problem};
use crate::protocol::join::JoinString;
use crate::protocol::name::{AgentName, Tags};
use crate::secret::Secret;
use crate::tls::Trust;
use bytes::Bytes;
use hyper::Method;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What an enrollment is asked with, beside the join string.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The name; none: the host's.
    pub name: Option<AgentName>,
    /// The tags.
    pub tags: Tags,
}

/// The agent's credential: the one in the folder, else one that the join string gets. None: asked to stop first.
///
/// # Errors
/// [`AgentError`]: what waiting does not cure.
pub async fn credential(
    folder: &DataFolder,
    join: Option<&Secret>,
    wish: &Wish,
    stop: &CancellationToken,
) -> Result<Option<Credential>, AgentError> {
    let found = Credential::load(folder)?;
    let join = join.map(|text| JoinString::decode(text.expose())).transpose()?;
    if let (Some(found), Some(join)) = (&found, &join)
        && found.agent_id.is_some()
        && found.server_id != join.server_id
    {
        return Err(AgentError::OtherServer {
            data: folder.path().to_owned(),
            enrolled: found.server_id,
            joining: join.server_id,
        });
    }
    match (found, join) {
        (Some(found), join) if found.agent_id.is_some() => {
            if join.is_some() {
                info!("already enrolled as {}: the join string is not used", found.name);
            }
            Ok(Some(found))
        }
        (_, None) => Err(AgentError::NoJoin),
        (found, Some(join)) => {
            let pending = pending(folder, found, &join, wish)?;
            enroll(folder, pending, &join, wish, stop).await
        }
    }
}

/// A key for this join string's server, on disk before anybody hears of it.
fn pending(
    folder: &DataFolder,
    found: Option<Credential>,
    join: &JoinString,
    wish: &Wish,
) -> Result<Credential, AgentError> {
    let url = ServerUrl::parse(&join.url).map_err(AgentError::Url)?;
    let name =
        wish.name.clone().unwrap_or_else(|| AgentName::from_host(&sysinfo::System::host_name().unwrap_or_default()));
    let mut pending = match found {
        Some(found) if found.server_id == join.server_id => found,
        _ => Credential::generate(url.clone(), join.server_id, name.clone()),
    };
    pending.url = url;
    pending.trust = Trust::new(&join.pins);
    pending.name = name;
    pending.save(folder)?;
    Ok(pending)
}

async fn enroll(
    folder: &DataFolder,
    mut pending: Credential,
    join: &JoinString,
    wish: &Wish,
    stop: &CancellationToken,
) -> Result<Option<Credential>, AgentError> {
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
    let request = EnrollRequest {
        secret: join.secret.expose().to_owned(),
        public_key: pending.public_key(),
        name: pending.name.clone(),
        tags: wish.tags.clone(),
    };
    let body = Bytes::from(serde_json::to_vec(&request).expect("plain data with string keys"));
    loop {
        let asked = tokio::select! {
            asked = ask(&pending.url, &pending.trust, body.clone()) => Some(asked),
            () = stop.cancelled() => None,
        };
        let (why, at_least) = match asked {
            None => return Ok(None),
            Some(Err(HttpClientError::Tls { url, source })) if source.is_identity() => {
                return Err(AgentError::Stranger { url, source });
            }
            Some(Err(error)) => (error.to_string(), None),
            Some(Ok(answer)) => match judge(&pending.url, &answer)? {
                Judged::Enrolled(response) => {
                    settle(folder, &mut pending, &response)?;
                    return Ok(Some(pending));
                }
                Judged::Later { why, at_least } => (why, at_least),
            },
        };
        let wait = backoff.next(at_least);
        warn!("not enrolled yet: {why}; trying {} again in {:.1} s", pending.url, wait.as_secs_f32());
        let stopped = stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none();
        if stopped {
            return Ok(None);
        }
    }
}

async fn ask(url: &ServerUrl, trust: &Trust, body: Bytes) -> Result<Answer, HttpClientError> {
    let mut client = HttpClient::connect(url, trust).await?;
    let headers = [("content-type", "application/json")];
    client.send(Method::POST, "/api/enroll", &headers, body, Duration::ZERO, BODY_BYTES_MAX).await
}

enum Judged {
    Enrolled(EnrollResponse),
    Later { why: String, at_least: Option<Duration> },
}

fn judge(url: &ServerUrl, answer: &Answer) -> Result<Judged, AgentError> {
    if answer.status.is_success() {
        return Ok(match serde_json::from_slice(&answer.body) {
            Ok(response) => Judged::Enrolled(response),
            Err(error) => Judged::Later { why: format!("the answer cannot be read: {error}"), at_least: None },
        });
    }
    let problem: Option<Problem> = serde_json::from_slice(&answer.body).ok();
    let (code, detail) = problem.map_or_else(
        || ("none".to_owned(), "the answer says no more".to_owned()),
        |problem| (problem.code, problem.detail),
    );
    let status = answer.status.as_u16();
    if answer.status.is_client_error() && !matches!(status, 408 | 425 | 429) {
        return Err(AgentError::EnrollRefused { url: url.to_string(), status, code, detail });
    }
    Ok(Judged::Later {
        why: format!("{url} answers {status} {code}: {detail}"),
        at_least: retry_after(&answer.headers),
    })
}

fn settle(folder: &DataFolder, pending: &mut Credential, response: &EnrollResponse) -> Result<(), AgentError> {
    if response.server_id != pending.server_id {
        return Err(AgentError::NotThatServer {
            url: pending.url.to_string(),
            expected: pending.server_id,
            found: response.server_id,
        });
    }
    pending.agent_id = Some(response.agent_id);
    if let Ok(name) = response.name.parse() {
        pending.name = name;
    }
    pending.save(folder)?;
    info!("enrolled at {} as {} ({})", pending.url, pending.name, response.agent_id);
    if response.pending {
        info!("it waits for approval there: `postrider agents approve {}` lets it in", response.agent_id);
    }
    Ok(())
}
