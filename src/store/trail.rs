//! Reading the audit: pages either way, and the head.

use super::error::StoreError;
use super::handle::Store;
use crate::protocol::audit::{AuditResponse, AuditRow, CHAIN_START};
use crate::secret::hex;
use rusqlite::{OptionalExtension, Row};
use serde_json::value::{RawValue, to_raw_value};

/// A page ends early after so many bytes of details: a row may have the text of a specification.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which rows.
#[derive(Clone, Copy, Debug)]
pub enum Page {
    /// Those after this number, oldest first.
    After(i64),
    /// Those before this number, newest first.
    Before(i64),
}

fn audit_row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    let detail: String = row.get(8)?;
    // The schema lets nothing but JSON in. What somebody put there against it is for the chain to tell.
    let detail = RawValue::from_string(detail).or_else(|_| to_raw_value("no JSON"));
    let detail = detail
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(8, rusqlite::types::Type::Text, Box::new(error)))?;
    Ok(AuditRow {
        seq: row.get(0)?,
        at_ms: row.get(1)?,
        actor: row.get(2)?,
        token_id: row.get(3)?,
        peer: row.get(4)?,
        action: row.get(5)?,
        target: row.get(6)?,
        outcome: row.get(7)?,
        detail,
        hash: hex(&row.get::<_, Vec<u8>>(9)?),
    })
}

impl Store {
    /// At most `limit` rows of the audit.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn audit(&self, page: Page, limit: u32) -> Result<AuditResponse, StoreError> {
        const AFTER: &str = "SELECT seq, at_ms, actor, token_id, peer, action, target, outcome, detail, hash FROM audit \
             WHERE seq > ?1 ORDER BY seq";
        const BEFORE: &str = "SELECT seq, at_ms, actor, token_id, peer, action, target, outcome, detail, hash FROM audit \
             WHERE seq < ?1 ORDER BY seq DESC";
        self.read(move |conn| {
            let (sql, from) = match page {
                Page::After(seq) => (AFTER, seq),
                Page::Before(seq) => (BEFORE, seq),
            };
            let mut statement = conn.prepare_cached(sql)?;
            let mut found = statement.query([from])?;
            let mut answer = AuditResponse { rows: Vec::new(), next: None };
            let mut bytes = 0;
            while let Some(row) = found.next()? {
                if answer.rows.len() >= limit as usize || bytes >= PAGE_BYTES_MAX {
                    answer.next = answer.rows.last().map(|row: &AuditRow| row.seq);
                    break;
                }
                let row = audit_row(row)?;
                bytes += row.detail.get().len();
                answer.rows.push(row);
            }
            Ok(answer)
        })
        .await
    }

    /// Number and hash of the newest row; 0 before the first.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn audit_head(&self) -> Result<(i64, String), StoreError> {
        const HEAD: &str = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";
        self.read(|conn| {
            let found =
                conn.query_row(HEAD, [], |row| Ok((row.get(0)?, hex(&row.get::<_, Vec<u8>>(1)?)))).optional()?;
            Ok(found.unwrap_or_else(|| (0, hex(&CHAIN_START))))
        })
        .await
    }
}
