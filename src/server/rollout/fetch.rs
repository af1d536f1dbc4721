//! `GET /agent/releases/{sha256}`: an agent fetches what it was offered, piece by piece, from where it left off.
//!
//! A download that nobody reads on, or whose file is written to meanwhile, breaks off: what arrived is shorter than it was
//! said to be, and the agent verifies all of it.

use crate::secret::{from_hex, hex};
use crate::server::agents_folder::AgentExecutable;
use crate::server::call::Call;
use crate::server::error::ApiError;
use crate::server::rollout::releases::DOWNLOADS_MAX;
use bytes::Bytes;
use futures_util::stream;
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use warp::reply::{Reply, Response};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces between the disk and the socket.
const PIECES: usize = 2;
/// How long a reader may leave a piece untaken.
const SLOW_TIMEOUT: Duration = Duration::from_secs(30);
/// When whoever found no place comes again.
const SOON: Duration = Duration::from_secs(10);

/// `GET /agent/releases/{sha256}`, with the fetch token of a session: what the open rollout has by that hash.
///
/// # Errors
/// 401, 404, 422, 503.
pub async fn release(call: Call, sha256: &str) -> Result<Response, ApiError> {
    let token = call.bearer().ok_or_else(ApiError::unauthorized)?;
    let agent = call.app.fetch_token_agent(token.expose()).ok_or_else(ApiError::unauthorized)?;
    let known = call.app.store.agent_key(agent).await?.filter(|agent| !agent.revoked);
    let name = known.ok_or_else(ApiError::unauthorized)?.name;
    let from: u64 = call.query(&["from"])?.one("from")?.unwrap_or(0);
    let gone = || ApiError::new(StatusCode::NOT_FOUND, "no_release", "no open rollout has this release");
    let wanted: [u8; 32] = from_hex(sha256).ok_or_else(gone)?;
    let releases = call.app.store.rollout_releases().await?.unwrap_or_default();
    let (platform, _) = releases.into_iter().find(|(_, sha256)| *sha256 == wanted).ok_or_else(gone)?;
    let platform = platform.parse().map_err(|_| gone())?;
    let Ok(place) = Arc::clone(&call.app.releases.places).try_acquire_owned() else {
        let detail = format!("{DOWNLOADS_MAX} downloads are under way, more are not served; come again");
        return Err(ApiError::unavailable("too_many_downloads", detail, SOON));
    };
    let folder = Arc::clone(&call.app.releases.folder);
    let found = tokio::task::spawn_blocking(move || folder.find(platform)).await.map_err(ApiError::internal)?;
    let executable = found.ok().filter(|found| found.sha256 == wanted).ok_or_else(gone)?;
    if from > executable.bytes {
        return Err(ApiError::field("from", format!("is {from}; there are {} bytes", executable.bytes)));
    }
    tracing::info!(agent = %name, from, sha256 = %hex(&wanted), "an agent fetches a release");
    let left = executable.bytes - from;
    let (sender, mut receiver) = mpsc::channel(PIECES);
    let stop = call.app.tasks.stop_token().clone();
    call.app.tasks.spawn("release", async move {
        let _place = place;
        stop.run_until_cancelled(feed(executable, from, sender)).await;
    });
    let pieces = stream::poll_fn(move |context| receiver.poll_recv(context));
    let mut response = warp::reply::stream(pieces).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(left));
    Ok(response)
}

/// Sends the rest of the file, or an error in the place of what is missing.
async fn feed(executable: AgentExecutable, mut at: u64, sender: mpsc::Sender<io::Result<Bytes>>) {
    while at < executable.bytes {
        let source = executable.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE_BYTES];
            let read = source.read_at(&mut piece, at)?;
            piece.truncate(read);
            Ok(Bytes::from(piece))
        });
        let piece = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let Err(error) = &piece {
            tracing::warn!(platform = %executable.platform, %error, "the download of a release broke off");
        }
        let broken = piece.is_err();
        at += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if sender.send_timeout(piece, SLOW_TIMEOUT).await.is_err() || broken {
            return;
        }
    }
}
