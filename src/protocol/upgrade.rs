//! What server and agent say to each other about upgrades of the agent: offers, and what became of them.

use super::ids::RolloutId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest reason in a report, in bytes; a longer one is cut.
pub const UPGRADE_REASON_BYTES_MAX: usize = 1024;
/// Longest signature in an offer, in bytes: four lines, of which two are comments.
pub const OFFER_SIGNATURE_BYTES_MAX: usize = 4 * 1024;

/// A release that an agent is to become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Of which rollout.
    pub rollout: RolloutId,
    /// 1 for the first time. A repetition of the same attempt is answered with where it stands.
    pub attempt: u32,
    /// The release's version.
    pub version: String,
    /// What it runs on, such as `linux-x86_64`.
    pub platform: String,
    /// SHA-256 of the executable, hexadecimal.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
    /// The text of its signature's file.
    pub signature: String,
    /// It may be older than what runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub downgrade: bool,
}

/// What an agent says of upgrades in `hello`. One that leaves it out knows nothing of them and is sent no offer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ability {
    /// The platform whose executables run here; none: it cannot be upgraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// SHA-256 of the release that it runs, hexadecimal; none: it runs as it was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Why it cannot be upgraded, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot: Option<String>,
    /// What became of the latest offer, as far as it is on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<UpgradeReport>,
}

/// What became of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeReport {
    /// Of which rollout the offer was.
    pub rollout: RolloutId,
    /// Which attempt.
    pub attempt: u32,
    /// Where it stands.
    pub state: UpgradeState,
    /// A sentence, where the state does not say it all; at most [`UPGRADE_REASON_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// With `rolled_back`: the release may be good, so it may be offered again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// Where an offer stands on the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeState {
    /// It is being fetched or verified, or waits until no command runs.
    Taken,
    /// It is verified; the agent ends this session and starts it.
    Restarting,
    /// It runs, and has proven a round trip.
    Upgraded,
    /// It was not started.
    Failed,
    /// It was started and did not prove itself; what ran before is back.
    RolledBack,
}

impl UpgradeReport {
    /// Its reason, cut to its limit.
    pub fn cut_reason(&mut self) {
        if let Some(reason) = &mut self.reason {
            reason.truncate(reason.floor_char_boundary(UPGRADE_REASON_BYTES_MAX));
        }
    }
}

impl UpgradeState {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            UpgradeState::Taken => "taken",
            UpgradeState::Restarting => "restarting",
            UpgradeState::Upgraded => "upgraded",
            UpgradeState::Failed => "failed",
            UpgradeState::RolledBack => "rolled_back",
        }
    }
}

impl fmt::Display for UpgradeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
