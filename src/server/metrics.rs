//! What is counted, under the names that dashboards know.

use crate::protocol::close::CloseReason;
use crate::protocol::state::State;
use crate::store::handle::{Committed, Counter as StoreCounter};
use crate::usage::Usage;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::time::Duration;

/// One label. Nothing is allocated to count.
type Label = [(&'static str, &'static str); 1];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
    status: u16,
}

/// All metrics.
pub struct Metrics {
    registry: Registry,
    /// Set when asked for.
    pub agents_connected: Gauge,
    /// Set when asked for.
    pub outbox_deliveries: Gauge,
    deliveries: Family<Label, Counter>,
    evictions: Family<Label, Counter>,
    /// Connections that were closed at once.
    pub connections_refused: Counter,
    dispatch_seconds: Histogram,
    accept_seconds: Histogram,
    commit_seconds: Histogram,
    commit_batch_size: Histogram,
    commit_rows: Counter,
    /// When the newest backup of the schedule was made, in Unix seconds; 0: none is known.
    pub backup_last_success: Gauge,
    /// Backups of the schedule that could not be made.
    pub backup_failures: Counter,
    http_requests: Family<RouteLabels, Counter>,
    refused: Family<Label, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        // 0.1 ms to 52 s by doubling: from an fsync on a fast disk to a deadline.
        let seconds = || Histogram::new(exponential_buckets(0.0001, 2.0, 20));
        let mut metrics = Self {
            registry: Registry::default(),
            agents_connected: Gauge::default(),
            outbox_deliveries: Gauge::default(),
            deliveries: Family::default(),
            evictions: Family::default(),
            connections_refused: Counter::default(),
            dispatch_seconds: seconds(),
            accept_seconds: seconds(),
            commit_seconds: seconds(),
            commit_batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            commit_rows: Counter::default(),
            backup_last_success: Gauge::default(),
            backup_failures: Counter::default(),
            http_requests: Family::default(),
            refused: Family::default(),
        };
        metrics.registry.register_collector(Box::new(Process));
        let registry = metrics.registry.sub_registry_with_prefix("postrider");
        registry.register("agents_connected", "Agents with a session", metrics.agents_connected.clone());
        registry.register("outbox_deliveries", "Deliveries in the outbox", metrics.outbox_deliveries.clone());
        registry.register("deliveries", "Deliveries that moved to a state", metrics.deliveries.clone());
        registry.register(
            "evictions",
            "Sessions that ended otherwise than by a shutdown, by reason",
            metrics.evictions.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections closed at once: too many from one address, or not the proxy's",
            metrics.connections_refused.clone(),
        );
        registry.register("dispatch_seconds", "Committed to written to the socket", metrics.dispatch_seconds.clone());
        registry.register("accept_seconds", "Committed to journaled by the agent", metrics.accept_seconds.clone());
        registry.register("commit_seconds", "Duration of a commit", metrics.commit_seconds.clone());
        registry.register("commit_batch_size", "Operations in a commit", metrics.commit_batch_size.clone());
        registry.register("commit_rows", "Rows that commits wrote", metrics.commit_rows.clone());
        registry.register(
            "backup_last_success_timestamp_seconds",
            "When the newest backup of the schedule was made; 0: none is known",
            metrics.backup_last_success.clone(),
        );
        registry.register(
            "backup_failures",
            "Backups of the schedule that could not be made",
            metrics.backup_failures.clone(),
        );
        registry.register("http_requests", "HTTP requests by route and status", metrics.http_requests.clone());
        registry.register("refused", "HTTP requests answered with a problem, by its code", metrics.refused.clone());
        registry.register("build", "Build", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        metrics
    }
}

/// What this process uses, under the names that all processes have.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let usage = Usage::now();
        let cpu = ConstCounter::new(usage.cpu.as_secs_f64());
        let kind = cpu.metric_type();
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", "CPU time used", None, kind)?)?;
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory", usage.resident_bytes),
            ("process_resident_memory_max_bytes", "The most resident memory that ever was", usage.resident_bytes_max),
        ];
        for (name, help, bytes) in gauges {
            let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

fn seconds_of_ms(ms: i64) -> f64 {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0)).as_secs_f64()
}

impl Metrics {
    /// A session ended, and nobody had asked for it.
    pub fn evicted(&self, reason: CloseReason) {
        self.evictions.get_or_create(&[("reason", reason.as_str())]).inc();
    }

    /// A delivery that was committed `after_ms` ago was written to the socket for the first time.
    pub fn dispatched(&self, after_ms: i64) {
        self.dispatch_seconds.observe(seconds_of_ms(after_ms));
    }

    /// A request was answered.
    pub fn answered(&self, route: &'static str, status: u16) {
        self.http_requests.get_or_create(&RouteLabels { route, status }).inc();
    }

    /// A request was answered with a problem.
    pub fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&[("code", code)]).inc();
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "the metrics cannot be written");
        }
        text
    }
}

/// The store's view of the metrics.
pub struct StoreMetrics(
    /// Where to count.
    pub std::sync::Arc<Metrics>,
);

impl StoreCounter for StoreMetrics {
    fn committed(&self, commit: Committed) {
        self.0.commit_seconds.observe(commit.took.as_secs_f64());
        self.0.commit_batch_size.observe(f64::from(u32::try_from(commit.operations).unwrap_or(u32::MAX)));
        self.0.commit_rows.inc_by(commit.rows);
    }

    fn moved(&self, state: State) {
        self.0.deliveries.get_or_create(&[("state", state.as_str())]).inc();
    }

    fn accepted(&self, after_ms: i64) {
        self.0.accept_seconds.observe(seconds_of_ms(after_ms));
    }
}
