//! What a followed command came to: the exit code and the table.

use super::duration::span;
use super::error::{EXIT_FAILED, EXIT_TIMED_OUT};
use super::table::{self, Field, To};
use super::text::clean;
use crate::protocol::http::DeliveryResponse;
use crate::protocol::state::State;

/// Outcomes that are shown one a row: more than this nobody reads.
const TABLE_ROWS_MAX: usize = 50;

/// The exit code of `run`: with one delivery the command's own, with several 0 when all succeeded, else 1.
pub fn exit_code(deliveries: &[DeliveryResponse]) -> u8 {
    match deliveries {
        [] => EXIT_FAILED,
        [one] => exit_code_of_one(one),
        several => u8::from(several.iter().any(|delivery| delivery.state != State::Succeeded)),
    }
}

fn exit_code_of_one(delivery: &DeliveryResponse) -> u8 {
    match delivery.state {
        State::Succeeded => 0,
        State::Failed => match (delivery.exit_code, delivery.signal) {
            (Some(code), _) => as_exit_code(code),
            (None, Some(signal)) => u8::try_from(128_i32.saturating_add(signal)).unwrap_or(EXIT_FAILED),
            (None, None) => EXIT_FAILED,
        },
        State::TimedOut => EXIT_TIMED_OUT,
        _ => EXIT_FAILED,
    }
}

/// Windows has exit codes of 32 bits, a process here shows 8: a failure must not become 0.
fn as_exit_code(code: i32) -> u8 {
    match code.rem_euclid(256) {
        0 if code != 0 => 1,
        low => u8::try_from(low).unwrap_or(EXIT_FAILED),
    }
}

/// What to say about a single delivery's end, beyond its exit code. None: it says it all.
pub fn remark(delivery: &DeliveryResponse) -> Option<String> {
    if delivery.state == State::Succeeded || (delivery.state == State::Failed && delivery.exit_code.is_some()) {
        return None;
    }
    let how = match (delivery.state, delivery.signal) {
        (State::Failed, Some(signal)) => format!("ended by signal {signal}"),
        (state, _) => state.to_string().replace('_', " "),
    };
    let after = delivery.duration_ms.map(|ms| format!(" after {}", span(saturated(ms)))).unwrap_or_default();
    let reason = delivery.reason.as_deref().filter(|reason| *reason != how);
    let reason = reason.map(|reason| format!(": {}", clean(reason))).unwrap_or_default();
    Some(format!("{}: {how}{after}{reason}", clean(&delivery.agent_name)))
}

/// The table of outcomes. Of many only those that did not succeed, and how many did.
pub fn table(deliveries: &[DeliveryResponse], to: To) -> String {
    if deliveries.len() <= TABLE_ROWS_MAX {
        return rows(deliveries.iter(), to);
    }
    let failed: Vec<_> = deliveries.iter().filter(|delivery| delivery.state != State::Succeeded).collect();
    let shown = rows(failed.iter().copied().take(TABLE_ROWS_MAX), to);
    match failed.len() {
        0 => count(deliveries),
        len if len > TABLE_ROWS_MAX => format!("{shown}\n… and {} more\n{}", len - TABLE_ROWS_MAX, count(deliveries)),
        _ => format!("{shown}\n{}", count(deliveries)),
    }
}

fn rows<'a>(deliveries: impl Iterator<Item = &'a DeliveryResponse>, to: To) -> String {
    let rows = deliveries
        .map(|delivery| {
            vec![
                Field::from(&delivery.agent_name),
                Field::state(delivery.state),
                exit(delivery).into(),
                duration(delivery).into(),
                delivery.reason.as_deref().unwrap_or_default().into(),
            ]
        })
        .collect();
    table::draw(&["agent", "state", "exit", "ran for", "reason"], rows, to)
}

/// "0", "signal 9" or nothing.
pub fn exit(delivery: &DeliveryResponse) -> String {
    match (delivery.exit_code, delivery.signal) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => String::new(),
    }
}

/// How long the process ran, or nothing.
pub fn duration(delivery: &DeliveryResponse) -> String {
    delivery.duration_ms.map(|ms| span(saturated(ms))).unwrap_or_default()
}

/// "2 succeeded, 1 failed", in the order of the states.
pub fn count(deliveries: &[DeliveryResponse]) -> String {
    let counted = State::ALL.into_iter().filter_map(|state| {
        let count = deliveries.iter().filter(|delivery| delivery.state == state).count();
        (count > 0).then(|| format!("{count} {}", state.to_string().replace('_', " ")))
    });
    counted.collect::<Vec<_>>().join(", ")
}

fn saturated(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::waiting::tests::delivery;
    use super::*;

    fn ended(state: State, exit_code: Option<i32>, signal: Option<i32>) -> DeliveryResponse {
        DeliveryResponse { exit_code, signal, ..delivery("web-1", state) }
    }

    #[test]
    fn one_delivery_gives_the_commands_own_code() {
        let cases = [
            (State::Succeeded, Some(0), None, 0),
            (State::Failed, Some(3), None, 3),
            (State::Failed, Some(255), None, 255),
            (State::Failed, Some(-1), None, 255),
            (State::Failed, Some(256), None, 1),
            (State::Failed, Some(-1_073_741_510), None, 58),
            (State::Failed, None, Some(9), 137),
            (State::Failed, None, Some(15), 143),
            (State::Failed, None, Some(1000), 125),
            (State::Failed, None, None, 125),
            (State::TimedOut, None, Some(9), 124),
            (State::Expired, None, None, 125),
            (State::Cancelled, None, Some(15), 125),
            (State::Interrupted, None, None, 125),
            (State::Refused, None, None, 125),
            (State::Lost, None, None, 125),
            (State::Queued, None, None, 125),
        ];
        for (state, code, signal, expected) in cases {
            assert_eq!(exit_code(&[ended(state, code, signal)]), expected, "{state} {code:?} {signal:?}");
        }
    }

    #[test]
    fn several_deliveries_give_zero_or_one() {
        let good = || ended(State::Succeeded, Some(0), None);
        assert_eq!(exit_code(&[good(), good()]), 0);
        for state in State::ALL.into_iter().filter(|state| *state != State::Succeeded) {
            assert_eq!(exit_code(&[good(), ended(state, Some(7), None)]), 1, "{state}");
        }
        assert_eq!(exit_code(&[]), 125);
    }

    #[test]
    fn of_many_only_failures_are_listed() {
        let mut many: Vec<_> = (0..=TABLE_ROWS_MAX).map(|_| ended(State::Succeeded, Some(0), None)).collect();
        assert_eq!(table(&many, To::Stderr), "51 succeeded");
        many.push(ended(State::Failed, Some(1), None));
        assert_eq!(table(&many, To::Stderr).lines().count(), 3);
        assert_eq!(table(&many[..2], To::Stderr).lines().count(), 3);
    }

    #[test]
    fn a_remark_only_where_the_code_does_not_say_it() {
        assert_eq!(remark(&ended(State::Succeeded, Some(0), None)), None);
        assert_eq!(remark(&ended(State::Failed, Some(3), None)), None);
        assert_eq!(remark(&ended(State::Failed, None, Some(9))).unwrap(), "web-1: ended by signal 9");
        let mut late = ended(State::TimedOut, None, Some(9));
        late.duration_ms = Some(60_000);
        late.reason = Some("over its timeout\u{1b}".into());
        assert_eq!(remark(&late).unwrap(), "web-1: timed out after 1 min: over its timeout");
        assert_eq!(count(&[late, ended(State::Succeeded, None, None)]), "1 succeeded, 1 timed out");
    }
}
