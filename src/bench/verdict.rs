//! Whether a host carries a load: one sentence from the figures.

use super::report::Report;

/// An open loop does not keep up if more than one of so many commands that were due is missing at the end.
const MISSING_ONE_OF: u64 = 100;
/// So many more may be under way at the end of the window than at its beginning and mean nothing.
const MISSING_MIN: u64 = 10;
/// A person at a command line takes longer than this for a hang, in milliseconds.
const PROMPT_MS: f64 = 1000.0;
/// The host has nothing to spare if so much of it is used.
const BUSY: f64 = 0.9;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The load was carried.
    pub is_carried: bool,
    /// The sentence.
    pub text: String,
}

impl Verdict {
    /// Of these figures.
    pub fn of(report: &Report) -> Self {
        if let Some(why) = failure(report) {
            return Self { is_carried: false, text: format!("No: {why}.") };
        }
        let text = if report.rate == Some(0) { idle(report) } else { loaded(report) };
        Self { is_carried: true, text: text + &shared_host(report) }
    }
}

/// Why it was not carried.
fn failure(report: &Report) -> Option<String> {
    let Report { agents, black_holed, connected, unanswered, not_submitted, completed, .. } = *report;
    let refused: u64 = report.refused.values().sum();
    if refused > 0 || unanswered > 0 {
        return Some(format!("of the commands {refused} were not taken and {unanswered} got no outcome"));
    }
    if connected < agents - black_holed {
        return Some(format!("at the end {connected} of {agents} agents were connected"));
    }
    if let Some(due) = report.due {
        let tolerated = (due / MISSING_ONE_OF).max(MISSING_MIN);
        if not_submitted > tolerated {
            return Some(format!(
                "of {due} commands that were due {not_submitted} were not even submitted, because none of {} submitters \
                 was free",
                report.submitters
            ));
        }
        // No outcome is expected of what went into a black hole.
        let expected = due * u64::from(agents - black_holed) / u64::from(agents.max(1));
        if completed + tolerated < expected {
            return Some(format!("of {expected} outcomes that were due {completed} came in time"));
        }
    }
    (report.rate != Some(0) && report.stored_ms.is_none()).then(|| "nothing was completed".to_owned())
}

fn cost(report: &Report) -> String {
    format!("the server takes {:.0} % of a core and {:.0} MiB", report.server_cores * 100.0, report.server_mib_max)
}

fn idle(report: &Report) -> String {
    format!("Yes: {} agents that have nothing to do are carried; {}.", report.agents, cost(report))
}

fn loaded(report: &Report) -> String {
    let (agents, cost) = (report.agents, cost(report));
    let Some(stored) = report.stored_ms else { return String::new() };
    let half = format!("half of them end within {:.1} ms, 99 of 100 within {:.1} ms", stored.p50, stored.p99);
    match report.rate {
        Some(rate) if stored.p99 > PROMPT_MS => {
            format!("Barely: {rate} commands a second to {agents} agents pile up: {half}; {cost}.")
        }
        Some(rate) => format!("Yes: {rate} commands a second to {agents} agents are carried: {half}; {cost}."),
        None => {
            let deliveries = report.completed_per_s * f64::from(report.deliveries_per_command);
            let sweep = f64::from(agents) / deliveries.max(0.001);
            format!(
                "{deliveries:.0} deliveries a second end here when {} submitters press as hard as they can: one to each \
                 of {agents} agents takes about {sweep:.1} s; {half}. To know whether a fleet's daily load is carried, \
                 give it with --rate.",
                report.submitters
            )
        }
    }
}

/// Server and generator share a host that has no more to give.
fn shared_host(report: &Report) -> String {
    let used = report.server_cores + report.generator_cores;
    if report.server.is_some() || used < BUSY * f64::from(report.cores) {
        return String::new();
    }
    format!(
        " This host's {} cores were all busy, {:.1} of them with the load generator: a server alone has that to spare.",
        report.cores, report.generator_cores
    )
}

#[cfg(test)]
mod tests {
    use super::super::tally::Latency;
    use super::*;
    use std::collections::BTreeMap;

    fn carried() -> Report {
        let stored_ms = Some(Latency { count: 3000, p50: 5.0, p90: 6.0, p99: 7.0, p999: 8.0, max: 9.0 });
        let (due, completed) = (Some(3000), 3000);
        Report { agents: 20, connected: 20, rate: Some(100), cores: 4, due, completed, stored_ms, ..Report::default() }
    }

    fn verdict(change: impl FnOnce(&mut Report)) -> (bool, String) {
        let mut report = carried();
        change(&mut report);
        let Verdict { is_carried, text } = Verdict::of(&report);
        (is_carried, text)
    }

    #[test]
    fn what_is_carried() {
        assert!(verdict(|_| {}).1.starts_with("Yes: 100 commands a second to 20 agents are carried: half of them"));
        let (is_carried, text) = verdict(|report| report.stored_ms.as_mut().unwrap().p99 = 1001.0);
        assert!(is_carried && text.starts_with("Barely: "), "{text}");
        let (is_carried, text) = verdict(|report| (report.rate, report.due) = (None, None));
        assert!(is_carried && text.contains("press as hard as they can"), "{text}");
        let idle = |report: &mut Report| {
            (report.rate, report.due, report.stored_ms) = (Some(0), None, None);
        };
        assert!(verdict(idle).1.starts_with("Yes: 20 agents that have nothing to do"));
        // A handful may be on its way at the end.
        assert!(verdict(|report| (report.due, report.completed) = (Some(50), 41)).0);
        assert!(verdict(|report| (report.due, report.completed) = (Some(3000), 2970)).0);
        // Nothing is expected of black holes.
        assert!(verdict(|report| (report.black_holed, report.connected, report.completed) = (10, 10, 1500)).0);
    }

    #[test]
    fn what_is_not() {
        let not = |change: fn(&mut Report), why: &str| {
            let (is_carried, text) = verdict(change);
            assert!(!is_carried && text.starts_with("No: ") && text.contains(why), "{text}");
        };
        not(|report| report.refused = BTreeMap::from([("503".to_owned(), 2)]), "2 were not taken and 0 got no");
        not(|report| report.unanswered = 1, "0 were not taken and 1 got no");
        not(|report| report.connected = 19, "19 of 20 agents");
        not(|report| report.not_submitted = 31, "31 were not even submitted");
        not(|report| report.completed = 2969, "of 3000 outcomes that were due 2969 came");
        not(|report| (report.black_holed, report.completed) = (10, 1469), "of 1500 outcomes");
        not(|report| (report.rate, report.due, report.stored_ms) = (None, None, None), "nothing was completed");
    }

    #[test]
    fn a_host_that_the_generator_fills_is_told() {
        let fill = |report: &mut Report| (report.server_cores, report.generator_cores) = (2.0, 1.7);
        assert!(verdict(fill).1.ends_with(
            "4 cores were all busy, 1.7 of them with the load generator: a server alone has that to spare."
        ));
        let elsewhere = |report: &mut Report| {
            fill(report);
            report.server = Some("http://there:1".to_owned());
        };
        assert!(!verdict(elsewhere).1.contains("load generator"));
    }
}
