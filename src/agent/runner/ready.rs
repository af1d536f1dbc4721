//! Waiting for several files at once.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Between two tries when the kernel has no memory to wait with: there is nothing else to do.
const RETRY: Duration = Duration::from_millis(250);

/// Waits until one of `sources` can be read (`POLLIN`) or written (`POLLOUT`), has ended or has failed, at most for
/// `longest`; a signal ends it earlier. Tells of each whether it is to be looked at.
pub fn wait<const N: usize>(sources: [Option<(BorrowedFd<'_>, PollFlags)>; N], longest: Duration) -> [bool; N] {
    let mut fds: Vec<PollFd<'_>> = sources.iter().flatten().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
    // Rounded up, or the last millisecond is spent in a spin.
    let rounded = if longest.is_zero() { longest } else { longest + Duration::from_millis(1) };
    match poll(&mut fds, PollTimeout::try_from(rounded).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(_) => std::thread::sleep(RETRY),
    }
    let mut polled = fds.iter();
    sources.map(|source| {
        source.is_some() && polled.next().and_then(PollFd::revents).is_some_and(|events| !events.is_empty())
    })
}
