//! The server's authorities in its data folder, newest first. Each has a leaf that the clients who know it are shown.

use super::authority::{Authority, CertificateMakeError};
use super::certificates::Certificates;
use crate::clock::Clock;
use crate::pin::{PINS_MAX, Pin};
use crate::server::folder::{FolderError, make_private, write_private};
use crate::tasks::Tasks;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// The folder of keys and certificates in the data folder.
pub const TLS_FOLDER: &str = "tls";
const PREFIX: &str = "authority-";
const SUFFIX: &str = ".pem";
/// Leaves are renewed at this age, in milliseconds: a twelfth of their life.
const LEAF_AGE_MS_MAX: u64 = 30 * 86_400_000;
/// Between two looks at the leaves' age. By the wall clock, because that is what they are judged by; it may be set.
const RENEW_INTERVAL: Duration = Duration::from_secs(60);

/// Why the server's authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file or folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A file is no authority's.
    #[error(
        "{path}: {source}; restore it from a backup. Without it, agents that know only this authority must enroll anew"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: CertificateMakeError,
    },
    /// A certificate cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] CertificateMakeError),
    /// There are as many as can be.
    #[error("there are {PINS_MAX} authorities, more cannot be: retire an old one first")]
    Full,
    /// The newest one stays.
    #[error("this is the newest authority: make another one first, then this one can be retired")]
    Newest,
    /// There is none with that pin.
    #[error("no authority has the pin {0}")]
    Unknown(Pin),
}

