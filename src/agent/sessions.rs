//! Who is logged in, without starting a process: logind's session files, else `utmp`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;

/// Where logind keeps one file for each session.
const LOGIND: &str = "/run/systemd/sessions";
/// The classic list.
const UTMP: &str = "/var/run/utmp";
/// Read of it at most, in bytes: some thousand records.
const UTMP_BYTES_MAX: u64 = 1024 * 1024;
/// Size of one record: glibc on platforms where it kept 32-bit times (x86-64); others are not read.
const UTMP_RECORD_BYTES: usize = 384;
/// `USER_PROCESS`: somebody is logged in.
const UTMP_USER: i16 = 7;

/// Names of the users who are logged in.
pub fn users() -> BTreeSet<String> {
    let Ok(sessions) = std::fs::read_dir(LOGIND) else { return from_utmp() };
    let files = sessions.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok());
    files.filter_map(|text| user_of_session(&text)).collect()
}

fn user_of_session(text: &str) -> Option<String> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    // Others are login screens, cron jobs and the service manager's own.
    (field("CLASS") == Some("user") && field("STATE") != Some("closing")).then(|| field("USER"))?.map(str::to_owned)
}

fn from_utmp() -> BTreeSet<String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return BTreeSet::new();
    }
    let mut bytes = Vec::new();
    let read = File::open(UTMP).and_then(|file| file.take(UTMP_BYTES_MAX).read_to_end(&mut bytes));
    if read.is_err() {
        return BTreeSet::new();
    }
    bytes.chunks_exact(UTMP_RECORD_BYTES).filter_map(user_of_record).collect()
}

/// `ut_type` is the first two bytes, `ut_user` 32 bytes at 44 (glibc's `bits/utmp.h`).
fn user_of_record(record: &[u8]) -> Option<String> {
    let kind = i16::from_le_bytes(record.get(..2)?.try_into().ok()?);
    let name = record.get(44..76)?.split(|byte| *byte == 0).next()?;
    (kind == UTMP_USER && !name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_and_records_name_users() {
        assert_eq!(user_of_session("UID=0\nUSER=ann\nCLASS=user\nSTATE=active\n"), Some("ann".into()));
        assert_eq!(user_of_session("USER=gdm\nCLASS=greeter\n"), None);
        let mut record = vec![0; UTMP_RECORD_BYTES];
        assert_eq!(user_of_record(&record), None);
        record[0] = 7;
        record[44..47].copy_from_slice(b"bob");
        assert_eq!(user_of_record(&record), Some("bob".into()));
    }
}
