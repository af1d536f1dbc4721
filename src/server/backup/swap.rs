//! Putting one folder in another's place, so that a kill or a power cut at any step leaves one of the two there.
//!
//! On Linux one call exchanges them. Elsewhere, and on file systems that cannot, there is a moment with none: `serve` sees
//! the unfinished restore beside it then and does not begin anew.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::crash;

/// Puts `new` in the place of `data`. What was there is at the answered path afterwards: `aside`, or another one if that
/// last step failed; none: nothing was there.
///
/// # Errors
/// The file system's; both are where they were then.
pub fn swap(new: &Path, data: &Path, aside: &Path) -> io::Result<Option<PathBuf>> {
    if !data.exists() {
        fs::rename(new, data)?;
        sync_parent(data)?;
        return Ok(None);
    }
    let kept = if exchange(new, data)? {
        sync_parent(data)?;
        crash::point("restore.exchanged");
        match fs::rename(new, aside) {
            Ok(()) => aside,
            Err(_) => new,
        }
    } else {
        fs::rename(data, aside)?;
        crash::point("restore.set_aside");
        if let Err(error) = fs::rename(new, data) {
            fs::rename(aside, data)?;
            return Err(error);
        }
        aside
    };
    sync_parent(data)?;
    Ok(Some(kept.to_owned()))
}

/// In one step. False: that cannot be done here.
#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// In one step: that cannot be done here.
#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Makes renames in a file's folder last.
///
/// # Errors
/// The file system's.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
