//! The HTTP bodies about who may do what: join strings, enrollment, tokens.

use super::ids::{AgentId, JoinId, ServerId, TokenId};
use super::name::{AgentName, Tags};
use super::scope::Scope;
use serde::{Deserialize, Serialize};

/// `POST /api/join`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JoinRequest {
    /// How many agents may enroll with it; default 1.
    pub uses: Option<u32>,
    /// How long it is good, in seconds; default 86400.
    pub expires_s: Option<f64>,
    /// The address to put into the string; default: what the server was told, or where it listens.
    pub server_url: Option<String>,
    /// What its agents carry, whatever they say themselves.
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// The same as the tag `site`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Its agents wait for somebody's approval before they are given anything.
    pub approve: bool,
}

/// A join string, made or listed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinResponse {
    /// Its id, to revoke it by.
    pub id: JoinId,
    /// The string itself. Only in the answer that makes it; it is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<String>,
    /// The line that installs an agent with it, for a root shell on a Linux host. Only in the answer that makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<String>,
    /// When it was made.
    pub created_ms: i64,
    /// Name of the token that made it.
    pub created_by: String,
    /// Until when it is good.
    pub expires_ms: i64,
    /// How many agents may enroll with it.
    pub uses_max: u32,
    /// How many have.
    pub uses: u32,
    /// What its agents carry.
    #[serde(default)]
    pub tags: Tags,
    /// Whether its agents wait for approval.
    #[serde(default)]
    pub approve: bool,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<i64>,
}

/// `GET /api/join`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinsResponse {
    /// Newest first, at most [`PAGE_MAX`](super::http::PAGE_MAX).
    pub joins: Vec<JoinResponse>,
}

/// `POST /api/enroll`: the join string's secret is the right to do so.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The join string's secret.
    pub secret: String,
    /// The agent's Ed25519 public key: 32 bytes in URL-safe base64 without padding.
    pub public_key: String,
    /// The name it wants.
    pub name: AgentName,
    /// Its tags.
    #[serde(default)]
    pub tags: Tags,
}

/// The answer to an enrollment. The same key enrolls to the same agent, so that a lost answer can be asked for again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrollResponse {
    /// The agent's id from now on.
    pub agent_id: AgentId,
    /// Its name.
    pub name: String,
    /// The server that it belongs to.
    pub server_id: ServerId,
    /// It waits for somebody's approval; until then its connections are closed.
    #[serde(default)]
    pub pending: bool,
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads, submits and cancels.
    Technician,
    /// Everything, tokens and join strings too.
    Owner,
}

impl Role {
    /// The word in JSON and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Technician => "technician",
            Role::Owner => "owner",
        }
    }
}

/// `POST /api/tokens`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Whose it is; shown in history. Unique among the tokens that are good.
    pub name: AgentName,
    /// What it may do.
    pub role: Role,
    /// Which agents it reaches; default: those that its maker's does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// How long it is good, in seconds; default: as long as its maker's.
    #[serde(default)]
    pub expires_s: Option<f64>,
}

/// A token, made or listed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenResponse {
    /// Its id, to revoke it by.
    pub id: TokenId,
    /// The token itself. Only in the answer that makes it; the server keeps a hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Whose it is.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Which agents it reaches; `{}`: all.
    #[serde(default)]
    pub scope: Scope,
    /// When it was made.
    pub created_ms: i64,
    /// Name of the token that made it; none: the server at its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// When it was last used, to the minute; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_ms: Option<i64>,
    /// The address of its last use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_from: Option<String>,
    /// Whether a one-time password is needed with it.
    #[serde(default)]
    pub totp: bool,
    /// Until when it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<i64>,
}

/// How a session's secret comes back to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// In a cookie that scripts cannot read: browsers.
    #[default]
    Cookie,
    /// As a bearer token: the command line.
    Bearer,
}

/// `POST /api/session`, with the token in the header.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionRequest {
    /// The one-time password, where the token needs one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// How the session's secret comes back.
    pub kind: SessionKind,
}

/// A session, opened or looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionResponse {
    /// The session itself, of the kind `bearer`. Only in the answer that opens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What unsafe requests with the cookie send in `x-postrider-csrf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csrf: Option<String>,
    /// Until when it is good, if it is used; none: a token that is good until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
    /// Id of the token behind it.
    pub token_id: TokenId,
    /// Whose.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Which agents it reaches; `{}`: all.
    pub scope: Scope,
}

/// `POST /api/tokens/{id}/totp`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TotpResponse {
    /// The secret in base32, to type in.
    pub secret: String,
    /// The same as a URL that authenticators read.
    pub url: String,
}

/// `PUT /api/tokens/{id}/totp`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TotpRequest {
    /// What the authenticator shows.
    pub code: String,
}

/// `GET /api/tokens`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokensResponse {
    /// Newest first, at most [`PAGE_MAX`](super::http::PAGE_MAX).
    pub tokens: Vec<TokenResponse>,
}
