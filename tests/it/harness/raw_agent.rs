//! An agent that speaks frames by hand, to be slow, wrong or malicious.

use super::api::Api;
use super::eventually::PATIENCE;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use postrider::protocol::frame::{
    AgentFrame, Hello, JournalEntry, SUBPROTOCOL, ServerFrame, decode, encode, hello_signature_input,
};
use postrider::protocol::ids::{AgentId, DeliveryId, ServerId};
use postrider::protocol::join::JoinString;
use postrider::protocol::outcome::Outcome;
use postrider::protocol::state::State;
use postrider::protocol::upgrade::Ability;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

/// What an agent keeps: its key, its id, and the latest epoch in its journal.
pub struct Identity {
    key: Arc<Ed25519KeyPair>,
    /// Its id.
    pub id: AgentId,
    last_epoch: AtomicU64,
    /// What it says of upgrades; none, as older agents do.
    pub ability: Mutex<Option<Ability>>,
}

/// A connection that has been welcomed.
pub struct RawAgent {
    /// The connection.
    pub socket: WebSocketStream<TcpStream>,
    /// The welcome frame.
    pub welcome: ServerFrame,
}

/// A key pair that nobody knows yet.
pub fn fresh_key() -> Ed25519KeyPair {
    let document = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()
}

/// The body of an enrollment.
pub fn enrollment(join: &str, key: &Ed25519KeyPair, name: &str) -> serde_json::Value {
    let secret = JoinString::decode(join).unwrap().secret;
    let public_key = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
    json!({ "secret": secret.expose(), "public_key": public_key, "name": name })
}

impl Identity {
    /// Enrolls a fresh key.
    pub async fn enroll(api: &Api, name: &str) -> Self {
        Self::enroll_with(api, &api.join().await, name).await
    }

    /// Enrolls a fresh key with this join string.
    pub async fn enroll_with(api: &Api, join: &str, name: &str) -> Self {
        let key = fresh_key();
        let reply = api.call("POST", "/api/enroll", enrollment(join, &key, name)).await;
        assert_eq!(reply.status, 201, "{:?}", String::from_utf8_lossy(&reply.body));
        let id = reply.json()["agent_id"].as_str().unwrap().parse().unwrap();
        Self { key: Arc::new(key), id, last_epoch: AtomicU64::new(0), ability: Mutex::default() }
    }

    /// A copy of its data folder as it is now, which goes its own way.
    pub fn copy(&self) -> Self {
        let last_epoch = AtomicU64::new(self.last_epoch.load(Ordering::Relaxed));
        Self { key: Arc::clone(&self.key), id: self.id, last_epoch, ability: Mutex::default() }
    }

    /// Answers a challenge.
    pub fn hello(&self, nonce: &str, server: ServerId, journal: Vec<JournalEntry>) -> AgentFrame {
        let nonce: [u8; 32] = URL_SAFE_NO_PAD.decode(nonce).unwrap().try_into().unwrap();
        let signature = self.key.sign(&hello_signature_input(&nonce, server, self.id));
        AgentFrame::Hello(Hello {
            agent_id: self.id,
            signature: URL_SAFE_NO_PAD.encode(signature.as_ref()),
            version: "raw".into(),
            os: "test".into(),
            boot_id: "1".into(),
            last_epoch: self.last_epoch.load(Ordering::Relaxed),
            journal,
            upgrade: self.ability.lock().unwrap().clone().map(Box::new),
        })
    }
}

/// A connection that came to nothing.
#[derive(Debug, Default)]
pub struct NotConnected {
    /// When to come again, if the server said so.
    pub retry_after_s: Option<u64>,
}

/// Opens the WebSocket at `address` (`HOST:PORT`) and reads the challenge: nonce and server.
pub async fn dial(address: &str) -> (WebSocketStream<TcpStream>, String, ServerId) {
    try_dial(address).await.unwrap()
}

/// The same over a link that may break.
async fn try_dial(address: &str) -> Result<(WebSocketStream<TcpStream>, String, ServerId), NotConnected> {
    let mut request = format!("ws://{address}/agent/ws").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().unwrap());
    let stream = TcpStream::connect(address).await.map_err(|_| NotConnected::default())?;
    let (mut socket, response) =
        tokio_tungstenite::client_async(request, stream).await.map_err(|error| match error {
            Error::Http(response) => {
                assert_eq!(response.status(), 503);
                let retry_after_s = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                NotConnected { retry_after_s: Some(retry_after_s) }
            }
            _ => NotConnected::default(),
        })?;
    assert_eq!(response.headers()["sec-websocket-protocol"], SUBPROTOCOL);
    match next_frame(&mut socket).await {
        Some(ServerFrame::Challenge { nonce, server_id }) => Ok((socket, nonce, server_id)),
        None => Err(NotConnected::default()),
        other => panic!("no challenge: {other:?}"),
    }
}

