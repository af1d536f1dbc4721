//! A front of Pebble that has bad days on command, and notes what was asked.

use super::pebble::Pebble;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use postrider::tasks::Tasks;
use postrider::tls::{Trust, provider};
use serde_json::json;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How Pebble's address for orders begins.
pub const ORDER_PATH: &str = "/order-plz";

/// What is answered in the CA's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadDay {
    /// The next signed request has a nonce that is not good.
    BadNonceOnce,
    /// No orders are taken for so many seconds.
    RateLimited(u32),
    /// A proxy stands there that reaches nobody.
    BadGateway,
}

/// A front that runs.
#[derive(Clone)]
pub struct CaFront {
    address: SocketAddr,
    ca: SocketAddr,
    trust: Trust,
    day: Arc<Mutex<Option<BadDay>>>,
    asked: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
}

impl CaFront {
    /// Stands in front of a CA.
    pub async fn start(pebble: &Pebble) -> Self {
        let (chain, key) = pebble.root.issue();
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (day, asked, tasks) = (Arc::default(), Arc::default(), Tasks::default());
        let front = Self { address, ca: pebble.address, trust: pebble.trust(), day, asked, tasks };
        let this = front.clone();
        front.tasks.spawn("front", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, front) = (acceptor.clone(), this.clone());
                this.tasks.spawn("front connection", async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| front.clone().answer(request));
                    let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        front
    }

    /// The directory by way of the front.
    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.address.port())
    }

    /// From now on.
    pub fn set(&self, day: Option<BadDay>) {
        *self.day.lock().unwrap() = day;
    }

    /// How many requests so far went to a path that begins so.
    pub fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.starts_with(path)).count()
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path().to_owned();
        self.asked.lock().unwrap().push(path.clone());
        let day = *self.day.lock().unwrap();
        let problem = |kind: &str, status: u16| {
            let body = json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "a bad day"});
            Response::builder()
                .status(status)
                .header("content-type", "application/problem+json")
                .body(Full::from(body.to_string()))
        };
        let answer = match day {
            Some(BadDay::BadGateway) => Response::builder().status(502).body(Full::from("<h1>Bad Gateway</h1>")),
            Some(BadDay::BadNonceOnce) if request.method() == Method::POST => {
                self.set(None);
                problem("badNonce", 400)
            }
            Some(BadDay::RateLimited(seconds)) if path.starts_with(ORDER_PATH) => {
                problem("rateLimited", 429).map(|mut answer| {
                    answer.headers_mut().insert("retry-after", seconds.into());
                    answer
                })
            }
            _ => Ok(self.forward(request).await),
        };
        Ok(answer.unwrap())
    }

    async fn forward(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, Full::<Bytes>::from(body.collect().await.unwrap().to_bytes()));
        let stream = TcpStream::connect(self.ca).await.unwrap();
        let stream = self.trust.connect("localhost", stream).await.unwrap();
        let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.unwrap();
        self.tasks.spawn("front to CA", async move {
            let _ = connection.await;
        });
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        Response::from_parts(head, Full::from(body.collect().await.unwrap().to_bytes()))
    }
}
