//! What is on the disk: the database's soundness, room, backups, upgrades that were cut off.

use crate::ballast::free_bytes;
use crate::server::backup::schedule::newest;
use crate::server::check::{Finding, Verdict};
use crate::server::serve::ServeConfig;
use crate::store::copy::{CopyError, Pace, check};
use crate::store::disk::FREE_BYTES_MIN;
use crate::store::handle::DATABASE_FILE;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long the database is read: a large one takes longer, and is only partly looked at then.
const READ_MAX: Duration = Duration::from_secs(60);
/// A backup that is so many times older than it should be at most is too old.
const LATE: i64 = 2;
const HOUR_MS: i64 = 3_600_000;
const MIB: u64 = 1024 * 1024;

/// All of it.
pub fn look(config: &ServeConfig, now_ms: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    let database = config.data.join(DATABASE_FILE);
    if database.is_file() {
        found.push(soundness(&database));
        found.push(room(&config.data, &database));
    }
    found.push(backups(config, now_ms));
    found
}

fn soundness(database: &Path) -> Finding {
    let finding = |verdict, text: String| Finding::new(verdict, "database", text);
    let stop = CancellationToken::new();
    let late = stop.clone();
    // It sleeps beside us, and ends with us.
    std::thread::spawn(move || {
        std::thread::sleep(READ_MAX);
        late.cancel();
    });
    match check(database, &mut Pace::until(stop)) {
        Ok(contents) => {
            let rows = |table: &str| contents.rows.get(table).copied().unwrap_or_default();
            let (agents, commands) = (rows("agents"), rows("commands"));
            finding(
                Verdict::Good,
                format!("every page and every reference is sound; {agents} agents, {commands} commands"),
            )
        }
        Err(CopyError::Stopped) => finding(
            Verdict::Note,
            format!(
                "nothing was found wrong in {} s, and it is not read to its end; `postrider backup` reads all of it",
                READ_MAX.as_secs()
            ),
        ),
        Err(CopyError::Unsound(why)) => finding(
            Verdict::Wrong,
            format!(
                "{} is damaged ({why}): stop the server, keep a copy, restore the newest backup (`postrider restore`), look at the disk",
                database.display()
            ),
        ),
        Err(error) => finding(Verdict::Wrong, format!("{} cannot be checked: {error}", database.display())),
    }
}

fn room(data: &Path, database: &Path) -> Finding {
    let finding = |verdict, text: String| Finding::new(verdict, "disk", text);
    let Some(free) = free_bytes(data) else {
        return finding(Verdict::Note, format!("how much room {} has cannot be told", data.display()));
    };
    let size = database.metadata().map_or(0, |meta| meta.len());
    let (free_mib, size_mib) = (free / MIB, size / MIB);
    if free < FREE_BYTES_MIN {
        let text = format!(
            "{free_mib} MiB are free at {}: the server takes no submissions below {}: make room",
            data.display(),
            FREE_BYTES_MIN / MIB
        );
        finding(Verdict::Wrong, text)
    } else if free < size + FREE_BYTES_MIN {
        let text = format!(
            "{free_mib} MiB are free at {}, less than the database ({size_mib} MiB) needs beside it for a backup: make room",
            data.display()
        );
        finding(Verdict::Wrong, text)
    } else {
        finding(Verdict::Good, format!("{free_mib} MiB are free at {}; the database has {size_mib}", data.display()))
    }
}

fn backups(config: &ServeConfig, now_ms: i64) -> Finding {
    let finding = |verdict, text: String| Finding::new(verdict, "backups", text);
    let Some(to) = &config.backup_to else {
        let text = "the server makes none by itself: set backup_to, on another disk, or see to it that `postrider backup` runs";
        return finding(Verdict::Note, text.to_owned());
    };
    let every_ms = i64::try_from(config.backup_every.as_millis()).unwrap_or(i64::MAX);
    match newest(&config.data).map(|newest_ms| now_ms - newest_ms) {
        None => finding(
            Verdict::Wrong,
            format!("there is none in {} yet: look into the server's log for the reason", to.display()),
        ),
        Some(age_ms) if age_ms > every_ms.saturating_mul(LATE) => finding(
            Verdict::Wrong,
            format!(
                "the newest in {} is {} h old: look into the server's log for the reason",
                to.display(),
                age_ms / HOUR_MS
            ),
        ),
        Some(age_ms) => finding(Verdict::Good, format!("the newest in {} is {} h old", to.display(), age_ms / HOUR_MS)),
    }
}

/// An upgrade that was cut off and that nobody has dealt with.
pub fn upgrade(releases: &Path) -> Finding {
    let under_way = releases.join("upgrade.json");
    if under_way.exists() {
        let text = format!(
            "{} is there: one is under way, or was cut off; then `systemctl restart postrider` undoes it",
            under_way.display()
        );
        return Finding::new(Verdict::Note, "upgrade", text);
    }
    Finding::new(Verdict::Good, "upgrade", "none is half done")
}
