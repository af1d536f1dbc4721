//! The writer: owns the sending half. Sends what the board has and the server does not know, replies, and pings.
//!
//! Every write has a deadline. Little is buffered for a slow connection: output stays in the spool until there is room
//! for it on the way, and all of it is sent before `finished`.

use super::connect::broken;
use super::dial::Socket;
use super::intake::Reply;
use super::keepalive::{Keepalive, Turn};
use super::sent::{Block, Sent, Step};
use super::wait::Leave;
use crate::agent::board::Board;
use crate::agent::upgrade::take::Upgrader;
use crate::protocol::close::CloseReason;
use crate::protocol::frame::{AgentFrame, ErrorFrame, encode};
use crate::protocol::ids::DeliveryId;
use crate::protocol::output::{OUTPUT_CHUNK_BYTES_MAX, OutputFrame};
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How long one write may take: the server reads, or the connection is of no use.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the farewell may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Sleep where nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// The sending half of a connection.
#[derive(Debug)]
pub struct Writer {
    /// The socket's half.
    pub sink: SplitSink<Socket, Message>,
    /// What the connection has told.
    pub sent: Sent,
    /// The rule of pings.
    pub keepalive: Keepalive,
    /// Where everything stands.
    pub board: Board,
    /// What there is to do with upgrades.
    pub upgrader: Upgrader,
}

enum Event {
    Look,
    Reply(Reply),
    Stop,
}

impl Writer {
    /// Says that the journal is ready, then writes until the connection ends. Asked to stop, it tells what there is to tell and leaves.
    pub async fn write(&mut self, replies: &mut mpsc::Receiver<Reply>, stop: &CancellationToken) -> Leave {
        match self.go_on(replies, stop).await {
            Err(leave) => leave,
            Ok(never) => match never {},
        }
    }

    async fn go_on(
        &mut self,
        replies: &mut mpsc::Receiver<Reply>,
        stop: &CancellationToken,
    ) -> Result<Infallible, Leave> {
        let (board, pongs) = (self.board.clone(), self.keepalive.pongs());
        self.frame(&AgentFrame::Ready).await?;
        loop {
            // Listen before looking, or a ring between the two is lost.
            let mut heard = std::pin::pin!(board.listen());
            heard.as_mut().enable();
            while self.pass(replies).await? {}
            if stop.is_cancelled() {
                return Err(Leave::left(self.parting(), ""));
            }
            let due = self.ping().await?;
            if self.keepalive.is_proven() {
                self.upgrader.prove();
            }
            let again = self.sent.accepted_again_at().unwrap_or(due + IDLE);
            let event = tokio::select! {
                () = heard => Event::Look,
                // There may be room for output again.
                () = pongs.heard() => Event::Look,
                Some(reply) = replies.recv() => Event::Reply(reply),
                () = tokio::time::sleep_until(due.min(again)) => Event::Look,
                () = stop.cancelled() => Event::Stop,
            };
            match event {
                Event::Reply(reply) => self.reply(reply).await?,
                Event::Look | Event::Stop => {}
            }
        }
    }

    /// Why we leave when we are asked to.
    fn parting(&self) -> CloseReason {
        if self.upgrader.is_decided() { CloseReason::AgentUpgrade } else { CloseReason::AgentShutdown }
    }

    /// One round over the board: some of each delivery, so that a flood of one does not hold up another. False: the
    /// server knows all there is.
    async fn pass(&mut self, replies: &mut mpsc::Receiver<Reply>) -> Result<bool, Leave> {
        let deliveries = self.board.deliveries();
        self.sent.keep_only(&deliveries);
        let mut some = false;
        for delivery in deliveries {
            some |= self.tell(delivery).await?;
        }
        while let Ok(reply) = replies.try_recv() {
            some = true;
            self.reply(reply).await?;
        }
        Ok(some)
    }

