//! The reader: takes frames from the server and acts on them. Never waits for a process or the disk.

use super::connect::{broken, closed, lost};
use super::dial::Socket;
use super::intake::{Dispatch, Intake, Reply};
use super::keepalive::Pongs;
use super::wait::Leave;
use crate::agent::runner::queue::Runner;
use crate::agent::upgrade::take::Upgrader;
use crate::protocol::close::CloseReason;
use crate::protocol::frame::{AgentFrame, ErrorFrame, FrameError, ServerFrame, decode};
use futures_util::StreamExt;
use futures_util::stream::SplitStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tracing::warn;

/// Frames of one connection that may make no sense: a newer server has some, a broken one has no end of them.
const SENSELESS_MAX: u32 = 100;

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Reader {
    /// The socket's half.
    pub stream: SplitStream<Socket>,
    /// Where pongs are counted.
    pub pongs: Pongs,
    /// Where dispatches go.
    pub intake: Intake,
    /// Where everything else goes.
    pub runner: Runner,
    /// Where offers go.
    pub upgrader: Upgrader,
    /// Answers.
    pub replies: mpsc::Sender<Reply>,
}

impl Reader {
    /// Reads until the connection ends.
    pub async fn read(&mut self) -> Leave {
        let mut senseless = 0;
        loop {
            let error = match self.stream.next().await {
                None => return lost(),
                Some(Err(error)) => return broken(&error),
                Some(Ok(Message::Text(text))) => match decode::<ServerFrame>(&text) {
                    Ok(frame) => self.act(frame).await,
                    Err(error) => Some(error.answer()),
                },
                Some(Ok(Message::Binary(_))) => {
                    Some(FrameError::Malformed("binary frames go to the server only".to_owned()).answer())
                }
                Some(Ok(Message::Pong(payload))) => {
                    self.pongs.take(&payload);
                    None
                }
                // Pings are answered by the WebSocket layer.
                Some(Ok(message)) => match closed(message) {
                    Some(leave) => return leave,
                    None => None,
                },
            };
            if let Some(error) = error {
                // A newer server may say more than we understand: that is no breach.
                senseless += u32::from(error.code != "unknown_type");
                if senseless > SENSELESS_MAX {
                    return Leave::left(CloseReason::ProtocolError, "too many frames that make no sense");
                }
                warn!(
                    code = error.code,
                    "the server sent a frame that makes no sense: {}; update the older of the two", error.message
                );
                // The writer is gone only when the connection is.
                let _ = self.replies.send(Reply::Frame(AgentFrame::Error(error))).await;
            }
        }
    }

    /// Reads what still comes after our farewell, so that closing does not destroy what the server has not read yet.
    pub async fn wait_for_end(&mut self) {
        while let Some(Ok(_)) = self.stream.next().await {}
    }

    async fn act(&mut self, frame: ServerFrame) -> Option<ErrorFrame> {
        match frame {
            ServerFrame::Dispatch { delivery, attempt, spec, spec_sha256, secrets } => {
                self.intake.dispatch(Dispatch { delivery, attempt, spec, spec_sha256, secrets }).await;
                None
            }
            ServerFrame::Cancel { delivery } => {
                let known = self.runner.cancel(delivery);
                (!known).then(|| told("unknown_delivery", format!("the agent does not hold {delivery}")))
            }
            ServerFrame::Stored { delivery } => {
                let runner = self.runner.clone();
                self.runner.tasks.spawn("forget", async move { runner.forget(delivery).await });
                None
            }
            ServerFrame::Upgrade(offer) => {
                self.upgrader.offered(self.intake.given(offer));
                None
            }
            // An error is never answered with an error: two ends could go on for ever.
            ServerFrame::Error(error) => {
                warn!(
                    code = error.code,
                    "the server did not understand us: {}; update the older of the two", error.message
                );
                None
            }
            ServerFrame::Challenge { .. } | ServerFrame::Welcome { .. } => {
                Some(told("unexpected", "the handshake is over".to_owned()))
            }
        }
    }
}

fn told(code: &str, message: String) -> ErrorFrame {
    ErrorFrame { code: code.to_owned(), message }
}
