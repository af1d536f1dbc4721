//! A certificate with its key, as it is stored, and read so that it can be shown.

use super::validity::validity;
use crate::backoff::jitter;
use crate::tls::provider;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::sign::CertifiedKey;

/// The part of its life at whose beginning it is renewed: the last third, as Let's Encrypt recommends.
const RENEW_PART: i64 = 3;
/// Up to this part of its life earlier, so that servers that started together do not come back together.
const JITTER_PART: i64 = 20;

/// What the file `certificate.json` holds. It has the private key: no `Debug`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFile {
    /// The CA it comes from.
    pub directory: String,
    /// What was asked for, sorted.
    pub domains: Vec<String>,
    /// The chain in PEM, its own certificate first.
    pub chain: String,
    /// The private key in PEM.
    pub key: String,
}

/// A certificate that can be shown.
#[derive(Clone, Debug)]
pub struct Held {
    /// The CA it comes from.
    pub directory: String,
    /// Its domains, sorted.
    pub domains: Vec<String>,
    /// What is shown.
    pub key: Arc<CertifiedKey>,
    /// Its last moment, in Unix milliseconds.
    pub not_after_ms: i64,
    /// When it is to be renewed, in Unix milliseconds.
    pub renew_at_ms: i64,
}

impl Held {
    /// Reads a stored or a fresh one, and checks that key, names and certificate belong together.
    ///
    /// # Errors
    /// What is wrong with it, without a word of the key.
    pub fn read(file: &CertificateFile) -> Result<Self, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(file.chain.as_bytes()).collect();
        let chain = chain.map_err(|error| format!("its chain is no PEM: {error}"))?;
        let leaf = chain.first().cloned().ok_or("its chain is empty")?;
        let key = PrivateKeyDer::from_pem_slice(file.key.as_bytes()).map_err(|_| "its key is no PEM")?;
        let key = CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| format!("key and certificate do not fit: {error}"))?;
        let parsed = ParsedCertificate::try_from(&leaf).map_err(|error| format!("it cannot be read: {error}"))?;
        for domain in &file.domains {
            let name = ServerName::try_from(domain.as_str()).map_err(|_| format!("{domain:?} is no name"))?;
            verify_server_name(&parsed, &name).map_err(|_| format!("it is not for {domain}"))?;
        }
        let (not_before_ms, not_after_ms) = validity(&leaf).ok_or("it does not say until when it is good")?;
        let life_ms = not_after_ms.saturating_sub(not_before_ms).max(0);
        let early = jitter(Duration::from_millis((life_ms / JITTER_PART).unsigned_abs()));
        let early_ms = i64::try_from(early.as_millis()).unwrap_or(0);
        Ok(Self {
            directory: file.directory.clone(),
            domains: file.domains.clone(),
            key: Arc::new(key),
            not_after_ms,
            renew_at_ms: not_after_ms - life_ms / RENEW_PART - early_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn file(names: &[&str], asked: &[&str]) -> CertificateFile {
        let key = KeyPair::generate().unwrap();
        let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(texts(names)).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2026, 4, 1));
        CertificateFile {
            directory: "https://ca.example/dir".to_owned(),
            domains: texts(asked),
            chain: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    #[test]
    fn it_is_renewed_when_a_third_of_its_life_is_left_or_a_little_earlier() {
        let held = Held::read(&file(&["a.example", "b.example"], &["a.example", "b.example"])).unwrap();
        let left_days = (held.not_after_ms - held.renew_at_ms) as f64 / 86_400_000.0;
        assert!((30.0..=34.5).contains(&left_days), "{left_days}");
    }

    #[test]
    fn what_does_not_belong_together_is_not_held() {
        let wrong = |file: &CertificateFile| Held::read(file).unwrap_err();
        assert!(wrong(&file(&["a.example"], &["a.example", "b.example"])).contains("not for b.example"));
        let mut swapped = file(&["a.example"], &["a.example"]);
        swapped.key = KeyPair::generate().unwrap().serialize_pem();
        assert!(wrong(&swapped).contains("do not fit"));
        let mut empty = file(&["a.example"], &["a.example"]);
        empty.chain.clear();
        assert!(wrong(&empty).contains("empty"));
    }
}