    async fn tell(&mut self, delivery: DeliveryId) -> Result<bool, Leave> {
        let mut some = false;
        while let Some(line) = self.board.line(delivery) {
            match self.sent.step(&line, Instant::now()) {
                None => break,
                // With the next one, if there is one: what is told in one write is stored in one commit.
                Some(Step::Frame(frame)) => self.feed(Message::text(encode(&frame))).await?,
                Some(Step::Block(_)) if !self.keepalive.has_room() => break,
                Some(Step::Block(block)) => {
                    self.block(block).await?;
                    some = true;
                    break;
                }
            }
            some = true;
        }
        if some {
            self.flush().await?;
        }
        Ok(some)
    }

    async fn block(&mut self, block: Block) -> Result<(), Leave> {
        let Block { delivery, stream, offset, bytes: length, spool } = block;
        let reading = std::sync::Arc::clone(&spool);
        let read = tokio::task::spawn_blocking(move || reading.read(stream, offset, length)).await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                warn!(%delivery, %error, "output of the delivery cannot be read and is not sent");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        if bytes.is_empty() {
            // The file lost it (a power cut, a hand): what is gone must not hold up the outcome.
            self.sent.advance(delivery, stream, spool.summary(stream).bytes);
            return Ok(());
        }
        let mut offset = offset;
        for chunk in bytes.chunks(OUTPUT_CHUNK_BYTES_MAX) {
            let frame = OutputFrame { delivery, stream, offset, bytes: chunk.to_vec() };
            self.send(Message::binary(frame.encode())).await?;
            offset += chunk.len() as u64;
            self.sent.advance(delivery, stream, offset);
            self.keepalive.wrote(chunk.len() as u64);
            self.ping().await?;
            if !self.keepalive.has_room() {
                break;
            }
        }
        Ok(())
    }

    async fn reply(&mut self, reply: Reply) -> Result<(), Leave> {
        match reply {
            Reply::Frame(frame) => self.frame(&frame).await,
            Reply::Again(delivery) => {
                self.sent.again(delivery);
                Ok(())
            }
            Reply::StorageFailed(why) => {
                let error = ErrorFrame { code: "agent_storage".to_owned(), message: why.clone() };
                self.frame(&AgentFrame::Error(error)).await?;
                Err(Leave::left(CloseReason::AgentStorage, why))
            }
        }
    }

    /// Pings when it is time. Returns when to look again.
    async fn ping(&mut self) -> Result<Instant, Leave> {
        loop {
            match self.keepalive.turn(Instant::now()) {
                Turn::Wait(due) => return Ok(due),
                Turn::Ping(counter) => self.send(Message::Ping(counter.to_be_bytes().to_vec().into())).await?,
                Turn::Silent => return Err(Leave::left(CloseReason::ServerSilent, "no pong in time")),
            }
        }
    }

    async fn frame(&mut self, frame: &AgentFrame) -> Result<(), Leave> {
        self.send(Message::text(encode(frame))).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Leave> {
        in_time(self.sink.send(message)).await
    }

    async fn feed(&mut self, message: Message) -> Result<(), Leave> {
        in_time(self.sink.feed(message)).await
    }

    async fn flush(&mut self) -> Result<(), Leave> {
        in_time(self.sink.flush()).await
    }

    /// Says why we leave, if it still can be said.
    pub async fn farewell(&mut self, leave: &Leave) {
        let Leave::Left { reason, text } = leave else { return };
        // A close frame's reason has at most 123 bytes (RFC 6455 section 5.5).
        let cut = text.floor_char_boundary(100);
        let close = CloseFrame { code: reason.code().into(), reason: text[..cut].to_owned().into() };
        // Whether it arrives changes nothing.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.sink.send(Message::Close(Some(close)))).await;
    }
}

/// Every write has a deadline.
async fn in_time(write: impl Future<Output = Result<(), Error>>) -> Result<(), Leave> {
    match tokio::time::timeout(WRITE_TIMEOUT, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(Leave::left(CloseReason::WriteTimeout, "the server does not read")),
    }
}
