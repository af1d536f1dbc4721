//! Where a server of our own keeps its data: on a disk, because what is measured is its commits.

use crate::cli::error::CliError;
use std::path::PathBuf;

/// `TMPDIR` if it is set, else `/var/tmp`, which outlives a restart of the host and so lies on a disk; elsewhere than on
/// Unix the system's folder for temporary files.
///
/// # Errors
/// [`CliError::Usage`] when it is in memory.
pub fn folder() -> Result<PathBuf, CliError> {
    let folder = match std::env::var_os("TMPDIR") {
        Some(folder) => PathBuf::from(folder),
        None if cfg!(unix) => PathBuf::from("/var/tmp"),
        None => std::env::temp_dir(),
    };
    if is_in_memory(&folder) {
        return Err(CliError::Usage(format!(
            "{} is in memory: commits to it cost nothing, and the figures would not be true; name a folder on a disk \
             with TMPDIR",
            folder.display()
        )));
    }
    Ok(folder)
}

#[cfg(target_os = "linux")]
fn is_in_memory(folder: &std::path::Path) -> bool {
    use nix::sys::statfs::{TMPFS_MAGIC, statfs};
    statfs(folder).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_folder: &std::path::Path) -> bool {
    false
}
