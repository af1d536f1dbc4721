//! Which files of a data folder a backup holds: what a server needs to be the same server afterwards.
//!
//! Not among them: `lock`, `listen` and `pins`, which a start makes; `ballast`; `postrider.db-wal` and `-shm`, whose rows
//! are in the copy; and `owner.token`, which no server reads: `restore` takes over the one that is there, if it is good.

use super::error::BackupError;
use crate::protocol::backup::FileEntry;
use crate::secret::hex;
use crate::server::acme::stored::{ACCOUNT_FILE, CERTIFICATE_FILE, FOLDER as ACME_FOLDER};
use crate::server::folder::SEAL_KEY_FILE;
use crate::server::tls::authorities::{TLS_FOLDER, is_authority_file};
use crate::store::copy::Pace;
use crate::store::handle::DATABASE_FILE;
use ring::digest::{Context, SHA256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes that are read at once.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// The largest file beside the database, in bytes: far more than a key or a chain of certificates.
pub const SMALL_BYTES_MAX: u64 = 1024 * 1024;
/// Files beside the database, at most: far more than there can be authorities.
pub const FILES_MAX: usize = 256;

/// Whether a backup may hold a file of this name, in the data folder and with slashes.
pub fn is_kept(name: &str) -> bool {
    let acme = |file: &str| name.strip_prefix(ACME_FOLDER).and_then(|rest| rest.strip_prefix('/')) == Some(file);
    let authority =
        name.strip_prefix(TLS_FOLDER).and_then(|rest| rest.strip_prefix('/')).is_some_and(is_authority_file);
    name == DATABASE_FILE || name == SEAL_KEY_FILE || authority || acme(ACCOUNT_FILE) || acme(CERTIFICATE_FILE)
}

/// The names of what `data` has beside the database, in order. None where there is none.
///
/// # Errors
/// [`BackupError::Io`].
pub fn beside_the_database(data: &Path) -> Result<Vec<String>, BackupError> {
    let mut names = Vec::new();
    for folder in ["", TLS_FOLDER, ACME_FOLDER] {
        let path = data.join(folder);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(BackupError::Io { path, source }),
        };
        for entry in entries {
            let entry = entry.map_err(BackupError::io(&path))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if name != DATABASE_FILE && is_kept(&name) {
                names.push(name);
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Reads a file through, for the manifest.
///
/// # Errors
/// [`BackupError::Io`], [`BackupError::Stopped`].
pub fn entry(name: &str, path: &Path, pace: &mut Pace) -> Result<FileEntry, BackupError> {
    let mut file = File::open(path).map_err(BackupError::io(path))?;
    let (mut sum, mut bytes, mut chunk) = (Context::new(&SHA256), 0, vec![0; CHUNK_BYTES]);
    loop {
        let count = file.read(&mut chunk).map_err(BackupError::io(path))?;
        if count == 0 {
            return Ok(FileEntry { name: name.to_owned(), bytes, sha256: hex(sum.finish().as_ref()) });
        }
        sum.update(&chunk[..count]);
        bytes += count as u64;
        pace.breathe()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_and_what_a_start_makes_is_not() {
        for name in
            ["postrider.db", "seal.key", "tls/authority-17.pem", "tls/acme/account.json", "tls/acme/certificate.json"]
        {
            assert!(is_kept(name), "{name}");
        }
        for name in [
            "lock",
            "listen",
            "pins",
            "ballast",
            "owner.token",
            "postrider.db-wal",
            "postrider.db-shm",
            "authority-17.pem",
            "tls/authority-x.pem",
            "tls/authority-1.pem.new",
            "tls/../seal.key",
            "/seal.key",
            "tls/acme/",
            "",
        ] {
            assert!(!is_kept(name), "{name}");
        }
    }
}
