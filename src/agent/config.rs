//! What an agent is started with.

use super::runner::control::Supervisor;
use crate::protocol::name::{AgentName, Tags};
use crate::secret::Secret;
use std::path::PathBuf;

/// Commands that run at once. More would let one burst of work fill a small endpoint's memory; fewer would let one
/// slow command hold up the rest.
pub const SLOTS_DEFAULT: usize = 4;
/// Most slots: each is a supervisor process, a thread and two pipes.
pub const SLOTS_MAX: usize = 256;

/// Commands that start within a minute. 50 a second, sustained, is more than people, schedules and rollouts ask of one
/// endpoint, and few enough that an endpoint stands it and somebody can stop it. Fewer would slow down honest bursts.
pub const STARTS_PER_MINUTE_DEFAULT: u32 = 3_000;
/// Most starts a minute: about as many as an agent can begin at all.
pub const STARTS_PER_MINUTE_MAX: u32 = 60_000;

/// The one command of an agent that proves an upgrade of the server.
pub const CHECK_COMMAND: &str = "exit 0";

/// As what a process runs the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// As it was installed.
    #[default]
    Installed,
    /// As a release that has proven itself, started by the installed one.
    Release,
    /// As a release that has to.
    Trial,
}

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The join string; needed until the agent has enrolled.
    pub join: Option<Secret>,
    /// The agent's own folder: credential, journal and spooled output. Made if it is not there.
    pub data: PathBuf,
    /// It enrolls if it has to, and ends.
    pub enroll_only: bool,
    /// The name it asks for at enrollment; none: the host's.
    pub name: Option<AgentName>,
    /// Its tags at enrollment.
    pub tags: Tags,
    /// Commands that run at once, 1 to [`SLOTS_MAX`].
    pub slots: usize,
    /// Commands that start within a minute, 1 to [`STARTS_PER_MINUTE_MAX`]; as many may start at once.
    pub starts_per_minute: u32,
    /// It is there for a moment, to prove an upgrade: it runs [`CHECK_COMMAND`] and refuses all else.
    pub upgrade_check: bool,
    /// Whoever holds the data folder is about to go: wait for that.
    pub waits_for_lock: bool,
    /// As what it runs.
    pub role: Role,
    /// How a supervising child is started.
    pub supervisor: Supervisor,
}

impl AgentConfig {
    /// The defaults for a data folder.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            join: None,
            enroll_only: false,
            data: data.into(),
            name: None,
            tags: Tags::new(),
            slots: SLOTS_DEFAULT,
            starts_per_minute: STARTS_PER_MINUTE_DEFAULT,
            upgrade_check: false,
            waits_for_lock: false,
            role: Role::Installed,
            supervisor: Supervisor::own(),
        }
    }
}
