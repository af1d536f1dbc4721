//! `postrider audit verify`: the chain, checked here: neither the server nor its database is believed.

use super::audit::rows_after;
use super::client::ApiClient;
use super::error::CliError;
use super::out;
use super::text::line;
use crate::protocol::audit::{AuditRow, ChainCheck, ChainError};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::str::FromStr;

/// The chain is broken.
pub const EXIT_BROKEN: u8 = 1;

/// Number and hash of a row that was the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    seq: i64,
    hash: String,
}

impl FromStr for Head {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a head is a row's number, a colon and 64 hexadecimal digits, as `audit verify` prints it";
        let (seq, hash) = text.trim().split_once(':').ok_or(wrong)?;
        let seq = seq.parse().ok().filter(|seq| *seq >= 0).ok_or(wrong)?;
        if hash.len() != 64 || !hash.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong);
        }
        Ok(Self { seq, hash: hash.to_ascii_lowercase() })
    }
}

/// What is wrong with a chain.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It does not hold together.
    #[error("{0}")]
    Chain(#[from] ChainError),
    /// A line of a file is no row.
    #[error("line {line} is no row of an audit: {message}")]
    Line {
        /// Its number, from 1.
        line: i64,
        /// Why not.
        message: String,
    },
    /// Another row is where the head was.
    #[error("row {0} is not the one that was noted: the chain was made anew since")]
    OtherHead(i64),
    /// The head's row is gone.
    #[error("row {noted} was noted, and there are only {rows}: the end was taken away")]
    Shorter {
        /// The head's number.
        noted: i64,
        /// How many there are.
        rows: i64,
    },
}

/// A chain on its way through [`ChainCheck`], and the head that must be on it.
#[derive(Debug, Default)]
pub struct Verify {
    check: ChainCheck,
    noted: Option<Head>,
}

impl Verify {
    /// With a head that was noted, if there is one.
    pub fn new(noted: Option<&Head>) -> Self {
        let verify = Self { check: ChainCheck::default(), noted: noted.cloned() };
        // The head of an empty chain is on every chain.
        Self { noted: verify.noted.filter(|head| head.seq > 0 || head.hash != verify.check.head()), ..verify }
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// [`Broken::Chain`], [`Broken::OtherHead`].
    pub fn take(&mut self, row: &AuditRow) -> Result<(), Broken> {
        self.check.take(row)?;
        match &self.noted {
            Some(noted) if noted.seq == row.seq && noted.hash != row.hash => Err(Broken::OtherHead(row.seq)),
            _ => Ok(()),
        }
    }

    /// How many rows were taken.
    pub fn rows(&self) -> i64 {
        self.check.rows()
    }

    /// The head, as people note it.
    pub fn head(&self) -> String {
        format!("{}:{}", self.check.rows(), self.check.head())
    }

    /// That was all.
    ///
    /// # Errors
    /// [`Broken::Shorter`], and [`Broken::OtherHead`] for a noted head that no chain has.
    pub fn end(&self) -> Result<(), Broken> {
        match &self.noted {
            Some(noted) if noted.seq == 0 => Err(Broken::OtherHead(0)),
            Some(noted) if noted.seq > self.rows() => Err(Broken::Shorter { noted: noted.seq, rows: self.rows() }),
            _ => Ok(()),
        }
    }
}

/// Reads a line of an exported file.
///
/// # Errors
/// [`Broken::Line`].
pub fn read_row(number: i64, text: &[u8]) -> Result<AuditRow, Broken> {
    serde_json::from_slice(text).map_err(|error| Broken::Line { line: number, message: line(&error.to_string(), 200) })
}

/// Checks the server's chain.
///
/// # Errors
/// [`CliError`]: it could not be read.
pub async fn server(client: &ApiClient, noted: Option<&Head>, json: bool) -> Result<u8, CliError> {
    let mut verify = Verify::new(noted);
    loop {
        let page = rows_after(client, verify.rows()).await?;
        if let Err(broken) = page.rows.iter().try_for_each(|row| verify.take(row)) {
            return tell(&verify, Err(broken), json);
        }
        if page.next.is_none() || page.rows.is_empty() {
            return tell(&verify, verify.end(), json);
        }
    }
}

/// Checks the chain of an exported file.
///
/// # Errors
/// [`CliError::File`]: it cannot be read.
pub fn file(path: &Path, noted: Option<&Head>, json: bool) -> Result<u8, CliError> {
    let wrong = |error: std::io::Error| CliError::File { path: path.to_owned(), message: error.to_string() };
    let mut verify = Verify::new(noted);
    for text in BufReader::new(File::open(path).map_err(wrong)?).split(b'\n') {
        let text = text.map_err(wrong)?;
        if let Err(broken) = read_row(verify.rows() + 1, &text).and_then(|row| verify.take(&row)) {
            return tell(&verify, Err(broken), json);
        }
    }
    tell(&verify, verify.end(), json)
}

fn tell(verify: &Verify, result: Result<(), Broken>, json: bool) -> Result<u8, CliError> {
    let (rows, head) = (verify.rows(), verify.head());
    if json {
        let broken = result.as_ref().err().map(ToString::to_string);
        out::json(&serde_json::json!({ "rows": rows, "head": head, "broken": broken }))?;
    } else if result.is_ok() {
        out::line(&format!("{rows} rows, each as it was written\nhead {head}"))?;
    }
    match result {
        Ok(()) => Ok(0),
        Err(broken) => {
            out::note(&format!("postrider: the audit is broken: {broken}"));
            out::note(&format!("  the rows before that hold together: {head}"));
            Ok(EXIT_BROKEN)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::audit::CHAIN_START;
    use crate::secret::hex;

    #[test]
    fn a_head_is_read_as_it_is_printed() {
        let start = Verify::default().head();
        let head: Head = start.parse().unwrap();
        assert_eq!(head, Head { seq: 0, hash: hex(&CHAIN_START) });
        assert!(Verify::new(Some(&head)).end().is_ok());
        let other: Head = format!("0:{}", "1".repeat(64)).parse().unwrap();
        assert!(matches!(Verify::new(Some(&other)).end(), Err(Broken::OtherHead(0))));
        let later: Head = format!("7:{}", "1".repeat(64)).parse().unwrap();
        assert!(matches!(Verify::new(Some(&later)).end(), Err(Broken::Shorter { noted: 7, rows: 0 })));
        for bad in ["", "7", "7:", "x:y", "-1:00", &format!("1:{}", "g".repeat(64))] {
            assert!(bad.parse::<Head>().is_err(), "{bad}");
        }
    }
}
