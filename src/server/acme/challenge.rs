//! The certificate that answers a tls-alpn-01 check (RFC 8737): signed by itself, for one domain, with the digest of
//! the key authorization in a critical extension. It proves nothing to anybody but the CA that asked.

use crate::tls::provider;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use std::error::Error;
use std::sync::Arc;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

/// Makes it. `digest` is the SHA-256 of the key authorization.
///
/// # Errors
/// What the library says: the domain is none.
pub fn certificate(domain: &str, digest: &[u8; 32]) -> Result<Arc<CertifiedKey>, Box<dyn Error + Send + Sync>> {
    let mut params = CertificateParams::new(vec![domain.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    // `from_der` would refuse the certificate: it does not know the critical extension.
    let key = provider().key_provider.load_private_key(key)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_critical_extension_and_the_domain() {
        let digest = crate::secret::sha256(b"token.thumbprint");
        let shown = certificate("a.example", &digest).unwrap();
        let der = shown.end_entity_cert().unwrap().as_ref();
        let has = |part: &[u8]| der.windows(part.len()).any(|window| window == part);
        // RFC 8737, sections 3 and 6.1: OID 1.3.6.1.5.5.7.1.31, BOOLEAN TRUE, OCTET STRING { OCTET STRING (32) }.
        let head = [6, 8, 0x2b, 6, 1, 5, 5, 7, 1, 0x1f, 1, 1, 0xff, 4, 0x22, 4, 0x20];
        assert!(has(&[&head[..], &digest].concat()));
        assert!(has(&[&[0x30, 11, 0x82, 9], &b"a.example"[..]].concat()), "one dNSName alone");
    }
}
