//! `serve --check`: looks at everything that a start would use, says what it found, and changes nothing.
//!
//! It takes no lock, so that it works beside a server that runs; whether the address is free it therefore cannot tell.

use super::acme::validity::validity;
use super::backup::restore::check_start;
use super::folder::{OWNER_TOKEN_FILE, SEAL_KEY_FILE, read_seal_key};
use super::serve::ServeConfig;
use super::tls::authorities::read_all;
use crate::store::check::{Look, MIGRATION, look};
use crate::store::handle::DATABASE_FILE;
use crate::store::migrate::known_version;
use serde::Serialize;
use std::fmt;
use std::fs::Metadata;
use std::path::Path;

/// Days that a certificate should still be good for; fewer are worth a word.
const DAYS_LEFT_MIN: i64 = 14;
const DAY_MS: i64 = 86_400_000;

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// As it should be.
    #[serde(rename = "ok")]
    Good,
    /// It goes on; somebody may want to know.
    #[serde(rename = "note")]
    Note,
    /// A start would fail, or what is there is in danger.
    #[serde(rename = "wrong")]
    Wrong,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What it means.
    pub verdict: Verdict,
    /// What was looked at.
    pub what: &'static str,
    /// What was found, and the cure.
    pub text: String,
}

impl Finding {
    /// One of this kind.
    pub fn new(verdict: Verdict, what: &'static str, text: impl Into<String>) -> Self {
        Self { verdict, what, text: text.into() }
    }

    /// Settings that a start would not take.
    pub fn settings(error: impl fmt::Display) -> Self {
        Self::new(Verdict::Wrong, "settings", error.to_string())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Good => "ok",
            Verdict::Note => "note",
            Verdict::Wrong => "WRONG",
        };
        write!(f, "{verdict:<6} {}: {}", self.what, self.text)
    }
}

/// Looks at settings, data folder, keys, database and certificate files.
pub fn check(config: &ServeConfig, now_ms: i64) -> Vec<Finding> {
    let mut found = vec![settings(config)];
    if config.data.exists() {
        found.push(folder(&config.data));
        found.extend(files(&config.data));
        found.push(seal_key(&config.data));
        found.push(authorities(config));
        found.push(database(&config.data));
    } else {
        let text = format!("{} is not there; the first start makes it, if it may", config.data.display());
        found.push(Finding::new(Verdict::Note, "data folder", text));
    }
    if let Err(error) = check_start(&config.data) {
        found.push(Finding::new(Verdict::Wrong, "data folder", error.to_string()));
    }
    if let Some(to) = config.backup_to.as_ref().filter(|to| !to.is_dir()) {
        let text = format!("{} is not a folder: the server runs, but makes no backups", to.display());
        found.push(Finding::new(Verdict::Note, "backups", text));
    }
    found.extend(certificate(config, now_ms));
    found
}

fn settings(config: &ServeConfig) -> Finding {
    match config.checked() {
        Err(error) => Finding::settings(error),
        Ok(_) => {
            let speaks = if config.speaks_tls() { "TLS" } else { "plain HTTP" };
            Finding::new(Verdict::Good, "settings", format!("would listen on {} and speak {speaks}", config.listen))
        }
    }
}

fn folder(data: &Path) -> Finding {
    let finding = |verdict, text: &str| Finding::new(verdict, "data folder", format!("{} {text}", data.display()));
    match data.metadata() {
        Err(error) => finding(Verdict::Wrong, &format!("cannot be looked at: {error}")),
        Ok(meta) if !meta.is_dir() => finding(Verdict::Wrong, "is not a folder: choose another with --data"),
        Ok(meta) if is_shared(&meta) => finding(Verdict::Wrong, "can be entered by others: `chmod 700` it"),
        Ok(_) if !may_write(data) => finding(
            Verdict::Wrong,
            "cannot be written by this user: check as the user that the server runs as, or give it to that user",
        ),
        Ok(_) => finding(Verdict::Good, "is private and can be written"),
    }
}

/// Files that the server could not use because they are somebody else's, or that others may read.
fn files(data: &Path) -> Vec<Finding> {
    let wrong = |text: String| Finding::new(Verdict::Wrong, "files", text);
    let Ok(entries) = data.read_dir() else { return Vec::new() };
    let Ok(folder) = data.metadata() else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        if owner(&meta) != owner(&folder) {
            found.push(wrong(format!(
                "{} belongs to another user than its folder: `chown --reference={} {0}`",
                path.display(),
                data.display()
            )));
        }
        // The ballast is zeros.
        if is_shared(&meta) && entry.file_name() != "ballast" {
            found.push(wrong(format!("{} can be read by others: `chmod go= {0}`", path.display())));
        }
    }
    if !data.join(OWNER_TOKEN_FILE).exists() && data.join(DATABASE_FILE).exists() {
        let text = format!("no {OWNER_TOKEN_FILE}: it was put away, or --new-owner-token makes another");
        found.push(Finding::new(Verdict::Note, "files", text));
    }
    found
}

