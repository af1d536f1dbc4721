//! Why a delivery has not ended: one sentence each.

use super::duration::{ago, span};
use super::text::clean;
use super::time::minute;
use crate::protocol::http::{AgentResponse, DeliveryResponse};
use crate::protocol::ids::CommandId;
use crate::protocol::state::State;

/// What a delivery waits for, such as "queued, agent offline since 08:12; expires in 6 d 23 h". None: it has ended.
///
/// `agent` is what the server knows of the agent now, `not_after_ms` the command's.
pub fn sentence(
    delivery: &DeliveryResponse,
    agent: Option<&AgentResponse>,
    not_after_ms: i64,
    now_ms: i64,
) -> Option<String> {
    let cancel = if delivery.cancel_requested_ms.is_some() { ", cancel requested" } else { "" };
    let expiry = if now_ms < not_after_ms {
        format!("expires in {}", span(not_after_ms - now_ms))
    } else {
        "about to expire".to_owned()
    };
    match delivery.state {
        State::Queued => Some(format!("queued, {}{cancel}; {expiry}", why_queued(delivery, agent, now_ms))),
        State::Accepted => Some(format!("accepted, waits for a free runner slot{cancel}; {expiry}")),
        State::Running => {
            let since = delivery.started_ms.map(|ms| format!(" for {}", span(now_ms - ms))).unwrap_or_default();
            let contact = match agent {
                Some(agent) if !agent.online => format!(", agent {}", offline(agent, now_ms)),
                _ => String::new(),
            };
            Some(format!("running{since}{contact}{cancel}"))
        }
        _ => None,
    }
}

/// What a command on hold waits for.
pub fn approval(id: CommandId) -> String {
    format!("waits for a second person's approval: postrider approve {id}")
}

fn why_queued(delivery: &DeliveryResponse, agent: Option<&AgentResponse>, now_ms: i64) -> String {
    match agent {
        _ if delivery.held => "waits for a second person's approval".to_owned(),
        None => "not accepted by its agent yet".to_owned(),
        Some(agent) if !agent.online => format!("agent {}", offline(agent, now_ms)),
        Some(agent) => {
            let proven = agent.proven_ms.map(|ms| format!(" (proven {})", ago(now_ms - ms))).unwrap_or_default();
            match delivery.attempt {
                0 => format!("agent online{proven}, not dispatched yet"),
                1 => format!("agent online{proven}, dispatched and not accepted yet"),
                attempt => format!("agent online{proven}, dispatched {attempt} times and not accepted yet"),
            }
        }
    }
}

/// "offline since 08:12 (pong_timeout)", "offline, never connected".
pub fn offline(agent: &AgentResponse, now_ms: i64) -> String {
    match (agent.last_close, agent.proven_ms) {
        (Some(close), _) => format!("offline since {} ({})", minute(close.at_ms, now_ms), close.reason),
        (None, Some(proven)) => format!("offline, last proven {}", minute(proven, now_ms)),
        (None, None) if agent.epoch == 0 => "offline, never connected".to_owned(),
        (None, None) => "offline, not seen since the server started".to_owned(),
    }
}

/// One line for several deliveries: the first with its sentence, the others counted. None: nothing is waited for.
pub fn summary(sentences: &[(String, String)], more: usize) -> Option<String> {
    let (name, sentence) = sentences.first()?;
    let others = sentences.len() - 1 + more;
    let others = if others == 0 { String::new() } else { format!("  (and {others} more)") };
    Some(format!("{}: {sentence}{others}", clean(name)))
}

#[cfg(test)]
pub mod tests {
    //! Sample deliveries and agents, for the tests of this floor.
    use super::*;
    use crate::protocol::close::CloseReason;
    use crate::protocol::http::LastClose;
    use crate::protocol::ids::{AgentId, DeliveryId, JoinId};

    /// A delivery without a past.
    pub fn delivery(name: &str, state: State) -> DeliveryResponse {
        DeliveryResponse { state, ..DeliveryResponse::queued(DeliveryId::new(), AgentId::new(), name.into()) }
    }

    /// An agent that never connected.
    pub fn agent(name: &str) -> AgentResponse {
        AgentResponse {
            id: AgentId::new(),
            name: name.into(),
            online: false,
            pending: false,
            epoch: 0,
            connected_ms: None,
            proven_ms: None,
            last_close: None,
            clash_ms: None,
            outbox: 0,
            tags: Default::default(),
            facts: None,
            enrolled_ms: 0,
            enrolled_from: None,
            join_id: JoinId::new(),
            version: None,
            os: None,
        }
    }

    const NOW: i64 = 1_700_000_000_000;

    #[test]
    fn each_wait_has_its_reason() {
        let mut queued = delivery("web-2", State::Queued);
        let mut host = agent("web-2");
        let say = |delivery: &DeliveryResponse, host: &AgentResponse| {
            sentence(delivery, Some(host), NOW + 601_200_000, NOW).unwrap()
        };
        assert_eq!(say(&queued, &host), "queued, agent offline, never connected; expires in 6 d 23 h");
        host.epoch = 3;
        host.last_close = Some(LastClose { reason: CloseReason::PongTimeout, at_ms: NOW });
        let since = minute(NOW, NOW);
        assert_eq!(
            say(&queued, &host),
            format!("queued, agent offline since {since} (pong_timeout); expires in 6 d 23 h")
        );
        host.online = true;
        host.proven_ms = Some(NOW - 3_000);
        queued.attempt = 2;
        assert!(say(&queued, &host).contains("agent online (proven 3 s ago), dispatched 2 times"));
        let mut running = delivery("web-2", State::Running);
        running.started_ms = Some(NOW - 12_000);
        running.cancel_requested_ms = Some(NOW);
        assert_eq!(say(&running, &host), "running for 12 s, cancel requested");
        for state in State::ALL.into_iter().filter(|state| state.is_terminal()) {
            assert_eq!(sentence(&delivery("a", state), None, NOW, NOW), None);
        }
    }

    #[test]
    fn several_waits_are_one_line() {
        let two = [("a\u{1b}".to_owned(), "queued".to_owned()), ("b".to_owned(), "running".to_owned())];
        assert_eq!(summary(&two, 5).unwrap(), "a: queued  (and 6 more)");
        assert_eq!(summary(&two[..1], 0).unwrap(), "a: queued");
        assert_eq!(summary(&[], 0), None);
    }
}
