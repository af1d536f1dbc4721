//! What `serve --acme` asks for, checked before anything is sent.

use crate::tls::Trust;
use hyper::Uri;
use instant_acme::LetsEncrypt;
use std::time::Duration;
use tokio_rustls::rustls::pki_types::DnsName;

/// Most domains of one certificate: what Let's Encrypt takes.
pub const DOMAINS_MAX: usize = 100;
/// Wait after the first failure; each further one waits four times as long. Doubling would be more than the five
/// failed checks an hour that Let's Encrypt allows.
pub const RETRY_FIRST: Duration = Duration::from_secs(60);
/// Longest wait after failures, unless the CA asks for more.
pub const RETRY_MAX: Duration = Duration::from_secs(6 * 3600);
/// Between two looks at the wall clock, which may be set, and jumps when the host has slept.
pub const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Times between tries. Tests have shorter ones.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// After the first failure.
    pub first: Duration,
    /// After many.
    pub max: Duration,
    /// Between two looks at the clock.
    pub look_every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { first: RETRY_FIRST, max: RETRY_MAX, look_every: LOOK_EVERY }
    }
}

/// A certificate to be had and kept.
#[derive(Clone, Debug)]
pub struct AcmeConfig {
    /// Its names: lower case, sorted, each once.
    pub domains: Vec<String>,
    /// An e-mail address for the CA.
    pub contact: Option<String>,
    /// The CA.
    pub directory: String,
    /// Whom the CA's own server is trusted by: whom this host trusts, but for tests.
    pub trust: Trust,
    /// Times between tries.
    pub pace: Pace,
}

/// What cannot be asked for.
#[derive(Debug, thiserror::Error)]
pub enum AcmeConfigError {
    /// Not a name that can be checked.
    #[error("--acme: {0:?} is no domain name that can be checked: give names like postrider.example, without *")]
    Domain(String),
    /// Too many names.
    #[error("--acme: {0} domains are too many: one certificate has at most {DOMAINS_MAX}")]
    TooMany(usize),
    /// Not the address of a directory.
    #[error("--acme-directory: {0:?} is no address of an ACME directory: it begins with https://")]
    Directory(String),
    /// Not an e-mail address.
    #[error("--acme-contact: {0:?} is no e-mail address")]
    Contact(String),
}

impl AcmeConfig {
    /// Checks what was asked for; without a directory it is Let's Encrypt's.
    ///
    /// # Errors
    /// [`AcmeConfigError`].
    pub fn new(
        domains: Vec<String>,
        contact: Option<String>,
        directory: Option<String>,
    ) -> Result<Self, AcmeConfigError> {
        let mut domains = domains.into_iter().map(domain).collect::<Result<Vec<_>, _>>()?;
        domains.sort();
        domains.dedup();
        if domains.len() > DOMAINS_MAX {
            return Err(AcmeConfigError::TooMany(domains.len()));
        }
        if let Some(contact) = contact.as_ref().filter(|contact| !is_address(contact)) {
            return Err(AcmeConfigError::Contact(contact.clone()));
        }
        let directory = directory.unwrap_or_else(|| LetsEncrypt::Production.url().to_owned());
        let is_https = directory.parse::<Uri>().is_ok_and(|uri| uri.scheme_str() == Some("https"));
        if !is_https {
            return Err(AcmeConfigError::Directory(directory));
        }
        Ok(Self { domains, contact, directory, trust: Trust::default(), pace: Pace::default() })
    }
}

fn domain(text: String) -> Result<String, AcmeConfigError> {
    let name = text.to_ascii_lowercase();
    match DnsName::try_from(name.as_str()) {
        Ok(_) if !name.ends_with('.') => Ok(name),
        _ => Err(AcmeConfigError::Domain(text)),
    }
}

fn is_address(text: &str) -> bool {
    let clean = text.bytes().all(|byte| byte.is_ascii_graphic() && !b",?:".contains(&byte));
    clean && text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(domains: &[&str]) -> Result<AcmeConfig, AcmeConfigError> {
        AcmeConfig::new(domains.iter().map(|&domain| domain.to_owned()).collect(), None, None)
    }

    #[test]
    fn the_order_and_case_of_domains_do_not_matter() {
        let config = config(&["B.example", "a.example", "b.example"]).unwrap();
        assert_eq!(config.domains, ["a.example", "b.example"]);
        assert_eq!(config.directory, "https://acme-v02.api.letsencrypt.org/directory");
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        for bad in ["", "*.example", "192.0.2.1", "::1", "a b", "https://a.example", "a.example.", "müsli.example"] {
            assert!(matches!(config(&[bad]), Err(AcmeConfigError::Domain(_))), "{bad}");
        }
        let many: Vec<_> = (0..=DOMAINS_MAX).map(|number| format!("{number}.a.example")).collect();
        assert!(matches!(AcmeConfig::new(many, None, None), Err(AcmeConfigError::TooMany(101))));
        let other = |contact: &str, directory: &str| {
            AcmeConfig::new(vec!["a.example".to_owned()], Some(contact.to_owned()), Some(directory.to_owned()))
        };
        assert!(other("ann@a.example", "https://ca.example/dir").is_ok());
        for bad in ["ann", "mailto:ann@a.example", "@a.example", "a@b?c=d", "a@b,c@d"] {
            assert!(matches!(other(bad, "https://ca.example/dir"), Err(AcmeConfigError::Contact(_))), "{bad}");
        }
        for bad in ["http://ca.example/dir", "ca.example", ""] {
            assert!(matches!(other("ann@a.example", bad), Err(AcmeConfigError::Directory(_))), "{bad}");
        }
    }
}
