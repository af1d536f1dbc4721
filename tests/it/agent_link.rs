//! An agent against a server of a few lines that speaks frames by hand.

use crate::runner::supervisor;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use postrider::agent::config::AgentConfig;
use postrider::agent::credential::Credential;
use postrider::agent::data::DataFolder;
use postrider::agent::error::AgentError;
use postrider::agent::journal::{Entry, Op};
use postrider::agent::journal_thread::{Journal, Opened};
use postrider::agent::run::run;
use postrider::http_client::ServerUrl;
use postrider::protocol::close::CloseReason;
use postrider::protocol::frame::{
    AgentFrame, ErrorFrame, Hello, JournalVerdict, SUBPROTOCOL, ServerFrame, decode, encode, hello_signature_input,
};
use postrider::protocol::ids::{AgentId, DeliveryId, ServerId};
use postrider::protocol::join::JoinString;
use postrider::protocol::outcome::Outcome;
use postrider::protocol::output::{OutputFrame, Stream};
use postrider::protocol::secret_env::SecretEnv;
use postrider::protocol::state::State;
use postrider::secret::{Secret, sha256};
use postrider::tasks::Tasks;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};
use tokio_util::sync::CancellationToken;

/// The fake server's clock: far from this host's.
const SERVER_TIME_MS: i64 = 4_000_000_000_000;

struct FakeServer {
    listener: TcpListener,
    id: ServerId,
    agent: AgentId,
    folder: tempfile::TempDir,
    public_key: Vec<u8>,
    tasks: Tasks,
    stop: CancellationToken,
}

impl FakeServer {
    /// A server, and a data folder with an enrolled agent's credential.
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (id, agent, folder) = (ServerId::new(), AgentId::new(), tempfile::tempdir().unwrap());
        let url = ServerUrl::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let mut credential = Credential::generate(url, id, "web-1".parse().unwrap());
        credential.agent_id = Some(agent);
        credential.save(&DataFolder::open(folder.path()).unwrap()).unwrap();
        let public_key = URL_SAFE_NO_PAD.decode(credential.public_key()).unwrap();
        let stop = CancellationToken::new();
        Self { listener, id, agent, folder, public_key, tasks: Tasks::default(), stop }
    }

    /// Starts the agent; what comes back is how it ends.
    fn start_agent(&self) -> oneshot::Receiver<Result<(), AgentError>> {
        let config = AgentConfig { slots: 1, supervisor: supervisor(), ..AgentConfig::new(self.folder.path()) };
        self.start(config)
    }

    fn start(&self, config: AgentConfig) -> oneshot::Receiver<Result<(), AgentError>> {
        let (sender, ended) = oneshot::channel();
        let stop = self.stop.clone();
        self.tasks.spawn("agent", async move {
            let _ = sender.send(run(config, stop).await);
        });
        ended
    }

    #[allow(clippy::result_large_err)] // The library's own type.
    async fn accept(&self) -> Connection {
        let (stream, _) = self.listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let echo = |request: &Request, mut response: Response| {
            assert_eq!(request.uri().path(), "/agent/ws");
            let wanted = request.headers()["sec-websocket-protocol"].clone();
            assert_eq!(wanted, SUBPROTOCOL);
            response.headers_mut().insert("sec-websocket-protocol", wanted);
            Ok(response)
        };
        Connection { socket: accept_hdr_async(stream, echo).await.unwrap(), output: [Vec::new(), Vec::new()] }
    }

    /// Accepts, checks the signature, and welcomes with `keep` for every entry of the journal.
    async fn welcome(&self, keep: bool, from: u64) -> (Connection, Hello) {
        self.welcome_with_ping(keep, from, 60_000).await
    }

    async fn welcome_with_ping(&self, keep: bool, from: u64, ping_ms: u64) -> (Connection, Hello) {
        let mut connection = self.accept().await;
        let hello = connection.hello(self.id).await;
        assert_eq!(hello.agent_id, self.agent);
        let signature = URL_SAFE_NO_PAD.decode(&hello.signature).unwrap();
        let signed = hello_signature_input(&[9; 32], self.id, self.agent);
        UnparsedPublicKey::new(&ED25519, &self.public_key).verify(&signed, &signature).unwrap();
        let verdict = |delivery| JournalVerdict { delivery, keep, stdout_from: from, stderr_from: 0 };
        let journal = hello.journal.iter().map(|entry| verdict(entry.delivery)).collect();
        connection
            .send(&ServerFrame::Welcome {
                epoch: 1,
                server_time_ms: SERVER_TIME_MS,
                ping_interval_ms: ping_ms,
                pong_timeout_ms: ping_ms,
                window: 32,
                fetch_token: "token".into(),
                pins: Vec::new(),
                release_key: None,
                journal,
            })
            .await;
        assert_eq!(connection.next().await, AgentFrame::Ready, "before all else");
        (connection, hello)
    }

    async fn finish(self) {
        self.stop.cancel();
        drop(self.listener);
        assert!(self.tasks.drained(Duration::from_secs(60)).await);
    }
}

