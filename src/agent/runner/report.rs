//! From how a process ended to the outcome that is reported.

use super::control::{Cause, Report};
use super::drain::End;
use crate::agent::spool::Spool;
use crate::protocol::outcome::Outcome;
use crate::protocol::output::Stream;
use crate::protocol::spec::Spec;
use crate::protocol::state::State;

/// Said when nobody can know whether the command did its work.
pub const INTERRUPTED: &str = "the agent stopped while it ran; it may or may not have completed";

/// The outcome of a run.
pub fn outcome(end: End, spec: &Spec, spool: &Spool) -> Outcome {
    let mut reasons: Vec<String> = Vec::new();
    let mut outcome = Outcome {
        state: State::Interrupted,
        exit_code: None,
        signal: None,
        reason: None,
        duration_ms: None,
        stdout: spool.summary(Stream::Stdout),
        stderr: spool.summary(Stream::Stderr),
    };
    match end.report {
        Some(Report::NotStarted { reason }) => {
            outcome.state = State::Failed;
            reasons.push(reason);
        }
        Some(Report::Ended { cause, exit_code, signal, duration_ms, unkilled, again: _ }) => {
            outcome.duration_ms = Some(duration_ms);
            outcome.signal = signal;
            // An exit code is the process's own word; one that it gave under a signal of ours says nothing.
            outcome.exit_code = if cause.is_none() { exit_code } else { None };
            outcome.state = match cause {
                None if exit_code == Some(0) => State::Succeeded,
                None => State::Failed,
                Some(Cause::Timeout) => State::TimedOut,
                Some(Cause::Cancel) => State::Cancelled,
                Some(Cause::Stop) => State::Interrupted,
            };
            reasons.extend(match cause {
                None => signal.map(|number| format!("ended by signal {number}")),
                Some(Cause::Timeout) => {
                    let timeout = std::time::Duration::from_millis(spec.timeout_ms);
                    Some(format!("killed with all its processes after {} s", timeout.as_secs_f64()))
                }
                Some(Cause::Cancel) => Some("killed with all its processes when it was cancelled".to_owned()),
                Some(Cause::Stop) => {
                    Some("the agent was stopped; the command was killed with all its processes".to_owned())
                }
            });
            if unkilled > 0 {
                reasons.push(format!("{unkilled} of its processes hang in the kernel and could not be killed"));
            }
        }
        Some(Report::Started { .. }) | None => {
            reasons.push(if end.supervisor_late {
                "its supervising process did not answer and was killed; the command may or may not have completed"
                    .to_owned()
            } else {
                "its supervising process died; the command may or may not have completed".to_owned()
            });
        }
    }
    if end.left_running {
        reasons.push("a background process kept the output open; it was left running".to_owned());
    }
    reasons.extend(end.output_error);
    if !reasons.is_empty() {
        outcome.reason = Some(reasons.join("; "));
        outcome.cut_reason();
    }
    outcome
}
