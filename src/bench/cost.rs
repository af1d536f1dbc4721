//! What a run costs: the server's own counts, read from its metrics, and ours.

use crate::cli::client::ApiClient;
use crate::cli::error::{About, CliError};
use crate::usage::Usage;
use tokio::time::Instant;

/// What server and generator had used at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// When.
    pub at: Instant,
    /// CPU seconds of the server.
    pub server_cpu: f64,
    /// Resident memory of the server, in bytes.
    pub resident: f64,
    /// The most that it ever had, in bytes.
    pub resident_max: f64,
    /// Transactions that wrote something.
    pub commits: f64,
    /// Operations in them.
    pub operations: f64,
    /// Rows that they wrote.
    pub rows: f64,
    /// Agents that are connected, as the server counts.
    pub connected: f64,
    /// CPU seconds of this process.
    pub own_cpu: f64,
}

impl Reading {
    /// Asks the server.
    ///
    /// # Errors
    /// As [`ApiClient::get_bytes`].
    pub async fn take(client: &ApiClient) -> Result<Self, CliError> {
        let text = client.get_bytes("/metrics", About::Agents).await?;
        let text = String::from_utf8_lossy(&text.body);
        let value = |name: &str| value(&text, name);
        Ok(Self {
            at: Instant::now(),
            server_cpu: value("process_cpu_seconds_total"),
            resident: value("process_resident_memory_bytes"),
            resident_max: value("process_resident_memory_max_bytes"),
            commits: value("postrider_commit_batch_size_count"),
            operations: value("postrider_commit_batch_size_sum"),
            rows: value("postrider_commit_rows_total"),
            connected: value("postrider_agents_connected"),
            own_cpu: Usage::now().cpu.as_secs_f64(),
        })
    }
}

/// The value of a metric without labels; 0 if it is not there.
fn value(text: &str, name: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.and_then(|value| value.split(' ').next()?.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_that_of_its_whole_name() {
        let text = "# TYPE a counter\na_total_b 1\na_total 2.5\nb{c=\"d\"} 3\n";
        assert_eq!((value(text, "a_total"), value(text, "b"), value(text, "a")), (2.5, 0.0, 0.0));
    }
}
