//! The bodies of the HTTP interface, for the server that writes them and the command line that reads them.
//!
//! Requests refuse unknown fields. Responses may grow; readers ignore what they do not know.

use super::close::CloseReason;
use super::ids::{AgentId, CommandId, DeliveryId, JoinId, ServerId};
use super::name::Tags;
use super::outcome::StreamSummary;
use super::output::Stream;
use super::secret_env::SecretEnv;
use super::spec::Shell;
use super::state::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Largest request body, in bytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Longest `?wait=`, in seconds.
pub const WAIT_SECS_MAX: u64 = 300;
/// Longest `Idempotency-Key`, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Longest note, in bytes.
pub const NOTE_BYTES_MAX: usize = 1024;
/// Items of a list answer when no `limit` is given, and the most that can be asked for.
pub const PAGE_DEFAULT: u32 = 50;
/// Most items of one list answer.
pub const PAGE_MAX: u32 = 1000;
/// Agents that one submission may name.
pub const TARGETS_MAX: usize = 10_000;

/// A technician's submission to more agents than this wants their number, if the server was not told otherwise: one hand's
/// slip reaches a site, not a fleet.
pub const CONFIRM_ABOVE: u64 = 25;

/// `POST /api/agents/{id or name}/command`, and with `targets` `POST /api/commands`.
///
/// Exactly one of `command`, `argv` and `spec`; with `spec` none of the fields that it holds itself (of `secret_env` it
/// holds the names).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubmitRequest {
    /// To whom; only in `POST /api/commands`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
    /// A line for the platform's shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// A program and its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// A ready-made specification document, kept byte for byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<String>,
    /// The shell for `command`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Shell>,
    /// Working folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Environment, added to the agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// Secret environment: kept sealed until it is delivered, and shown to nobody. With `spec` the values of the names in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<SecretEnv>,
    /// Standard input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Timeout in seconds, fractions allowed; default 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
    /// Time to live in seconds, fractions allowed; default 604800.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<f64>,
    /// Output kept of each stream, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes_max: Option<u64>,
    /// For people: a ticket number, a reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How many agents it goes to, where that must be said; wrong is never taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm: Option<u64>,
}

/// To whom a command goes: exactly one of the three.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Targets {
    /// Ids or names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<String>>,
    /// All agents that carry every one of these tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Tags>,
    /// `true`: all agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

/// A command with its deliveries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommandResponse {
    /// Its id.
    pub id: CommandId,
    /// When it was committed, in Unix milliseconds.
    pub created_ms: i64,
    /// Name of the token that submitted it.
    pub created_by: String,
    /// The specification document, byte for byte.
    pub spec: String,
    /// One line for people.
    pub summary: String,
    /// It does not start after this, in Unix milliseconds.
    pub not_after_ms: i64,
    /// The submitter's note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The approval that it needs or has got; left out: it needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// The delivery's state, when there is exactly one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// How many deliveries are in each state.
    pub states: BTreeMap<State, u64>,
    /// One an agent, in the order of submission. In lists only the first [`LIST_DELIVERIES_MAX`].
    pub deliveries: Vec<DeliveryResponse>,
}

/// A second person's approval of a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Approval {
    /// It needs one.
    pub needed: bool,
    /// Name of the token that approved it; null: nobody has.
    pub approved_by: Option<String>,
    /// When.
    pub approved_ms: Option<i64>,
}

impl Default for Approval {
    /// Needed, and not given.
    fn default() -> Self {
        Self { needed: true, approved_by: None, approved_ms: None }
    }
}

impl CommandResponse {
    /// Whether it waits for a second person's approval.
    pub fn awaits_approval(&self) -> bool {
        self.approval.as_ref().is_some_and(|approval| approval.approved_by.is_none())
            && self.states.contains_key(&State::Queued)
    }
}

/// Deliveries shown of each command in a list.
pub const LIST_DELIVERIES_MAX: usize = 10;

/// One delivery.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeliveryResponse {
    /// Its id.
    pub id: DeliveryId,
    /// To whom.
    pub agent_id: AgentId,
    /// The agent's name.
    pub agent_name: String,
    /// Where it stands.
    pub state: State,
    /// On hold until a second person approves the command.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Dispatches so far.
    pub attempt: u32,
    /// The exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why, where the state and the code do not say it all.
    pub reason: Option<String>,
    /// When somebody asked to cancel it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_requested_ms: Option<i64>,
    /// When it was accepted, by the server's clock.
    pub accepted_ms: Option<i64>,
    /// When its start was reported.
    pub started_ms: Option<i64>,
    /// When its end was stored.
    pub finished_ms: Option<i64>,
    /// How long the process ran, by the agent's monotonic clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Standard output's size; known at the end.
    pub stdout: StreamSummary,
    /// Standard error's size; known at the end.
    pub stderr: StreamSummary,
    /// Everything that happened, oldest first. Only in `GET /api/commands/{id}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transitions: Vec<TransitionResponse>,
}

