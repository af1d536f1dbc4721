//! What is in a backup, as its manifest and the verbs `backup` and `restore` say it. No I/O.

use super::ids::ServerId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The format that this build writes, and the newest that it reads. It grows when an older build could not restore what
/// a newer one writes.
pub const FORMAT: u32 = 1;
/// The manifest's name in the archive. It comes first.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The part of a manifest that every format has.
#[derive(Clone, Debug, Deserialize)]
pub struct ManifestHead {
    /// The format.
    pub format: u32,
    /// The version of the build that made it.
    pub postrider: String,
}

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of the build that made it.
    pub postrider: String,
    /// The database's schema.
    pub schema: usize,
    /// Whose it is.
    pub server_id: ServerId,
    /// When it was begun, in Unix milliseconds. What was committed before is in it.
    pub made_ms: i64,
    /// Rows by table.
    pub rows: BTreeMap<String, u64>,
    /// What follows in the archive, in this order; the database is the first.
    pub files: Vec<FileEntry>,
}

/// A file of the data folder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its path in the data folder, with slashes.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// A backup was made.
#[derive(Clone, Debug, Serialize)]
pub struct BackupReport {
    /// Where.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// What is in it.
    pub manifest: Manifest,
}

/// A backup was restored.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreReport {
    /// From where.
    pub file: String,
    /// The data folder.
    pub data: String,
    /// Where the state before it is now; null: there was none.
    pub kept_aside: Option<String>,
    /// Whether the folder's `owner.token` was taken over, because the restored server knows it.
    pub owner_token: bool,
    /// How many authorities were taken over that are newer than the backup.
    pub authorities: usize,
    /// What was in it.
    pub manifest: Manifest,
}
