//! Host inventory, as an agent reports it.

use serde::{Deserialize, Serialize};

/// What an agent knows about its host. Every field may be missing: platforms differ, and agents may be older or newer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Host name.
    pub hostname: Option<String>,
    /// `linux`, `windows`, `macos`, …
    pub os: Option<String>,
    /// Name and version for people, such as "Debian GNU/Linux 12".
    pub os_version: Option<String>,
    /// Kernel version.
    pub kernel: Option<String>,
    /// `x86_64`, `aarch64`, …
    pub arch: Option<String>,
    /// IP addresses without loopback.
    pub addresses: Vec<String>,
    /// CPU model.
    pub cpu: Option<String>,
    /// Logical CPUs.
    pub cpu_count: Option<u32>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory that programs can still get, in bytes.
    pub memory_available_bytes: Option<u64>,
    /// Mounted disks.
    pub disks: Vec<Disk>,
    /// When the host booted, in Unix milliseconds.
    pub booted_ms: Option<i64>,
    /// Who is logged in, without repetition.
    pub users: Vec<String>,
    /// Whether the host says that it wants a reboot; none: it cannot say.
    pub reboot_needed: Option<bool>,
    /// The agent's version.
    pub agent_version: Option<String>,
}

/// One mounted file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Where it is mounted.
    pub mount: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Free for programs, in bytes.
    pub free_bytes: u64,
}
