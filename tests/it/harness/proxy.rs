//! A proxy that breaks links on command: it cuts, stalls, slows, delays and splits, each direction by itself.
//!
//! What it does not do of its own accord: lose, change or reorder a byte. A connection that one end lost is lost for the
//! other end too, by the same means, as soon as the news can travel.

use super::eventually::PATIENCE;
use super::lane::{Direction, Flow, Lane, carry};
use socket2::SockRef;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// What the kernel keeps for the proxy of bytes that it has not read yet. Left to itself it takes megabytes, and hides
/// for as long from the sender that nobody reads.
const RECEIVE_BUFFER_BYTES: u32 = 32 * 1024;
/// Connections that may wait to be accepted: a fleet comes back at one moment.
const BACKLOG: u32 = 1024;

/// How a connection is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// Both ends are told of an orderly end.
    #[default]
    Fin,
    /// Both ends are told that the connection does not exist; what they have not read yet is gone.
    Reset,
}

/// What happens to new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Newcomers {
    /// They are forwarded.
    #[default]
    Taken,
    /// They are reset.
    Refused,
    /// They are accepted and wait, unread, for another rule or a cut.
    Silent,
}

/// The state of all connections through the proxy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// From the server to the client.
    pub to_client: Lane,
    /// From the client to the server.
    pub to_server: Lane,
    /// New connections.
    pub newcomers: Newcomers,
    /// Connections made before the last of so many cuts are closed.
    pub(super) cuts: u64,
    /// How.
    pub(super) cut: Cut,
}

impl Faults {
    /// Both directions stall, or go on.
    pub fn both(&mut self, flow: Flow) {
        (self.to_client.flow, self.to_server.flow) = (flow, flow);
    }

    /// Cuts what is connected now.
    pub fn cut(&mut self, cut: Cut) {
        (self.cuts, self.cut) = (self.cuts + 1, cut);
    }

    /// Everything works again; what is connected stays.
    pub fn heal(&mut self) {
        *self = Self { cuts: self.cuts, cut: self.cut, ..Self::default() };
    }

    /// One direction.
    pub fn lane(&self, direction: Direction) -> Lane {
        match direction {
            Direction::ToClient => self.to_client,
            Direction::ToServer => self.to_server,
        }
    }

    /// One direction, to be changed.
    pub fn lane_mut(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::ToClient => &mut self.to_client,
            Direction::ToServer => &mut self.to_server,
        }
    }
}

/// What went through so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Of these, not ended yet.
    pub open: AtomicU64,
    /// Bytes written to clients.
    pub to_client: AtomicU64,
    /// Bytes written to the server.
    pub to_server: AtomicU64,
    /// Bytes that vanished, in either direction.
    pub vanished: AtomicU64,
}

impl Counts {
    /// Bytes written in one direction.
    pub fn carried(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::ToClient => &self.to_client,
            Direction::ToServer => &self.to_server,
        }
    }
}

/// What all connections share.
#[derive(Clone)]
pub struct Link {
    /// The faults.
    pub faults: Arc<watch::Sender<Faults>>,
    /// What went through.
    pub counts: Arc<Counts>,
}

/// A running proxy.
pub struct Proxy {
    /// Where to connect, `127.0.0.1:PORT`.
    pub address: String,
    link: Link,
}

impl Proxy {
    /// Forwards to `target` (`HOST:PORT`).
    pub async fn start(target: &str) -> Self {
        let target = target.parse().unwrap();
        let socket = socket();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(BACKLOG).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let link = Link { faults: Arc::default(), counts: Arc::default() };
        #[allow(clippy::disallowed_methods)] // The harness has no drain.
        tokio::spawn(accept(listener, target, link.clone()));
        Self { address, link }
    }

    /// Changes what happens to the bytes, on connections that are there and on new ones.
    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        self.link.faults.send_modify(change);
    }

    /// What went through so far.
    pub fn counts(&self) -> &Counts {
        &self.link.counts
    }

    /// Cuts everything after so many more bytes in this direction, and waits until that has happened.
    pub async fn cut_after(&self, direction: Direction, bytes: u64, cut: Cut) {
        let mut faults = self.link.faults.subscribe();
        self.set(|faults| faults.lane_mut(direction).cut_after = Some((bytes, cut)));
        let over = faults.wait_for(|faults| faults.lane(direction).cut_after.is_none());
        tokio::time::timeout(PATIENCE, over).await.expect("so many bytes come").unwrap();
    }

    /// Connections that have not ended yet.
    pub fn open(&self) -> u64 {
        self.link.counts.open.load(Ordering::Relaxed)
    }
}

fn socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).unwrap();
    socket
}

async fn accept(listener: TcpListener, target: SocketAddr, link: Link) {
    while let Ok((client, _)) = listener.accept().await {
        let link = link.clone();
        let born = link.faults.borrow().cuts;
        link.counts.connections.fetch_add(1, Ordering::Relaxed);
        link.counts.open.fetch_add(1, Ordering::Relaxed);
        #[allow(clippy::disallowed_methods)] // The harness has no drain.
        tokio::spawn(async move {
            connection(client, target, &link, born).await;
            link.counts.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn connection(client: TcpStream, target: SocketAddr, link: &Link, born: u64) {
    let mut faults = link.faults.subscribe();
    let rule = *faults.wait_for(|faults| faults.newcomers != Newcomers::Silent || faults.cuts != born).await.unwrap();
    if rule.cuts != born {
        return end(rule.cut, [client]).await;
    }
    if rule.newcomers == Newcomers::Refused {
        return end(Cut::Reset, [client]).await;
    }
    let Ok(server) = socket().connect(target).await else { return end(Cut::Reset, [client]).await };
    let cut = forward(client, server, link, born).await;
    if let Some((cut, ends)) = cut {
        end(cut, ends).await;
    }
}

/// Forwards until both ends have ended; otherwise answers how the connection is to be cut.
async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    link: &Link,
    born: u64,
) -> Option<(Cut, [TcpStream; 2])> {
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let mut faults = link.faults.subscribe();
    let cut = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let lanes = futures_util::future::try_join(
            carry(from_client, to_server, link, Direction::ToServer),
            carry(from_server, to_client, link, Direction::ToClient),
        );
        tokio::select! {
            biased;
            cut = faults.wait_for(|faults| faults.cuts != born) => cut.unwrap().cut,
            lanes = lanes => match lanes {
                Ok(_) => return None,
                Err(_) => Cut::Reset,
            },
        }
    };
    Some((cut, [client, server]))
}

async fn end<const N: usize>(cut: Cut, mut streams: [TcpStream; N]) {
    if cut == Cut::Reset {
        for stream in &streams {
            let _ = SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
        }
        return;
    }
    for stream in &mut streams {
        let _ = stream.shutdown().await;
    }
    // Closing with unread bytes would be a reset: they are read until the other end goes too.
    let rest = streams.each_mut().map(|stream| async {
        let mut buffer = [0; 4096];
        while let Ok(1..) = stream.read(&mut buffer).await {}
    });
    futures_util::future::join_all(rest).await;
}
