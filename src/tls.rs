//! Whom a client's TLS connection trusts, and one type for plain and encrypted streams at both ends.
//!
//! With pins, a server is its authority: the authority must be in the chain that it shows, it alone is the root, and the
//! leaf must be for its pin's name. Neither the address nor the system's roots matter then. Without pins it is the
//! other way round. Nothing is trusted because it was met first.
//!
//! Sessions are not resumed: a handshake costs a fraction of a millisecond, and what was retired is retired at once.

use crate::pin::Pin;
use std::io;
use std::pin::Pin as StdPin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio_rustls::{TlsConnector, TlsStream};

/// What TLS connections of ours are made with.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}

/// Whom a client trusts. Clones share what is made once.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    pins: Arc<[Pin]>,
    config: Arc<OnceLock<Result<Arc<ClientConfig>, TlsError>>>,
}

/// Why there is no TLS connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// Its chain has no authority with one of our pins.
    #[error(
        "it is not the server that made this join or login string: its certificate is of another authority. \
         Is the address right? If the server was set up anew, take a fresh string from it"
    )]
    OtherAuthority,
    /// We hold no pins, and the system's roots do not know the issuer.
    #[error(
        "its certificate is of an authority that this system does not know: a string that has the server's pins is \
         needed, not its address alone (`postrider authority list` on the server shows the login string)"
    )]
    UnknownAuthority,
    /// The leaf has ended.
    #[error("its certificate has expired; or is this host's clock wrong?")]
    Expired,
    /// The leaf begins later.
    #[error("its certificate is not valid yet; or is this host's clock wrong?")]
    NotYetValid,
    /// The leaf is for other names.
    #[error("its certificate is not valid for that name")]
    WrongName,
    /// The other end speaks something else.
    #[error("it does not speak TLS: is it an http:// address?")]
    NotTls,
    /// There are no roots to check against.
    #[error("this system has no root certificates: install them (ca-certificates), or give the login string")]
    NoRoots,
    /// No name that TLS can carry.
    #[error("no certificate can be for {0:?}")]
    Name(String),
    /// The rest.
    #[error("TLS: {0}")]
    Other(String),
}

impl TlsError {
    /// Whether another try will meet the same: a server that we must not speak to.
    pub fn is_identity(&self) -> bool {
        matches!(self, Self::OtherAuthority | Self::UnknownAuthority | Self::WrongName)
    }

    fn of(error: &io::Error, pinned: bool) -> Self {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return Self::Other(match error.kind() {
                io::ErrorKind::UnexpectedEof => "the other end closed the connection in the handshake".to_owned(),
                _ => error.to_string(),
            });
        };
        match error {
            Error::InvalidMessage(_) => Self::NotTls,
            Error::InvalidCertificate(why) => match why {
                CertificateError::UnknownIssuer if pinned => Self::OtherAuthority,
                CertificateError::UnknownIssuer => Self::UnknownAuthority,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
                why => Self::Other(why.to_string()),
            },
            error => Self::Other(error.to_string()),
        }
    }
}

impl Trust {
    /// A server of one of these authorities, the newest first; none: whom the system trusts.
    pub fn new(pins: &[Pin]) -> Self {
        Self { pins: pins.into(), config: Arc::default() }
    }

    /// The pins.
    pub fn pins(&self) -> &[Pin] {
        &self.pins
    }

    /// Speaks TLS on a fresh connection to `host`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub async fn connect(&self, host: &str, stream: TcpStream) -> Result<Stream, TlsError> {
        let config = self.config.get_or_init(|| self.make_config()).clone()?;
        let name = match self.pins.first() {
            Some(newest) => newest.name(),
            None => host.trim_matches(['[', ']']).to_owned(),
        };
        let asked = ServerName::try_from(name.clone()).map_err(|_| TlsError::Name(name))?;
        let connected = TlsConnector::from(config).connect(asked, stream).await;
        let stream = connected.map_err(|error| TlsError::of(&error, !self.pins.is_empty()))?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    fn make_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let other = |error: Error| TlsError::Other(error.to_string());
        let builder =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(other)?;
        let mut config = if self.pins.is_empty() {
            builder.with_root_certificates(system_roots()?).with_no_client_auth()
        } else {
            let verifier = PinVerifier { pins: Arc::clone(&self.pins), provider: provider() };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // What of them cannot be read is not trusted; the rest is.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

/// Trusts the authorities with these pins and nobody else.
#[derive(Debug)]
struct PinVerifier {
    pins: Arc<[Pin]>,
    provider: Arc<CryptoProvider>,
}

/// The pin of a certificate's key; none: it cannot be read.
pub fn pin_of(certificate: &CertificateDer<'_>) -> Option<Pin> {
    Some(Pin::of_key(ParsedCertificate::try_from(certificate).ok()?.subject_public_key_info().as_ref()))
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = intermediates.iter().find_map(|certificate| {
            let pin = pin_of(certificate)?;
            self.pins.contains(&pin).then_some((pin, certificate))
        });
        let (pin, authority) = found.ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &[], now, algorithms)?;
        // The name of the authority that was found: a server that does not have our newest one may show another of ours.
        let name = ServerName::try_from(pin.name()).map_err(|_| CertificateError::NotValidForName)?;
        verify_server_name(&leaf, &name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection, at either end.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Encrypted. Boxed: it is twenty times the size.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: StdPin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => StdPin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => StdPin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: StdPin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => StdPin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => StdPin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: StdPin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => StdPin::new(stream).poll_flush(context),
            Self::Tls(stream) => StdPin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: StdPin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => StdPin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => StdPin::new(stream.as_mut()).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: StdPin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => StdPin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => StdPin::new(stream.as_mut()).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
