//! History made up in bulk, for measurements: what a busy year leaves behind.

use super::pool::{open_writer, use_wal};
use std::path::Path;

/// Rows of one transaction: the WAL stays small.
const CHUNK: u32 = 50_000;

/// Adds `rows` finished commands, each with one delivery and its transitions, to the database in `path`, by turns for each
/// of its agents, in the name of its first token. They end now and began a second apart. The audit tells nothing of them.
/// No server may have the file open.
///
/// # Errors
/// SQLite's.
pub fn seed(path: &Path, rows: u32) -> rusqlite::Result<()> {
    const COMMANDS: &str = "WITH RECURSIVE n (i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2) \
         INSERT INTO commands (id, created_ms, token_seq, spec, timeout_ms, not_after_ms, output_bytes_max) \
         SELECT randomblob(16), ?3 + i * 1000, (SELECT min(seq) FROM tokens), \
         '{\"v\":1,\"argv\":[\"true\"],\"timeout_ms\":60000,\"not_after_ms\":' || (?3 + i * 1000 + 604800000) || \
         ',\"output_bytes_max\":1048576}', 60000, ?3 + i * 1000 + 604800000, 1048576 FROM n";
    const DELIVERIES: &str = "WITH few AS (SELECT count(*) AS n FROM agents), \
         numbered AS (SELECT seq, row_number() OVER (ORDER BY seq) - 1 AS number FROM agents) \
         INSERT INTO deliveries (id, command_seq, agent_seq, state, attempt, due_ms, accepted_ms, started_ms, finished_ms, \
         exit_code, duration_ms, stdout_bytes, stderr_bytes) \
         SELECT randomblob(16), c.seq, a.seq, 'succeeded', 1, c.created_ms, c.created_ms + 2, c.created_ms + 2, \
         c.created_ms + 5, 0, 3, 0, 0 FROM commands c JOIN few JOIN numbered a ON a.number = c.seq % few.n \
         WHERE c.seq > ?1 ORDER BY c.seq";
    const TRANSITIONS: &str = "INSERT INTO transitions (delivery_seq, at_ms, before, event, epoch, attempt, cause) \
         SELECT d.seq, d.due_ms + t.after, t.before, t.event, t.epoch, t.attempt, t.cause FROM deliveries d JOIN (\
         SELECT 0 AS after, '' AS before, 'queued' AS event, NULL AS epoch, NULL AS attempt, 'owner' AS cause \
         UNION ALL SELECT 1, 'queued', 'dispatched', 1, 1, NULL UNION ALL SELECT 2, 'queued', 'accepted', 1, NULL, NULL \
         UNION ALL SELECT 2, 'accepted', 'running', 1, NULL, NULL \
         UNION ALL SELECT 5, 'running', 'succeeded', 1, NULL, NULL) t WHERE d.seq > ?1 ORDER BY d.seq, t.after";
    let conn = open_writer(path)?;
    use_wal(&conn)?;
    // Whoever loses power now measures anew.
    conn.pragma_update(None, "synchronous", "OFF")?;
    let last = |table: &str| {
        conn.query_row(&format!("SELECT coalesce(max(seq), 0) FROM {table}"), [], |row| row.get::<_, i64>(0))
    };
    let now_ms = crate::clock::Clock::system().now_ms();
    let first_ms = now_ms - i64::from(rows) * 1000;
    for from in (0..rows).step_by(CHUNK as usize) {
        let (command, delivery) = (last("commands")?, last("deliveries")?);
        let tx = conn.unchecked_transaction()?;
        tx.execute(COMMANDS, (from, rows.min(from + CHUNK), first_ms))?;
        tx.execute(DELIVERIES, [command])?;
        tx.execute(TRANSITIONS, [delivery])?;
        tx.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::migrate::migrate;

    #[test]
    fn all_of_it_has_ended_in_order_and_belongs_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let mut conn = open_writer(&path).unwrap();
        migrate(&mut conn).unwrap();
        conn.execute_batch(
            "INSERT INTO tokens (seq, id, name, role, hash, created_ms) VALUES (1, zeroblob(16), 'a', 'owner', zeroblob(32), 1);
             INSERT INTO joins (seq, id, hash, created_ms, created_by, expires_ms, uses_max) \
                VALUES (1, zeroblob(16), zeroblob(32), 1, 'a', 2, 1);
             INSERT INTO agents (id, name, public_key, tags, join_seq, enrolled_ms) \
                VALUES (randomblob(16), 'a', randomblob(32), '{}', 1, 1), (randomblob(16), 'b', randomblob(32), '{}', 1, 1);",
        )
        .unwrap();
        drop(conn);
        seed(&path, 101).unwrap();
        let conn = open_writer(&path).unwrap();
        let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM commands"), 101);
        assert_eq!(count("SELECT count(*) FROM deliveries WHERE state = 'succeeded'"), 101);
        assert_eq!(count("SELECT count(*) FROM transitions"), 505);
        assert_eq!(count("SELECT count(DISTINCT agent_seq) FROM deliveries"), 2);
        assert_eq!(count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
    }
}