async fn message(socket: &mut WebSocketStream<TcpStream>) -> Option<Result<Message, Error>> {
    timeout(PATIENCE, socket.next()).await.expect("waited in vain for a message of the server")
}

/// The next control frame; none: the connection ended.
pub async fn next_frame(socket: &mut WebSocketStream<TcpStream>) -> Option<ServerFrame> {
    loop {
        match message(socket).await? {
            Ok(Message::Text(text)) => return Some(decode(&text).unwrap()),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// Reads to the end of the connection; answers the close code.
pub async fn close_code(socket: &mut WebSocketStream<TcpStream>) -> Option<u16> {
    loop {
        match message(socket).await? {
            Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

impl RawAgent {
    /// Connects with an empty journal.
    pub async fn connect(api: &Api, identity: &Identity) -> Self {
        Self::connect_with(api, identity, Vec::new()).await
    }

    /// Connects with this journal.
    pub async fn connect_with(api: &Api, identity: &Identity, journal: Vec<JournalEntry>) -> Self {
        Self::connect_to(api.url.trim_start_matches("http://"), identity, journal).await
    }

    /// Connects at this address, and is ready for deliveries.
    pub async fn connect_to(address: &str, identity: &Identity, journal: Vec<JournalEntry>) -> Self {
        Self::try_connect_to(address, identity, journal).await.expect("a welcome")
    }

    /// Connects at this address over a link that may break, and is ready for deliveries.
    pub async fn try_connect_to(
        address: &str,
        identity: &Identity,
        journal: Vec<JournalEntry>,
    ) -> Result<Self, NotConnected> {
        let mut agent = Self::try_welcomed(address, identity, journal).await?;
        identity.last_epoch.store(agent.epoch(), Ordering::Relaxed);
        let ready = Message::text(encode(&AgentFrame::Ready));
        agent.socket.send(ready).await.map_err(|_| NotConnected::default())?;
        Ok(agent)
    }

    /// Connects at this address, and does not say that it is ready.
    pub async fn welcomed(address: &str, identity: &Identity, journal: Vec<JournalEntry>) -> Self {
        Self::try_welcomed(address, identity, journal).await.expect("a welcome")
    }

    async fn try_welcomed(
        address: &str,
        identity: &Identity,
        journal: Vec<JournalEntry>,
    ) -> Result<Self, NotConnected> {
        let (mut socket, nonce, server) = try_dial(address).await?;
        let hello = identity.hello(&nonce, server, journal);
        let lost = |_| NotConnected::default();
        socket.send(Message::text(encode(&hello))).await.map_err(lost)?;
        let welcome = next_frame(&mut socket).await.ok_or_else(NotConnected::default)?;
        assert!(matches!(welcome, ServerFrame::Welcome { .. }), "{welcome:?}");
        Ok(Self { socket, welcome })
    }

    /// The session's epoch.
    pub fn epoch(&self) -> u64 {
        match self.welcome {
            ServerFrame::Welcome { epoch, .. } => epoch,
            _ => unreachable!("checked at connect"),
        }
    }

    /// Sends a control frame.
    pub async fn send(&mut self, frame: &AgentFrame) {
        self.socket.send(Message::text(encode(frame))).await.unwrap();
    }

    /// Sends anything.
    pub async fn send_message(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    /// The next control frame.
    pub async fn next(&mut self) -> ServerFrame {
        next_frame(&mut self.socket).await.expect("a frame")
    }

    /// Waits for the next dispatch; answers delivery and attempt.
    pub async fn dispatched(&mut self) -> (DeliveryId, u32) {
        loop {
            if let ServerFrame::Dispatch { delivery, attempt, .. } = self.next().await {
                return (delivery, attempt);
            }
        }
    }

    /// Waits for an error frame; answers its code.
    pub async fn error(&mut self) -> String {
        loop {
            if let ServerFrame::Error(error) = self.next().await {
                return error.code;
            }
        }
    }

    /// Accepts, starts and finishes a delivery with exit code 0, and waits until that is stored.
    pub async fn complete(&mut self, delivery: DeliveryId) {
        self.send(&AgentFrame::Accepted { delivery }).await;
        self.send(&AgentFrame::Started { delivery }).await;
        self.send(&AgentFrame::Finished { delivery, outcome: success() }).await;
        while self.next().await != (ServerFrame::Stored { delivery }) {}
    }
}

/// An outcome with exit code 0.
pub fn success() -> Outcome {
    let mut outcome = Outcome::without_run(State::Succeeded, "");
    (outcome.exit_code, outcome.reason, outcome.duration_ms) = (Some(0), None, Some(1));
    outcome
}