/// When the authority was made whose file has this name; none: it is no authority's.
fn created_ms(name: &str) -> Option<i64> {
    name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

/// Whether an authority's file may have this name.
pub fn is_authority_file(name: &str) -> bool {
    created_ms(name).is_some()
}

/// All authorities of a server that speaks TLS.
#[derive(Debug)]
pub struct Authorities {
    folder: PathBuf,
    hosts: Vec<String>,
    certificates: Arc<Certificates>,
    kept: Mutex<Kept>,
    /// Whether opening made the first one.
    pub is_first_start: bool,
}

#[derive(Debug)]
struct Kept {
    /// Newest first, never empty once it is open.
    authorities: Vec<Authority>,
    /// When the leaves were made.
    leaves_ms: i64,
}

impl Authorities {
    /// Reads the data folder's; makes the first one if there is none. `hosts` are the addresses that leaves are for,
    /// beside their pin's name.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn open(
        data: &Path,
        hosts: Vec<String>,
        certificates: Arc<Certificates>,
        now_ms: i64,
    ) -> Result<Self, AuthorityError> {
        let folder = data.join(TLS_FOLDER);
        let unusable = |source| FolderError::Unusable { path: folder.clone(), source };
        make_private(&folder).map_err(unusable)?;
        let authorities = read_all(data)?;
        let is_first_start = authorities.is_empty();
        let kept = Mutex::new(Kept { authorities, leaves_ms: now_ms });
        let opened = Self { folder, hosts, certificates, kept, is_first_start };
        if is_first_start {
            opened.create(now_ms)?;
        } else {
            opened.show(&mut opened.kept(), now_ms)?;
        }
        Ok(opened)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Their pins, newest first.
    pub fn pins(&self) -> Vec<Pin> {
        self.kept().authorities.iter().map(|authority| authority.pin).collect()
    }

    /// The newest one's pin.
    pub fn newest(&self) -> Pin {
        self.kept().authorities[0].pin
    }

    /// The certificate of the one with this pin; none: there is none.
    pub fn certificate(&self, pin: Pin) -> Option<CertificateDer<'static>> {
        let kept = self.kept();
        kept.authorities.iter().find(|authority| authority.pin == pin).map(|found| found.certificate().clone())
    }

    /// Their pins and when they were made, newest first.
    pub fn list(&self) -> Vec<(Pin, i64)> {
        self.kept().authorities.iter().map(|authority| (authority.pin, authority.created_ms)).collect()
    }

    /// The authority whose leaf is shown to a client that asks for this name; none: it asked for no pin's name.
    pub fn asked_for(&self, name: &str) -> Option<Pin> {
        let name = name.to_ascii_lowercase();
        let kept = self.kept();
        let exact = kept.authorities.iter().find(|authority| authority.pin.name() == name);
        let found = exact.or_else(|| kept.authorities.first().filter(|_| Pin::is_name(&name)));
        found.map(|authority| authority.pin)
    }

    /// Makes another one, which is the newest from now on. Blocks for a write to the disk.
    ///
    /// # Errors
    /// [`AuthorityError::Full`], [`AuthorityError::Folder`], [`AuthorityError::Make`].
    pub fn create(&self, now_ms: i64) -> Result<Pin, AuthorityError> {
        let mut kept = self.kept();
        if kept.authorities.len() >= PINS_MAX {
            return Err(AuthorityError::Full);
        }
        // The clock may have been set back: the newest is the newest all the same.
        let created_ms = kept.authorities.first().map_or(now_ms, |newest| now_ms.max(newest.created_ms + 1));
        let (authority, text) = Authority::make(created_ms)?;
        let pin = authority.pin;
        write_private(&self.folder, &file_name(created_ms), &text)?;
        kept.authorities.insert(0, authority);
        self.show(&mut kept, now_ms)?;
        Ok(pin)
    }

    /// Whether this one could be retired.
    ///
    /// # Errors
    /// [`AuthorityError::Newest`], [`AuthorityError::Unknown`].
    pub fn check_retirement(&self, pin: Pin) -> Result<(), AuthorityError> {
        position(&self.kept(), pin).map(drop)
    }

    /// Forgets one, its file too. Blocks for the disk.
    ///
    /// # Errors
    /// As [`Authorities::check_retirement`]; [`AuthorityError::Folder`], [`AuthorityError::Make`].
    pub fn retire(&self, pin: Pin, now_ms: i64) -> Result<(), AuthorityError> {
        let mut kept = self.kept();
        let at = position(&kept, pin)?;
        let path = self.folder.join(file_name(kept.authorities[at].created_ms));
        std::fs::remove_file(&path).map_err(|source| FolderError::Unusable { path, source })?;
        kept.authorities.remove(at);
        self.show(&mut kept, now_ms)
    }

    /// Makes a fresh leaf for each and shows it.
    fn show(&self, kept: &mut Kept, now_ms: i64) -> Result<(), AuthorityError> {
        let mut leaves = Vec::with_capacity(kept.authorities.len());
        for authority in &kept.authorities {
            leaves.push((authority.pin.name(), Arc::new(authority.leaf(&self.hosts, now_ms)?)));
        }
        kept.leaves_ms = now_ms;
        self.certificates.set_authorities(leaves);
        Ok(())
    }

    /// Renews the leaves when they are old, by a clock that may have been set, until the tasks are asked to stop.
    pub async fn keep_fresh(self: Arc<Self>, clock: Clock, tasks: Tasks) {
        let stop = tasks.stop_token();
        while stop.run_until_cancelled(tokio::time::sleep(RENEW_INTERVAL)).await.is_some() {
            match self.renew(clock.now_ms()) {
                Ok(false) => {}
                Ok(true) => tracing::info!("the leaves of the authorities are renewed"),
                Err(error) => tracing::error!(%error, "the leaves cannot be renewed; trying on"),
            }
        }
    }

    /// Whether the leaves were old, by either direction of the clock, and are new now.
    fn renew(&self, now_ms: i64) -> Result<bool, AuthorityError> {
        let mut kept = self.kept();
        if now_ms.abs_diff(kept.leaves_ms) < LEAF_AGE_MS_MAX {
            return Ok(false);
        }
        self.show(&mut kept, now_ms)?;
        Ok(true)
    }
}