fn seal_key(data: &Path) -> Finding {
    match read_seal_key(data) {
        Ok(Some(_)) => Finding::new(Verdict::Good, "key", format!("{SEAL_KEY_FILE} can be used")),
        Ok(None) if data.join(DATABASE_FILE).exists() => Finding::new(
            Verdict::Note,
            "key",
            format!("no {SEAL_KEY_FILE}: a start makes another, and cancels commands whose secrets wait"),
        ),
        Ok(None) => Finding::new(Verdict::Note, "key", format!("no {SEAL_KEY_FILE} yet; the first start makes it")),
        Err(error) => Finding::new(Verdict::Wrong, "key", error.to_string()),
    }
}

fn authorities(config: &ServeConfig) -> Finding {
    match read_all(&config.data) {
        Err(error) => Finding::new(Verdict::Wrong, "authorities", error.to_string()),
        Ok(authorities) if !authorities.is_empty() => {
            Finding::new(Verdict::Good, "authorities", format!("{} can be used", authorities.len()))
        }
        Ok(_) if config.speaks_tls() => Finding::new(
            Verdict::Note,
            "authorities",
            "none yet; a start makes one, and no pin of an older one fits it",
        ),
        Ok(_) => Finding::new(Verdict::Good, "authorities", "none, and none is needed for plain HTTP"),
    }
}

fn database(data: &Path) -> Finding {
    let path = data.join(DATABASE_FILE);
    let finding = |verdict, text: String| Finding::new(verdict, "database", format!("{}: {text}", path.display()));
    match look(&path) {
        Ok(Look::New) => finding(Verdict::Note, "not there yet; the first start makes it".to_owned()),
        Ok(Look::Current { version }) => finding(Verdict::Good, as_known(version)),
        Ok(Look::Older { found, known }) => finding(
            Verdict::Good,
            format!("schema version {found}; {MIGRATION} {known} went well on a copy. Make a backup first"),
        ),
        Err(error) => finding(Verdict::Wrong, error.to_string()),
    }
}

/// What to say of a database that needs no migration.
fn as_known(version: usize) -> String {
    let known = known_version();
    if version == known {
        return format!("schema version {version}, as this build has it");
    }
    format!("schema version {version}: a newer build's, which this one ({known}) can use as it is")
}

fn certificate(config: &ServeConfig, now_ms: i64) -> Option<Finding> {
    let own = config.own_certificate.as_ref()?;
    let finding = |verdict, text: String| Some(Finding::new(verdict, "certificate", text));
    let key = match own.load() {
        Ok(key) => key,
        Err(error) => return finding(Verdict::Wrong, format!("--tls-cert, --tls-key: {error}")),
    };
    let shown = own.chain.display();
    let Some((first, last)) = key.cert.first().and_then(|leaf| validity(leaf)) else {
        return finding(Verdict::Note, format!("{shown} fits its key; until when it is good cannot be read"));
    };
    let days = (last - now_ms) / DAY_MS;
    if last <= now_ms {
        finding(Verdict::Wrong, format!("{shown} has ended {} days ago, by this host's clock: renew it", -days))
    } else if first > now_ms {
        finding(Verdict::Wrong, format!("{shown} is not good yet, by this host's clock"))
    } else if days < DAYS_LEFT_MIN {
        finding(Verdict::Note, format!("{shown} fits its key and ends in {days} days: renew it"))
    } else {
        finding(Verdict::Good, format!("{shown} fits its key and is good for {days} days"))
    }
}

#[cfg(unix)]
fn is_shared(meta: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    meta.mode() & 0o077 != 0
}

#[cfg(unix)]
fn owner(meta: &Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::uid(meta)
}

#[cfg(unix)]
fn may_write(folder: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    access(folder, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

#[cfg(not(unix))]
fn is_shared(_: &Metadata) -> bool {
    false
}

#[cfg(not(unix))]
fn owner(_: &Metadata) -> u32 {
    0
}

#[cfg(not(unix))]
fn may_write(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|meta| !meta.permissions().readonly())
}
