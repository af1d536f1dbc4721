//! What an executable says about a start before it is one, as the user that the server runs as.

use super::service::finish;
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// How long an executable may take to say its version.
const VERSION_MAX: Duration = Duration::from_secs(10);
/// Most characters of a version that are believed.
const VERSION_CHARS_MAX: usize = 40;

/// The version that an executable says it has.
///
/// # Errors
/// Why it says none.
pub async fn version(program: &Path, data: &Path) -> Result<String, String> {
    let mut command = Command::new(program);
    command.arg("--version");
    run_as_owner(&mut command, data, None).map_err(|error| error.to_string())?;
    let said = finish(command, VERSION_MAX).await?;
    let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    // It becomes the name of a folder.
    let is_version = |text: &&str| {
        text.len() <= VERSION_CHARS_MAX
            && text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'))
    };
    let version = said.strip_prefix("postrider ").filter(is_version);
    version.map(str::to_owned).ok_or_else(|| format!("it says {said:?} for its version"))
}

/// What an executable says about a start on these settings and data, changing nothing.
///
/// # Errors
/// Its words, when it would not start.
pub async fn rehearse(program: &Path, config: Option<&Path>, data: &Path, longest: Duration) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(["serve", "--check"]);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command.arg("--data").arg(data).env_remove("POSTRIDER_DATA");
    run_as_owner(&mut command, data, None).map_err(|error| error.to_string())?;
    let said = finish(command, longest).await?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Lets a child run as whoever owns the server's data, if we are root, and gives it `folder`.
///
/// # Errors
/// The file system's.
#[cfg(unix)]
pub fn run_as_owner(command: &mut Command, data: &Path, folder: Option<&Path>) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(data)?;
    if nix::unistd::geteuid().is_root() && owner.uid() != 0 {
        command.uid(owner.uid()).gid(owner.gid());
        // Root's home is closed to it, and a command without a folder begins at home.
        command.env("HOME", folder.unwrap_or(Path::new("/")));
        if let Some(folder) = folder {
            std::os::unix::fs::chown(folder, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}

/// There is one user.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn run_as_owner(_: &mut Command, _: &Path, _: Option<&Path>) -> std::io::Result<()> {
    Ok(())
}
