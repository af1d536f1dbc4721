//! What is counted while it runs: how many, and how long each took.

use super::flights::Landed;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Longest time that is told apart from longer ones, in microseconds.
const LONGEST_US: u64 = 600_000_000;

/// Times, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// How many there are.
    pub count: u64,
    /// Half of them were shorter.
    pub p50: f64,
    /// 90 of 100 were.
    pub p90: f64,
    /// 99 of 100 were.
    pub p99: f64,
    /// 999 of 1,000 were.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    fn of(times: &Histogram<u64>) -> Option<Self> {
        let ms = |us: u64| f64::from(u32::try_from(us).unwrap_or(u32::MAX)) / 1000.0;
        let at = |quantile: f64| ms(times.value_at_quantile(quantile));
        let (p50, p90, p99, p999) = (at(0.5), at(0.9), at(0.99), at(0.999));
        (!times.is_empty()).then(|| Self { count: times.len(), p50, p90, p99, p999, max: ms(times.max()) })
    }
}

/// The counts.
#[derive(Debug)]
struct Counts {
    window: Option<(Instant, Instant)>,
    accepted: u64,
    completed: u64,
    refused: BTreeMap<String, u64>,
    unanswered: u64,
    durable: Histogram<u64>,
    journaled: Histogram<u64>,
    stored: Histogram<u64>,
}

/// All that was counted.
#[derive(Clone, Debug, Serialize)]
pub struct Totals {
    /// Commands that were durable within the window.
    pub accepted: u64,
    /// Commands whose last outcome was stored within the window.
    pub completed: u64,
    /// Commands that were not taken, by why.
    pub refused: BTreeMap<String, u64>,
    /// Commands that got no outcome.
    pub unanswered: u64,
    /// From the moment at which a command was due to its `201`.
    pub durable: Option<Latency>,
    /// To the moment at which (the last of) its agents took it.
    pub journaled: Option<Latency>,
    /// To the moment at which its (last) outcome was stored.
    pub stored: Option<Latency>,
}

/// Counts that many hands write.
#[derive(Debug)]
pub struct Tally(Mutex<Counts>);

impl Default for Tally {
    fn default() -> Self {
        let times = || Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are in order");
        Self(Mutex::new(Counts {
            window: None,
            accepted: 0,
            completed: 0,
            refused: BTreeMap::new(),
            unanswered: 0,
            durable: times(),
            journaled: times(),
            stored: times(),
        }))
    }
}

impl Counts {
    fn counts(&self, at: Instant) -> bool {
        self.window.is_some_and(|(from, until)| at >= from && at < until)
    }
}

fn record(times: &mut Histogram<u64>, took: Duration) {
    times.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST_US).max(1));
}

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only what happens in this time counts.
    pub fn begin(&self, from: Instant, until: Instant) {
        self.counts().window = Some((from, until));
    }

    /// A command that was due at `due` is durable.
    pub fn accepted(&self, due: Instant, now: Instant) {
        let mut counts = self.counts();
        counts.accepted += u64::from(counts.counts(now));
        if counts.counts(due) {
            record(&mut counts.durable, now - due);
        }
    }

    /// All its outcomes are stored.
    pub fn landed(&self, due: Instant, landed: Landed) {
        let mut counts = self.counts();
        if counts.counts(due) {
            record(&mut counts.journaled, landed.journaled.saturating_duration_since(due));
        }
        Self::complete(&mut counts, due, landed.stored);
    }

    /// Its outcome is stored, and nothing is known of the way there.
    pub fn answered(&self, due: Instant, now: Instant) {
        let mut counts = self.counts();
        counts.accepted += u64::from(counts.counts(now));
        Self::complete(&mut counts, due, now);
    }

    fn complete(counts: &mut Counts, due: Instant, stored: Instant) {
        counts.completed += u64::from(counts.counts(stored));
        if counts.counts(due) {
            record(&mut counts.stored, stored.saturating_duration_since(due));
        }
    }

    /// It was not taken.
    pub fn refused(&self, due: Instant, why: &str) {
        let mut counts = self.counts();
        if counts.counts(due) {
            *counts.refused.entry(why.to_owned()).or_default() += 1;
        }
    }

    /// It got no outcome.
    pub fn unanswered(&self, due: Instant) {
        let mut counts = self.counts();
        counts.unanswered += u64::from(counts.counts(due));
    }

    /// How many were completed so far.
    pub fn completed(&self) -> u64 {
        self.counts().completed
    }

    /// What there is.
    pub fn totals(&self) -> Totals {
        let counts = self.counts();
        Totals {
            accepted: counts.accepted,
            completed: counts.completed,
            refused: counts.refused.clone(),
            unanswered: counts.unanswered,
            durable: Latency::of(&counts.durable),
            journaled: Latency::of(&counts.journaled),
            stored: Latency::of(&counts.stored),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_due_before_the_window_or_after_it_does_not_count() {
        let (tally, now, second) = (Tally::default(), Instant::now(), Duration::from_secs(1));
        tally.begin(now + second, now + 3 * second);
        for due in [now, now + second, now + 2 * second, now + 3 * second] {
            let stored = due + second / 2;
            tally.accepted(due, due + second / 4);
            tally.landed(due, Landed { journaled: stored, stored });
            tally.refused(due, "503");
            tally.unanswered(due);
        }
        let totals = tally.totals();
        assert_eq!((totals.accepted, totals.completed, totals.unanswered), (2, 2, 2));
        assert_eq!(totals.refused["503"], 2);
        let stored = totals.stored.unwrap();
        assert_eq!((stored.count, stored.p50.round() as u64, stored.max.round() as u64), (2, 500, 500));
    }
}
