//! Brings a database file to the current schema, or refuses it.
//!
//! A new file is made from `schema.sql`. An older file goes through the numbered steps, in one transaction.
//!
//! A version's thousands are its major version. Within one, steps only add: tables, indexes, and columns that may be left
//! out. So a build uses a newer file of its own major version as it is, and an upgrade that went wrong can be taken back
//! without touching the database. A step that older builds could not live with goes to the next thousand; a file from there
//! is refused by them.

use crate::crash;
use rusqlite::{Connection, TransactionBehavior};

/// The current schema.
pub const SCHEMA: &str = include_str!("../../schema.sql");
/// Marks the file as ours (`PRAGMA application_id`): the letters "post".
pub const APPLICATION_ID: i32 = 0x706f_7374;
/// The version to which a step takes a file of the version before, and how. Steps are added, never changed.
pub(super) type Step<'a> = (usize, &'a str);
/// All of them, in order.
pub(super) const STEPS: &[Step<'static>] = &[];
/// The version of the first `schema.sql`.
const FIRST: usize = 1;
/// Versions of one major version.
const MAJOR: usize = 1000;

/// The newest schema that this build knows.
pub const fn known_version() -> usize {
    known(STEPS)
}

pub(super) const fn known(steps: &[Step<'_>]) -> usize {
    match steps.last() {
        Some((to, _)) => *to,
        None => FIRST,
    }
}

/// Whether a build that knows versions up to `known` can use a file of version `found`, after a migration if it is older.
pub const fn is_usable(found: usize, known: usize) -> bool {
    found >= FIRST && (found <= known || found / MAJOR == known / MAJOR)
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Another program's database.
    #[error("the file is an SQLite database of another program; choose another data folder")]
    Foreign,
    /// Written by a later build.
    #[error(
        "the file has schema version {found}, this build can use versions below {}: use the newer build, or restore a backup",
        next_major(*known)
    )]
    Newer {
        /// The file's.
        found: usize,
        /// Ours.
        known: usize,
    },
    /// SQLite's word.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Makes, migrates or refuses.
///
/// # Errors
/// [`MigrateError`]; the file is then as it was.
pub fn migrate(conn: &mut Connection) -> Result<(), MigrateError> {
    bring_up(conn, SCHEMA, steps())
}

/// The steps of this build, and in a broken one what a test wants.
pub(super) fn steps() -> &'static [Step<'static>] {
    const HALF: &[Step<'static>] = &[(FIRST + 1, "CREATE TABLE half (x INTEGER) STRICT; nonsense")];
    const NEW_MAJOR: &[Step<'static>] = &[(MAJOR, "CREATE TABLE newer (x INTEGER) STRICT")];
    if crash::is_broken("migration") {
        HALF
    } else if crash::is_broken("new-major") || crash::is_broken("new-major-dies") {
        NEW_MAJOR
    } else {
        STEPS
    }
}

/// What a file is, to a build that knows versions up to some number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A new one.
    Empty,
    /// Ours, of this version, which the build can use.
    Version(usize),
}

/// Tells what a file is, or why it cannot be used. Reads only.
///
/// # Errors
/// [`MigrateError`].
pub fn standing(conn: &Connection, known: usize) -> Result<Standing, MigrateError> {
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let found = usize::try_from(version).unwrap_or(0);
    if tables == 0 && found == 0 {
        Ok(Standing::Empty)
    } else if application != APPLICATION_ID || found == 0 {
        Err(MigrateError::Foreign)
    } else if !is_usable(found, known) {
        Err(MigrateError::Newer { found, known })
    } else {
        Ok(Standing::Version(found))
    }
}

/// [`migrate`] with this schema and these steps.
///
/// # Errors
/// [`MigrateError`]; the file is then as it was.
pub(super) fn bring_up(conn: &mut Connection, schema: &str, steps: &[Step<'_>]) -> Result<(), MigrateError> {
    let known = known(steps);
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let standing = standing(&tx, known)?;
    match standing {
        Standing::Empty => tx.execute_batch(schema)?,
        Standing::Version(found) => {
            for (to, step) in steps.iter().filter(|(to, _)| *to > found) {
                tracing::info!("migrating the database to version {to}");
                tx.execute_batch(step)?;
            }
        }
    }
    if !matches!(standing, Standing::Version(found) if found >= known) {
        tx.pragma_update(None, "user_version", i64::try_from(known).unwrap_or(i64::MAX))?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    tx.commit()?;
    Ok(())
}

/// The first version that a build cannot use.
fn next_major(known: usize) -> usize {
    (known / MAJOR + 1) * MAJOR
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema_of(conn: &Connection) -> Vec<String> {
        let mut statement = conn.prepare("SELECT name || coalesce(sql, '') FROM sqlite_schema ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_new_file_gets_the_whole_schema_once() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn).unwrap();
        let schema = schema_of(&conn);
        assert!(schema.len() > 10);
        migrate(&mut conn).unwrap();
        assert_eq!(schema_of(&conn), schema);
    }

    #[test]
    fn an_older_file_is_taken_step_by_step() {
        let mut conn = Connection::open_in_memory().unwrap();
        bring_up(&mut conn, "CREATE TABLE a (x INTEGER) STRICT", &[]).unwrap();
        let steps = [(2, "CREATE TABLE b (x INTEGER) STRICT"), (3, "ALTER TABLE b ADD COLUMN y TEXT")];
        bring_up(&mut conn, "never used", &steps).unwrap();
        conn.execute_batch("INSERT INTO b (x, y) VALUES (1, 'one')").unwrap();
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let mut conn = Connection::open_in_memory().unwrap();
        bring_up(&mut conn, "CREATE TABLE a (x INTEGER) STRICT", &[]).unwrap();
        let before = schema_of(&conn);
        assert!(bring_up(&mut conn, "", &[(2, "CREATE TABLE b (x INTEGER) STRICT"), (3, "nonsense")]).is_err());
        assert_eq!(schema_of(&conn), before);
    }

    #[test]
    fn a_newer_file_of_the_same_major_version_is_used_as_it_is() {
        let mut conn = Connection::open_in_memory().unwrap();
        let steps = [(2, "CREATE TABLE b (x INTEGER) STRICT"), (3, "ALTER TABLE b ADD COLUMN y TEXT")];
        bring_up(&mut conn, "CREATE TABLE a (x INTEGER) STRICT", &steps).unwrap();
        let schema = schema_of(&conn);
        for older in [&steps[..0], &steps[..1], &steps] {
            bring_up(&mut conn, "", older).unwrap();
            assert_eq!((schema_of(&conn), standing(&conn, 1).unwrap()), (schema.clone(), Standing::Version(3)));
        }
    }

    /// What a step of the same major version may say, as far as a machine can tell. What it may not: take away, rename, or add
    /// a column that older builds do not fill in.
    fn only_adds(step: &str) -> bool {
        let step = step.to_uppercase();
        let takes_away = ["DROP TABLE", "DROP COLUMN", "RENAME ", "DROP VIEW"].iter().any(|words| step.contains(words));
        let demands = step.split("ADD COLUMN").skip(1).any(|column| {
            let column = column.split(';').next().unwrap_or_default();
            column.contains("NOT NULL") && !column.contains("DEFAULT")
        });
        !takes_away && !demands
    }

    #[test]
    fn steps_within_a_major_version_only_add_and_are_in_order() {
        let mut before = FIRST;
        for (to, step) in STEPS {
            assert!(*to == before + 1 || *to == next_major(before), "{to} after {before}");
            assert!(to / MAJOR > before / MAJOR || only_adds(step), "step {to} needs a new major version: {step}");
            before = *to;
        }
        assert!(only_adds(
            "CREATE TABLE b (x INTEGER NOT NULL) STRICT; ALTER TABLE a ADD COLUMN y INTEGER NOT NULL DEFAULT 0"
        ));
        for bad in ["drop table a", "ALTER TABLE a RENAME TO b", "ALTER TABLE a ADD COLUMN y TEXT NOT NULL; SELECT 1"] {
            assert!(!only_adds(bad), "{bad}");
        }
    }

    #[test]
    fn files_of_a_newer_major_version_and_foreign_files_are_refused() {
        let mut conn = Connection::open_in_memory().unwrap();
        bring_up(&mut conn, "CREATE TABLE a (x INTEGER) STRICT", &[(1000, "SELECT 1")]).unwrap();
        let error = bring_up(&mut conn, "", &[(2, "")]).unwrap_err();
        assert!(matches!(error, MigrateError::Newer { found: 1000, known: 2 }));
        assert!(error.to_string().contains("version 1000, this build can use versions below 1000"), "{error}");
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE theirs (x INTEGER)").unwrap();
        assert!(matches!(migrate(&mut conn), Err(MigrateError::Foreign)));
    }
}
