//! Which certificate is shown to whom. Agents and command lines that hold a pin ask for its name and see the leaf of
//! that authority; the check of a certificate's issuer sees what it asked for; everybody else sees the public
//! certificate, or the newest authority's leaf where there is none.

use crate::pin::Pin;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

/// The protocol of a challenge by which an issuer of certificates checks a domain (RFC 8737).
pub const CHALLENGE_ALPN: &[u8] = b"acme-tls/1";

/// The certificates that are shown now. Connections that stand are not touched by a change.
#[derive(Debug, Default)]
pub struct Certificates {
    shown: RwLock<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    /// A leaf for each authority, by its pin's name; newest first.
    authorities: Vec<(String, Arc<CertifiedKey>)>,
    public: Option<Arc<CertifiedKey>>,
    challenges: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    /// Own files or ACME: shown to every name that is no pin's name.
    pub fn set_public(&self, key: Option<Arc<CertifiedKey>>) {
        self.write().public = key;
    }

    /// Whether there is a public certificate.
    pub fn has_public(&self) -> bool {
        self.read().public.is_some()
    }

    /// Whether there is a public certificate, and it is for this host.
    pub fn covers(&self, host: &str) -> bool {
        let shown = self.read();
        let leaf = shown.public.as_ref().and_then(|key| key.end_entity_cert().ok());
        let leaf = leaf.and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
        let name = ServerName::try_from(host.trim_matches(['[', ']'])).ok();
        leaf.zip(name).is_some_and(|(leaf, name)| verify_server_name(&leaf, &name).is_ok())
    }

    /// What is shown for `domain` to whoever offers [`CHALLENGE_ALPN`], and to nobody else; none: nothing any more.
    pub fn set_challenge(&self, domain: &str, key: Option<Arc<CertifiedKey>>) {
        let domain = domain.to_ascii_lowercase();
        let mut shown = self.write();
        match key {
            Some(key) => shown.challenges.insert(domain, key),
            None => shown.challenges.remove(&domain),
        };
    }

    /// The leaf of each authority with its pin's name, newest first.
    pub fn set_authorities(&self, leaves: Vec<(String, Arc<CertifiedKey>)>) {
        self.write().authorities = leaves;
    }

    /// What somebody is shown who asks for this name, as a challenge or not.
    pub(super) fn choose(&self, name: Option<&str>, challenge: bool) -> Option<Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase);
        let shown = self.read();
        if challenge {
            return shown.challenges.get(&name?).cloned();
        }
        let leaf = shown.authorities.iter().find(|(pin_name, _)| Some(pin_name) == name.as_ref());
        // Whoever asks for a pin that is not here may know the newest one, too: after a restore, for instance.
        let public = shown.public.as_ref().filter(|_| !name.as_deref().is_some_and(Pin::is_name));
        let newest = || shown.authorities.first().map(|(_, leaf)| leaf);
        leaf.map(|(_, leaf)| leaf).or(public).or_else(newest).cloned()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Shown> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Shown> {
        self.shown.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let challenge = hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == CHALLENGE_ALPN));
        self.choose(hello.server_name(), challenge)
    }
}
