//! Who asks or fails too often is sent away, and nobody else notices.

use crate::harness::api::Api;
use crate::harness::operators::{enroll_at, operator, with_token};
use crate::harness::raw_agent::{Identity, RawAgent, dial};
use crate::harness::server::TestServer;
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use postrider::protocol::close::CloseReason;
use postrider::protocol::frame::{AgentFrame, Hello, ServerFrame, decode, encode};
use postrider::protocol::ids::AgentId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio_tungstenite::tungstenite::Message;

async fn agents(api: &Api) -> u16 {
    api.call("GET", "/api/agents", Value::Null).await.status.as_u16()
}

#[tokio::test]
async fn a_thousand_wrong_tokens_are_refused_and_a_good_one_from_the_same_address_goes_on() {
    let server = TestServer::start().await;
    let good = operator(&server.api, "good", json!({ "role": "technician" })).await.api;
    assert_eq!(agents(&good).await, 200);
    let wrong = with_token(&server.api, "prt_wrong");
    let (guesses, served) = tokio::join!(
        async {
            let mut answers: BTreeMap<(u16, String), u32> = BTreeMap::new();
            for _ in 0..20 {
                let replies = join_all((0..50).map(|n| {
                    let wrong = with_token(&wrong, &format!("prt_wrong{n}"));
                    async move { wrong.call("GET", "/api/agents", Value::Null).await.problem() }
                }));
                replies.await.into_iter().for_each(|answer| *answers.entry(answer).or_default() += 1);
            }
            answers
        },
        async {
            let mut served = 0;
            for _ in 0..200 {
                served += u32::from(agents(&good).await == 200);
            }
            served
        }
    );
    println!("1,000 wrong tokens: {guesses:?}");
    assert_eq!(served, 200, "all good requests are served");
    let looked_up = guesses[&(401, "unauthorized".to_owned())];
    // Twenty, and those that were being looked up when the twentieth failed.
    assert!((20..=24).contains(&looked_up), "{guesses:?}");
    assert_eq!(guesses[&(429, "locked_out".to_owned())], 1000 - looked_up);
    let reply = wrong.call("GET", "/api/agents", Value::Null).await;
    let wait: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // A good token that was never used from here waits, too, and so does an enrollment; one that was goes on.
    let fresh = operator(&server.api, "fresh", json!({ "role": "viewer" })).await.api;
    assert_eq!(agents(&fresh).await, 429);
    assert_eq!(server.api.call("POST", "/api/enroll", json!({})).await.problem(), (429, "locked_out".to_owned()));
    assert_eq!(agents(&good).await, 200);
    let metrics = String::from_utf8(server.api.request("GET", "/metrics", &[], Vec::new()).await.body).unwrap();
    assert!(metrics.contains(r#"postrider_refused_total{code="locked_out"}"#), "{metrics}");
    server.stop().await;
}

#[tokio::test]
async fn wrong_join_secrets_and_sessions_count_for_the_address() {
    let server = TestServer::start().await;
    assert_eq!(agents(&server.api).await, 200);
    let key = "A".repeat(43);
    let body = json!({ "secret": "guess", "public_key": key, "name": "x" });
    for _ in 0..10 {
        let reply = server.api.call("POST", "/api/enroll", body.clone()).await;
        assert_eq!(reply.problem(), (403, "join_refused".to_owned()));
    }
    for n in 0..10 {
        let cookie = format!("__Host-postrider=prs_{n}");
        let reply = server.api.request("GET", "/api/agents", &[("cookie", &cookie)], Vec::new()).await;
        assert_eq!(reply.problem(), (401, "session_ended".to_owned()));
    }
    assert_eq!(server.api.call("POST", "/api/enroll", body).await.status, 429);
    assert_eq!(agents(&server.api).await, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_technicians_token_has_its_rate_and_an_owners_has_none() {
    let server = TestServer::start().await;
    enroll_at(&server.api, "b-1", "berlin").await;
    let tom = operator(&server.api, "tom", json!({ "role": "technician" })).await.api;
    let ask = async |api: &Api| -> Vec<u16> {
        let mut statuses = Vec::new();
        for _ in 0..30 {
            statuses.extend(join_all((0..100).map(|_| agents(api))).await);
        }
        statuses
    };
    let (toms, owners) = tokio::join!(ask(&tom), ask(&server.api));
    let refused = toms.iter().filter(|status| **status == 429).count();
    println!("{refused} of 3,000 requests of one technician were refused");
    assert!(toms.iter().all(|status| [200, 429].contains(status)));
    assert!(toms[..400].iter().all(|status| *status == 200), "a burst is served");
    assert!(owners.iter().all(|status| *status == 200));
    server.stop().await;
}

/// Says `hello`; answers the close code, or none for a welcome.
async fn hello(api: &Api, identity: &Identity, spoil: impl FnOnce(&mut Hello)) -> Option<u16> {
    let (mut socket, nonce, server) = dial(api.address()).await;
    let mut hello = identity.hello(&nonce, server, Vec::new());
    if let AgentFrame::Hello(hello) = &mut hello {
        spoil(hello);
    }
    socket.send(Message::text(encode(&hello))).await.unwrap();
    match socket.next().await {
        Some(Ok(Message::Text(text))) => {
            assert!(matches!(decode(&text), Ok(ServerFrame::Welcome { .. })), "{text}");
            None
        }
        Some(Ok(Message::Close(Some(frame)))) => Some(frame.code.into()),
        other => panic!("neither a welcome nor a reason: {other:?}"),
    }
}

#[tokio::test]
async fn one_agent_cannot_take_the_places_of_all() {
    let server = TestServer::start().await;
    let greedy = Identity::enroll(&server.api, "greedy").await;
    let modest = Identity::enroll(&server.api, "modest").await;
    let mut welcomed = 0;
    for _ in 0..10 {
        let round = join_all((0..30).map(|_| hello(&server.api, &greedy, |_| {}))).await;
        welcomed += round.iter().filter(|code| code.is_none()).count();
        let too_often = CloseReason::TooOften.code();
        assert!(round.iter().flatten().all(|code| [too_often, CloseReason::Superseded.code()].contains(code)));
    }
    println!("{welcomed} of 300 sessions of one agent were begun");
    assert!(welcomed < 300, "it is sent away");
    let _agent = RawAgent::connect(&server.api, &modest).await;
    server.stop().await;
}

#[tokio::test]
async fn wrong_hellos_shut_out_neither_their_address_nor_its_other_agents() {
    let server = TestServer::start().await;
    assert_eq!(agents(&server.api).await, 200);
    let clone = Identity::enroll(&server.api, "clone").await;
    let other = Identity::enroll(&server.api, "other").await;
    // A wrong proof in the name of an agent that is known does not shut it out.
    for _ in 0..40 {
        let code = hello(&server.api, &clone, |hello| hello.signature = "A".repeat(86)).await;
        assert_eq!(code, Some(CloseReason::Unauthorized.code()));
    }
    assert_eq!(hello(&server.api, &clone, |_| {}).await, None);
    // One that is not known is soon not looked at.
    let stranger = AgentId::new();
    for number in 0..10 {
        let code = hello(&server.api, &clone, |hello| hello.agent_id = stranger).await;
        let expected = if number < 5 { CloseReason::Unauthorized } else { CloseReason::TooOften };
        assert_eq!(code, Some(expected.code()), "{number}");
    }
    // Both count for strangers at the address, who guess tokens.
    assert_eq!(agents(&with_token(&server.api, "prt_guess")).await, 429);
    assert_eq!(agents(&server.api).await, 200);
    let _agent = RawAgent::connect(&server.api, &other).await;
    server.api.until_online("other", true).await;
    server.stop().await;
}
