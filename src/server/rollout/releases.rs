//! What lies signed in `agents/`: what a rollout takes at its start, and whether it is still that.

use crate::protocol::rollout::RolloutRelease;
use crate::release::{Platform, ReleaseKey};
use crate::secret::hex;
use crate::server::agents_folder::{AGENTS_FOLDER, AgentExecutable, AgentsFolder, AgentsFolderError};
use crate::server::error::ApiError;
use crate::version::Version;
use hyper::StatusCode;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Notify, Semaphore};

/// Downloads at one time. Each has some pieces in memory and reads the disk; more agents than this are told to come again.
pub const DOWNLOADS_MAX: usize = 16;

/// Releases for agents, and the bell of the task that offers them.
#[derive(Debug)]
pub struct Releases {
    /// The folder.
    pub folder: Arc<AgentsFolder>,
    /// By whose signature an executable is a release; none: nothing is one.
    pub key: Option<ReleaseKey>,
    /// Places for downloads.
    pub places: Arc<Semaphore>,
    bell: Notify,
    open: AtomicBool,
}

impl Releases {
    /// Those of a data folder.
    pub fn new(data: &Path, key: Option<ReleaseKey>) -> Self {
        Self {
            folder: Arc::new(AgentsFolder::open(data)),
            key,
            places: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            bell: Notify::new(),
            open: AtomicBool::new(true),
        }
    }

    /// An agent came, or reported: there may be something to offer, if a rollout is open.
    pub fn ring(&self) {
        if self.open.load(Ordering::Acquire) {
            self.bell.notify_one();
        }
    }

    /// Somebody started or changed a rollout.
    pub fn wake(&self) {
        self.open.store(true, Ordering::Release);
        self.bell.notify_one();
    }

    /// Whether one is open, as far as the task knows.
    pub fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }

    /// Waits for a ring.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// What lies signed in the folder, with signatures, verified now. Blocks for the disk.
    ///
    /// # Errors
    /// 409 without a key or a release, and for a file whose signature is not good.
    pub fn signed(&self) -> Result<Vec<(RolloutRelease, String)>, ApiError> {
        let refused = |why: String| ApiError::new(StatusCode::CONFLICT, "no_release", why);
        let Some(key) = &self.key else {
            let why = "this server knows no release key: start it with --release-key KEY (or release_key in its configuration file)";
            return Err(refused(why.to_owned()));
        };
        let mut found = Vec::new();
        for platform in Platform::ALL {
            let executable = match self.folder.find(platform) {
                Ok(executable) => executable,
                Err(AgentsFolderError::Missing { .. }) => continue,
                Err(error) => return Err(refused(error.to_string())),
            };
            // The server's own executable is nobody's release.
            let Some(path) = executable.path.clone() else { continue };
            found.push(one(key, platform, &executable, &path).map_err(refused)?);
        }
        if found.is_empty() {
            return Err(refused(format!(
                "there is no release in the folder {AGENTS_FOLDER} of the server's data folder: put postrider-PLATFORM there, and its .minisig beside it"
            )));
        }
        Ok(found)
    }

    /// Why a release of the open rollout is not what it was at its start; none: it is. Blocks for the disk.
    pub fn changed(&self, platform: &str, sha256: &[u8; 32]) -> Option<String> {
        let platform: Platform = platform.parse().ok()?;
        let file = format!("{AGENTS_FOLDER}/postrider-{platform}");
        match self.folder.find(platform) {
            Ok(found) if found.sha256 == *sha256 => None,
            Ok(_) => Some(format!("{file} is another one than when the rollout was started: start it anew")),
            Err(error) => Some(format!("{file} is not there any more as it was: {error}")),
        }
    }
}

fn one(
    key: &ReleaseKey,
    platform: Platform,
    executable: &AgentExecutable,
    path: &Path,
) -> Result<(RolloutRelease, String), String> {
    let release = key.verify(path).map_err(|error| error.to_string())?;
    let signature = executable.signature().map_err(|error| format!("the signature of {}: {error}", path.display()))?;
    let signature = signature.ok_or_else(|| format!("the signature of {} is gone", path.display()))?;
    if release.platform != platform || release.sha256 != executable.sha256 {
        return Err(format!("{} was written to while it was verified: try again", path.display()));
    }
    let version = Version::of_file(path).map_err(|error| format!("{}: {error}", path.display()))?.ok_or_else(|| {
        format!("{} does not say its version: it is no postrider that can be rolled out", path.display())
    })?;
    let sha256 = hex(&release.sha256);
    let (platform, version) = (platform.to_string(), version.to_string());
    Ok((RolloutRelease { platform, version, sha256, bytes: release.bytes }, signature))
}
