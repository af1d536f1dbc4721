//! `releases/` in the data folder: the executables that the agent was given, and one document that says which of them runs,
//! which is on trial, and what became of the latest offer. One document is written whole or not at all, so no cut of the power
//! leaves half of a step.
//!
//! Whoever runs the agent writes it: the agent itself, and the process that was installed while no agent runs.

use crate::agent::data::{make_private, write_whole};
use crate::agent::error::AgentError;
use crate::protocol::ids::RolloutId;
use crate::protocol::upgrade::UpgradeReport;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::{error, warn};

/// How an executable's name begins; the first digits of its SHA-256 follow.
const PREFIX: &str = "postrider-";
/// Largest document read, in bytes.
const BOOK_BYTES_MAX: u64 = 64 * 1024;

/// What is on disk of upgrades.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Book {
    /// Which state of the installed executable this was written under.
    pub installed: String,
    /// The release that has proven itself and runs; none: the installed executable does.
    pub current: Option<Kept>,
    /// The release that is to be tried, or is being tried.
    pub trial: Option<Trial>,
    /// What became of the latest offer that was decided about.
    pub last: Option<UpgradeReport>,
}

/// An executable in the folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Its name in the folder.
    pub file: String,
    /// SHA-256 of it, hexadecimal.
    pub sha256: String,
    /// Its version.
    pub version: String,
    /// How often in a row it ended by itself before it had proven a round trip.
    #[serde(default)]
    pub crashes: u32,
}

/// A release on trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// What is tried.
    pub release: Kept,
    /// By which rollout it was offered.
    pub rollout: RolloutId,
    /// In which attempt.
    pub attempt: u32,
    /// How often it was started.
    pub tries: u32,
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Releases {
    folder: PathBuf,
    changes: Arc<Mutex<()>>,
}

impl Releases {
    /// That of a data folder, which is made where it is missing.
    ///
    /// # Errors
    /// [`AgentError::Data`].
    pub fn open(data: &Path) -> Result<Self, AgentError> {
        let folder = data.join("releases");
        make_private(&folder)?;
        Ok(Self { folder, changes: Arc::default() })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn document(&self) -> PathBuf {
        self.folder.join("upgrade.json")
    }

    /// What the document says. One that cannot be read counts as empty: then the installed executable runs.
    pub fn read(&self) -> Book {
        let path = self.document();
        let read = || -> io::Result<Book> {
            if std::fs::metadata(&path)?.len() > BOOK_BYTES_MAX {
                return Err(io::Error::other("it is too long"));
            }
            serde_json::from_slice(&std::fs::read(&path)?).map_err(io::Error::other)
        };
        read().unwrap_or_else(|why| {
            if why.kind() != io::ErrorKind::NotFound {
                error!("{} is not used, and the installed agent runs: {why}", path.display());
            }
            Book::default()
        })
    }

    /// Writes the document; on disk when it returns.
    ///
    /// # Errors
    /// The file system's; the old one is there then.
    pub fn write(&self, book: &Book) -> io::Result<()> {
        write_whole(&self.document(), &serde_json::to_vec_pretty(book)?)
    }

    /// Reads the document, changes it and writes it, one after the other.
    ///
    /// # Errors
    /// The file system's; the old one is there then.
    pub fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> io::Result<T> {
        let _changing = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.read();
        let mut book = before.clone();
        let answer = change(&mut book);
        if book != before {
            self.write(&book)?;
        }
        Ok(answer)
    }

    /// Where an executable is.
    pub fn path(&self, kept: &Kept) -> PathBuf {
        self.folder.join(&kept.file)
    }

    /// What a release with this SHA-256 is called.
    pub fn name(sha256: &str) -> String {
        format!("{PREFIX}{}", &sha256[..sha256.len().min(16)])
    }

    /// Removes all executables but those of the book.
    pub fn sweep(&self, book: &Book) {
        let kept = [book.current.as_ref(), book.trial.as_ref().map(|trial| &trial.release)];
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_kept = kept.iter().flatten().any(|kept| name.starts_with(&kept.file));
            if name.starts_with(PREFIX)
                && !is_kept
                && let Err(why) = std::fs::remove_file(entry.path())
            {
                warn!("{} cannot be removed: {why}", entry.path().display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_counts_for_nothing() {
        let data = tempfile::tempdir().unwrap();
        let releases = Releases::open(data.path()).unwrap();
        assert_eq!(releases.read(), Book::default());
        let kept = |digit: &str| {
            let sha256 = digit.repeat(64);
            Kept { file: Releases::name(&sha256), sha256, version: "1.2.3".into(), crashes: 0 }
        };
        let trial = Trial { release: kept("b"), rollout: RolloutId::new(), attempt: 1, tries: 1 };
        let book = Book { current: Some(kept("a")), trial: Some(trial), ..Book::default() };
        releases.write(&book).unwrap();
        assert_eq!(releases.read(), book);

        for digit in ["a", "b", "c"] {
            std::fs::write(releases.path(&kept(digit)), digit).unwrap();
        }
        releases.sweep(&book);
        let is_there = ["a", "b", "c"].map(|digit| releases.path(&kept(digit)).exists());
        assert_eq!(is_there, [true, true, false]);
        std::fs::write(data.path().join("releases/upgrade.json"), "{\"current\":7}").unwrap();
        assert_eq!(releases.read(), Book::default());
    }
}
