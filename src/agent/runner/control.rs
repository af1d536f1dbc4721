//! What the agent and the supervising child of a command say to each other: JSON, one line each.
//!
//! Agent → child: [`Word`], a launch and then any number of orders to it. A launch comes with two files, which are the command's
//! standard output and error. Child → agent: [`Report`]. When the last report says so, the child takes another launch. The end of
//! the agent's side means that the agent is gone; the command dies with it.

use crate::protocol::secret_env::SecretEnv;
use crate::protocol::spec::Spec;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// From the polite signal to the kill. Long enough to flush and remove a pid file, short enough to be waited for.
pub const GRACE: Duration = Duration::from_secs(5);
/// The same when the agent itself stops: whoever stops it waits (service managers kill after 90 s or less).
pub const GRACE_AT_STOP: Duration = Duration::from_secs(2);
/// How long killed processes may take to be gone: past it they hang in the kernel (a dead network file system).
pub const KILL_MAX: Duration = Duration::from_secs(10);
/// Longest report line, in bytes: a reason and some numbers.
pub const REPORT_BYTES_MAX: usize = 8 * 1024;

/// How a supervising child is started.
#[derive(Clone, Debug)]
pub struct Supervisor {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Supervisor {
    /// This very program. On Linux by way of `/proc`, so that it works after its file was replaced by an upgrade.
    pub fn own() -> Self {
        let program = if cfg!(target_os = "linux") {
            PathBuf::from("/proc/self/exe")
        } else {
            std::env::current_exe().unwrap_or_else(|_| PathBuf::from("postrider"))
        };
        Self { program, args: vec!["supervise".to_owned()] }
    }
}

/// What the agent says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Run this.
    Launch(Box<Launch>),
    /// End it.
    End(Order),
}

/// What to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Launch {
    /// Counts what this child runs, so that an order that comes too late ends nothing else.
    pub run: u64,
    /// The specification.
    pub spec: Spec,
    /// The values of its `secret_env`.
    #[serde(default, skip_serializing_if = "SecretEnv::is_empty")]
    pub secrets: SecretEnv,
    /// From the polite signal to the kill at the timeout, in milliseconds.
    pub grace_ms: u64,
}

impl Launch {
    /// With the usual grace.
    pub fn new(spec: Spec, secrets: SecretEnv) -> Self {
        Self { run: 0, spec, secrets, grace_ms: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// End it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Which.
    pub run: u64,
    /// Why.
    pub end: Cause,
    /// From the polite signal to the kill, in milliseconds.
    pub grace_ms: u64,
}

/// Why a command was ended by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its time was up.
    Timeout,
    /// Somebody cancelled it.
    Cancel,
    /// The agent was stopped.
    Stop,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The process is there.
    Started {
        /// Its id, which is also its process group's.
        pid: i32,
    },
    /// It could not be started.
    NotStarted {
        /// Why.
        reason: String,
    },
    /// It is over. After a kill: the whole tree is.
    Ended {
        /// None: it ended by itself.
        cause: Option<Cause>,
        /// Its exit code.
        exit_code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// From the start to the end of the process, in milliseconds.
        duration_ms: u64,
        /// Processes that could not be killed.
        unkilled: u32,
        /// Nothing is left of it: this child takes the next launch.
        again: bool,
    },
}
