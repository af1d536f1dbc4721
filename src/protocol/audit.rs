//! The audit chain: a row's form, and the hash by which each row vouches for all before it.
//!
//! The server appends, the command line checks: what it checks are the texts themselves, so that no server has to be
//! believed. Whoever can rewrite the database can make a new chain; a head that was kept elsewhere tells.

use crate::secret::{hex, sha256};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What the first row's hash follows.
pub const CHAIN_START: [u8; 32] = [0; 32];

/// One row: who did what, or tried to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditRow {
    /// Its number: 1 for the first, without gaps.
    pub seq: i64,
    /// When, in Unix milliseconds by the server's clock.
    pub at_ms: i64,
    /// Name of the token, or which part of the server.
    pub actor: String,
    /// The token's id; null: none, or none that is good.
    pub token_id: Option<String>,
    /// The address it came from.
    pub peer: Option<String>,
    /// Such as `command.submit`, or the method and route of a refused request.
    pub action: String,
    /// Id of what was acted on.
    pub target: Option<String>,
    /// `done` or `refused`.
    pub outcome: String,
    /// The rest, as JSON, byte for byte.
    pub detail: Box<RawValue>,
    /// SHA-256 of the row before it and of this row, hexadecimal.
    pub hash: String,
}

/// `GET /api/audit`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditResponse {
    /// Oldest first with `after`, newest first with `before`.
    pub rows: Vec<AuditRow>,
    /// Value for the same parameter to get the next page; none: this was the last.
    pub next: Option<i64>,
}

/// The same as the database holds it.
#[derive(Clone, Copy, Debug)]
pub struct AuditFields<'a> {
    /// Number.
    pub seq: i64,
    /// Unix milliseconds.
    pub at_ms: i64,
    /// Who.
    pub actor: &'a str,
    /// Their token.
    pub token_id: Option<&'a str>,
    /// From where.
    pub peer: Option<&'a str>,
    /// What.
    pub action: &'a str,
    /// On what.
    pub target: Option<&'a str>,
    /// `done` or `refused`.
    pub outcome: &'a str,
    /// JSON.
    pub detail: &'a str,
}

impl AuditFields<'_> {
    /// The row's hash after a row with the hash `previous`: SHA-256 over `previous` and the fields in their order, each as
    /// its length in 8 bytes, big-endian, and its text; numbers in decimal; a field that is null has the length 2^64 − 1
    /// and no text.
    pub fn hash(&self, previous: &[u8; 32]) -> [u8; 32] {
        let mut digest = Context::new(&SHA256);
        digest.update(previous);
        let (seq, at_ms) = (self.seq.to_string(), self.at_ms.to_string());
        for field in [
            Some(seq.as_str()),
            Some(&at_ms),
            Some(self.actor),
            self.token_id,
            self.peer,
            Some(self.action),
            self.target,
            Some(self.outcome),
            Some(self.detail),
        ] {
            digest.update(&field.map_or(u64::MAX, |text| text.len() as u64).to_be_bytes());
            digest.update(field.unwrap_or_default().as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.finish().as_ref());
        hash
    }
}

impl AuditRow {
    /// Its fields.
    pub fn fields(&self) -> AuditFields<'_> {
        AuditFields {
            seq: self.seq,
            at_ms: self.at_ms,
            actor: &self.actor,
            token_id: self.token_id.as_deref(),
            peer: self.peer.as_deref(),
            action: &self.action,
            target: self.target.as_deref(),
            outcome: &self.outcome,
            detail: self.detail.get(),
        }
    }
}

/// Checks a chain row by row.
#[derive(Clone, Debug)]
pub struct ChainCheck {
    next: i64,
    head: [u8; 32],
}

impl Default for ChainCheck {
    fn default() -> Self {
        Self { next: 1, head: CHAIN_START }
    }
}

/// Where a chain is broken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A row is not where it should be.
    #[error("row {expected} is missing: row {found} follows")]
    Missing {
        /// The number that should have come.
        expected: i64,
        /// The number that came.
        found: i64,
    },
    /// A row's hash does not follow from the row before it and its own text.
    #[error("row {0} was changed, or a row before it")]
    Changed(i64),
}

impl ChainCheck {
    /// Takes the next row.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn take(&mut self, row: &AuditRow) -> Result<(), ChainError> {
        if row.seq != self.next {
            return Err(ChainError::Missing { expected: self.next, found: row.seq });
        }
        let hash = row.fields().hash(&self.head);
        if hex(&hash) != row.hash {
            return Err(ChainError::Changed(row.seq));
        }
        self.next += 1;
        self.head = hash;
        Ok(())
    }

    /// How many rows were taken.
    pub fn rows(&self) -> i64 {
        self.next - 1
    }

    /// The hash of the last row: what vouches for all of them.
    pub fn head(&self) -> String {
        hex(&self.head)
    }
}

/// The hash of a text that is kept beside it, hexadecimal.
pub fn text_hash(text: &str) -> String {
    hex(&sha256(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(details: &[&str]) -> Vec<AuditRow> {
        let mut head = CHAIN_START;
        let mut rows = Vec::new();
        for (seq, detail) in (1..).zip(details) {
            let mut row = AuditRow {
                seq,
                at_ms: 5,
                actor: "ann".into(),
                token_id: None,
                peer: Some("192.0.2.1:7".into()),
                action: "command.submit".into(),
                target: None,
                outcome: "done".into(),
                detail: RawValue::from_string((*detail).to_owned()).unwrap(),
                hash: String::new(),
            };
            head = row.fields().hash(&head);
            row.hash = hex(&head);
            rows.push(row);
        }
        rows
    }

    fn check(rows: &[AuditRow]) -> Result<i64, ChainError> {
        let mut check = ChainCheck::default();
        rows.iter().try_for_each(|row| check.take(row))?;
        Ok(check.rows())
    }

    #[test]
    fn a_change_a_gap_and_another_order_are_told() {
        let rows = chain(&["{}", r#"{"a": 1}"#, r#"{"a":1}"#]);
        assert_eq!(check(&rows), Ok(3));
        let text = serde_json::to_string(&rows[1]).unwrap();
        assert_eq!(serde_json::from_str::<AuditRow>(&text).unwrap().detail.get(), r#"{"a": 1}"#);
        let mut changed = rows.clone();
        changed[1].detail = RawValue::from_string(r#"{"a":2}"#.to_owned()).unwrap();
        assert_eq!(check(&changed), Err(ChainError::Changed(2)));
        let mut moved = rows.clone();
        moved[0].actor = "an".into();
        moved[0].token_id = Some("n".into());
        assert_eq!(check(&moved), Err(ChainError::Changed(1)));
        assert_eq!(check(&[rows[0].clone(), rows[2].clone()]), Err(ChainError::Missing { expected: 2, found: 3 }));
        assert_eq!(check(&rows[1..]), Err(ChainError::Missing { expected: 1, found: 2 }));
    }
}
