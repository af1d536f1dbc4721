//! Where data is kept when nothing is said.

use std::path::{Path, PathBuf};

/// The server's data folder: `/var/lib/postrider` where this user may make it, else under the home folder.
pub fn server() -> PathBuf {
    named("postrider")
}

/// The agent's data folder: like [`server`], and never the same.
pub fn agent() -> PathBuf {
    named("postrider-agent")
}

fn named(name: &str) -> PathBuf {
    let system = Path::new("/var/lib");
    let theirs = system.join(name);
    if is_writable(&theirs) || (!theirs.exists() && is_writable(system)) {
        return theirs;
    }
    let home = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    home("XDG_DATA_HOME")
        .or_else(|| home("HOME").map(|home| home.join(".local/share")))
        .or_else(|| home("LOCALAPPDATA"))
        .map_or_else(|| PathBuf::from(format!("{name}-data")), |base| base.join(name))
}

#[cfg(unix)]
fn is_writable(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok()
}

#[cfg(not(unix))]
fn is_writable(_: &Path) -> bool {
    false
}
