//! Which boot of the host this is.

/// A text that differs from boot to boot. On Linux the kernel's boot id; elsewhere made of the boot time.
pub fn boot_id() -> String {
    if let Ok(id) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        return id.trim().to_owned();
    }
    match sysinfo::System::boot_time() {
        Ok(seconds) => format!("booted-{seconds}"),
        Err(_) => "unknown".to_owned(),
    }
}
