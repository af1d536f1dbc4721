//! What is counted, under the names that dashboards know.

use crate::protocol::close::CloseReason;
use crate::protocol::state::State;
use crate::store::handle::Counter as StoreCounter;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::time::Duration;

type Labels = Vec<(&'static str, String)>;

/// All metrics.
pub struct Metrics {
    registry: Registry,
    /// Set when asked for.
    pub agents_connected: Gauge,
    /// Set when asked for.
    pub outbox_deliveries: Gauge,
    deliveries: Family<Labels, Counter>,
    evictions: Family<Labels, Counter>,
    /// Connections that were closed at once.
    pub connections_refused: Counter,
    dispatch_seconds: Histogram,
    accept_seconds: Histogram,
    commit_seconds: Histogram,
    commit_batch_size: Histogram,
    http_requests: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        // 0.1 ms to 52 s by doubling: from an fsync on a fast disk to a deadline.
        let seconds = || Histogram::new(exponential_buckets(0.0001, 2.0, 20));
        let mut metrics = Self {
            registry: Registry::with_prefix("postrider"),
            agents_connected: Gauge::default(),
            outbox_deliveries: Gauge::default(),
            deliveries: Family::default(),
            evictions: Family::default(),
            connections_refused: Counter::default(),
            dispatch_seconds: seconds(),
            accept_seconds: seconds(),
            commit_seconds: seconds(),
            commit_batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            http_requests: Family::default(),
            refused: Family::default(),
        };
        let registry = &mut metrics.registry;
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
        registry.register("http_requests", "HTTP requests by route and status", metrics.http_requests.clone());
        registry.register("refused", "HTTP requests answered with a problem, by its code", metrics.refused.clone());
        registry.register("build", "Build", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        metrics
    }
}

fn seconds_of_ms(ms: i64) -> f64 {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0)).as_secs_f64()
}

impl Metrics {
    /// A session ended, and nobody had asked for it.
    pub fn evicted(&self, reason: CloseReason) {
        self.evictions.get_or_create(&vec![("reason", reason.to_string())]).inc();
    }

    /// A delivery that was committed `after_ms` ago was written to the socket for the first time.
    pub fn dispatched(&self, after_ms: i64) {
        self.dispatch_seconds.observe(seconds_of_ms(after_ms));
    }

    /// A request was answered.
    pub fn answered(&self, route: &'static str, status: u16) {
        let labels = vec![("route", route.to_owned()), ("status", status.to_string())];
        self.http_requests.get_or_create(&labels).inc();
    }

    /// A request was answered with a problem.
    pub fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&vec![("code", code.to_owned())]).inc();
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
    fn committed(&self, operations: usize, took: Duration) {
        self.0.commit_seconds.observe(took.as_secs_f64());
        self.0.commit_batch_size.observe(f64::from(u32::try_from(operations).unwrap_or(u32::MAX)));
    }

    fn moved(&self, state: State) {
        self.0.deliveries.get_or_create(&vec![("state", state.to_string())]).inc();
    }

    fn accepted(&self, after_ms: i64) {
        self.0.accept_seconds.observe(seconds_of_ms(after_ms));
    }
}
