//! One authority of the server: a key that lies in the data folder and is known by its pin, and the leaves that it
//! certifies. Leaves' keys are in memory only.

use crate::pin::Pin;
use crate::tls::provider;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use std::net::IpAddr;
use std::time::Duration;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

/// How long a leaf is good: long enough that a server which stood still for months needs nobody's help.
const LEAF_LIFE: Duration = Duration::from_secs(365 * 86_400);

/// Why a certificate cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CertificateMakeError(String);

fn failed(error: impl std::fmt::Display) -> CertificateMakeError {
    CertificateMakeError(error.to_string())
}

/// An authority with its key.
#[derive(Debug)]
pub struct Authority {
    /// By what it is known.
    pub pin: Pin,
    /// When it was made, in Unix milliseconds.
    pub created_ms: i64,
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    /// A fresh one, and the text of its file: key and certificate.
    ///
    /// # Errors
    /// [`CertificateMakeError`].
    pub fn make(created_ms: i64) -> Result<(Self, String), CertificateMakeError> {
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = authority_params().self_signed(&key).map_err(failed)?;
        let text = format!("{}{}", key.serialize_pem(), certificate.pem());
        let pin = Pin::of_key(&key.subject_public_key_info());
        Ok((Self { pin, created_ms, certificate: certificate.der().clone(), key }, text))
    }

    /// Its certificate, which is no secret.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Reads an authority's file.
    ///
    /// # Errors
    /// [`CertificateMakeError`]: what is missing or damaged, never a piece of the key.
    pub fn parse(text: &str, created_ms: i64) -> Result<Self, CertificateMakeError> {
        let key = KeyPair::from_pem(text).map_err(|_| failed("its key cannot be read"))?;
        let certificate = CertificateDer::from_pem_slice(text.as_bytes());
        let certificate = certificate.map_err(|_| failed("its certificate cannot be read"))?;
        let pin = Pin::of_key(&key.subject_public_key_info());
        if crate::tls::pin_of(&certificate) != Some(pin) {
            return Err(failed("its certificate is not for its key"));
        }
        Ok(Self { pin, created_ms, certificate, key })
    }

    /// A leaf with a fresh key, for the pin's name and these hosts, and the chain to show.
    ///
    /// # Errors
    /// [`CertificateMakeError`].
    pub fn leaf(&self, hosts: &[String], now_ms: i64) -> Result<CertifiedKey, CertificateMakeError> {
        let epoch = date_time_ymd(1970, 1, 1);
        let now = Duration::from_millis(u64::try_from(now_ms).unwrap_or(0));
        let mut params = CertificateParams::default();
        params.distinguished_name = called("postrider");
        // An endpoint whose clock is behind is not cut off: what counts is who signed.
        params.not_before = epoch;
        params.not_after = epoch + now + LEAF_LIFE;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        // What is neither a DNS name nor an address cannot be in a certificate, nor be asked for.
        params.subject_alt_names = [self.pin.name()].iter().chain(hosts).filter_map(|host| alternative(host)).collect();
        let key = KeyPair::generate().map_err(failed)?;
        let issuer = authority_params();
        let issuer = Issuer::from_params(&issuer, &self.key);
        let leaf = params.signed_by(&key, &issuer).map_err(failed)?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(failed)?;
        CertifiedKey::from_der(chain, key, &provider()).map_err(failed)
    }
}

fn alternative(host: &str) -> Option<SanType> {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => Some(SanType::IpAddress(address)),
        Err(_) => Some(SanType::DnsName(host.to_owned().try_into().ok()?)),
    }
}

fn called(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// The same for every authority: they differ by their keys. An authority has no end; it is retired.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = called("postrider authority");
    params.not_before = date_time_ymd(1970, 1, 1);
    // It certifies leaves and no other authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_reads_back_with_its_pin_and_damage_is_told() {
        let (made, text) = Authority::make(7).unwrap();
        let read = Authority::parse(&text, 7).unwrap();
        assert_eq!(read.pin, made.pin);
        assert_eq!(crate::tls::pin_of(&made.certificate), Some(made.pin), "client and server count alike");
        assert!(read.leaf(&["localhost".into(), "::1".into(), "no host".into()], 0).is_ok());
        let (_, other) = Authority::make(8).unwrap();
        let end = text.find("-----BEGIN CERT").unwrap();
        let mixed = format!("{}{}", &text[..end], &other[other.find("-----BEGIN CERT").unwrap()..]);
        for bad in ["", &text[..end], &text[end..], &mixed] {
            assert!(Authority::parse(bad, 7).is_err(), "{bad}");
        }
    }
}
