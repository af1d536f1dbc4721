//! One direction of one connection through the proxy.
//!
//! A reading half and a writing half with a queue between them, so that a delay keeps the order and does not slow. A
//! held lane reads nothing, so the sender's socket fills up and its back-pressure is the real one.

use super::proxy::{Cut, Faults, Link};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;
/// Reads that are on their way: with a delay, at most a megabyte.
const QUEUE_MAX: usize = 64;
/// A slow lane reads so many times a second.
const SLOW_READS_PER_S: u64 = 50;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the server.
    ToClient,
    /// To the server.
    ToServer,
}

impl Direction {
    fn opposite(self) -> Self {
        match self {
            Self::ToClient => Self::ToServer,
            Self::ToServer => Self::ToClient,
        }
    }
}

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They go on.
    #[default]
    Open,
    /// They are read and dropped. The news of an end vanishes for as long, too.
    Vanish,
    /// They are not read, and go on later.
    Held,
}

/// The state of one direction. The default forwards at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lane {
    /// Whether bytes go on.
    pub flow: Flow,
    /// Bytes a second, if there is a limit.
    pub bytes_per_s: Option<u64>,
    /// Each byte arrives later by this much.
    pub delay: Duration,
    /// Each byte is written by itself.
    pub split: bool,
    /// Cut everything after so many more bytes.
    pub cut_after: Option<(u64, Cut)>,
}

/// An end of the connection is gone without an orderly end.
pub struct Broken;

/// Carries bytes until their end, which is passed on.
pub async fn carry(from: ReadHalf<'_>, to: WriteHalf<'_>, link: &Link, direction: Direction) -> Result<(), Broken> {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    let faults = link.faults.subscribe();
    let read = read(from, faults, link, direction, sender);
    futures_util::future::try_join(read, write(to, receiver, link, direction)).await.map(|_| ())
}

type Chunk = (Instant, Vec<u8>);

/// Waits until bytes of this direction are not held; answers its state.
async fn not_held(faults: &mut watch::Receiver<Faults>, direction: Direction) -> Lane {
    let faults = faults.wait_for(|faults| faults.lane(direction).flow != Flow::Held).await;
    faults.expect("the link holds the sender").lane(direction)
}

/// Waits until news can travel in this direction.
async fn open(link: &Link, direction: Direction) {
    let mut faults = link.faults.subscribe();
    let _ = faults.wait_for(|faults| faults.lane(direction).flow == Flow::Open).await;
}

async fn read(
    mut from: ReadHalf<'_>,
    mut faults: watch::Receiver<Faults>,
    link: &Link,
    direction: Direction,
    queue: mpsc::Sender<Chunk>,
) -> Result<(), Broken> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let lane = not_held(&mut faults, direction).await;
        let rate = lane.bytes_per_s.map(|rate| (rate / SLOW_READS_PER_S).max(1));
        let most = rate.map_or(READ_BYTES, |rate| READ_BYTES.min(usize::try_from(rate).unwrap_or(READ_BYTES)));
        let read = tokio::select! {
            biased;
            _ = faults.changed() => continue,
            read = from.read(&mut buffer[..most]) => read,
        };
        let Ok(count) = read else {
            open(link, direction).await;
            return Err(Broken);
        };
        if count == 0 {
            open(link, direction).await;
            return Ok(());
        }
        // Another thread may have changed the rule since.
        if not_held(&mut faults, direction).await.flow == Flow::Vanish {
            link.counts.vanished.fetch_add(count as u64, Ordering::Relaxed);
        } else if queue.send((Instant::now() + lane.delay, buffer[..count].to_vec())).await.is_err() {
            // The writing half knows why.
            return Ok(());
        }
        if let Some(rate) = lane.bytes_per_s {
            sleep(Duration::from_secs_f64(count as f64 / rate as f64)).await;
        }
    }
}

async fn write(
    mut to: WriteHalf<'_>,
    mut queue: mpsc::Receiver<Chunk>,
    link: &Link,
    direction: Direction,
) -> Result<(), Broken> {
    while let Some((due, bytes)) = queue.recv().await {
        sleep_until(due).await;
        let split = link.faults.borrow().lane(direction).split;
        for piece in bytes.chunks(if split { 1 } else { bytes.len() }) {
            let (piece, last) = before_the_cut(piece, link, direction);
            if to.write_all(piece).await.is_err() {
                open(link, direction.opposite()).await;
                return Err(Broken);
            }
            link.counts.carried(direction).fetch_add(piece.len() as u64, Ordering::Relaxed);
            if let Some(cut) = last {
                link.faults.send_modify(|faults| faults.cut(cut));
                return std::future::pending().await;
            }
            if split {
                // The other end has a chance to see this byte alone.
                tokio::task::yield_now().await;
            }
        }
    }
    let _ = to.shutdown().await;
    Ok(())
}

/// As much of `piece` as may go before a cut that is set, and the cut if it is due after that.
fn before_the_cut<'a>(piece: &'a [u8], link: &Link, direction: Direction) -> (&'a [u8], Option<Cut>) {
    if link.faults.borrow().lane(direction).cut_after.is_none() {
        return (piece, None);
    }
    let (mut fits, mut due) = (piece.len(), None);
    link.faults.send_modify(|faults| {
        let lane = faults.lane_mut(direction);
        if let Some((left, cut)) = lane.cut_after {
            fits = fits.min(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - fits as u64;
            lane.cut_after = (left > 0).then_some((left, cut));
            due = (left == 0).then_some(cut);
        }
    });
    (&piece[..fits], due)
}
