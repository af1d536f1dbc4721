//! How many connections this process has room for: each is an open file, and of these the system allows only so many.

use super::listener::CONNECTIONS_MAX;

/// Open files beside the connections: the database's, the lock, the runtime's. About 30 are used. If connections took
/// these too, SQLite could not open what it needs, and the server would have to end.
const OTHER_FILES: usize = 128;

/// Raises the soft limit of open files as far as it is needed and allowed; answers how many connections there is room
/// for, and says so where it is less than [`CONNECTIONS_MAX`].
pub fn connections_max() -> usize {
    let files = files_max(CONNECTIONS_MAX + OTHER_FILES);
    // A limit that leaves nothing for connections is used up to the half.
    let room = files.saturating_sub(OTHER_FILES).max(files / 2).min(CONNECTIONS_MAX);
    if room < CONNECTIONS_MAX {
        tracing::warn!(
            "the limit of open files ({files}) leaves room for {room} connections instead of {CONNECTIONS_MAX}; \
             raise the hard limit (LimitNOFILE= under systemd, ulimit -Hn) for more agents"
        );
    }
    room
}

/// The limit of open files, raised to `wanted` where it is lower and may be.
#[cfg(unix)]
fn files_max(wanted: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    let target = hard.min(wanted as u64);
    let raised = soft < target && setrlimit(Resource::RLIMIT_NOFILE, target, hard).is_ok();
    usize::try_from(if raised { target } else { soft }).unwrap_or(usize::MAX)
}

/// There is no such limit.
#[cfg(not(unix))]
fn files_max(wanted: usize) -> usize {
    wanted
}
