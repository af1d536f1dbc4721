//! The limit of open files of this process.

/// The limit, raised to `wanted` where it is lower and may be.
#[cfg(unix)]
pub fn raise(wanted: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    let target = hard.min(wanted as u64);
    let raised = soft < target && setrlimit(Resource::RLIMIT_NOFILE, target, hard).is_ok();
    usize::try_from(if raised { target } else { soft }).unwrap_or(usize::MAX)
}

/// There is no such limit.
#[cfg(not(unix))]
pub fn raise(wanted: usize) -> usize {
    wanted
}
