//! The accept loop: hyper's HTTP/1 over each connection, with a cap, a header timeout, and a graceful end that counts
//! upgraded connections too.

use super::app::App;
use super::routes::routes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at one time, agents included, if the limit of open files has room for them. Each idle one costs about
/// 12 kB here and in the kernel.
pub const CONNECTIONS_MAX: usize = 16_384;
/// How long a request's head may take to arrive, and an idle connection to send its next.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request head, in bytes.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes that the kernel keeps for a peer that does not read. Without a limit it takes up to 4 MB a connection.
pub const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// The kernel gives up on a peer that acknowledges nothing for this long, where the platform has it.
pub const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Wait after a failed accept (out of file descriptors): the condition does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that the kernel keeps for us until we accept them, if its own limit (`net.core.somaxconn`) is no lower.
/// What comes beyond is dropped and tries again after 1, 3, 7 s: with the library's 128 a fleet that comes back at one
/// moment would take that long.
const ACCEPT_QUEUE: u32 = 4096;

/// One accepted connection, as requests on it see it. Its place under the cap is free when the last copy is dropped, so
/// an upgraded connection keeps it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The other end.
    pub peer: SocketAddr,
    _place: Arc<OwnedSemaphorePermit>,
}

/// Listens on `address`.
///
/// # Errors
/// The address is in use, or not ours.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // On Windows the option means something else: it would let another process take the port.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_QUEUE)
}

/// Accepts until the tasks are asked to stop, up to `connections_max` at one time.
pub async fn accept(app: Arc<App>, listener: TcpListener, connections_max: usize) {
    let places = Arc::new(Semaphore::new(connections_max));
    let service = TowerToHyperService::new(warp::service(routes(Arc::clone(&app))));
    let stop = app.tasks.stop_token().clone();
    let mut failing = false;
    loop {
        // Waiting for a place leaves newcomers in the kernel's queue.
        let accepted = async { (Arc::clone(&places).acquire_owned().await, listener.accept().await) };
        let Some((Ok(place), accepted)) = stop.run_until_cancelled(accepted).await else { return };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                let connection = Connection { peer, _place: Arc::new(place) };
                let service = service.clone();
                let service = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(connection.clone());
                    service.call(request)
                });
                let stop = stop.clone();
                app.tasks.spawn("connection", async move {
                    if let Err(error) = tune(&stream) {
                        tracing::debug!(%peer, %error, "socket options were refused");
                    }
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEADER_TIMEOUT)
                        .max_buf_size(HEAD_BYTES_MAX)
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades();
                    let mut connection = pin!(connection);
                    let ended = tokio::select! {
                        ended = connection.as_mut() => ended,
                        () = stop.cancelled() => {
                            // The request under way is answered, then the connection ends.
                            connection.as_mut().graceful_shutdown();
                            connection.await
                        }
                    };
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                });
            }
            Err(error) => {
                // Said once, not ten times a second.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot accept connections; trying on");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}
