//! A proxy that breaks links: it forwards bytes both ways until one direction is told to stall.

use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The state of all connections through the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Bytes from the server to the client vanish.
    pub drop_to_client: bool,
    /// Bytes from the client to the server vanish.
    pub drop_to_server: bool,
    /// Counts cuts: connections made before the last one are closed.
    pub cuts: u64,
}

/// A running proxy.
pub struct Proxy {
    /// Where to connect, `127.0.0.1:PORT`.
    pub address: String,
    faults: Arc<watch::Sender<Faults>>,
}

impl Proxy {
    /// Forwards to `target` (`HOST:PORT`).
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let faults = Arc::new(watch::Sender::new(Faults::default()));
        let (target, sender) = (target.to_owned(), Arc::clone(&faults));
        #[allow(clippy::disallowed_methods)] // The harness has no drain.
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(forward(from_client, to_server, sender.subscribe(), |faults| faults.drop_to_server));
                tokio::spawn(forward(from_server, to_client, sender.subscribe(), |faults| faults.drop_to_client));
            }
        });
        Self { address, faults }
    }

    /// Changes what happens to the bytes, on connections that are there and on new ones.
    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut faults: watch::Receiver<Faults>,
    dropped: fn(&Faults) -> bool,
) {
    let cuts = faults.borrow().cuts;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => {
                let Ok(count @ 1..) = read else { break };
                if !dropped(&faults.borrow()) && to.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
            changed = faults.changed() => if changed.is_err() || faults.borrow().cuts != cuts { break },
        }
    }
    // A vanishing direction says nothing of its end either.
    if dropped(&faults.borrow()) {
        let _ = faults.wait_for(|faults| !dropped(faults)).await;
    }
}
