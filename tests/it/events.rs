//! The event stream of a command, read as a script would: in order, once each, from anywhere on.

use crate::harness::agent::TestAgent;
use crate::harness::api::{Api, id};
use crate::harness::eventually::eventually;
use crate::harness::raw_agent::{Identity, RawAgent};
use crate::harness::server::TestServer;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response};
use postrider::http_client::{HttpClient, ServerUrl};
use postrider::protocol::ids::CommandId;
use postrider::tls::Trust;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

/// Beyond this a stream hangs: far more than anything needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

struct Events {
    body: Incoming,
    unread: Vec<u8>,
    _client: HttpClient,
}

async fn ask(api: &Api, command: &str, last: Option<&str>) -> (HttpClient, Response<Incoming>) {
    let mut client = HttpClient::connect(&ServerUrl::parse(&api.url).unwrap(), &Trust::default()).await.unwrap();
    let bearer = format!("Bearer {}", api.token);
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(last.map(|last| ("last-event-id", last)));
    let path = format!("/api/commands/{command}/events");
    let response = client.open(Method::GET, &path, &headers, Default::default(), Duration::ZERO).await.unwrap();
    (client, response)
}

impl Events {
    async fn open(api: &Api, command: &str, last: Option<&str>) -> Self {
        let (client, response) = ask(api, command, last).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), unread: Vec::new(), _client: client }
    }

    /// The next event; none: the stream ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                match parse(std::str::from_utf8(&block).unwrap()) {
                    Some(event) => return Some(event),
                    // A comment that keeps the connection busy.
                    None => continue,
                }
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("the stream goes on or ends");
            let Some(frame) = frame else {
                assert_eq!(self.unread, b"", "no half event at the end");
                return None;
            };
            self.unread.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    async fn rest(mut self) -> Vec<Event> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}

fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.strip_prefix(' ').unwrap_or(line).to_owned())
    };
    Some(Event { id: field("id")?, name: field("event")?, data: serde_json::from_str(&field("data")?).unwrap() })
}

/// Transitions by their word, output as its stream, the end as such.
fn story(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| match event.name.as_str() {
        "transition" => event.data["transition"]["event"].as_str().unwrap().to_owned(),
        "output" => event.data["stream"].as_str().unwrap().to_owned(),
        other => other.to_owned(),
    };
    events.iter().map(word).collect()
}

fn bytes_of(events: &[Event], stream: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for event in events.iter().filter(|event| event.name == "output" && event.data["stream"] == stream) {
        assert_eq!(event.data["offset"], all.len(), "no gap and no repetition");
        all.extend(STANDARD.decode(event.data["data"].as_str().unwrap()).unwrap());
    }
    all
}

#[tokio::test]
async fn a_stream_opened_before_anything_happens_sees_it_all_in_order() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server.api, "web-1").await;
    agent.process.kill();
    server.api.until_online("web-1", false).await;
    let line = "echo one; echo err >&2; sleep 0.2; echo two; head -c 300000 /dev/zero; exit 6";
    let command = server.api.run("web-1", line).await;
    let mut events = Events::open(&server.api, &command, None).await;
    assert_eq!(events.next().await.unwrap().data["transition"]["event"], "queued");
    agent.restart("web-1");
    let seen = events.rest().await;
    let story = story(&seen);
    assert_eq!(story[..3], ["dispatched", "accepted", "running"]);
    assert_eq!(story[story.len() - 2..], ["failed", "end"]);
    assert!(story[3..story.len() - 2].iter().all(|word| word == "stdout" || word == "stderr"), "{story:?}");
    assert_eq!(bytes_of(&seen, "stdout"), [b"one\ntwo\n", &[0; 300_000][..]].concat());
    assert_eq!(bytes_of(&seen, "stderr"), b"err\n");
    let failed = &seen[seen.len() - 2].data;
    assert_eq!((&failed["exit_code"], &failed["agent_name"]), (&6.into(), &"web-1".into()));
    assert_eq!(seen.last().unwrap().data["deliveries"][0]["exit_code"], 6);
    server.stop().await;
}

#[tokio::test]
async fn a_stream_goes_on_after_any_event_without_repetition() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    // More pieces than one read of the database takes.
    let line = "i=0; while [ $i -lt 400 ]; do echo line $i; [ $((i % 2)) = 0 ] || echo err $i >&2; i=$((i+1)); done; head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2";
    let command = server.api.run("web-1", line).await;
    server.api.until(&command, &["succeeded"]).await;
    let whole = Events::open(&server.api, &command, None).await.rest().await;
    assert_eq!(whole.last().unwrap().name, "end");
    for stream in ["stdout", "stderr"] {
        assert_eq!(bytes_of(&whole, stream), server.api.output(&command, stream).await);
    }
    // The end alone has the id of the event before it: it is told again to whoever asks.
    let mut ids: Vec<_> = whole[..whole.len() - 1].iter().map(|event| &event.id).collect();
    ids.dedup();
    assert_eq!(ids.len(), whole.len() - 1);
    for at in [0, 1, 3, 4, 5, whole.len() / 2, whole.len() - 3, whole.len() - 2] {
        let rest = Events::open(&server.api, &command, Some(&whole[at].id)).await.rest().await;
        assert!(rest == whole[at + 1..], "after event {at} of {}: {:?}", whole.len(), story(&rest));
    }
    let again = Events::open(&server.api, &command, Some(&whole.last().unwrap().id)).await.rest().await;
    assert_eq!(story(&again), ["end"]);
    server.stop().await;
}

