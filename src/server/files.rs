//! How many connections this process has room for: each is an open file, and of these the system allows only so many.

use super::listener::CONNECTIONS_MAX;
use crate::open_files;

/// Open files beside the connections: the database's, the lock, the runtime's. About 30 are used. If connections took
/// these too, SQLite could not open what it needs, and the server would have to end.
const OTHER_FILES: usize = 128;

/// Raises the soft limit of open files as far as it is needed and allowed; answers how many connections there is room
/// for, and says so where it is less than [`CONNECTIONS_MAX`].
pub fn connections_max() -> usize {
    let files = open_files::raise(CONNECTIONS_MAX + OTHER_FILES);
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
