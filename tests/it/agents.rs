//! The list of agents: pages, filters, and what it says of each.

use crate::harness::api::Api;
use crate::harness::eventually::eventually;
use crate::harness::operators::{enroll_at, operator};
use crate::harness::raw_agent::{Identity, RawAgent};
use crate::harness::server::TestServer;
use postrider::protocol::frame::AgentFrame;
use postrider::protocol::http::{AgentResponse, AgentsResponse};
use serde_json::{Value, json};

/// The names on each page.
async fn pages(api: &Api, query: &str) -> Vec<Vec<String>> {
    let (mut pages, mut after) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/api/agents?{query}{after}")).await;
        let names = page["agents"].as_array().unwrap().iter().map(|agent| agent["name"].as_str().unwrap().to_owned());
        pages.push(names.collect());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn pages_have_every_agent_once_and_the_last_says_so() {
    let server = TestServer::start().await;
    let owner = &server.api;
    assert_eq!(owner.get("/api/agents").await, json!({ "agents": [], "next": null }));
    for number in 1..=5 {
        enroll_at(owner, &format!("a-{number}"), if number == 3 { "munich" } else { "berlin" }).await;
    }
    assert_eq!(pages(owner, "limit=2").await, [vec!["a-1", "a-2"], vec!["a-3", "a-4"], vec!["a-5"]]);
    assert_eq!(pages(owner, "limit=5").await, [["a-1", "a-2", "a-3", "a-4", "a-5"]]);
    assert_eq!(pages(owner, "limit=2&tag=site%3Dberlin").await, [["a-1", "a-2"], ["a-4", "a-5"]]);
    assert_eq!(pages(owner, "tag=site%3Dberlin&tag=role%3Dweb").await, [[""; 0]]);
    let ann = operator(owner, "ann", json!({ "role": "viewer", "scope": { "site": ["munich"] } })).await.api;
    assert_eq!(pages(&ann, "limit=1").await, [["a-3"]]);
    assert_eq!(pages(&ann, "tag=site%3Dberlin").await, [[""; 0]]);
    assert_eq!(owner.call("DELETE", "/api/agents/a-2", Value::Null).await.status, 200);
    assert_eq!(pages(owner, "limit=2").await, [["a-1", "a-3"], ["a-4", "a-5"]]);
    server.stop().await;
}

#[tokio::test]
async fn an_agent_is_the_same_in_the_list_and_alone_and_its_facts_are_its_own_words() {
    let server = TestServer::start().await;
    let api = &server.api;
    let identity = Identity::enroll(api, "web-1").await;
    enroll_at(api, "web-2", "berlin").await;
    api.run("web-1", "true").await;
    let mut agent = RawAgent::connect(api, &identity).await;
    let facts = json!({ "users": ["ü", "\u{1}\"\\"], "memory_bytes": 1, "z": [], "a": { "b": null, "A": 0.5 } });
    agent.send(&AgentFrame::Facts { facts: facts.clone() }).await;
    eventually("its facts are told", || async {
        (!api.get("/api/agents/web-1").await["facts"].is_null()).then_some(())
    })
    .await;
    let text = async |path: &str| {
        let reply = api.call("GET", path, Value::Null).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.headers["content-type"]),
            (200, &"application/json".parse().unwrap())
        );
        String::from_utf8(reply.body).unwrap()
    };
    // A round trip may be proven between two answers.
    let (listed, one, other) = eventually("nothing changes meanwhile", || async {
        let before = text("/api/agents").await;
        let both = (text("/api/agents/web-1").await, text("/api/agents/web-2").await);
        (text("/api/agents").await == before).then_some((before, both.0, both.1))
    })
    .await;
    assert_eq!(listed, format!(r#"{{"agents":[{one},{other}],"next":null}}"#));
    let read: AgentsResponse = serde_json::from_str(&listed).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), listed, "the fields of the type, in its order, and no others");
    let [one, other]: [AgentResponse; 2] = read.agents.try_into().unwrap();
    assert!(one.online && one.epoch == agent.epoch() && one.connected_ms.is_some() && one.proven_ms.is_some());
    assert_eq!(one.facts.unwrap().get(), facts.to_string());
    assert!(!other.online && other.epoch == 0 && other.connected_ms.is_none() && other.facts.is_none());
    assert_eq!(serde_json::to_value(&other.tags).unwrap(), json!({ "site": "berlin" }));
    server.stop().await;
}
