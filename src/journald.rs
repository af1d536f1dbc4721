//! Entries for systemd's journal by its own protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>), which unlike standard
//! error takes fields. An entry that does not go through at once goes to standard error instead.

use crate::log::Entry;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where it listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Names that are the entry's own, or the journal's.
const OWN: [&str; 4] = ["MESSAGE", "PRIORITY", "TARGET", "SYSLOG_IDENTIFIER"];

/// The way to the journal.
#[cfg(unix)]
pub struct Journald {
    socket: std::os::unix::net::UnixDatagram,
    to: PathBuf,
}

#[cfg(unix)]
impl Journald {
    /// The host's. None: there is none.
    pub fn open() -> Option<Self> {
        Self::at(Path::new(SOCKET))
    }

    fn at(to: &Path) -> Option<Self> {
        let socket = std::os::unix::net::UnixDatagram::unbound().ok()?;
        // Whoever logs must not wait for a journal that hangs.
        socket.set_nonblocking(true).ok()?;
        to.exists().then(|| Self { socket, to: to.to_owned() })
    }

    /// Hands over an entry. False: it did not go through, being too long or too many, or the journal starts anew.
    pub fn send(&self, priority: u8, target: &str, entry: &Entry) -> bool {
        // Not connected: so it finds a journal that was started anew.
        self.socket.send_to(&datagram(priority, target, entry), &self.to).is_ok()
    }
}

/// There is no journal.
#[cfg(not(unix))]
pub struct Journald(std::convert::Infallible);

#[cfg(not(unix))]
impl Journald {
    /// None.
    pub fn open() -> Option<Self> {
        None
    }

    /// Never called.
    pub fn send(&self, _: u8, _: &str, _: &Entry) -> bool {
        match self.0 {}
    }
}

fn datagram(priority: u8, target: &str, entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    put(&mut bytes, "PRIORITY", &priority.to_string());
    put(&mut bytes, "SYSLOG_IDENTIFIER", env!("CARGO_PKG_NAME"));
    put(&mut bytes, "TARGET", target);
    // With its fields: `journalctl` shows nothing else.
    put(&mut bytes, "MESSAGE", &entry.text());
    for (name, value) in &entry.fields {
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
        if name.starts_with(|c: char| c.is_ascii_uppercase()) && !OWN.contains(&name.as_str()) {
            match value {
                Value::String(text) => put(&mut bytes, &name, text),
                value => put(&mut bytes, &name, &value.to_string()),
            }
        }
    }
    bytes
}

/// With its length, so that no value can begin another field.
fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(b'\n');
    bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    /// What the journal would read.
    fn fields(mut bytes: &[u8]) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        while let Some(at) = bytes.iter().position(|&byte| byte == b'\n') {
            let (name, rest) = (&bytes[..at], &bytes[at + 1..]);
            let length = rest[..8].iter().rev().fold(0, |length, byte| length * 256 + usize::from(*byte));
            found.push((text(name), text(&rest[8..8 + length])));
            assert_eq!(rest[8 + length], b'\n');
            bytes = &rest[9 + length..];
        }
        assert!(bytes.is_empty());
        found
    }

    #[test]
    fn an_entry_arrives_with_its_fields_and_no_value_makes_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(Journald::at(&path).is_none());
        let journal = UnixDatagram::bind(&path).unwrap();
        let journald = Journald::at(&path).unwrap();
        let mut entry = Entry { message: "ended\nPRIORITY=0".to_owned(), ..Entry::default() };
        for (name, value) in [("agent", "web-1"), ("_pid", "1"), ("priority", "0"), ("a-b", "c")] {
            entry.fields.insert(name.to_owned(), value.into());
        }
        assert!(journald.send(4, "postrider::server", &entry));
        let mut bytes = [0; 4096];
        let size = journal.recv(&mut bytes).unwrap();
        let found = fields(&bytes[..size]);
        let has = |name: &str, value: &str| found.iter().filter(|(has, is)| has == name && is == value).count();
        assert_eq!(has("PRIORITY", "4"), 1);
        assert_eq!(has("AGENT", "web-1"), 1);
        assert_eq!(has("A_B", "c"), 1);
        assert_eq!(found.iter().filter(|(name, _)| name == "PRIORITY").count(), 1, "{found:?}");
        assert!(found.iter().all(|(name, _)| !name.starts_with('_')), "{found:?}");
        let message = &found.iter().find(|(name, _)| name == "MESSAGE").unwrap().1;
        assert!(message.starts_with("ended\nPRIORITY=0") && message.contains("agent=web-1"), "{message}");
        // Too long for a datagram, and a journal that has gone: standard error takes it.
        let long = Entry { message: "x".repeat(1 << 22), ..Entry::default() };
        assert!(!journald.send(4, "t", &long));
        drop(journal);
        assert!(!journald.send(4, "t", &entry));
    }
}
