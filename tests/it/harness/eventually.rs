//! Waiting for a condition: no fixed sleeps, no asserted times.

use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// Beyond this a test has failed: far more than anything needs on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries.
pub const PAUSE: Duration = Duration::from_millis(20);

/// Tries until `look` gives something.
pub async fn eventually<T, F, Fut>(what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
