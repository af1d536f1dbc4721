//! What this process has used of its host so far.

use std::time::Duration;

/// Time and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on all cores together, in the kernel too.
    pub cpu: Duration,
    /// Memory that is resident now, in bytes; 0 where the system does not tell.
    pub resident_bytes: u64,
    /// The most that ever was; likewise.
    pub resident_bytes_max: u64,
}

impl Usage {
    /// Of this process. All zero where the system does not tell.
    #[cfg(unix)]
    pub fn now() -> Self {
        use nix::sys::resource::{UsageWho, getrusage};
        use nix::sys::time::TimeVal;
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Self::default() };
        let duration = |time: TimeVal| {
            let whole = Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or(0));
            whole + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or(0))
        };
        // In kilobytes; on Apple's systems in bytes.
        let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
        let (resident_bytes, most) = (resident_bytes(), u64::try_from(usage.max_rss()).unwrap_or(0) * unit);
        Self {
            cpu: duration(usage.user_time()) + duration(usage.system_time()),
            resident_bytes,
            // The kernel brings its maximum up to date a little later.
            resident_bytes_max: most.max(resident_bytes),
        }
    }

    /// Nothing is known.
    #[cfg(not(unix))]
    pub fn now() -> Self {
        Self::default()
    }
}

/// `VmRSS` of `/proc/self/status`, which only Linux has.
#[cfg(unix)]
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_what_is_used() {
        let before = Usage::now();
        let held = vec![1_u8; 32 * 1024 * 1024];
        let sum = held.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let after = Usage::now();
        assert!(sum > 0 && after.cpu > before.cpu, "{before:?} {after:?}");
        assert!(after.resident_bytes_max >= 32 * 1024 * 1024, "{after:?}");
    }
}
