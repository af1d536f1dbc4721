//! The states of a delivery, and the one function that says which may follow which.
//!
//! `schema.sql` repeats the function as a CHECK constraint on `transitions`; a property test holds the two together.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In the outbox. Written by enqueue; the agent may be offline.
    Queued,
    /// The agent journaled it and it waits for a runner slot. Written when the agent says so.
    Accepted,
    /// The agent journaled the start.
    Running,
    /// Exit code 0.
    Succeeded,
    /// Exit code not 0, ended by a signal, or could not be started.
    Failed,
    /// The agent killed the whole process tree at the timeout.
    TimedOut,
    /// Cancelled: before the start by either side, while running by killing the tree.
    Cancelled,
    /// The agent or its host went down mid-run. The outcome is unknown; it is never run again by itself.
    Interrupted,
    /// Its `not_after` passed before it started. Written by the reaper or by the agent.
    Expired,
    /// The agent would not run it.
    Refused,
    /// Accepted, and no report by timeout + grace, or the agent no longer knows it; or dispatched, never acknowledged,
    /// and its time is over, so that it may have run. A late true outcome replaces it.
    Lost,
}

impl State {
    /// All states, in the order in which documents list them.
    pub const ALL: [State; 11] = [
        State::Queued,
        State::Accepted,
        State::Running,
        State::Succeeded,
        State::Failed,
        State::TimedOut,
        State::Cancelled,
        State::Interrupted,
        State::Expired,
        State::Refused,
        State::Lost,
    ];

    /// Whether a delivery in this state may move to `next`.
    pub fn may_become(self, next: State) -> bool {
        use State::*;
        match self {
            Queued => matches!(next, Accepted | Expired | Cancelled | Lost),
            Accepted => matches!(next, Running | Cancelled | Expired | Refused | Lost),
            Running => matches!(next, Succeeded | Failed | TimedOut | Cancelled | Interrupted | Lost),
            // A late true outcome.
            Lost => next.is_terminal() && next != Lost,
            Succeeded | Failed | TimedOut | Cancelled | Interrupted | Expired | Refused => false,
        }
    }

    /// Whether the delivery has ended. Final, but for `lost`.
    pub fn is_terminal(self) -> bool {
        !matches!(self, State::Queued | State::Accepted | State::Running)
    }

    /// The word used on the wire, in the database and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Accepted => "accepted",
            State::Running => "running",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::TimedOut => "timed_out",
            State::Cancelled => "cancelled",
            State::Interrupted => "interrupted",
            State::Expired => "expired",
            State::Refused => "refused",
            State::Lost => "lost",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that names no state.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a state; the states are queued, accepted, running, succeeded, failed, timed_out, cancelled, interrupted, expired, refused and lost"
)]
pub struct StateError(String);

impl FromStr for State {
    type Err = StateError;
    fn from_str(text: &str) -> Result<Self, StateError> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| StateError(text.chars().take(32).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_is_final_but_lost() {
        for from in State::ALL {
            for to in State::ALL {
                if from.is_terminal() && from != State::Lost {
                    assert!(!from.may_become(to), "{from} > {to}");
                }
                assert!(!(to == State::Queued && from.may_become(to)), "nothing goes back to the outbox: {from}");
            }
        }
    }

    #[test]
    fn words_read_back() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse::<State>().unwrap(), state);
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
