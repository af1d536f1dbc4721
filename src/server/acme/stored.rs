//! The files of ACME in `DIR/tls/acme`: the account with its key, and the certificate with its own. Each is one file,
//! so that no half of a pair can be newer than the other. They are small and seldom written: on the task's own thread.

use super::held::CertificateFile;
use crate::server::folder::{FolderError, make_private, write_private};
use instant_acme::AccountCredentials;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Below the data folder.
pub const FOLDER: &str = "tls/acme";
/// The account.
pub const ACCOUNT_FILE: &str = "account.json";
/// The certificate.
pub const CERTIFICATE_FILE: &str = "certificate.json";

/// What the file `account.json` holds. It has the private key: no `Debug`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AccountFile {
    /// The CA that knows it.
    pub directory: String,
    /// The address that the CA has been told.
    pub contact: Option<String>,
    /// What the library needs.
    pub credentials: AccountCredentials,
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Stored {
    folder: PathBuf,
}

impl Stored {
    /// Makes the folder (0700) if it is missing.
    ///
    /// # Errors
    /// [`FolderError::Unusable`].
    pub fn open(data: &Path) -> Result<Self, FolderError> {
        let folder = data.join(FOLDER);
        match make_private(&folder) {
            Ok(()) => Ok(Self { folder }),
            Err(source) => Err(FolderError::Unusable { path: folder, source }),
        }
    }

    /// The account, if there is one of this CA.
    pub fn account(&self, directory: &str) -> Option<AccountFile> {
        self.read(ACCOUNT_FILE).filter(|account: &AccountFile| account.directory == directory)
    }

    /// The certificate, if there is one.
    pub fn certificate(&self) -> Option<CertificateFile> {
        self.read(CERTIFICATE_FILE)
    }

    /// Keeps the account.
    ///
    /// # Errors
    /// [`FolderError::Unusable`].
    pub fn keep_account(&self, account: &AccountFile) -> Result<(), FolderError> {
        self.write(ACCOUNT_FILE, account)
    }

    /// Keeps the certificate.
    ///
    /// # Errors
    /// [`FolderError::Unusable`].
    pub fn keep_certificate(&self, certificate: &CertificateFile) -> Result<(), FolderError> {
        self.write(CERTIFICATE_FILE, certificate)
    }

    /// Forgets the account.
    pub fn forget_account(&self) {
        let _ = std::fs::remove_file(self.folder.join(ACCOUNT_FILE));
    }

    /// A damaged file is as good as none: what it held can be had anew.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.folder.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(value) => return Some(value),
                // Not what is wrong with it: that may quote the key.
                Err(_) => tracing::warn!("{} is damaged; it is made anew", path.display()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "{} cannot be read; it is made anew", path.display()),
        }
        None
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), FolderError> {
        let unusable = |source| FolderError::Unusable { path: self.folder.join(name), source };
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other).map_err(unusable)?;
        write_private(&self.folder, name, &text)
    }
}
