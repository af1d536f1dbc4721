//! Whether a server speaks TLS, and with what: decided once, at its start.

use super::authorities::{Authorities, AuthorityError};
use super::certificates::Certificates;
use super::door;
use super::own::{OwnCertificate, OwnCertificateError};
use crate::clock::Clock;
use crate::http_client::ServerUrl;
use crate::server::folder::{FolderError, PINS_FILE, write_private};
use crate::tasks::Tasks;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// What a server that speaks TLS has for it.
#[derive(Debug)]
pub struct Tls {
    /// Which certificate is shown to whom.
    pub certificates: Arc<Certificates>,
    /// Its own authorities.
    pub authorities: Arc<Authorities>,
    data: PathBuf,
}

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsStartError {
    /// The authorities.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The owner's certificate.
    #[error("--tls-cert, --tls-key: {0}")]
    Own(#[from] OwnCertificateError),
    /// The library.
    #[error("TLS: {0}")]
    Library(#[from] tokio_rustls::rustls::Error),
}

impl Tls {
    /// Reads or makes the authorities of a data folder.
    ///
    /// # Errors
    /// [`TlsStartError`].
    pub fn open(
        data: &Path,
        address: SocketAddr,
        public_url: Option<&ServerUrl>,
        clock: &Clock,
    ) -> Result<Self, TlsStartError> {
        let certificates = Arc::new(Certificates::default());
        let hosts = hosts(address, public_url);
        let authorities = Authorities::open(data, hosts, Arc::clone(&certificates), clock.now_ms())?;
        let tls = Self { certificates, authorities: Arc::new(authorities), data: data.to_owned() };
        tls.write_pins().map_err(AuthorityError::from)?;
        Ok(tls)
    }

    /// Shows the owner's certificate, if there is one, and starts the tasks that keep all of them fresh.
    ///
    /// # Errors
    /// [`TlsStartError::Own`], [`TlsStartError::Library`].
    pub fn start(
        &self,
        own: Option<OwnCertificate>,
        clock: &Clock,
        tasks: &Tasks,
    ) -> Result<TlsAcceptor, TlsStartError> {
        if let Some(own) = own {
            let seen = own.stamp();
            self.certificates.set_public(Some(Arc::new(own.load()?)));
            tasks.spawn("own certificate", own.watch(seen, Arc::clone(&self.certificates), tasks.clone()));
        }
        tasks.spawn("leaves", Arc::clone(&self.authorities).keep_fresh(clock.clone(), tasks.clone()));
        Ok(door::acceptor(Arc::clone(&self.certificates))?)
    }

    /// Writes the pins down for the command line on this host.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn write_pins(&self) -> Result<(), FolderError> {
        let lines: String = self.authorities.pins().iter().map(|pin| format!("{pin}\n")).collect();
        write_private(&self.data, PINS_FILE, &lines)
    }
}

/// The names and addresses that somebody without a pin may ask for: for browsers and scripts that trust the authority.
fn hosts(address: SocketAddr, public_url: Option<&ServerUrl>) -> Vec<String> {
    let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if !address.ip().is_unspecified() {
        hosts.push(address.ip().to_string());
    }
    hosts.extend(public_url.map(|url| url.host().to_owned()));
    hosts.extend(host_name());
    hosts.sort();
    hosts.dedup();
    hosts
}

/// This host's name, where it has one.
pub fn host_name() -> Option<String> {
    sysinfo::System::host_name().ok().filter(|name| !name.is_empty())
}
