//! A clock that nobody can set, and that goes on in suspend (Linux).

use std::time::Duration;

/// Time since boot, including time in suspend: a laptop that slept through an expiry must notice, and a server that
/// slept must not take its own sleep for a clock that somebody set.
#[cfg(target_os = "linux")]
pub fn uptime() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Time since the first call; whether suspend counts is up to the platform.
#[cfg(not(target_os = "linux"))]
pub fn uptime() -> Duration {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