#[tokio::test]
async fn a_stream_that_broke_off_in_the_middle_is_taken_up_where_it_was() {
    let server = TestServer::start().await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    let gate = server.data.path().join("gate");
    let line = format!("echo one; while [ ! -e {} ]; do sleep 0.05; done; echo two", gate.display());
    let command = server.api.run("web-1", &line).await;
    let mut events = Events::open(&server.api, &command, None).await;
    let mut first = Vec::new();
    while first.last().is_none_or(|event: &Event| event.name != "output") {
        first.push(events.next().await.unwrap());
    }
    drop(events);
    std::fs::write(&gate, "").unwrap();
    let rest = Events::open(&server.api, &command, Some(&first.last().unwrap().id)).await.rest().await;
    assert_eq!(story(&rest), ["stdout", "succeeded", "end"]);
    assert_eq!(bytes_of(&[first, rest].concat(), "stdout"), b"one\ntwo\n");
    server.stop().await;
}

#[tokio::test]
async fn a_command_to_several_ends_with_the_last_of_them() {
    let server = TestServer::start().await;
    let (first, second) = (Identity::enroll(&server.api, "a").await, Identity::enroll(&server.api, "b").await);
    let body = json!({ "command": "true", "targets": { "all": true }, "confirm": 2 });
    let command = id(&server.api.call("POST", "/api/commands", body).await.json());
    let mut events = Events::open(&server.api, &command, None).await;
    let mut agent = RawAgent::connect(&server.api, &first).await;
    let delivery = agent.dispatched().await.0;
    agent.complete(delivery).await;
    let mut seen = Vec::new();
    while story(&seen).last().is_none_or(|word| word != "succeeded") {
        seen.push(events.next().await.unwrap());
    }
    assert_eq!(story(&seen).iter().filter(|word| *word == "queued").count(), 2);
    let mut agent = RawAgent::connect(&server.api, &second).await;
    let delivery = agent.dispatched().await.0;
    agent.complete(delivery).await;
    let rest = events.rest().await;
    assert_eq!(story(&rest), ["dispatched", "accepted", "running", "succeeded", "end"]);
    assert!(rest[..4].iter().all(|event| event.data["agent_name"] == "b"));
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_streamed_is_a_problem_document() {
    let server = TestServer::start().await;
    Identity::enroll(&server.api, "web-1").await;
    let command = server.api.run("web-1", "true").await;
    let unknown = CommandId::new().to_string();
    let stranger = Api { url: server.api.url.clone(), token: "prt_wrong".to_owned() };
    let cases = [
        (&server.api, unknown.as_str(), None, 404),
        (&server.api, "x", None, 404),
        (&server.api, &command, Some("7"), 422),
        (&server.api, &command, Some("a.b"), 422),
        (&server.api, &command, Some("1.2.3"), 422),
        (&server.api, &command, Some("1.99999999999999999999"), 422),
        (&server.api, &command, Some(""), 422),
        (&stranger, &command, None, 401),
    ];
    for (api, command, last, status) in cases {
        let (_client, response) = ask(api, command, last).await;
        assert_eq!(response.status(), status, "{command} {last:?}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert!(status != 422 || body["field"] == "Last-Event-ID", "{body}");
    }
    server.stop().await;
}

/// A stream that is asked for and never read, over a connection that holds little.
async fn unread(api: &Api, command: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(api.url.trim_start_matches("http://").parse().unwrap()).await.unwrap();
    let (path, token) = (format!("/api/commands/{command}/events"), &api.token);
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn readers_that_never_read_hold_up_nobody() {
    let server = TestServer::start().await;
    let _web = TestAgent::start(&server.api, "web-1").await;
    let _db = TestAgent::start(&server.api, "db").await;
    let line = "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2";
    let loud = server.api.run("web-1", line).await;
    let mut stuck = Vec::new();
    for _ in 0..20 {
        stuck.push(unread(&server.api, &loud).await);
    }
    let seen = Events::open(&server.api, &loud, None).await.rest().await;
    assert_eq!((bytes_of(&seen, "stdout").len(), bytes_of(&seen, "stderr").len()), (1_000_000, 1_000_000));
    for agent in ["web-1", "db"] {
        let other = server.api.run(agent, "echo other").await;
        let seen = Events::open(&server.api, &other, None).await.rest().await;
        assert_eq!(story(&seen).last().unwrap(), "end");
        assert_eq!(bytes_of(&seen, "stdout"), b"other\n");
    }
    eventually("both agents are still connected", || async {
        let agents = server.api.get("/api/agents").await;
        let online = agents["agents"].as_array()?.iter().filter(|agent| agent["online"] == true && agent["epoch"] == 1);
        (online.count() == 2).then_some(())
    })
    .await;
    drop(stuck);
    server.stop().await;
}
