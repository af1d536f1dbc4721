//! What strangers can take of the server, and whose word it believes on where they are.

use crate::harness::agent::TestAgent;
use crate::harness::api::Api;
use crate::harness::eventually::eventually;
use crate::harness::process::known_by;
use crate::harness::server::TestServer;
use crate::tls::serve;
use postrider::http_client::ServerUrl;
use postrider::server::places::STRANGERS_PER_ADDRESS;
use postrider::server::proxy::Proxy;
use postrider::store::handle::DATABASE_FILE;
use postrider::tls::{Stream, Trust};
use serde_json::{Value, json};
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Whether the other end closes within the test's patience; answers what it said before.
async fn closes(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut said = Vec::new();
    let ended = tokio::time::timeout(crate::harness::eventually::PATIENCE, stream.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "the server closes it");
    said
}

#[tokio::test]
async fn a_flood_from_one_address_leaves_agents_and_others_alone() {
    let server = TestServer::start_with(|config| {
        config.listen = "[::]:0".parse().unwrap();
        config.count_loopback = true;
    })
    .await;
    let port = server.running.address.port();
    let at = |host: &str| Api {
        url: known_by(format!("https://{host}:{port}"), server.data.path()),
        token: server.api.token.clone(),
    };
    let (flooded, other) = (at("127.0.0.1"), at("[::1]"));
    let body = json!({ "server_url": format!("https://127.0.0.1:{port}") });
    let join = other.call("POST", "/api/join", body).await.json();
    let _agent = TestAgent::launch(join["join"].as_str().unwrap(), "web-1");
    eventually("web-1 is online", || async {
        let reply = other.call("GET", "/api/agents/web-1", Value::Null).await;
        (reply.status == 200 && reply.json()["online"] == true).then_some(())
    })
    .await;
    let mut flood = Vec::new();
    for _ in 0..STRANGERS_PER_ADDRESS {
        flood.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    // The agent gave its place back, so all of them have one; the next has none.
    let mut refused = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert_eq!(refused.read(&mut [0]).await.unwrap_or(0), 0);
    for stream in &flood {
        let peeked = stream.try_read(&mut [0]).unwrap_err();
        assert_eq!(peeked.kind(), std::io::ErrorKind::WouldBlock, "the first ones are still there");
    }
    assert!(flooded.try_request("GET", "/healthz", &[], Vec::new()).await.is_err());
    other.round_trip("web-1", "true").await;
    let metrics = String::from_utf8(other.call("GET", "/metrics", Value::Null).await.body).unwrap();
    let count = metrics.lines().find_map(|line| line.strip_prefix("postrider_connections_refused_total "));
    assert!(count.is_some_and(|count| count.parse::<u64>().unwrap() >= 2), "{metrics}");
    drop(flood);
    eventually("there is room again", || async { flooded.try_request("GET", "/healthz", &[], Vec::new()).await.ok() })
        .await;
    server.stop().await;
}

/// A TLS connection to the server of this folder.
async fn dial(data: &Path) -> Stream {
    let url = std::fs::read_to_string(data.join("listen")).unwrap();
    let pins = std::fs::read_to_string(data.join("pins")).unwrap().replace('\n', ",");
    let trust = Trust::new(&postrider::pin::parse_list(&pins));
    ServerUrl::parse(&url).unwrap().dial(&trust).await.unwrap()
}

#[tokio::test]
async fn the_slow_the_idle_and_the_long_winded_are_cut() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let server = serve(&data, "127.0.0.1:0", &["--tls"]).await;
    let address = std::fs::read_to_string(data.join("listen")).unwrap().trim().replace("https://", "");
    let silent = async {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        assert_eq!(closes(&mut stream).await, b"");
    };
    let slow_handshake = async {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(&[22, 3, 1]).await.unwrap();
        let _ = closes(&mut stream).await;
    };
    let slow_head = async {
        let mut stream = dial(&data).await;
        stream.write_all(b"GET /healthz HTT").await.unwrap();
        stream.flush().await.unwrap();
        let said = closes(&mut stream).await;
        assert!(!said.starts_with(b"HTTP/1.1 2"), "{said:?}");
    };
    let idle = async {
        let mut stream = dial(&data).await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        let said = closes(&mut stream).await;
        assert!(said.starts_with(b"HTTP/1.1 200"), "{said:?}");
    };
    let long_winded = async {
        let (mut from, mut to) = tokio::io::split(dial(&data).await);
        let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20));
        let writing = async {
            // It may close before it has heard all.
            let _ = to.write_all(head.as_bytes()).await;
            let _ = to.flush().await;
        };
        let mut said = [0; 12];
        let (read, ()) = tokio::join!(from.read_exact(&mut said), writing);
        read.unwrap();
        assert_eq!(&said, b"HTTP/1.1 431");
    };
    tokio::join!(silent, slow_handshake, slow_head, idle, long_winded);
    server.api.get("/readyz").await;
}

/// From where the latest join string was made, as the audit row says.
fn audited(data: &Path) -> String {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let conn = rusqlite::Connection::open_with_flags(data.join(DATABASE_FILE), flags).unwrap();
    let sql = "SELECT peer FROM audit WHERE action = 'join.create' ORDER BY seq DESC LIMIT 1";
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

async fn join_forwarded(api: &Api, forwarded: &str) {
    let bearer = format!("Bearer {}", api.token);
    let headers = [("authorization", bearer.as_str()), ("x-forwarded-for", forwarded)];
    let body = br#"{"server_url": "https://msp.example"}"#.to_vec();
    assert_eq!(api.request("POST", "/api/join", &headers, body).await.status, 201);
}

#[tokio::test]
async fn only_a_proxy_is_believed_on_who_is_behind_it() {
    let named = Proxy::At("192.0.2.1".parse().unwrap());
    for (proxy, believed) in [(Some(Proxy::Here), true), (Some(named), false), (None, false)] {
        let server = TestServer::start_with(|config| config.behind_proxy = proxy).await;
        join_forwarded(&server.api, "198.51.100.1, 203.0.113.5").await;
        let peer = audited(server.data.path());
        assert_eq!(peer == "203.0.113.5", believed, "{proxy:?}: {peer}");
        assert!(believed || peer.starts_with("127.0.0.1:"), "{proxy:?}: {peer}");
        server.stop().await;
    }
}

/// An address of this host that is not loopback, if it has one. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")].into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    })
}

#[tokio::test]
async fn behind_a_proxy_nobody_else_is_let_in() {
    let Some(own) = own_address() else { return eprintln!("skipped: this host has no address but loopback") };
    let behind = async |address: IpAddr| {
        TestServer::start_with(|config| {
            config.listen = "[::]:0".parse().unwrap();
            config.behind_proxy = Some(Proxy::At(address));
        })
        .await
    };
    let from_outside = |server: &TestServer| Api {
        url: format!("http://{}", std::net::SocketAddr::new(own, server.running.address.port())),
        token: server.api.token.clone(),
    };
    let server = behind("192.0.2.1".parse().unwrap()).await;
    assert!(server.running.url.starts_with("http://"));
    assert!(from_outside(&server).try_request("GET", "/healthz", &[], Vec::new()).await.is_err());
    let port = server.running.address.port();
    let here = Api { url: format!("http://127.0.0.1:{port}"), token: server.api.token.clone() };
    here.get("/healthz").await;
    server.stop().await;
    let server = behind(own).await;
    join_forwarded(&from_outside(&server), "203.0.113.5").await;
    assert_eq!(audited(server.data.path()), "203.0.113.5");
    server.stop().await;
}
