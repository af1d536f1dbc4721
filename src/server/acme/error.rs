//! Why there is no new certificate, and what to do about it.

use super::ca_http::CaHttpError;
use crate::server::folder::FolderError;
use instant_acme::{Error, Problem};
use std::time::Duration;

/// As much of what a CA says goes into the log.
const SAID_CHARS_MAX: usize = 1000;
/// How the type of each problem of ACME begins (RFC 8555, section 6.7).
const PROBLEM_PREFIX: &str = "urn:ietf:params:acme:error:";

/// Why an order failed.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// No answer, or not the CA's.
    #[error("the CA cannot be asked: {0}; look at this host's network and at --acme-directory")]
    Reach(#[from] CaHttpError),
    /// Too many requests.
    #[error("the CA has had enough for now: {0}; there is nothing to do but wait")]
    RateLimited(String),
    /// The account is not known to the CA (any more).
    #[error("the CA does not know our account: {0}; the next try makes a new one")]
    NoAccount(String),
    /// The check of a domain failed.
    #[error(
        "the CA could not check {domain}: {why}; its address must lead to this host, and TCP port 443 there, \
         untouched by any proxy, to the port of --listen"
    )]
    Check {
        /// The domain.
        domain: String,
        /// What the CA says.
        why: String,
    },
    /// The CA has no check that we can answer.
    #[error("the CA offers no tls-alpn-01 check for {0}, and postrider knows no other; take another CA")]
    NoCheck(String),
    /// The CA refused something else.
    #[error("the CA refused: {0}; look at --acme and --acme-contact")]
    Refused(String),
    /// The order takes too long.
    #[error("the CA was not done with the order after {} minutes", .0.as_secs() / 60)]
    Slow(Duration),
    /// An answer that is none.
    #[error("the CA's answer makes no sense: {0}; is --acme-directory the address of an ACME directory?")]
    Nonsense(String),
    /// What came is no certificate for us.
    #[error("the CA's certificate cannot be used: {0}; is this host's clock right?")]
    Unusable(String),
    /// The files.
    #[error(transparent)]
    Files(#[from] FolderError),
}

impl From<Error> for AcmeError {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => {
                let text = say(&problem);
                match problem.r#type.as_deref().and_then(|kind| kind.strip_prefix(PROBLEM_PREFIX)) {
                    Some("rateLimited") => Self::RateLimited(text),
                    Some("accountDoesNotExist") => Self::NoAccount(text),
                    _ => Self::Refused(text),
                }
            }
            Error::Other(error) => match error.downcast::<CaHttpError>() {
                Ok(error) => Self::Reach(*error),
                Err(error) => Self::Nonsense(error.to_string()),
            },
            error => Self::Nonsense(error.to_string()),
        }
    }
}

/// A problem document as one line.
pub fn say(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or("no type");
    let mut text = problem.detail.clone().unwrap_or_else(|| "no detail".to_owned());
    for part in &problem.subproblems {
        text = format!("{text}, {part}");
    }
    text = format!("{text} ({})", kind.strip_prefix(PROBLEM_PREFIX).unwrap_or(kind));
    text.chars().take(SAID_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
