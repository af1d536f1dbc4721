//! What the agent tells of its host. Collected afresh each time, on a blocking thread, and nothing is kept.

use super::sessions;
use crate::protocol::facts::{Disk, Facts};
use crate::protocol::frame::FACTS_BYTES_MAX;
use std::collections::BTreeSet;
use std::path::Path;
use sysinfo::{CpuRefreshKind, Disks, MemoryRefreshKind, Networks, RefreshKind, System};

/// Addresses, disks and users told at most: a host with more has containers, whose own are of no interest here.
const ITEMS_MAX: usize = 32;
/// Longest text told, in bytes.
const TEXT_BYTES_MAX: usize = 256;
/// File systems that hold no data of the host's own.
const NOT_DISKS: [&str; 8] = ["tmpfs", "devtmpfs", "overlay", "squashfs", "ramfs", "proc", "sysfs", "efivarfs"];

/// The facts as a JSON document of at most [`FACTS_BYTES_MAX`]. Blocks.
pub fn collect() -> serde_json::Value {
    let mut facts = gather();
    loop {
        let document = serde_json::to_value(&facts).unwrap_or_default();
        if document.to_string().len() <= FACTS_BYTES_MAX || !trim(&mut facts) {
            return document;
        }
    }
}

/// Halves the longest list. False: there is nothing left to leave out.
fn trim(facts: &mut Facts) -> bool {
    let longest = facts.disks.len().max(facts.addresses.len()).max(facts.users.len());
    facts.disks.truncate(longest / 2);
    facts.addresses.truncate(longest / 2);
    facts.users.truncate(longest / 2);
    longest > 0
}

fn gather() -> Facts {
    let refresh =
        RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()).with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(refresh).ok();
    let memory = |read: fn(&System) -> u64| system.as_ref().map(read).filter(|bytes| *bytes > 0);
    Facts {
        hostname: System::host_name().ok().map(short),
        os: Some(std::env::consts::OS.to_owned()),
        os_version: System::long_os_version().ok().map(short),
        kernel: System::kernel_version().ok().map(short),
        arch: Some(std::env::consts::ARCH.to_owned()),
        addresses: addresses(),
        cpu: system.as_ref().and_then(|system| system.cpus().first()).map(|cpu| short(cpu.brand().trim().to_owned())),
        cpu_count: std::thread::available_parallelism().ok().and_then(|count| u32::try_from(count.get()).ok()),
        memory_bytes: memory(System::total_memory),
        memory_available_bytes: memory(System::available_memory),
        disks: disks(),
        booted_ms: System::boot_time().ok().and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(1000)),
        users: sessions::users().into_iter().map(short).take(ITEMS_MAX).collect(),
        reboot_needed: reboot_needed(),
        agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
    }
}

fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

fn addresses() -> Vec<String> {
    let Ok(networks) = Networks::new_with_refreshed_list() else { return Vec::new() };
    let all: BTreeSet<_> = networks.values().flat_map(|network| network.ip_networks()).map(|ip| ip.addr).collect();
    let told = all.into_iter().filter(|address| !address.is_loopback() && !address.is_unspecified());
    told.take(ITEMS_MAX).map(|address| address.to_string()).collect()
}

fn disks() -> Vec<Disk> {
    let Ok(disks) = Disks::new_with_refreshed_list() else { return Vec::new() };
    let mut seen = BTreeSet::new();
    let real = disks.iter().filter(|disk| {
        let kind = disk.file_system().to_string_lossy();
        // One device mounted in several places is told once.
        disk.total_space() > 0 && !NOT_DISKS.contains(&kind.as_ref()) && seen.insert(disk.name().to_owned())
    });
    real.take(ITEMS_MAX)
        .map(|disk| Disk {
            mount: short(disk.mount_point().to_string_lossy().into_owned()),
            bytes: disk.total_space(),
            free_bytes: disk.available_space(),
        })
        .collect()
}

/// Debian and its kin leave a file; where nothing of the sort is kept, nobody can say.
fn reboot_needed() -> Option<bool> {
    if Path::new("/var/run/reboot-required").exists() {
        return Some(true);
    }
    Path::new("/etc/debian_version").exists().then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_there_and_fit_their_frame() {
        let document = collect();
        let facts: Facts = serde_json::from_value(document).unwrap();
        assert_eq!(facts.os.as_deref(), Some(std::env::consts::OS));
        assert!(facts.cpu_count.is_some_and(|count| count > 0));
        let mut huge = Facts { users: vec!["u".repeat(250); 200], ..facts };
        while trim(&mut huge) {}
        assert!(serde_json::to_string(&huge).unwrap().len() < FACTS_BYTES_MAX);
    }
}
