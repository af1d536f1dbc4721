//! The owner's own certificate: read from two files, checked, shown, and read again when they change. A bad replacement
//! leaves the old one where it is.

use super::certificates::Certificates;
use crate::tasks::Tasks;
use crate::tls::provider;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

/// Between two looks at the files: a renewal has days, and somebody who waits for it has seconds.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// Where the owner's certificate is.
#[derive(Clone, Debug)]
pub struct OwnCertificate {
    /// The chain in PEM, the leaf first.
    pub chain: PathBuf,
    /// The leaf's key in PEM, not encrypted.
    pub key: PathBuf,
}

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {message}")]
pub struct OwnCertificateError {
    path: PathBuf,
    message: String,
}

/// What tells whether the files are the same as before: when each was written, and its size.
pub type Stamp = [Option<(SystemTime, u64)>; 2];

impl OwnCertificate {
    /// Reads and checks both files.
    ///
    /// # Errors
    /// [`OwnCertificateError`]: unreadable, no PEM, or a key of another certificate.
    pub fn load(&self) -> Result<CertifiedKey, OwnCertificateError> {
        let wrong = |path: &Path, message: String| OwnCertificateError { path: path.to_owned(), message };
        let chain: Vec<_> =
            CertificateDer::pem_file_iter(&self.chain).and_then(Iterator::collect).map_err(|error| {
                wrong(&self.chain, format!("no certificate can be read from it ({error}); PEM is wanted"))
            })?;
        if chain.is_empty() {
            return Err(wrong(&self.chain, "there is no certificate in it; PEM is wanted, the leaf first".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| {
            wrong(&self.key, format!("no key can be read from it ({error}); unencrypted PEM is wanted"))
        })?;
        CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| wrong(&self.key, format!("it does not fit {}: {error}", self.chain.display())))
    }

    /// How the files are now. Taken before they are read, so that no change is missed.
    pub fn stamp(&self) -> Stamp {
        [&self.chain, &self.key].map(|path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        })
    }

    /// Shows what the files hold whenever they are no longer as `seen`, until the tasks are asked to stop.
    pub async fn watch(self, mut seen: Stamp, certificates: Arc<Certificates>, tasks: Tasks) {
        let stop = tasks.stop_token();
        while stop.run_until_cancelled(tokio::time::sleep(WATCH_INTERVAL)).await.is_some() {
            let found = self.stamp();
            if std::mem::replace(&mut seen, found) == found {
                continue;
            }
            // Two small local files.
            match self.load() {
                Ok(key) => {
                    certificates.set_public(Some(Arc::new(key)));
                    tracing::info!("the certificate in {} is shown from now on", self.chain.display());
                }
                // Said once a change: between the writing of one file and the other it is nothing bad.
                Err(error) => {
                    tracing::warn!(%error, "the certificate that was there before is shown on; put the files right")
                }
            }
        }
    }
}
