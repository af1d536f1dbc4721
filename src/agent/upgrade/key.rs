//! The release key that an agent keeps: the first that its server told it, in a file of its own.
//!
//! Another one that the server tells later is not believed. Whoever may write the file changes it.

use crate::agent::data::write_whole;
use crate::release::ReleaseKey;
use std::io;
use std::path::{Path, PathBuf};
use tracing::{info, warn};

fn place(data: &Path) -> PathBuf {
    data.join("release.key")
}

/// The key; none: no server has told one yet.
///
/// # Errors
/// The file system's, and what is no key.
pub fn kept(data: &Path) -> io::Result<Option<ReleaseKey>> {
    match std::fs::read_to_string(place(data)) {
        Ok(text) => text.parse().map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps what the server tells, if there is none yet.
pub fn learn(data: &Path, told: &str) {
    let found = place(data);
    match told.parse::<ReleaseKey>() {
        Err(error) => warn!("the server's release key is not kept: {error}"),
        Ok(_) if found.exists() => {}
        Ok(key) => match write_whole(&found, format!("{key}\n").as_bytes()) {
            Ok(()) => info!("the server's release key is kept: {key}"),
            Err(error) => warn!("the server's release key cannot be kept in {}: {error}", found.display()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisign::KeyPair;

    #[test]
    fn the_first_key_is_kept_and_no_other_is_believed() {
        let data = tempfile::tempdir().unwrap();
        let [first, second] = [0; 2].map(|_| KeyPair::generate_unencrypted_keypair().unwrap().pk.to_base64());
        assert_eq!(kept(data.path()).unwrap(), None);
        learn(data.path(), "nonsense");
        assert_eq!(kept(data.path()).unwrap(), None);
        for told in [&first, &second] {
            learn(data.path(), told);
            assert_eq!(kept(data.path()).unwrap().unwrap().to_string(), first);
        }
        std::fs::write(data.path().join("release.key"), &second).unwrap();
        assert_eq!(kept(data.path()).unwrap().unwrap().to_string(), second, "whoever owns the host changes it");
        std::fs::write(data.path().join("release.key"), "nonsense").unwrap();
        assert!(kept(data.path()).is_err());
    }
}