impl DeliveryResponse {
    /// A delivery to which nothing has happened yet.
    pub fn queued(id: DeliveryId, agent_id: AgentId, agent_name: String) -> Self {
        Self {
            id,
            agent_id,
            agent_name,
            state: State::Queued,
            held: false,
            attempt: 0,
            exit_code: None,
            signal: None,
            reason: None,
            cancel_requested_ms: None,
            accepted_ms: None,
            started_ms: None,
            finished_ms: None,
            duration_ms: None,
            stdout: StreamSummary::default(),
            stderr: StreamSummary::default(),
            transitions: Vec::new(),
        }
    }
}

/// One thing that happened to a delivery.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransitionResponse {
    /// When, in Unix milliseconds by the server's clock.
    pub at_ms: i64,
    /// A state, or `approved`, `dispatched` or `cancel_requested`.
    pub event: String,
    /// The connection's epoch, where one was concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The dispatch attempt, for `dispatched`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Who or what caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// `GET /api/commands`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommandsResponse {
    /// Newest first.
    pub commands: Vec<CommandResponse>,
    /// Value for `before=` to get the next page; none: this was the last.
    pub next: Option<CommandId>,
}

/// One agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentResponse {
    /// Its id.
    pub id: AgentId,
    /// Its label.
    pub name: String,
    /// Whether it has a connection whose outward direction is proven.
    pub online: bool,
    /// Whether it waits for approval; until then it is given nothing.
    #[serde(default)]
    pub pending: bool,
    /// The latest connection's epoch; 0: never connected.
    pub epoch: u64,
    /// When the present (else the latest) connection was authenticated.
    pub connected_ms: Option<i64>,
    /// The last proven round trip.
    pub proven_ms: Option<i64>,
    /// Why and when the last connection ended.
    pub last_close: Option<LastClose>,
    /// When it was last seen that its data folder had been copied, moved, restored or emptied; null: never. Again and
    /// again: two hosts share one identity.
    pub clash_ms: Option<i64>,
    /// Deliveries that wait in the outbox.
    pub outbox: u64,
    /// Its tags.
    pub tags: Tags,
    /// Host inventory (`Facts`), as it is stored; null: not reported yet. Read by whoever shows it: a list may have ten
    /// thousand.
    pub facts: Option<Box<RawValue>>,
    /// When it enrolled.
    pub enrolled_ms: i64,
    /// From which address; null: not known.
    #[serde(default)]
    pub enrolled_from: Option<String>,
    /// With which join string.
    pub join_id: JoinId,
    /// Its version, as of its latest connection.
    pub version: Option<String>,
    /// Its operating system, as of its latest connection.
    pub os: Option<String>,
}

/// Why and when a connection ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LastClose {
    /// Why.
    pub reason: CloseReason,
    /// When, in Unix milliseconds.
    pub at_ms: i64,
}

/// `GET /api/agents`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentsResponse {
    /// By order of enrollment.
    pub agents: Vec<AgentResponse>,
    /// Value for `after=` to get the next page; none: this was the last.
    pub next: Option<AgentId>,
}

/// `POST /api/commands/{id}/cancel`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CancelResponse {
    /// The command.
    pub id: CommandId,
    /// Deliveries that were still in the outbox and are cancelled now.
    pub cancelled: u64,
    /// Deliveries that their agents hold and will be asked to end.
    pub requested: u64,
    /// Deliveries that had ended before.
    pub ended: u64,
}

/// `data:` of an event in `GET /api/commands/{id}/events`; the event's name is `transition`, `output` or `end`.
///
/// `transition`: a [`TransitionEvent`]. `output`: an [`OutputEvent`]. `end`: every delivery is terminal; a
/// [`CommandResponse`]. The event's id is a cursor for `Last-Event-ID`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransitionEvent {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// Whose.
    pub agent_id: AgentId,
    /// The agent's name.
    pub agent_name: String,
    /// What happened.
    pub transition: TransitionResponse,
    /// The exit code, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A piece of output as it came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutputEvent {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// Whose.
    pub agent_id: AgentId,
    /// The agent's name.
    pub agent_name: String,
    /// Which stream.
    pub stream: Stream,
    /// Position of the first byte in the whole stream; a jump means dropped bytes.
    pub offset: u64,
    /// The bytes, in standard base64.
    pub data: String,
}

/// An error answer (RFC 9457), `application/problem+json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// A stable word to branch on.
    pub code: String,
    /// What happened and what to do.
    pub detail: String,
    /// The request, as the server's log knows it.
    pub request_id: String,
    /// The field that is wrong, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// How many agents a submission would go to that wants their number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The agents that an ambiguous name may mean, or the first of those that are to be confirmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
}

/// One of several agents of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: Tags,
    /// It waits for approval.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
}

/// `GET /healthz` and `GET /readyz`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HealthResponse {
    /// `ok`, or what is wrong.
    pub status: String,
    /// The server's version.
    pub version: String,
    /// The server's id.
    pub server_id: ServerId,
}
