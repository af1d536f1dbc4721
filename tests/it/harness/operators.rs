//! Operators: tokens of all kinds, agents at sites, and requests as a browser makes them.

use super::api::{Api, Reply};
use super::raw_agent::{enrollment, fresh_key};
use serde_json::{Value, json};

/// A token that was made: a client with it, and its id.
pub struct Operator {
    /// A client with the token.
    pub api: Api,
    /// The token's id.
    pub id: String,
}

/// The same server with another token.
pub fn with_token(api: &Api, token: &str) -> Api {
    Api { url: api.url.clone(), token: token.to_owned() }
}

/// Makes a token; `rest` is what the body has beside the name.
pub async fn operator(api: &Api, name: &str, rest: Value) -> Operator {
    let mut body = rest;
    body["name"] = json!(name);
    let reply = api.call("POST", "/api/tokens", body).await;
    assert_eq!(reply.status, 201, "{:?}", String::from_utf8_lossy(&reply.body));
    let made = reply.json();
    Operator { api: with_token(api, made["token"].as_str().unwrap()), id: made["id"].as_str().unwrap().to_owned() }
}

/// Enrolls an agent at a site, which does not connect.
pub async fn enroll_at(api: &Api, name: &str, site: &str) {
    let mut body = enrollment(&api.join().await, &fresh_key(), name);
    body["tags"] = json!({ "site": site });
    assert_eq!(api.call("POST", "/api/enroll", body).await.status, 201);
}

/// The audit rows of one action: actor, target and detail.
pub fn audited(data: &std::path::Path, action: &str) -> Vec<(String, Option<String>, Value)> {
    let conn = rusqlite::Connection::open(data.join("postrider.db")).unwrap();
    let mut rows = conn.prepare("SELECT actor, target, detail FROM audit WHERE action = ?1 ORDER BY seq").unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        let detail: String = row.get(2)?;
        Ok((row.get(0)?, row.get(1)?, serde_json::from_str(&detail).unwrap()))
    };
    rows.query_map([action], row).unwrap().collect::<Result<_, _>>().unwrap()
}

/// A browser that logged in.
pub struct Browser {
    api: Api,
    /// Its cookie, as it sends it.
    pub cookie: String,
    /// What the page sends along.
    pub csrf: String,
}

impl Browser {
    /// Exchanges the client's token for a session.
    pub async fn login(api: &Api, body: Value) -> Self {
        let reply = api.call("POST", "/api/session", body).await;
        assert_eq!(reply.status, 201, "{:?}", String::from_utf8_lossy(&reply.body));
        let set = reply.headers["set-cookie"].to_str().unwrap();
        let cookie = set.split(';').next().unwrap().to_owned();
        let csrf = reply.json()["csrf"].as_str().unwrap().to_owned();
        Self { api: api.clone(), cookie, csrf }
    }

    /// A request with the cookie and these headers.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Reply {
        let headers = [&[("cookie", self.cookie.as_str())], headers].concat();
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.api.request(method, path, &headers, body).await
    }

    /// A request as the page makes it.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Reply {
        let origin = self.api.url.clone();
        self.send(method, path, &[("x-postrider-csrf", &self.csrf), ("origin", &origin)], body).await
    }
}
