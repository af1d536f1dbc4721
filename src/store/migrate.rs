//! Brings a database file to the current schema, or refuses it.
//!
//! A new file is made from `schema.sql`. An older file goes through the numbered steps, in one transaction. A newer
//! file is refused: this build does not know what it may not break.

use rusqlite::{Connection, TransactionBehavior};

/// The current schema.
pub const SCHEMA: &str = include_str!("../../schema.sql");
/// Marks the file as ours (`PRAGMA application_id`): the letters "post".
pub const APPLICATION_ID: i32 = 0x706f_7374;
/// Step `n` (from 0) takes a file of version `n + 1` to version `n + 2`. Steps are added, never changed.
pub(super) const STEPS: &[&str] = &[];

/// The newest schema that this build knows.
pub const fn known_version() -> usize {
    STEPS.len() + 1
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Another program's database.
    #[error("the file is an SQLite database of another program; choose another data folder")]
    Foreign,
    /// Written by a later build.
    #[error(
        "the file has schema version {found}, this build knows up to {known}: use the newer build, or restore a backup"
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
    bring_up(conn, SCHEMA, STEPS)
}

/// What a file is, to a build that knows versions up to some number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A new one.
    Empty,
    /// Ours, of this version, which is not newer than the build's.
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
    } else if found > known {
        Err(MigrateError::Newer { found, known })
    } else {
        Ok(Standing::Version(found))
    }
}

/// [`migrate`] with this schema and these steps.
///
/// # Errors
/// [`MigrateError`]; the file is then as it was.
pub(super) fn bring_up(conn: &mut Connection, schema: &str, steps: &[&str]) -> Result<(), MigrateError> {
    let known = steps.len() + 1;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let standing = standing(&tx, known)?;
    match standing {
        Standing::Empty => tx.execute_batch(schema)?,
        Standing::Version(found) => {
            for (index, step) in steps.iter().enumerate().skip(found - 1) {
                tracing::info!("migrating the database from version {} to {}", index + 1, index + 2);
                tx.execute_batch(step)?;
            }
        }
    }
    if standing != Standing::Version(known) {
        tx.pragma_update(None, "user_version", i64::try_from(known).unwrap_or(i64::MAX))?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    tx.commit()?;
    Ok(())
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
        let steps = ["CREATE TABLE b (x INTEGER) STRICT", "ALTER TABLE b ADD COLUMN y TEXT"];
        bring_up(&mut conn, "never used", &steps).unwrap();
        conn.execute_batch("INSERT INTO b (x, y) VALUES (1, 'one')").unwrap();
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let mut conn = Connection::open_in_memory().unwrap();
        bring_up(&mut conn, "CREATE TABLE a (x INTEGER) STRICT", &[]).unwrap();
        let before = schema_of(&conn);
        assert!(bring_up(&mut conn, "", &["CREATE TABLE b (x INTEGER) STRICT", "nonsense"]).is_err());
        assert_eq!(schema_of(&conn), before);
    }

    #[test]
    fn newer_and_foreign_files_are_refused() {
        let mut conn = Connection::open_in_memory().unwrap();
        bring_up(&mut conn, "CREATE TABLE a (x INTEGER) STRICT", &["SELECT 1"]).unwrap();
        assert!(matches!(bring_up(&mut conn, "", &[]), Err(MigrateError::Newer { found: 2, known: 1 })));
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE theirs (x INTEGER)").unwrap();
        assert!(matches!(migrate(&mut conn), Err(MigrateError::Foreign)));
    }
}
