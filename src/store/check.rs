//! Looks at a database file as a start would, and changes nothing: it writes to no file and makes none beside it, but for the
//! marks of readers in the index of a write-ahead log. A migration is tried on a copy in a temporary folder.

use super::migrate::{MigrateError, SCHEMA, Standing, Step, bring_up, known, standing, steps};
use super::pool::BUSY_TIMEOUT;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What a file's name in a URI may have as it is (<https://sqlite.org/uri.html>).
const URI_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');
/// A table scan of a small table; it has no parameters.
const OBJECTS: &str = "SELECT type || ' ' || name FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";

/// How a start that migrates is told. An upgrade looks for it in what another build says, so it stays as it is.
pub const MIGRATION: &str = "the migration to";

/// What a start would find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// No file, or an empty one: it would be made.
    New,
    /// A file of this build's schema, or of a newer one of the same major version.
    Current {
        /// Its version.
        version: usize,
    },
    /// An older file. The migration was tried on a copy, and went well.
    Older {
        /// Its version.
        found: usize,
        /// This build's.
        known: usize,
    },
}

/// Why a start would end here.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Newer, another program's, or a step that fails.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// Its version is ours, its tables are not.
    #[error("it has schema version {version}, but lacks {missing}: restore it from a backup")]
    Lacks {
        /// The version that it says it has.
        version: usize,
        /// What is not there.
        missing: String,
    },
    /// A row that refers to one that is not there, after the migration.
    #[error("after the migration {0} rows refer to rows that are not there; restore it from a backup")]
    Dangling(usize),
    /// The copy cannot be made.
    #[error("a copy for trying the migration cannot be made: {0}; TMPDIR names a folder with room for it")]
    Copy(std::io::Error),
}

impl From<rusqlite::Error> for CheckError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Migrate(error.into())
    }
}

/// Looks at the database file `path`, whether or not a server is using it.
///
/// # Errors
/// [`CheckError`]: a start would fail.
pub fn look(path: &Path) -> Result<Look, CheckError> {
    if !path.exists() {
        return Ok(Look::New);
    }
    let (conn, _copy) = open_unchanged(path)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    look_at(&conn, SCHEMA, steps())
}

