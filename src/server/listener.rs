//! The accept loop: plain or TLS, hyper's HTTP/1 over each connection, with caps, time limits, and a graceful end that
//! counts upgraded connections too.

use super::app::App;
use super::places::{Place, Places};
use super::proxy::{Peer, Proxy};
use super::routes::routes;
use super::tls::door::enter;
use crate::pin::Pin;
use crate::tls::Stream;
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
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// Connections at one time, agents included, if the limit of open files has room for them. Each idle one costs about
/// 12 kB here and in the kernel, with TLS some more.
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
/// Between two lines about refused connections: whoever floods us must not flood the log.
const REFUSED_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Connections that the kernel keeps for us until we accept them, if its own limit (`net.core.somaxconn`) is no lower.
/// What comes beyond is dropped and tries again after 1, 3, 7 s: with the library's 128 a fleet that comes back at one
/// moment would take that long.
const ACCEPT_QUEUE: u32 = 4096;

/// One accepted connection, as requests on it see it. Its place under the cap is free when the last copy is dropped, so
/// an upgraded connection keeps it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The other end; behind a proxy whom the proxy names.
    pub peer: Peer,
    /// The authority whose leaf it was shown because it asked for one by a pin's name; none: it is plain, or it did not.
    pub pin: Option<Pin>,
    /// Its place under the caps.
    pub place: Arc<Place>,
}

/// How connections are taken.
pub struct Door {
    /// Speaks TLS; none: plain.
    pub tls: Option<TlsAcceptor>,
    /// Who stands in front.
    pub proxy: Option<Proxy>,
    /// How many there may be.
    pub places: Places,
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

/// Accepts until the tasks are asked to stop.
pub async fn accept(app: Arc<App>, listener: TcpListener, door: Door) {
    let Door { tls, proxy, places } = door;
    let service = TowerToHyperService::new(warp::service(routes(Arc::clone(&app))));
    let stop = app.tasks.stop_token().clone();
    let (mut failing, mut refused) = (false, Refused::default());
    loop {
        // Waiting for a place leaves newcomers in the kernel's queue.
        let accepted = async { (places.free().await, listener.accept().await) };
        let Some((Some(free), accepted)) = stop.run_until_cancelled(accepted).await else { return };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, Peer::from(peer)),
            Err(error) => {
                // Said once, not ten times a second.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot accept connections; trying on");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        if proxy.is_some_and(|proxy| !proxy.admits(peer.ip())) {
            refused.one(&app, peer, "only the proxy of --behind-proxy may connect");
            continue;
        }
        let Some(place) = places.take(free, peer.ip()) else {
            refused.one(&app, peer, "too many are from that address");
            continue;
        };
        let (service, tls, stop, authorities) = (service.clone(), tls.clone(), stop.clone(), app.tls.clone());
        app.tasks.spawn("connection", async move {
            if let Err(error) = tune(&stream) {
                tracing::debug!(%peer, %error, "socket options were refused");
            }
            let entered = match &tls {
                None => Ok(Some((Stream::Plain(stream), None))),
                Some(tls) => stop.run_until_cancelled(enter(tls, stream)).await.unwrap_or(Ok(None)),
            };
            let (stream, name) = match entered {
                Ok(Some(entered)) => entered,
                Ok(None) => return,
                Err(error) => return tracing::debug!(%peer, %error, "no TLS connection came about"),
            };
            let pin = authorities.zip(name).and_then(|(tls, name)| tls.authorities.asked_for(&name));
            let connection = Connection { peer, pin, place: Arc::new(place) };
            let service = service_fn(move |mut request: Request<Incoming>| {
                let mut connection = connection.clone();
                if let Some(proxy) = proxy {
                    connection.peer = proxy.behind(peer, request.headers());
                }
                request.extensions_mut().insert(connection);
                service.call(request)
            });
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
}

/// Connections that were closed at once, and when that was last said.
#[derive(Default)]
struct Refused {
    count: u64,
    said: Option<Instant>,
}

impl Refused {
    fn one(&mut self, app: &App, peer: Peer, why: &str) {
        app.metrics.connections_refused.inc();
        self.count += 1;
        if self.said.is_none_or(|said| said.elapsed() >= REFUSED_LOG_INTERVAL) {
            tracing::warn!(%peer, count = self.count, "connections were refused; the last one: {why}");
            (self.count, self.said) = (0, Some(Instant::now()));
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