struct Connection {
    socket: WebSocketStream<TcpStream>,
    output: [Vec<u8>; 2],
}

impl Connection {
    async fn send(&mut self, frame: &ServerFrame) {
        self.socket.send(Message::text(encode(frame))).await.unwrap();
    }

    async fn hello(&mut self, server_id: ServerId) -> Hello {
        self.send(&ServerFrame::Challenge { nonce: URL_SAFE_NO_PAD.encode([9; 32]), server_id }).await;
        match self.next().await {
            AgentFrame::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    /// The next message; none: the end.
    async fn message(&mut self) -> Option<Message> {
        let next = tokio::time::timeout(Duration::from_secs(60), self.socket.next());
        next.await.expect("the agent says something").and_then(Result::ok)
    }

    /// The next control frame but facts; output before it is collected.
    async fn next(&mut self) -> AgentFrame {
        loop {
            match self.message().await.expect("a frame") {
                Message::Text(text) => match decode(&text).unwrap() {
                    AgentFrame::Facts { .. } => {}
                    frame => return frame,
                },
                Message::Binary(bytes) => {
                    let frame = OutputFrame::decode(&bytes).unwrap();
                    self.output[usize::from(frame.stream.number()) - 1].extend(frame.bytes);
                }
                _ => {}
            }
        }
    }

    async fn dispatch(&mut self, delivery: DeliveryId, spec: &str) {
        let (spec_sha256, secrets) = (hash(spec), SecretEnv::default());
        self.send(&ServerFrame::Dispatch { delivery, attempt: 1, spec: Some(spec.into()), spec_sha256, secrets }).await;
    }

    async fn expect_accepted(&mut self, delivery: DeliveryId) {
        assert_eq!(self.next().await, AgentFrame::Accepted { delivery });
    }

    async fn expect_started(&mut self, delivery: DeliveryId) {
        assert_eq!(self.next().await, AgentFrame::Started { delivery });
    }

    async fn expect_finished(&mut self, delivery: DeliveryId) -> Outcome {
        match self.next().await {
            AgentFrame::Finished { delivery: of, outcome } if of == delivery => outcome,
            other => panic!("{other:?}"),
        }
    }

    async fn expect_error(&mut self) -> ErrorFrame {
        match self.next().await {
            AgentFrame::Error(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn stdout(&self) -> String {
        String::from_utf8(self.output[usize::from(Stream::Stdout.number()) - 1].clone()).unwrap()
    }
}

fn hash(spec: &str) -> String {
    sha256(spec.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn spec(command: &str) -> String {
    json!({"v": 1, "command": command, "timeout_ms": 60_000, "not_after_ms": SERVER_TIME_MS + 60_000}).to_string()
}

/// A command that leaves a mark each time it runs.
fn marking(file: &Path, rest: &str) -> String {
    spec(&format!("echo ran >> {}; {rest}", file.display()))
}

fn marks(file: &Path) -> usize {
    std::fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn a_command_goes_all_the_way_and_never_runs_twice() {
    let server = FakeServer::new().await;
    let mark = server.folder.path().join("mark");
    let _agent = server.start_agent();
    let (mut connection, hello) = server.welcome(true, 0).await;
    assert!(hello.journal.is_empty() && !hello.boot_id.is_empty());
    let delivery = DeliveryId::new();
    let document = marking(&mark, "echo out; echo err >&2; exit 3");
    connection.dispatch(delivery, &document).await;
    connection.expect_accepted(delivery).await;
    connection.expect_started(delivery).await;
    let outcome = connection.expect_finished(delivery).await;
    assert_eq!((outcome.state, outcome.exit_code), (State::Failed, Some(3)));
    assert_eq!((connection.stdout().as_str(), connection.output[1].as_slice()), ("out\n", &b"err\n"[..]));
    // Redelivery of what is not stored yet, and of what is only a tombstone.
    for stored in [false, true] {
        if stored {
            connection.send(&ServerFrame::Stored { delivery }).await;
            // The answer to this comes after the agent has taken `stored` off its board.
            let gone = || server.folder.path().join("spool").read_dir().unwrap().count() == 0;
            while !gone() {
                tokio::task::yield_now().await;
            }
        }
        connection.dispatch(delivery, &document).await;
        connection.expect_accepted(delivery).await;
        connection.expect_started(delivery).await;
        assert_eq!(connection.expect_finished(delivery).await, outcome);
    }
    assert_eq!(marks(&mark), 1);
    drop(connection);
    server.finish().await;
}

#[tokio::test]
async fn a_run_goes_on_without_a_connection_and_output_goes_on_where_the_server_wants() {
    let server = FakeServer::new().await;
    let (mark, go) = (server.folder.path().join("mark"), server.folder.path().join("go"));
    let _agent = server.start_agent();
    let (mut connection, _) = server.welcome(true, 0).await;
    let delivery = DeliveryId::new();
    let wait = format!("echo 0123456789; until [ -e {} ]; do sleep 0.01; done; echo end", go.display());
    connection.dispatch(delivery, &marking(&mark, &wait)).await;
    connection.expect_accepted(delivery).await;
    connection.expect_started(delivery).await;
    drop(connection);
    std::fs::write(&go, "").unwrap();
    let (mut connection, hello) = server.welcome(true, 7).await;
    assert_eq!(hello.journal.len(), 1);
    assert_eq!(connection.expect_finished(delivery).await.state, State::Succeeded);
    assert_eq!((connection.stdout().as_str(), marks(&mark)), ("789\nend\n", 1));
    drop(connection);
    server.finish().await;
}

#[tokio::test]
async fn frames_that_make_no_sense_are_answered_and_survived() {
    let server = FakeServer::new().await;
    let _agent = server.start_agent();
    let (mut connection, _) = server.welcome(true, 0).await;
    connection.socket.send(Message::text(r#"{"type":"dance"}"#)).await.unwrap();
    assert_eq!(connection.expect_error().await.code, "unknown_type");
    connection.socket.send(Message::text("garbage")).await.unwrap();
    assert_eq!(connection.expect_error().await.code, "malformed");
    connection.socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(connection.expect_error().await.code, "malformed");
    connection.send(&ServerFrame::Cancel { delivery: DeliveryId::new() }).await;
    assert_eq!(connection.expect_error().await.code, "unknown_delivery");
    let delivery = DeliveryId::new();
    let (spec, spec_sha256, secrets) = (Some(spec("true")), hash("x"), SecretEnv::default());
    let wrong = ServerFrame::Dispatch { delivery, attempt: 1, spec, spec_sha256, secrets };
    connection.send(&wrong).await;
    assert_eq!(connection.expect_error().await.code, "malformed");
    connection.dispatch(delivery, r#"{"v":2}"#).await;
    connection.expect_accepted(delivery).await;
    let outcome = connection.expect_finished(delivery).await;
    assert_eq!(outcome.state, State::Refused);
    // A frame over the limit ends the connection, with the reason.
    connection.socket.send(Message::text("x".repeat(100_000))).await.unwrap();
    loop {
        match connection.message().await {
            Some(Message::Close(close)) => {
                assert_eq!(u16::from(close.expect("a reason").code), CloseReason::FrameTooLong.code());
                break;
            }
            // Facts and pings may come first.
            Some(_) => {}
            // What the agent left unread resets the connection, and its close frame may go with it.
            None => break,
        }
    }
    drop(connection);
    server.finish().await;
}

#[tokio::test]
async fn waiting_commands_are_cancelled_or_expire_by_the_servers_clock() {
    let server = FakeServer::new().await;
    let mark = server.folder.path().join("mark");
    let _agent = server.start_agent();
    let (mut connection, _) = server.welcome(true, 0).await;
    let [running, waiting, expired, brief] = [(); 4].map(|()| DeliveryId::new());
    connection.dispatch(running, &spec("sleep 600")).await;
    connection.expect_accepted(running).await;
    connection.expect_started(running).await;
    connection.dispatch(waiting, &marking(&mark, "")).await;
    connection.expect_accepted(waiting).await;
    let late = |not_after_ms: i64| {
        json!({"v": 1, "command": "true", "timeout_ms": 1000, "not_after_ms": not_after_ms}).to_string()
    };
    connection.dispatch(expired, &late(SERVER_TIME_MS - 1)).await;
    connection.expect_accepted(expired).await;
    assert_eq!(connection.expect_finished(expired).await.state, State::Expired);
    // One that expires while it waits; it may be over on arrival on a slow machine.
    connection.dispatch(brief, &late(SERVER_TIME_MS + 1500)).await;
    connection.expect_accepted(brief).await;
    assert_eq!(connection.expect_finished(brief).await.state, State::Expired);
    connection.send(&ServerFrame::Cancel { delivery: waiting }).await;
    let outcome = connection.expect_finished(waiting).await;
    assert_eq!((outcome.state, outcome.duration_ms), (State::Cancelled, None));
    connection.send(&ServerFrame::Cancel { delivery: running }).await;
    let outcome = connection.expect_finished(running).await;
    assert_eq!((outcome.state, outcome.signal), (State::Cancelled, Some(15)));
    assert_eq!(marks(&mark), 0);
    drop(connection);
    server.finish().await;
}

#[tokio::test]
async fn an_agent_that_is_stopped_says_what_it_cut_off() {
    let server = FakeServer::new().await;
    let agent = server.start_agent();
    let (mut connection, _) = server.welcome(true, 0).await;
    let delivery = DeliveryId::new();
    connection.dispatch(delivery, &spec("sleep 600")).await;
    connection.expect_accepted(delivery).await;
    connection.expect_started(delivery).await;
    server.stop.cancel();
    let outcome = connection.expect_finished(delivery).await;
    assert_eq!(outcome.state, State::Interrupted);
    let Some(Message::Close(Some(close))) = connection.message().await else { panic!("it says why it leaves") };
    assert_eq!(u16::from(close.code), CloseReason::AgentShutdown.code());
    while connection.message().await.is_some() {}
    agent.await.unwrap().unwrap();
    server.finish().await;
}

#[tokio::test]
async fn after_a_crash_the_truth_is_told_and_what_is_not_wanted_does_not_start() {
    let server = FakeServer::new().await;
    let mark = server.folder.path().join("mark");
    let [ran, waited] = [DeliveryId::new(), DeliveryId::new()];
    {
        let Opened { journal, .. } = Journal::open(&server.folder.path().join("journal.db")).unwrap();
        for (delivery, entry) in [(ran, Entry::Started), (waited, Entry::Waiting)] {
            let spec = marking(&mark, "").into_bytes();
            let secrets = SecretEnv::default();
            journal
                .write(Op::Accept { delivery, attempt: 1, spec, secrets, not_after_ms: i64::MAX, entry })
                .await
                .unwrap();
        }
        std::fs::write(server.folder.path().join("spool").join(format!("{ran}.stdout")), "half").unwrap();
    }
    let _agent = server.start_agent();
    let (mut connection, hello) = server.welcome(true, 0).await;
    assert_eq!(hello.journal[0].state, State::Interrupted);
    assert_eq!(hello.journal[1].state, State::Accepted);
    let mut frames = [connection.next().await, connection.next().await, connection.next().await];
    frames.sort_by_key(|frame| matches!(frame, AgentFrame::Finished { delivery, .. } if *delivery == waited));
    let AgentFrame::Finished { outcome, .. } =
        frames.iter().find(|frame| matches!(frame, AgentFrame::Finished { delivery, .. } if *delivery == ran)).unwrap()
    else {
        panic!()
    };
    assert_eq!((outcome.state, outcome.stdout.bytes), (State::Interrupted, 4));
    assert_eq!((connection.stdout().as_str(), marks(&mark)), ("half", 1));
    drop(connection);
    server.finish().await;
}

#[tokio::test]
async fn what_the_server_does_not_want_is_forgotten() {
    let server = FakeServer::new().await;
    let mark = server.folder.path().join("mark");
    let waited = DeliveryId::new();
    {
        let Opened { journal, .. } = Journal::open(&server.folder.path().join("journal.db")).unwrap();
        let spec = marking(&mark, "").into_bytes();
        let (secrets, entry) = (SecretEnv::default(), Entry::Waiting);
        let accept = Op::Accept { delivery: waited, attempt: 1, spec, secrets, not_after_ms: i64::MAX, entry };
        journal.write(accept).await.unwrap();
    }
    let _agent = server.start_agent();
    let (mut connection, hello) = server.welcome(false, 0).await;
    assert_eq!(hello.journal.len(), 1);
    let next = DeliveryId::new();
    connection.dispatch(next, &spec("true")).await;
    connection.expect_accepted(next).await;
    connection.expect_started(next).await;
    connection.expect_finished(next).await;
    connection.send(&ServerFrame::Stored { delivery: next }).await;
    drop(connection);
    // The next `hello` knows neither, once both are forgotten.
    loop {
        let (_connection, hello) = server.welcome(true, 0).await;
        if hello.journal.is_empty() {
            break;
        }
    }
    assert_eq!(marks(&mark), 0);
    server.finish().await;
}

#[tokio::test]
async fn a_large_specification_is_fetched() {
    let server = FakeServer::new().await;
    let _agent = server.start_agent();
    let (mut connection, _) = server.welcome(true, 0).await;
    let delivery = DeliveryId::new();
    let document = spec(&format!("echo fetched # {}", "x".repeat(100_000)));
    let (spec_sha256, secrets) = (hash(&document), SecretEnv::default());
    let frame = ServerFrame::Dispatch { delivery, attempt: 1, spec: None, spec_sha256, secrets };
    connection.send(&frame).await;
    let (mut stream, _) = server.listener.accept().await.unwrap();
    let request = read_request(&mut stream).await;
    assert!(request.starts_with(&format!("GET /agent/deliveries/{delivery}/spec HTTP/1.1\r\n")), "{request}");
    assert!(request.to_lowercase().contains("authorization: bearer token\r\n"), "{request}");
    answer(&mut stream, "200 OK", "", &document).await;
    connection.expect_accepted(delivery).await;
    connection.expect_started(delivery).await;
    connection.expect_finished(delivery).await;
    assert_eq!(connection.stdout(), "fetched\n");
    drop(connection);
    server.finish().await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_pings_is_left() {
    let server = FakeServer::new().await;
    let _agent = server.start_agent();
    // Pongs are sent only when this end reads.
    let (_half_open, _) = server.welcome_with_ping(true, 0, 60).await;
    let (connection, _) = server.welcome(true, 0).await;
    drop(connection);
    server.finish().await;
}

#[tokio::test]
async fn the_servers_pings_are_answered() {
    let server = FakeServer::new().await;
    let _agent = server.start_agent();
    let (mut connection, _) = server.welcome(true, 0).await;
    connection.socket.send(Message::Ping(vec![1, 2, 3].into())).await.unwrap();
    while connection.message().await.unwrap() != Message::Pong(vec![1, 2, 3].into()) {}
    drop(connection);
    server.finish().await;
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_accepts_nothing() {
    let server = FakeServer::new().await;
    let mark = server.folder.path().join("mark");
    let _agent = server.start_agent();
    let (mut connection, _) = server.welcome(true, 0).await;
    // What a full disk does, as far as the agent can see: writing fails.
    let lock = rusqlite::Connection::open(server.folder.path().join("journal.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection.dispatch(DeliveryId::new(), &marking(&mark, "")).await;
    assert_eq!(connection.expect_error().await.code, "agent_storage");
    let Some(Message::Close(Some(close))) = connection.message().await else { panic!("it says why it leaves") };
    assert_eq!(u16::from(close.code), CloseReason::AgentStorage.code());
    assert_eq!(marks(&mark), 0);
    drop((connection, lock));
    server.finish().await;
}

#[tokio::test]
async fn another_server_is_told_nothing() {
    let server = FakeServer::new().await;
    let _agent = server.start_agent();
    let mut connection = server.accept().await;
    connection
        .send(&ServerFrame::Challenge { nonce: URL_SAFE_NO_PAD.encode([9; 32]), server_id: ServerId::new() })
        .await;
    assert!(!matches!(connection.message().await, Some(Message::Text(_))));
    server.finish().await;
}

async fn read_request(stream: &mut TcpStream) -> String {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).await.unwrap();
        request.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return text;
        }
    }
}

async fn answer(stream: &mut TcpStream, status: &str, headers: &str, body: &str) {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
}

#[tokio::test]
async fn enrollment_waits_for_the_server_and_repeats_with_the_same_key() {
    let server = FakeServer::new().await;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}", server.listener.local_addr().unwrap());
    let join = JoinString { url, server_id: server.id, secret: Secret::new("secret"), pins: Vec::new() }.encode();
    let config =
        AgentConfig { join: Some(Secret::new(join)), supervisor: supervisor(), ..AgentConfig::new(folder.path()) };
    let _agent = server.start(config);
    let mut keys = Vec::new();
    let enrolled = json!({"agent_id": server.agent, "name": "web-1", "server_id": server.id}).to_string();
    for (status, body) in [("503 Busy", "{}"), ("500 Oops", ""), ("201 Created", enrolled.as_str())] {
        let (mut stream, _) = server.listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        assert!(request.starts_with("POST /api/enroll "), "{request}");
        let body_sent: serde_json::Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body_sent["secret"], "secret");
        keys.push(body_sent["public_key"].as_str().unwrap().to_owned());
        answer(&mut stream, status, "retry-after: 0\r\n", body).await;
    }
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
    let mut connection = server.accept().await;
    assert_eq!(connection.hello(server.id).await.agent_id, server.agent);
    drop(connection);
    server.finish().await;
}

#[tokio::test]
async fn what_waiting_does_not_cure_ends_the_agent() {
    let server = FakeServer::new().await;
    let empty = tempfile::tempdir().unwrap();
    let no_join = server.start(AgentConfig::new(empty.path())).await.unwrap();
    assert!(matches!(no_join, Err(AgentError::NoJoin)));
    let url = format!("http://{}", server.listener.local_addr().unwrap());
    let join = |id| {
        Some(Secret::new(
            JoinString { url: url.clone(), server_id: id, secret: Secret::new("s"), pins: Vec::new() }.encode(),
        ))
    };
    let refused = server.start(AgentConfig { join: join(server.id), ..AgentConfig::new(empty.path()) });
    let (mut stream, _) = server.listener.accept().await.unwrap();
    read_request(&mut stream).await;
    let problem = json!({"status": 410, "title": "Gone", "code": "join_used", "detail": "used up", "request_id": "r"});
    answer(&mut stream, "410 Gone", "", &problem.to_string()).await;
    let refused = refused.await.unwrap().unwrap_err().to_string();
    assert!(refused.ends_with("refused the enrollment (410 join_used): used up"), "{refused}");
    let other = AgentConfig { join: join(ServerId::new()), ..AgentConfig::new(server.folder.path()) };
    assert!(matches!(server.start(other).await.unwrap(), Err(AgentError::OtherServer { .. })));
    let held = DataFolder::open(server.folder.path()).unwrap();
    assert!(matches!(server.start_agent().await.unwrap(), Err(AgentError::Locked(_))));
    drop(held);
    server.finish().await;
}
