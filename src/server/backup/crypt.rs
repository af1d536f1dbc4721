//! Backups for somebody's eyes alone, in the format of the program `age` (<https://age-encryption.org/v1>).
//!
//! The server has no key to read such a backup with. To read it back all the same, each is made for one more recipient, whose
//! key is made for this, never leaves memory, and is forgotten when the backup has been checked.

use super::error::BackupError;
use age::x25519::{Identity, Recipient};
use age::{DecryptError, Decryptor, Encryptor, IdentityFile};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

/// How such a file begins.
const AGE_START: &[u8] = b"age-encryption.org/";

/// For whom backups are encrypted; nobody: they are not.
#[derive(Clone, Debug, Default)]
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// Reads `age1…` of each.
    ///
    /// # Errors
    /// [`BackupError::Recipient`].
    pub fn parse(texts: &[String]) -> Result<Self, BackupError> {
        let parse = |text: &String| text.trim().parse().map_err(|_| BackupError::Recipient(text.clone()));
        texts.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether backups are encrypted at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whatever is written to the answered writer is encrypted for them and for `checker`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn encrypt<W: Write>(&self, checker: &Checker, out: W) -> io::Result<age::stream::StreamWriter<W>> {
        let checker = checker.0.to_public();
        let all = self.0.iter().chain([&checker]).map(|recipient| recipient as &dyn age::Recipient);
        Encryptor::with_recipients(all).map_err(io::Error::other)?.wrap_output(out)
    }
}

/// The key to one backup, until it has been read back.
pub struct Checker(Identity);

impl Checker {
    /// A new one.
    pub fn new() -> Self {
        Self(Identity::generate())
    }
}

impl Default for Checker {
    fn default() -> Self {
        Self::new()
    }
}

/// What may decrypt a backup.
pub enum Key<'a> {
    /// Nothing: it is not to be encrypted.
    None,
    /// The one that it was made with.
    Checker(&'a Checker),
    /// The identities in a file.
    File(&'a Path),
}

/// Reads the archive in the backup at `path`.
///
/// # Errors
/// [`BackupError`]: it is encrypted and there is no key, or the other way round; a wrong key; a damaged file.
pub fn open(path: &Path, key: &Key<'_>) -> Result<Box<dyn BufRead>, BackupError> {
    let failed = BackupError::io(path);
    let mut file = BufReader::new(File::open(path).map_err(&failed)?);
    let is_encrypted = file.fill_buf().map_err(failed)?.starts_with(AGE_START);
    let wrap = |decrypted: Result<_, DecryptError>| match decrypted {
        Ok(reader) => Ok(Box::new(BufReader::new(reader)) as Box<dyn BufRead>),
        Err(DecryptError::NoMatchingKeys) => Err(BackupError::WrongIdentity(path.to_owned())),
        Err(error) => Err(BackupError::damaged(path, error.to_string())),
    };
    let decryptor = |file| Decryptor::new_buffered(file);
    match (key, is_encrypted) {
        (Key::None, false) => Ok(Box::new(file)),
        (Key::None, true) => Err(BackupError::Encrypted(path.to_owned())),
        (Key::Checker(_) | Key::File(_), false) => Err(BackupError::NotEncrypted(path.to_owned())),
        (Key::Checker(checker), true) => {
            wrap(decryptor(file).and_then(|file| file.decrypt(std::iter::once(&checker.0 as &dyn age::Identity))))
        }
        (Key::File(identities), true) => {
            let identities = read_identities(identities)?;
            let identities = identities.iter().map(|identity| identity.as_ref() as &dyn age::Identity);
            wrap(decryptor(file).and_then(|file| file.decrypt(identities)))
        }
    }
}

fn read_identities(path: &Path) -> Result<Vec<Box<dyn age::Identity>>, BackupError> {
    let file = BufReader::new(File::open(path).map_err(BackupError::io(path))?);
    // The error names a line by its number, never by what is in it.
    let wrong = |why: String| BackupError::Identity { path: path.to_owned(), why };
    let read = IdentityFile::from_buffer(file).map_err(|error| wrong(error.to_string()))?;
    let identities = read.into_identities().map_err(|error| wrong(error.to_string()))?;
    if identities.is_empty() { Err(wrong("there is none in it".to_owned())) } else { Ok(identities) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_recipients_of_age_are_taken() {
        let good = Identity::generate().to_public().to_string();
        assert!(!Recipients::parse(std::slice::from_ref(&good)).unwrap().is_empty());
        for wrong in ["", "age1", &good[..good.len() - 1], "ssh-ed25519 AAAA", &good.replace("age1", "age2")] {
            let error = Recipients::parse(&[good.clone(), wrong.to_owned()]).unwrap_err();
            assert!(error.to_string().contains("age1"), "{error}");
        }
    }
}