/// The authorities of a data folder, newest first; none where it has no folder for them.
///
/// # Errors
/// [`AuthorityError`]: one cannot be read, or is damaged.
pub fn read_all(data: &Path) -> Result<Vec<Authority>, AuthorityError> {
    let folder = data.join(TLS_FOLDER);
    let unusable = |source| FolderError::Unusable { path: folder.clone(), source };
    let mut authorities = Vec::new();
    if !folder.exists() {
        return Ok(authorities);
    }
    for entry in std::fs::read_dir(&folder).map_err(unusable)? {
        let path = entry.map_err(unusable)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(created_ms) = created_ms(name) else { continue };
        let text =
            std::fs::read_to_string(&path).map_err(|source| FolderError::Unusable { path: path.clone(), source })?;
        let read = Authority::parse(&text, created_ms);
        authorities.push(read.map_err(|source| AuthorityError::Damaged { path, source })?);
    }
    authorities.sort_by_key(|authority| std::cmp::Reverse(authority.created_ms));
    Ok(authorities)
}

fn position(kept: &Kept, pin: Pin) -> Result<usize, AuthorityError> {
    match kept.authorities.iter().position(|authority| authority.pin == pin) {
        None => Err(AuthorityError::Unknown(pin)),
        Some(0) => Err(AuthorityError::Newest),
        Some(at) => Ok(at),
    }
}

fn file_name(created_ms: i64) -> String {
    format!("{PREFIX}{created_ms}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_keeps_them_and_the_newest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Authorities::open(folder.path(), vec!["localhost".into()], Arc::default(), 1_000).unwrap();
        let first = open().newest();
        let authorities = open();
        assert_eq!(authorities.pins(), [first]);
        assert!(matches!(authorities.retire(first, 0), Err(AuthorityError::Newest)));
        let second = authorities.create(5).unwrap();
        assert_eq!(authorities.pins(), [second, first], "though the clock went back");
        assert_eq!(open().pins(), [second, first]);
        assert_eq!(authorities.asked_for(&first.name()), Some(first));
        assert_eq!(authorities.asked_for(&Pin::of_key(b"gone").name()), Some(second));
        assert_eq!(authorities.asked_for("localhost"), None);
        authorities.retire(first, 6).unwrap();
        assert!(matches!(authorities.retire(first, 6), Err(AuthorityError::Unknown(_))));
        assert_eq!(open().pins(), [second]);
        while authorities.pins().len() < PINS_MAX {
            authorities.create(7).unwrap();
        }
        assert!(matches!(authorities.create(7), Err(AuthorityError::Full)));
    }

    #[test]
    fn leaves_are_renewed_when_they_are_old_or_the_clock_was_set() {
        const DAY_MS: i64 = 86_400_000;
        let folder = tempfile::tempdir().unwrap();
        let certificates = Arc::new(Certificates::default());
        let start = 10_000 * DAY_MS;
        let opened = Authorities::open(folder.path(), Vec::new(), Arc::clone(&certificates), start).unwrap();
        let shown =
            || certificates.choose(Some(&opened.newest().name()), false).unwrap().end_entity_cert().unwrap().to_vec();
        let first = shown();
        assert!(!opened.renew(start + 29 * DAY_MS).unwrap());
        assert_eq!(shown(), first);
        assert!(opened.renew(start + 30 * DAY_MS).unwrap());
        let second = shown();
        assert_ne!(second, first);
        assert!(opened.renew(start).unwrap(), "set back");
        assert_ne!(shown(), second);
    }

    #[cfg(unix)]
    #[test]
    fn keys_are_private_and_a_damaged_one_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        Authorities::open(folder.path(), Vec::new(), Arc::default(), 7).unwrap();
        let path = folder.path().join("tls/authority-7.pem");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "x").unwrap();
        let told = Authorities::open(folder.path(), Vec::new(), Arc::default(), 7).unwrap_err().to_string();
        assert!(told.contains("authority-7.pem") && told.contains("backup"), "{told}");
    }
}
