//! The figures of a run, for people and as JSON.

use super::cost::Reading;
use super::tally::{Latency, Totals};
use super::verdict::Verdict;
use crate::cli::duration::span;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

const MIB: f64 = 1024.0 * 1024.0;

/// What was measured, and how.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The server that was measured; null: one of our own.
    pub server: Option<String>,
    /// Cores of this host.
    pub cores: u32,
    /// Agents of this run.
    pub agents: u32,
    /// Submitters.
    pub submitters: u32,
    /// Commands a second that were due; null: each submitter waited for its outcome.
    pub rate: Option<u32>,
    /// Bytes that each command carried.
    pub payload: u32,
    /// Deliveries of each command.
    pub deliveries_per_command: u32,
    /// Finished deliveries in the database before.
    pub history: u32,
    /// Agents of them that were black-holed.
    pub black_holed: u32,
    /// Real agents, real processes.
    pub real: bool,
    /// TLS was spoken.
    pub tls: bool,
    /// Length of the window, in seconds.
    pub seconds: f64,
    /// Commands that were due within the window; null: none was due at a time of its own.
    pub due: Option<u64>,
    /// Those of them that were not submitted within 5 s after its end: all submitters still waited. No latency counts them.
    pub not_submitted: u64,
    /// Commands, durable within the window.
    pub accepted: u64,
    /// The same a second.
    pub accepted_per_s: f64,
    /// Commands whose last outcome was stored within the window.
    pub completed: u64,
    /// The same a second.
    pub completed_per_s: f64,
    /// Commands that were not taken, by why.
    pub refused: BTreeMap<String, u64>,
    /// Commands without an outcome.
    pub unanswered: u64,
    /// Submit to durable, in milliseconds.
    pub durable_ms: Option<Latency>,
    /// Submit to journaled by the agent, in milliseconds.
    pub journaled_ms: Option<Latency>,
    /// Submit to outcome stored, in milliseconds.
    pub stored_ms: Option<Latency>,
    /// Commits that wrote something, a second.
    pub commits_per_s: f64,
    /// Operations in one of them.
    pub operations_per_commit: f64,
    /// Rows that one of them wrote.
    pub rows_per_commit: f64,
    /// CPU seconds of the server for 1,000 completed commands; null: none was completed.
    pub server_cpu_s_per_1000: Option<f64>,
    /// Share of a core that the server used.
    pub server_cores: f64,
    /// Share of a core that this process used.
    pub generator_cores: f64,
    /// Resident memory of the server at the end, in MiB.
    pub server_mib: f64,
    /// The most that it ever had, in MiB.
    pub server_mib_max: f64,
    /// Agents that were connected at the end of the window.
    pub connected: u32,
    /// From the first connection until all agents were connected, in seconds.
    pub connect_s: f64,
    /// From the kill of the server until all agents were back, in seconds; null: it was not killed.
    pub restart_s: Option<f64>,
    /// The list of all agents, in milliseconds.
    pub list_ms: f64,
    /// Whether the load was carried.
    pub carried: bool,
    /// The same as a sentence.
    pub verdict: String,
}

impl Report {
    /// Fills in what was counted between two readings.
    pub fn count(&mut self, totals: Totals, before: &Reading, after: &Reading, window_s: f64) {
        let wall = (after.at - before.at).as_secs_f64();
        let per = |total: f64, count: f64| if count > 0.0 { total / count } else { 0.0 };
        let commits = after.commits - before.commits;
        let cpu = after.server_cpu - before.server_cpu;
        self.seconds = window_s;
        self.accepted_per_s = totals.accepted as f64 / window_s;
        self.completed_per_s = totals.completed as f64 / window_s;
        (self.accepted, self.completed) = (totals.accepted, totals.completed);
        (self.refused, self.unanswered) = (totals.refused, totals.unanswered);
        (self.durable_ms, self.journaled_ms, self.stored_ms) = (totals.durable, totals.journaled, totals.stored);
        self.commits_per_s = commits / wall;
        self.operations_per_commit = per(after.operations - before.operations, commits);
        self.rows_per_commit = per(after.rows - before.rows, commits);
        // By their rates: between the readings lies a little more or less than the window.
        self.server_cpu_s_per_1000 = (totals.completed > 0).then(|| cpu / wall * 1000.0 / self.completed_per_s);
        self.server_cores = cpu / wall;
        self.generator_cores = (after.own_cpu - before.own_cpu) / wall;
        self.server_mib = after.resident / MIB;
        self.server_mib_max = after.resident_max / MIB;
        let verdict = Verdict::of(self);
        (self.carried, self.verdict) = (verdict.is_carried, verdict.text);
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<22}{value}");
        };
        let load = match self.rate {
            Some(0) => "idle".to_owned(),
            Some(rate) => format!("{rate} commands a second are due"),
            None => format!("{} submitters, each waits for its outcome", self.submitters),
        };
        let kind = if self.real { "real" } else { "simulated" };
        let holes =
            if self.black_holed > 0 { format!(", {} of them black-holed", self.black_holed) } else { String::new() };
        let length = span(i64::try_from(Duration::from_secs_f64(self.seconds).as_millis()).unwrap_or(i64::MAX));
        line("load", format!("{load}; {} {kind} agents{holes}; {length}", self.agents));
        if self.rate != Some(0) {
            line("accepted", format!("{} ({:.0}/s)", self.accepted, self.accepted_per_s));
            line("completed", format!("{} ({:.0}/s)", self.completed, self.completed_per_s));
            for (why, count) in &self.refused {
                line("refused", format!("{count}: {why}"));
            }
            if self.not_submitted > 0 {
                line("not submitted", format!("{} of {} that were due", self.not_submitted, self.due.unwrap_or(0)));
            }
            if self.unanswered > 0 {
                line("no outcome", self.unanswered.to_string());
            }
            let rows = [
                ("submit to durable", self.durable_ms),
                ("submit to journaled", self.journaled_ms),
                ("submit to stored", self.stored_ms),
            ];
            for (name, latency) in rows {
                if let Some(Latency { p50, p90, p99, p999, max, .. }) = latency {
                    let ms = format!("p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms");
                    line(name, ms);
                }
            }
            let commits = format!(
                "{:.0}/s, each {:.1} operations, {:.1} rows",
                self.commits_per_s, self.operations_per_commit, self.rows_per_commit
            );
            line("commits", commits);
        }
        let cpu = self.server_cpu_s_per_1000.map(|cpu| format!(", {cpu:.3} s for 1,000 commands")).unwrap_or_default();
        line("server's CPU", format!("{:.1} % of a core{cpu}", self.server_cores * 100.0));
        line("server's memory", format!("{:.1} MiB, at most {:.1}", self.server_mib, self.server_mib_max));
        line("generator's CPU", format!("{:.1} % of a core", self.generator_cores * 100.0));
        line("connected", format!("{} at the end; all after {:.1} s", self.connected, self.connect_s));
        if let Some(restart) = self.restart_s {
            line("all back after", format!("{restart:.1} s"));
        }
        line("list of the agents", format!("{:.1} ms", self.list_ms));
        text + "\n" + &self.verdict
    }
}
