//! How a delivery ended, as the agent reports it.

use super::state::State;
use serde::{Deserialize, Serialize};

/// Longest reason, in bytes; a longer one is cut.
pub const REASON_BYTES_MAX: usize = 1024;

/// The end of a delivery. Kept in the agent's journal until the server says that it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// A terminal state other than `lost`, which only the server can give.
    pub state: State,
    /// The exit code, where the process ended by itself with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended the process (Unix).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why, in a sentence, where the state and the code do not say it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From the start of the process to its end, in milliseconds by the agent's monotonic clock; none: never started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// What standard output was.
    #[serde(default)]
    pub stdout: StreamSummary,
    /// What standard error was.
    #[serde(default)]
    pub stderr: StreamSummary,
}

/// How much one output stream had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSummary {
    /// All that the process wrote, in bytes.
    pub bytes: u64,
    /// How many of them, from the middle, were dropped.
    pub dropped: u64,
}

impl Outcome {
    /// An end without a process: `state` and why.
    pub fn without_run(state: State, reason: impl Into<String>) -> Self {
        let mut outcome = Self {
            state,
            exit_code: None,
            signal: None,
            reason: Some(reason.into()),
            duration_ms: None,
            stdout: StreamSummary::default(),
            stderr: StreamSummary::default(),
        };
        outcome.cut_reason();
        outcome
    }

    /// Whether an agent may report this state as an end.
    pub fn is_reportable(&self) -> bool {
        self.state.is_terminal() && self.state != State::Lost
    }

    /// Cuts the reason to [`REASON_BYTES_MAX`].
    pub fn cut_reason(&mut self) {
        if let Some(reason) = &mut self.reason {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        }
    }
}
