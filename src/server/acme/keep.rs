//! The task that has a good certificate shown at all times: the stored one from the first connection on; a new one
//! when there is none, when something else is asked for, or when the last third of its life begins.
//!
//! A failure is told and tried again later. It ends nothing, and takes no certificate away.

use super::ca_http::CaHttp;
use super::config::{AcmeConfig, Pace};
use super::error::AcmeError;
use super::held::{CertificateFile, Held};
use super::order::order;
use super::stored::Stored;
use crate::backoff::jitter;
use crate::clock::Clock;
use crate::server::folder::FolderError;
use crate::server::tls::certificates::Certificates;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// After each failure the wait is so many times longer.
const RETRY_FACTOR: u32 = 4;
/// Up to this part of a wait is added, by chance.
const RETRY_JITTER_PART: u32 = 4;
/// A fresh certificate that is due at once (a CA of very short lives, clocks that differ) stays for this part of what is
/// left of its life.
const STAY_PART: i64 = 10;
const DAY_MS: i64 = 86_400_000;

/// A certificate that is kept.
pub struct Keeper {
    config: AcmeConfig,
    stored: Stored,
    certificates: Arc<Certificates>,
    clock: Clock,
    held: Option<Held>,
}

impl Keeper {
    /// Opens the files, and shows what is there and good.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(
        config: AcmeConfig,
        data: &Path,
        certificates: Arc<Certificates>,
        clock: Clock,
    ) -> Result<Self, FolderError> {
        let stored = Stored::open(data)?;
        let mut held = stored.certificate().and_then(|file| usable(&file, &config, clock.now_ms()));
        if let Some(held) = &mut held {
            certificates.set_public(Some(Arc::clone(&held.key)));
            tracing::info!("showing the stored certificate of {}", held.domains.join(", "));
            if held.domains != config.domains || held.directory != config.directory {
                // It does until there is what is asked for now.
                held.renew_at_ms = 0;
            }
        }
        Ok(Self { config, stored, certificates, clock, held })
    }

    /// Keeps it until `stop`.
    pub async fn keep(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.renew_for_ever()).await;
    }

    async fn renew_for_ever(&mut self) {
        let mut failures = 0;
        loop {
            self.until_due().await;
            let http = CaHttp::new(self.config.trust.clone(), self.clock.clone());
            let Err(error) = self.renew(http.clone()).await else {
                failures = 0;
                continue;
            };
            if matches!(error, AcmeError::NoAccount(_)) {
                self.stored.forget_account();
            }
            failures += 1;
            let wait = wait(self.config.pace, failures, http.retry_after());
            self.tell(&error, wait);
            sleep(wait).await;
        }
    }

    /// Waits until what is held is to be renewed.
    async fn until_due(&self) {
        while let Some(held) = &self.held {
            let left = u64::try_from(held.renew_at_ms - self.clock.now_ms()).unwrap_or(0);
            if left == 0 {
                return;
            }
            sleep(Duration::from_millis(left).min(self.config.pace.look_every)).await;
        }
    }

    async fn renew(&mut self, http: CaHttp) -> Result<(), AcmeError> {
        let began = Instant::now();
        tracing::info!("ordering a certificate for {} at {}", self.config.domains.join(", "), self.config.directory);
        let file = order(&self.config, &self.stored, &self.certificates, http).await?;
        let mut held = Held::read(&file).map_err(AcmeError::Unusable)?;
        let now_ms = self.clock.now_ms();
        let left_ms = held.not_after_ms - now_ms;
        if left_ms <= 0 {
            return Err(AcmeError::Unusable("it has ended by this host's clock".to_owned()));
        }
        held.renew_at_ms = held.renew_at_ms.max(now_ms + left_ms / STAY_PART);
        self.certificates.set_public(Some(Arc::clone(&held.key)));
        let days = left_ms / DAY_MS;
        tracing::info!("showing a new certificate, good for {days} days; it took {:.1?}", began.elapsed());
        self.held = Some(held);
        if let Err(error) = self.stored.keep_certificate(&file) {
            tracing::warn!(%error, "the new certificate is in memory only: the next start orders another");
        }
        Ok(())
    }

    fn tell(&self, error: &AcmeError, wait: Duration) {
        let seconds = wait.as_secs();
        match self.held.as_ref().map(|held| held.not_after_ms - self.clock.now_ms()) {
            Some(left_ms @ 1..) => {
                let days = left_ms / DAY_MS;
                tracing::warn!(
                    "no new certificate: {error}. Next try in {seconds} s; the old one is good for {days} days"
                );
            }
            _ => tracing::error!("no certificate: {error}. Next try in {seconds} s"),
        }
    }
}

/// A stored certificate that may be shown: it can be read, is in time, and is for a domain that is asked for.
fn usable(file: &CertificateFile, config: &AcmeConfig, now_ms: i64) -> Option<Held> {
    let held = match Held::read(file) {
        Ok(held) => held,
        Err(why) => {
            tracing::warn!("the stored certificate cannot be used ({why}); it is ordered anew");
            return None;
        }
    };
    let wanted = held.domains.iter().any(|domain| config.domains.contains(domain));
    (wanted && held.not_after_ms > now_ms).then_some(held)
}

/// How long to wait after so many failures, and at least as long as the CA asked.
fn wait(pace: Pace, failures: u32, retry_after: Option<Duration>) -> Duration {
    let factor = RETRY_FACTOR.saturating_pow(failures.saturating_sub(1));
    let wait = pace.first.saturating_mul(factor).min(pace.max);
    wait.max(retry_after.unwrap_or_default()) + jitter(wait / RETRY_JITTER_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_is_asked_four_times_in_the_first_hour_and_then_ever_less() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let floors = [1, 4, 16, 64, 256, 360, 360];
        for (failures, floor) in (1..).zip(floors) {
            let wait = wait(Pace::default(), failures, None);
            assert!((minutes(floor)..=minutes(floor) * 5 / 4).contains(&wait), "{failures}: {wait:?}");
        }
        assert!(wait(Pace::default(), u32::MAX, None) >= minutes(360));
        assert!(wait(Pace::default(), 1, Some(minutes(900))) >= minutes(900), "the CA's word goes before ours");
    }
}
