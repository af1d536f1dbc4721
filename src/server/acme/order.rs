//! One order, from the account to the certificate.

use super::ca_http::CaHttp;
use super::challenge;
use super::config::AcmeConfig;
use super::error::{AcmeError, say};
use super::held::CertificateFile;
use super::stored::{AccountFile, Stored};
use crate::secret::sha256;
use crate::server::tls::certificates::Certificates;
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use std::time::Duration;

/// How long a CA may take for its checks, and again for the certificate.
const PATIENCE: Duration = Duration::from_secs(300);
/// The first look comes after 0.25 s, each further one after twice that: 10 within the patience.
const POLL: RetryPolicy = RetryPolicy::new().timeout(PATIENCE);

/// The challenges that are answered, until dropped.
struct Answers<'a> {
    certificates: &'a Certificates,
    domains: Vec<String>,
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        for domain in &self.domains {
            self.certificates.set_challenge(domain, None);
        }
    }
}

/// Orders a certificate for all domains together.
///
/// # Errors
/// [`AcmeError`].
pub async fn order(
    config: &AcmeConfig,
    stored: &Stored,
    certificates: &Certificates,
    http: CaHttp,
) -> Result<CertificateFile, AcmeError> {
    let account = account(config, stored, http).await?;
    let names: Vec<_> = config.domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    let mut answers = Answers { certificates, domains: Vec::new() };
    answer(&mut order, &mut answers).await?;
    match order.poll_ready(&POLL).await {
        Ok(OrderStatus::Ready) => {}
        Err(Error::Timeout(_)) => return Err(AcmeError::Slow(PATIENCE)),
        ended => {
            let failed = failed_check(&mut order).await;
            let invalid = || ended.err().map_or(AcmeError::Refused("the order is invalid".to_owned()), AcmeError::from);
            return Err(failed.unwrap_or_else(invalid));
        }
    }
    drop(answers);
    let key = order.finalize().await?;
    let chain = match order.poll_certificate(&POLL).await {
        Err(Error::Timeout(_)) => return Err(AcmeError::Slow(PATIENCE)),
        chain => chain?,
    };
    Ok(CertificateFile { directory: config.directory.clone(), domains: config.domains.clone(), chain, key })
}

/// The account: the one that is kept, or a new one. It is written each time, so that nothing is ordered whose outcome
/// could not be kept.
async fn account(config: &AcmeConfig, stored: &Stored, http: CaHttp) -> Result<Account, AcmeError> {
    let contact = config.contact.as_ref().map(|contact| format!("mailto:{contact}"));
    let contacts: Vec<_> = contact.iter().map(String::as_str).collect();
    let builder = Account::builder_with_http(Box::new(http));
    let Some(kept) = stored.account(&config.directory) else {
        let wanted = NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = builder.create(&wanted, config.directory.clone(), None).await?;
        let (directory, contact) = (config.directory.clone(), config.contact.clone());
        stored.keep_account(&AccountFile { directory, contact, credentials })?;
        tracing::info!("made an account at {}", config.directory);
        return Ok(account);
    };
    let is_told = kept.contact == config.contact;
    stored.keep_account(&kept)?;
    let account = builder.from_credentials(kept.credentials).await?;
    if !is_told {
        account.update_contacts(&contacts).await?;
        if let Some(kept) = stored.account(&config.directory) {
            stored.keep_account(&AccountFile { contact: config.contact.clone(), ..kept })?;
        }
    }
    Ok(account)
}

/// Has each domain checked that is not checked yet.
async fn answer(order: &mut Order, answers: &mut Answers<'_>) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let domain = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(AcmeError::Check { domain, why: format!("its authorization is {status:?}") }),
        }
        let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01) else {
            return Err(AcmeError::NoCheck(domain));
        };
        let digest = sha256(challenge.key_authorization().as_str().as_bytes());
        let shown = challenge::certificate(&domain, &digest)
            .map_err(|error| AcmeError::Check { domain: domain.clone(), why: error.to_string() })?;
        answers.domains.push(domain.clone());
        answers.certificates.set_challenge(&domain, Some(shown));
        challenge.set_ready().await?;
    }
    Ok(())
}

/// What the CA says about the check that failed: the order itself says only that it is invalid.
async fn failed_check(order: &mut Order) -> Option<AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let state = authorization.refresh().await.ok()?;
        let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problem {
            return Some(AcmeError::Check { domain: state.identifier().to_string(), why: say(problem) });
        }
    }
    None
}
