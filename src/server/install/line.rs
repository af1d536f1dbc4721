//! The line that an operator pastes into a root shell on a new host. It trusts nobody but this server.
//!
//! Where a certificate that the host trusts is shown, plain `curl` is enough. Otherwise the line brings the server's
//! authority along and asks for its pin's name, under which that authority's leaf is shown at any address. The leaf's own
//! key would not do: a restart makes another one. A line ends to work when its authority is retired.

use crate::http_client::ServerUrl;
use crate::pin::Pin;
use crate::server::app::App;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// Characters of a line of PEM (RFC 7468).
const PEM_COLUMNS: usize = 64;

/// An authority as `curl` is told of it.
#[derive(Clone, Debug)]
pub struct Anchor {
    /// Its certificate in PEM, a line an item.
    pub pem: Vec<String>,
    /// `https://` and its pin's name.
    pub url: String,
    /// What `--connect-to` takes: where that name really is.
    pub connect_to: String,
}

impl Anchor {
    /// For a server at `url`.
    pub fn new(pin: Pin, certificate: &CertificateDer<'_>, url: &ServerUrl) -> Self {
        let text = STANDARD.encode(certificate);
        let middle = (0..text.len()).step_by(PEM_COLUMNS);
        let middle = middle.map(|at| text[at..text.len().min(at + PEM_COLUMNS)].to_owned());
        let begin = std::iter::once("-----BEGIN CERTIFICATE-----".to_owned());
        let pem = begin.chain(middle).chain(["-----END CERTIFICATE-----".to_owned()]).collect();
        Self { pem, url: format!("https://{}", pin.name()), connect_to: format!("::{}", url.authority()) }
    }

    /// The authority with this pin, of a server at `url`; none: there is none.
    pub fn of(app: &App, pin: Pin, url: &ServerUrl) -> Option<Self> {
        let certificate = app.tls.as_ref()?.authorities.certificate(pin)?;
        Some(Self::new(pin, &certificate, url))
    }
}

/// The line for a join string whose address is `url`.
pub fn line(app: &App, url: &ServerUrl, join: &str) -> String {
    let own = app.tls.as_ref().filter(|tls| url.is_tls() && !tls.certificates.covers(url.host()));
    match own.and_then(|tls| Anchor::of(app, tls.authorities.newest(), url)) {
        Some(anchor) => pinned(&anchor, join),
        None => plain(url, join),
    }
}

fn plain(url: &ServerUrl, join: &str) -> String {
    let scheme = if url.is_tls() { "https" } else { "http" };
    format!("curl -fsS {scheme}://{}/install/{join} | sh", url.host_header())
}

fn pinned(anchor: &Anchor, join: &str) -> String {
    let pem: Vec<String> =
        anchor.pem.iter().map(|line| if line.contains(' ') { format!("'{line}'") } else { line.clone() }).collect();
    let Anchor { url, connect_to, .. } = anchor;
    format!(
        "printf '%s\\n' {} | curl -fsS --cacert /dev/stdin --connect-to {connect_to} {url}/install/{join} | sh",
        pem.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_a_shell_reads_as_one_pipe() {
        let url = ServerUrl::parse("https://[2001:db8::1]:7717").unwrap();
        let anchor = Anchor::new(Pin::of_key(b"a"), &CertificateDer::from(vec![255; 100]), &url);
        let told = pinned(&anchor, "prj1_abc");
        assert!(told.starts_with("printf '%s\\n' '-----BEGIN CERTIFICATE-----' ////"), "{told}");
        assert!(told.contains(" --connect-to ::[2001:db8::1]:7717 https://"), "{told}");
        assert!(told.ends_with(".postrider.internal/install/prj1_abc | sh") && told.lines().count() == 1, "{told}");
        let plain = plain(&ServerUrl::parse("https://msp.example").unwrap(), "prj1_abc");
        assert_eq!(plain, "curl -fsS https://msp.example/install/prj1_abc | sh");
    }
}