fn look_at(conn: &Connection, schema: &str, steps: &[Step<'_>]) -> Result<Look, CheckError> {
    let known = known(steps);
    match standing(conn, known)? {
        Standing::Empty => Ok(Look::New),
        Standing::Version(version) if version >= known => {
            whole(conn, schema, version)?;
            Ok(Look::Current { version })
        }
        Standing::Version(found) => {
            let folder = TempDir::new().map_err(CheckError::Copy)?;
            let path = folder.path().join("copy.db");
            conn.execute("VACUUM INTO ?1", [path.to_string_lossy()])?;
            let mut copy = Connection::open(&path)?;
            bring_up(&mut copy, schema, steps)?;
            whole(&copy, schema, known)?;
            let dangling = copy.prepare("PRAGMA foreign_key_check")?.query_map([], |_| Ok(()))?.count();
            if dangling > 0 {
                return Err(CheckError::Dangling(dangling));
            }
            Ok(Look::Older { found, known })
        }
    }
}

/// Whether everything of the schema is there.
fn whole(conn: &Connection, schema: &str, version: usize) -> Result<(), CheckError> {
    let fresh = Connection::open_in_memory()?;
    fresh.execute_batch(schema)?;
    let objects = |conn: &Connection| -> rusqlite::Result<BTreeSet<String>> {
        conn.prepare(OBJECTS)?.query_map([], |row| row.get(0))?.collect()
    };
    let there = objects(conn)?;
    let missing: Vec<_> = objects(&fresh)?.into_iter().filter(|object| !there.contains(object)).collect();
    if missing.is_empty() { Ok(()) } else { Err(CheckError::Lacks { version, missing: missing.join(", ") }) }
}

/// A connection that makes no file beside the database. A reader of a write-ahead log needs the two files beside it and
/// would make them; so where they are not there, nobody is writing, and it is read without them, or as a copy.
fn open_unchanged(path: &Path) -> Result<(Connection, Option<TempDir>), CheckError> {
    let (log, index) = (beside(path, "-wal"), beside(path, "-shm"));
    let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if log.exists() && index.exists() {
        return Ok((Connection::open_with_flags(path, read_only)?, None));
    }
    if log.metadata().is_ok_and(|log| log.len() > 0) {
        let folder = TempDir::new().map_err(CheckError::Copy)?;
        let copy = folder.path().join("copy.db");
        std::fs::copy(path, &copy).map_err(CheckError::Copy)?;
        std::fs::copy(&log, beside(&copy, "-wal")).map_err(CheckError::Copy)?;
        return Ok((Connection::open(&copy)?, Some(folder)));
    }
    let name = percent_encode(path.as_os_str().as_encoded_bytes(), URI_PATH);
    let uri = format!("file:{name}?immutable=1");
    Ok((Connection::open_with_flags(uri, read_only | OpenFlags::SQLITE_OPEN_URI)?, None))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const ONE: &str = "CREATE TABLE a (x INTEGER PRIMARY KEY) STRICT; INSERT INTO a VALUES (7)";
    const TWO: &str = "CREATE TABLE a (x INTEGER PRIMARY KEY) STRICT; CREATE TABLE b (y INTEGER REFERENCES a) STRICT";
    const STEP: &str = "CREATE TABLE b (y INTEGER REFERENCES a) STRICT; INSERT INTO b SELECT x FROM a";

    fn old(folder: &TempDir) -> PathBuf {
        let path = folder.path().join("a b%.db");
        let mut conn = Connection::open(&path).unwrap();
        conn.pragma_update(None, "journal_mode", "WAL").unwrap();
        bring_up(&mut conn, ONE, &[]).unwrap();
        path
    }

    fn files(folder: &TempDir) -> Vec<(OsString, Vec<u8>)> {
        let read = |entry: std::io::Result<fs::DirEntry>| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_owned(), fs::read(&path).unwrap())
        };
        let mut files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(read).collect();
        files.sort();
        files
    }

    #[test]
    fn a_migration_is_tried_on_a_copy_and_the_file_stays_as_it_is() {
        let folder = TempDir::new().unwrap();
        let path = old(&folder);
        let before = files(&folder);
        assert_eq!(before.len(), 1, "closed: one file");
        let (conn, _) = open_unchanged(&path).unwrap();
        assert_eq!(look_at(&conn, TWO, &[(2, STEP)]).unwrap(), Look::Older { found: 1, known: 2 });
        let error = look_at(&conn, TWO, &[(2, "nonsense")]).unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
        let error = look_at(&conn, TWO, &[(2, "SELECT 1")]).unwrap_err();
        assert!(matches!(&error, CheckError::Lacks { missing, .. } if missing == "table b"), "{error}");
        let dangling = "CREATE TABLE b (y INTEGER REFERENCES a) STRICT; PRAGMA defer_foreign_keys = 1; \
            INSERT INTO b VALUES (9); DELETE FROM a";
        let error = look_at(&conn, TWO, &[(2, dangling)]).unwrap_err();
        assert!(error.to_string().contains("FOREIGN KEY") || matches!(error, CheckError::Dangling(1)), "{error}");
        assert_eq!(look_at(&conn, ONE, &[]).unwrap(), Look::Current { version: 1 });
        drop(conn);
        assert_eq!(files(&folder), before);
    }

    #[test]
    fn what_only_the_log_has_is_seen_and_no_file_is_made() {
        let folder = TempDir::new().unwrap();
        let path = old(&folder);
        let writer = Connection::open(&path).unwrap();
        writer.pragma_update(None, "user_version", 9000).unwrap();
        // As after a kill, on a folder that was copied without the index.
        let killed = TempDir::new().unwrap();
        let copy = killed.path().join("c.db");
        fs::copy(&path, &copy).unwrap();
        fs::copy(beside(&path, "-wal"), beside(&copy, "-wal")).unwrap();
        for (folder, path) in [(&killed, &copy), (&folder, &path)] {
            let before = files(folder);
            let error = look(path).unwrap_err();
            assert!(matches!(error, CheckError::Migrate(MigrateError::Newer { found: 9000, .. })), "{error}");
            let names = |files: &[(OsString, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&files(folder)), names(&before));
        }
        drop(writer);
        assert_eq!(look(Path::new("/nonexistent/x.db")).unwrap(), Look::New);
    }
}
