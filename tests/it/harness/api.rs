//! The HTTP interface as a script would use it.

use super::eventually::eventually;
use hyper::{HeaderMap, Method, StatusCode};
use postrider::http_client::{HttpClient, HttpClientError, ServerUrl};
use postrider::protocol::login::LoginString;
use postrider::tls::Trust;
use serde_json::{Value, json};
use std::future::Future;
use std::time::Duration;

/// The states of what has ended.
pub const ENDS: &[&str] =
    &["succeeded", "failed", "timed_out", "cancelled", "interrupted", "expired", "refused", "lost"];

/// A client with a token.
#[derive(Clone)]
pub struct Api {
    /// Where the server is; with TLS its login string.
    pub url: String,
    /// Whom it takes us for.
    pub token: String,
}

/// An answer.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The problem document's code, after checking that it is one.
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(
            self.headers["content-type"],
            "application/problem+json",
            "{:?}",
            String::from_utf8_lossy(&self.body)
        );
        let body = self.json();
        assert_eq!(body["status"], self.status.as_u16());
        assert!(body["request_id"].is_string() && body["detail"].is_string() && body["title"].is_string(), "{body}");
        (self.status.as_u16(), body["code"].as_str().unwrap().to_owned())
    }
}

impl Api {
    /// Where the server listens, `HOST:PORT`.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Any request at all.
    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
        self.try_request(method, path, headers, body).await.unwrap()
    }

    /// Any request to a server that may be gone.
    pub async fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Reply, HttpClientError> {
        let (url, pins) = match LoginString::decode(&self.url).unwrap() {
            Some(login) => (login.url, login.pins),
            None => (self.url.clone(), Vec::new()),
        };
        let url = ServerUrl::parse(&url).unwrap();
        let mut client = HttpClient::connect(&url, &Trust::new(&pins)).await?;
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let patience = Duration::from_secs(300);
        let answer = client.send(method, path, headers, body.into(), patience, 64 << 20).await?;
        Ok(Reply { status: answer.status, headers: answer.headers, body: answer.body.to_vec() })
    }

    /// Submits under an idempotency key; none: the server died, or has no room now, and may be asked again.
    pub async fn try_submit(&self, agent: &str, key: &str, body: &Value) -> Option<Value> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", key)];
        let path = format!("/api/agents/{agent}/command");
        let reply = self.try_request("POST", &path, &headers, body.to_string().into_bytes()).await.ok()?;
        if reply.status.is_server_error() {
            return None;
        }
        assert!(reply.status.is_success(), "{:?}", String::from_utf8_lossy(&reply.body));
        Some(reply.json())
    }

    /// A request with the token.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Reply {
        let bearer = format!("Bearer {}", self.token);
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.request(method, path, &[("authorization", &bearer)], body).await
    }

    /// A read that must succeed.
    pub async fn get(&self, path: &str) -> Value {
        let reply = self.call("GET", path, Value::Null).await;
        assert_eq!(reply.status, 200, "{path}: {:?}", String::from_utf8_lossy(&reply.body));
        reply.json()
    }

    /// A submission that must be taken; answers the command.
    pub async fn submit(&self, agent: &str, body: Value) -> Value {
        let reply = self.call("POST", &format!("/api/agents/{agent}/command"), body).await;
        assert_eq!(reply.status, 201, "{:?}", String::from_utf8_lossy(&reply.body));
        reply.json()
    }

    /// A shell line that must be taken; answers the command's id.
    pub async fn run(&self, agent: &str, line: &str) -> String {
        id(&self.submit(agent, json!({ "command": line })).await)
    }

    /// One command.
    pub async fn command(&self, id: &str) -> Value {
        self.get(&format!("/api/commands/{id}")).await
    }

    /// Waits until the command's only delivery is in one of `states`; answers the command.
    pub async fn until(&self, id: &str, states: &[&str]) -> Value {
        eventually(&format!("command {id} in {states:?}"), || async {
            let command = self.command(id).await;
            states.contains(&command["state"].as_str().unwrap_or_default()).then_some(command)
        })
        .await
    }

    /// A shell line that must succeed: one round trip.
    pub async fn round_trip(&self, agent: &str, line: &str) -> String {
        let path = format!("/api/agents/{agent}/command?wait=60");
        let reply = self.call("POST", &path, json!({ "command": line })).await;
        assert_eq!(reply.status, 201, "{:?}", String::from_utf8_lossy(&reply.body));
        let command = reply.json();
        assert_eq!(command["state"], "succeeded", "{command}");
        id(&command)
    }

    /// Waits for `fault`, while round trips of `agent`, which it must not concern, go on one after the other; answers
    /// how many were completed meanwhile.
    pub async fn meanwhile<T>(&self, agent: &str, fault: impl Future<Output = T>) -> (T, u32) {
        let mut completed = 0;
        let others = async {
            loop {
                self.round_trip(agent, "true").await;
                completed += 1;
            }
        };
        let result = tokio::select! {
            result = fault => result,
            never = others => never,
        };
        (result, completed)
    }

    /// Waits until the end of the agent's last session is stored; answers why it ended.
    pub async fn last_close(&self, agent: &str) -> String {
        eventually(&format!("the end of {agent}'s session is stored"), || async {
            self.get(&format!("/api/agents/{agent}")).await["last_close"]["reason"].as_str().map(str::to_owned)
        })
        .await
    }

    /// Waits until the agent is online or not; answers it.
    pub async fn until_online(&self, agent: &str, online: bool) -> Value {
        eventually(&format!("{agent} online: {online}"), || async {
            let agent = self.get(&format!("/api/agents/{agent}")).await;
            (agent["online"] == online).then_some(agent)
        })
        .await
    }

    /// A join string for one agent.
    pub async fn join(&self) -> String {
        let reply = self.call("POST", "/api/join", json!({})).await;
        assert_eq!(reply.status, 201);
        reply.json()["join"].as_str().unwrap().to_owned()
    }

    /// All stored bytes of one stream.
    pub async fn output(&self, id: &str, stream: &str) -> Vec<u8> {
        let (mut all, mut from) = (Vec::new(), "0".to_owned());
        loop {
            let path = format!("/api/commands/{id}/output?stream={stream}&from={from}");
            let reply = self.call("GET", &path, Value::Null).await;
            assert_eq!(reply.status, 200);
            if reply.body.is_empty() {
                return all;
            }
            all.extend_from_slice(&reply.body);
            from = reply.headers["x-postrider-next"].to_str().unwrap().to_owned();
        }
    }
}

/// The id of a command.
pub fn id(command: &Value) -> String {
    command["id"].as_str().unwrap().to_owned()
}

/// The events of the only delivery, in order.
pub fn events(command: &Value) -> Vec<String> {
    let transitions = command["deliveries"][0]["transitions"].as_array().unwrap();
    transitions.iter().map(|transition| transition["event"].as_str().unwrap().to_owned()).collect()
}
