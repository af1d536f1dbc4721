//! A session from its first frame to its end.

use super::handshake::{HELLO_LOG, Session, handshake, ready};
use super::reader::Reader;
use super::writer::{NOTES_MAX, Writer};
use crate::crash;
use crate::protocol::close::CloseReason;
use crate::server::app::App;
use crate::server::attempt::NOBODY;
use crate::server::listener::Connection;
use crate::server::upgrade::Socket;
use crate::store::audit::{Actor, Refuse};
use crate::store::session::EndSession;
use futures_util::StreamExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};

/// Runs a session on a fresh connection. `connection` keeps its place under the cap.
pub async fn run(app: Arc<App>, mut socket: Socket, connection: Connection) {
    if crash::is_broken("no-agents") {
        return;
    }
    let peer = connection.peer;
    let mut claimed = None;
    // Boxed, here and in what a session does now and then: what it takes is given back, and an idle agent costs little.
    let session = match Box::pin(handshake(&app, &mut socket, &connection, &mut claimed)).await {
        Ok(session) => session,
        Err(reason) => {
            tracing::info!(%peer, %reason, "{HELLO_LOG}");
            if matches!(reason, CloseReason::Unauthorized | CloseReason::Revoked | CloseReason::Pending) {
                let actor = Actor::nobody(NOBODY, Some(peer.to_string()));
                let detail = serde_json::json!({ "code": reason.as_str() });
                let target = claimed.map(|agent| agent.to_string());
                let refuse = Refuse { actor, action: "GET /agent/ws".to_owned(), target, detail };
                app.turned_away.note(&app.store, peer.ip(), reason.as_str(), refuse);
            }
            return;
        }
    };
    connection.place.is_no_stranger();
    let standing = Arc::clone(&session.standing);
    let (agent, name, epoch) = (session.agent_seq, session.name.clone(), standing.epoch);
    match Box::pin(ready(&app, &mut socket, &session)).await {
        Ok(()) => {
            tracing::info!(%peer, agent = %name, epoch, "agent connected");
            converse(&app, socket, session).await;
        }
        Err(reason) => standing.end(reason),
    }
    let reason = standing.reason();
    match reason {
        CloseReason::Draining | CloseReason::AgentShutdown => {
            tracing::info!(agent = %name, epoch, %reason, "agent left")
        }
        _ => {
            app.metrics.evicted(reason);
            tracing::warn!(agent = %name, epoch, %reason, "agent's session ended");
        }
    }
    let proven_ms = standing.proven_ms.load(Ordering::Relaxed);
    let end = EndSession { agent_seq: agent, epoch, proven_ms, reason };
    if let Err(error) = Box::pin(app.store.write(end)).await {
        tracing::warn!(agent = %name, epoch, %error, "the end of a session could not be stored; the next start does it");
    }
    drop(connection);
}

/// Both halves, until the session ends. The agent is online meanwhile.
async fn converse(app: &Arc<App>, socket: Socket, session: Session) {
    let standing = Arc::clone(&session.standing);
    let agent = session.agent_seq;
    app.presence.begin(agent, &standing);
    // There may be something to offer it.
    app.releases.ring();
    // Authorities that changed while it was on its way here ended only the sessions that stood.
    if session.pin.is_some() && session.pin != app.tls.as_ref().map(|tls| tls.authorities.newest()) {
        standing.end(CloseReason::AuthorityChanged);
    }
    let (sink, stream) = socket.split();
    let (notes, noted) = mpsc::channel(NOTES_MAX);
    let (ended, writer_ended) = oneshot::channel();
    let writer = Writer::new(Arc::clone(app), session.clone(), sink, noted);
    app.tasks.spawn("writer", async move {
        writer.run().await;
        let _ = ended.send(());
    });
    let cause = Reader::new(Arc::clone(app), session, stream, notes).run().await;
    standing.end(cause);
    let _ = writer_ended.await;
    app.presence.end(agent, standing.epoch);
}
