//! Versions, and the mark by which an executable of ours tells its own to whoever only reads its file.
//!
//! The mark is in the bytes that a release's signature is over, so nobody can give a release another version.

use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::str::FromStr;

/// Stands before and after a mark: a byte that texts do not have.
const EDGE: u8 = 0x16;
/// What is between the edges, before the version. In the program it has no edges, so that the search does not find itself.
const NAME: &[u8] = b"postrider-version=";
/// This program's own mark.
static MARK: &str = concat!("\x16postrider-version=", env!("CARGO_PKG_VERSION"), "\x16");
/// Longest version taken, in bytes.
const VERSION_BYTES_MAX: usize = 64;
/// What is read on in search of an edge: longer than any mark.
const PIECE_BYTES: u64 = 4096;

/// A version as [Semantic Versioning](https://semver.org/spec/v2.0.0.html) orders them; what follows a `+` is nothing to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    numbers: [u64; 3],
    before: Vec<String>,
    text: String,
}

/// A text that is no version.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no version: three numbers, like 1.2.3 or 1.2.3-rc.1")]
pub struct VersionError(String);

impl Version {
    /// This program's.
    pub fn own() -> Self {
        // Read at run time, or the mark would not be in the executable.
        let mark = std::hint::black_box(MARK.as_bytes());
        let found = in_piece(&mark[1..]);
        found.expect("the mark is made of the crate's version, which cargo has checked")
    }

    /// The version in an executable's mark, the last if there are several; none: it has none. Blocks for the disk.
    ///
    /// # Errors
    /// The file system's.
    pub fn of_file(path: &Path) -> io::Result<Option<Self>> {
        let mut reader = BufReader::with_capacity(256 * 1024, File::open(path)?);
        let (mut found, mut piece) = (None, Vec::new());
        loop {
            piece.clear();
            if reader.by_ref().take(PIECE_BYTES).read_until(EDGE, &mut piece)? == 0 {
                return Ok(found);
            }
            found = in_piece(&piece).or(found);
        }
    }
}

/// The version in what follows one edge, up to the next and with it.
fn in_piece(piece: &[u8]) -> Option<Version> {
    let text = piece.strip_suffix(&[EDGE])?.strip_prefix(NAME)?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl FromStr for Version {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let wrong = || VersionError(text.chars().take(VERSION_BYTES_MAX).collect());
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
        if text.len() > VERSION_BYTES_MAX || !text.chars().all(known) {
            return Err(wrong());
        }
        let plain = text.split('+').next().unwrap_or_default();
        let (numbers, before) = plain.split_once('-').map_or((plain, None), |(numbers, rest)| (numbers, Some(rest)));
        let numbers: Vec<u64> = numbers.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
        let numbers = numbers.try_into().map_err(|_| wrong())?;
        let before: Vec<String> = before.map(|rest| rest.split('.').map(str::to_owned).collect()).unwrap_or_default();
        if before.iter().any(String::is_empty) {
            return Err(wrong());
        }
        Ok(Self { numbers, before, text: text.to_owned() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Version {
    /// Which of two goes first; equal: neither is newer, though their builds may differ.
    pub fn precedence(&self, other: &Self) -> Ordering {
        let before = match (self.before.is_empty(), other.before.is_empty()) {
            (true, true) => Ordering::Equal,
            // A release is newer than what came before it.
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let pairs = self.before.iter().zip(&other.before).map(|(ours, theirs)| part(ours, theirs));
                let differ = pairs.into_iter().find(|order| order.is_ne());
                differ.unwrap_or_else(|| self.before.len().cmp(&other.before.len()))
            }
        };
        self.numbers.cmp(&other.numbers).then(before)
    }
}

/// Numbers go by size and before words.
fn part(ours: &str, theirs: &str) -> Ordering {
    match (ours.parse::<u64>(), theirs.parse::<u64>()) {
        (Ok(ours), Ok(theirs)) => ours.cmp(&theirs),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => ours.cmp(theirs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn versions_go_in_their_order() {
        // https://semver.org/spec/v2.0.0.html, section 11.
        let order = [
            "0.9.12",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.2.0",
            "1.10.0",
            "2.0.0",
        ];
        for pair in order.windows(2) {
            assert_eq!(version(pair[0]).precedence(&version(pair[1])), Ordering::Less, "{pair:?}");
            assert_eq!(version(pair[1]).precedence(&version(pair[0])), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(version("1.0.0+a").precedence(&version("1.0.0+b")), Ordering::Equal);
        for bad in
            ["", "1", "1.2", "1.2.3.4", "v1.2.3", "1.2.-3", "1.2.3-", "1.2.3-a..b", "1.2.x", "1.2.3 ", &"1".repeat(99)]
        {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_tells_its_version_wherever_its_mark_lies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("executable");
        let mark = |version: &str| format!("\x16postrider-version={version}\x16").into_bytes();
        let of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Version::of_file(&path).unwrap().map(|version| version.to_string())
        };
        assert_eq!(of(b""), None);
        assert_eq!(of(&[7; 100_000]), None);
        for before in [0, 1, 4090, 4096, 5000, 300_000] {
            let bytes = [&vec![7; before][..], &mark("1.2.3"), &[0x16; 3], b"postrider-version=", &[9; 5000]].concat();
            assert_eq!(of(&bytes).as_deref(), Some("1.2.3"), "{before}");
        }
        assert_eq!(of(&[mark("1.2.3"), mark("1.2.4"), mark("nonsense")].concat()).as_deref(), Some("1.2.4"));
        assert_eq!(of(b"\x16postrider-version=1.2.3"), None, "it was cut off");
    }

    #[test]
    fn this_program_has_its_mark() {
        assert_eq!(Version::own().to_string(), env!("CARGO_PKG_VERSION"));
        let found = Version::of_file(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(found, Some(Version::own()));
    }
}
