//! What is written down: the upgrade that is under way, before each of its steps, and what became of all of them.
//!
//! Both are on the disk before anybody acts on them. An upgrade that is written down, and that nobody works at (the lock is
//! free), was cut off.

use super::error::UpgradeError;
use super::releases::{Releases, remove, sync};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The upgrade that is under way.
pub const UNDER_WAY: &str = "upgrade.json";
const HISTORY: &str = "history.jsonl";
/// Most lines of the history that are kept.
const HISTORY_MAX: usize = 1000;

/// How far an upgrade is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The old server is being stopped. Nothing is changed.
    Stopping,
    /// Links are being changed, or have been.
    Swapping,
    /// The new server is being started, or has been.
    Starting,
    /// The new server has proven itself. What is left is to write the history.
    Proven,
    /// The old one is being put back.
    Undoing,
}

/// An upgrade that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderWay {
    /// How far it is.
    pub step: Step,
    /// What ran before.
    pub from: String,
    /// What is to run.
    pub to: String,
    /// When it began.
    pub began_ms: i64,
    /// Who began it.
    pub by: String,
    /// The backup that was made before it.
    pub backup: PathBuf,
    /// The database as it was when the old server had stopped, where the new one has another schema.
    pub copy: Option<PathBuf>,
    /// What `previous` named.
    pub previous: Option<String>,
    /// Whether it goes back to what ran before.
    #[serde(default)]
    pub backwards: bool,
}

/// How an upgrade ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The new release runs.
    Upgraded,
    /// What ran before runs again, because somebody wanted it or the new one crashed again and again.
    WentBack,
    /// The old one was put back, because the new one failed.
    RolledBack,
    /// It was cut off, and was undone at the next start.
    Undone,
    /// It was cut off, and was finished at the next start.
    Finished,
}

impl Ended {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Upgraded => "upgraded",
            Self::WentBack => "went back",
            Self::RolledBack => "rolled back",
            Self::Undone => "cut off, undone",
            Self::Finished => "cut off, finished",
        }
    }
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// When it began.
    pub began_ms: i64,
    /// When it ended.
    pub ended_ms: i64,
    /// What ran before.
    pub from: String,
    /// What was to run.
    pub to: String,
    /// Who began it.
    pub by: String,
    /// How it ended.
    pub ended: Ended,
    /// Why, where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From the stop of the server to its answer, in milliseconds, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
}

impl UnderWay {
    /// The upgrade that is written down, if there is one.
    ///
    /// # Errors
    /// [`UpgradeError::Io`]: it cannot be read, or is none.
    pub fn read(releases: &Releases) -> Result<Option<Self>, UpgradeError> {
        let path = releases.file(UNDER_WAY);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| UpgradeError::io(&path)(error.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(UpgradeError::io(&path)(error)),
        }
    }

    /// Writes down that it is at this step now.
    ///
    /// # Errors
    /// [`UpgradeError::Io`]: the step must not be done.
    pub fn at(&mut self, step: Step, releases: &Releases) -> Result<(), UpgradeError> {
        let (path, next) = (releases.file(UNDER_WAY), Self { step, ..self.clone() });
        let text = serde_json::to_vec(&next).map_err(|error| UpgradeError::io(&path)(error.into()))?;
        write(&path, &text)?;
        self.step = step;
        Ok(())
    }

    /// Adds it to the history, and forgets that it was under way.
    ///
    /// # Errors
    /// [`UpgradeError::Io`].
    pub fn end(
        &self,
        releases: &Releases,
        ended: Ended,
        ended_ms: i64,
        reason: Option<String>,
        pause_ms: Option<u64>,
    ) -> Result<(), UpgradeError> {
        let (from, to, by) = (self.from.clone(), self.to.clone(), self.by.clone());
        let past = Past { began_ms: self.began_ms, ended_ms, from, to, by, ended, reason, pause_ms };
        let mut all = history(releases)?;
        // Cut off after the history was written, before it was forgotten: once is enough.
        if all.last().is_none_or(|last| last.began_ms != past.began_ms) {
            all.push(past);
        }
        let kept = &all[all.len().saturating_sub(HISTORY_MAX)..];
        let path = releases.file(HISTORY);
        let lines: Result<Vec<String>, _> = kept.iter().map(serde_json::to_string).collect();
        let lines = lines.map_err(|error| UpgradeError::io(&path)(error.into()))?;
        write(&path, (lines.join("\n") + "\n").as_bytes())?;
        forget(releases)
    }
}

/// Forgets an upgrade that changed nothing.
///
/// # Errors
/// [`UpgradeError::Io`].
pub fn forget(releases: &Releases) -> Result<(), UpgradeError> {
    let path = releases.file(UNDER_WAY);
    remove(&path).map_err(UpgradeError::io(&path))
}

/// What became of all upgrades, oldest first. A line that cannot be read is left out.
///
/// # Errors
/// [`UpgradeError::Io`].
pub fn history(releases: &Releases) -> Result<Vec<Past>, UpgradeError> {
    let path = releases.file(HISTORY);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(UpgradeError::io(&path)(error)),
    }
}

/// Replaces a file in one step that lasts.
fn write(path: &Path, text: &[u8]) -> Result<(), UpgradeError> {
    let fresh = path.with_extension("new");
    let written = File::create(&fresh).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        sync(path.parent().unwrap_or(Path::new("/")))
    });
    written.map_err(UpgradeError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_read_back_and_becomes_history_once() {
        let folder = tempfile::tempdir().unwrap();
        let releases = Releases::open(folder.path()).unwrap();
        assert_eq!(UnderWay::read(&releases).unwrap(), None);
        let mut upgrade = UnderWay {
            step: Step::Stopping,
            from: "a".to_owned(),
            to: "b".to_owned(),
            began_ms: 7,
            by: "ann".to_owned(),
            backup: "/x".into(),
            copy: None,
            previous: None,
            backwards: false,
        };
        upgrade.at(Step::Swapping, &releases).unwrap();
        assert_eq!(UnderWay::read(&releases).unwrap(), Some(upgrade.clone()));
        for _ in 0..2 {
            upgrade.end(&releases, Ended::RolledBack, 9, Some("why\nnot".to_owned()), Some(3)).unwrap();
        }
        assert_eq!(UnderWay::read(&releases).unwrap(), None);
        let all = history(&releases).unwrap();
        assert_eq!((all.len(), all[0].ended, all[0].reason.as_deref()), (1, Ended::RolledBack, Some("why\nnot")));
        fs::write(releases.file(UNDER_WAY), "{").unwrap();
        assert!(UnderWay::read(&releases).is_err());
    }
}
