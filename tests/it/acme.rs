//! A public certificate by ACME: the real protocol with a real CA (Pebble), that checks domains on the server's real
//! TLS port, on good days and bad ones.

use crate::harness::ca_front::{BadDay, CaFront, ORDER_PATH};
use crate::harness::eventually::eventually;
use crate::harness::pebble::{Pebble, free};
use crate::harness::process::{Process, ServerProcess, postrider};
use crate::harness::server::TestServer;
use postrider::pin::Pin;
use postrider::server::acme::config::{AcmeConfig, Pace};
use postrider::server::acme::stored::{ACCOUNT_FILE, CERTIFICATE_FILE, FOLDER};
use postrider::server::serve::ServeConfig;
use postrider::tls::{Trust, provider};
use serde_json::Value;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Beyond the middle of the five years for which Pebble's certificates are good, and before their end.
const FOUR_YEARS_MS: i64 = 4 * 365 * 86_400_000;

/// Quick enough for a test.
const PACE: Pace =
    Pace { first: Duration::from_millis(50), max: Duration::from_millis(200), look_every: Duration::from_millis(20) };

/// What a browser is shown that knows Pebble's root and no pin.
async fn shown(address: SocketAddr, name: &str, roots: &RootCertStore) -> io::Result<CertificateDer<'static>> {
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots.clone()).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}

/// Waits until a browser is shown a good certificate other than `old`.
async fn newly_shown(
    address: SocketAddr,
    name: &str,
    roots: &RootCertStore,
    old: Option<&CertificateDer<'_>>,
) -> CertificateDer<'static> {
    eventually("a new certificate is shown", || async {
        shown(address, name, roots).await.ok().filter(|found| Some(found) != old)
    })
    .await
}

fn config(domains: &[&str], directory: &str, trust: &Trust) -> AcmeConfig {
    let domains = domains.iter().map(|&domain| domain.to_owned()).collect();
    let config = AcmeConfig::new(domains, Some("ann@a.example".to_owned()), Some(directory.to_owned())).unwrap();
    AcmeConfig { trust: trust.clone(), pace: PACE, ..config }
}

fn on(listen: SocketAddr, acme: AcmeConfig) -> impl FnOnce(&mut ServeConfig) {
    move |config| (config.listen, config.acme) = (listen, Some(acme))
}

/// `postrider serve --acme` that trusts what is in `roots`.
fn serve(data: &Path, listen: SocketAddr, directory: &str, roots: &Path, domains: &[&str]) -> Command {
    let mut command = postrider();
    command.env("SSL_CERT_FILE", roots);
    command.arg("serve").arg("--data").arg(data).arg("--listen").arg(listen.to_string());
    command.args(["--acme-directory", directory]).args(domains.iter().flat_map(|domain| ["--acme", domain]));
    command
}

async fn start(data: &Path, listen: SocketAddr, directory: &str, roots: &Path, domains: &[&str]) -> ServerProcess {
    let _ = fs::remove_file(data.join("listen"));
    let command = serve(data, listen, directory, roots, domains);
    ServerProcess::attach(Process::spawn(command, data.with_extension("log")), data).await
}

/// Waits for a line of the log.
async fn logged(server: &ServerProcess, part: &str) -> String {
    eventually(part, || async {
        let log = server.process.printed();
        log.lines().find(|line| line.contains(part)).map(str::to_owned)
    })
    .await
}

#[tokio::test]
async fn a_certificate_is_ordered_shown_stored_and_shown_again_at_the_next_start_without_the_ca() {
    let address = free();
    let Some(pebble) = Pebble::start(address.port()).await else { return };
    let (directory, browser) = (pebble.directory(), pebble.roots().await);
    let folder = TempDir::new().unwrap();
    let (data, trusted) = (folder.path().join("server"), folder.path().join("roots.pem"));
    fs::write(&trusted, pebble.root.pem()).unwrap();

    let mut server = start(&data, address, &directory, &trusted, &["a.example", "B.example"]).await;
    let first = newly_shown(address, "a.example", &browser, None).await;
    assert_eq!(shown(address, "b.example", &browser).await.unwrap(), first, "one for all domains");
    assert!(shown(address, "c.example", &browser).await.is_err());
    // Agents do not depend on it: who asks for the pin's name is shown the server's own authority.
    let pin: Pin = fs::read_to_string(data.join("pins")).unwrap().trim().parse().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    Trust::new(&[pin]).connect("a.example", stream).await.unwrap();
    for name in [ACCOUNT_FILE, CERTIFICATE_FILE] {
        let path = eventually(name, || async { Some(data.join(FOLDER).join(name)).filter(|path| path.exists()) }).await;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(data.join(FOLDER)).unwrap().permissions().mode() & 0o777, 0o700);
    let certificate: Value =
        serde_json::from_slice(&fs::read(data.join(FOLDER).join(CERTIFICATE_FILE)).unwrap()).unwrap();
    assert!(!server.process.printed().contains(certificate["key"].as_str().unwrap()), "the key is not in the log");

    server.process.kill();
    drop(pebble);
    // Another domain is asked for, too; until it can be had, what there is does.
    let server = start(&data, address, &directory, &trusted, &["a.example", "b.example", "c.example"]).await;
    assert_eq!(shown(address, "a.example", &browser).await.unwrap(), first);
    let line = logged(&server, "no new certificate").await;
    assert!(
        line.contains("WARN")
            && line.contains(directory.trim_end_matches("/dir"))
            && line.contains("the old one is good for"),
        "{line}"
    );
    assert_eq!(shown(address, "b.example", &browser).await.unwrap(), first, "a failure takes nothing away");
}

#[tokio::test]
async fn a_certificate_is_renewed_in_the_last_third_of_its_life_though_the_ca_has_forgotten_the_account() {
    let address = free();
    let Some(mut pebble) = Pebble::start(address.port()).await else { return };
    let acme = config(&["a.example"], &pebble.directory(), &pebble.trust());
    let server = TestServer::start_with(on(address, acme)).await;
    let first = newly_shown(address, "a.example", &pebble.roots().await, None).await;
    pebble.restart().await;
    let browser = pebble.roots().await;
    server.clock.set_offset_ms(FOUR_YEARS_MS);
    let second = newly_shown(address, "a.example", &browser, Some(&first)).await;
    assert_ne!(first, second);
}

#[tokio::test]
async fn other_domains_are_ordered_at_the_next_start() {
    let address = free();
    let Some(pebble) = Pebble::start(address.port()).await else { return };
    let browser = pebble.roots().await;
    let acme = |domains: &[&str]| on(address, config(domains, &pebble.directory(), &pebble.trust()));
    let server = TestServer::start_with(acme(&["a.example"])).await;
    let first = newly_shown(address, "a.example", &browser, None).await;
    let data = server.stop().await;
    let both = config(&["a.example", "b.example"], &pebble.directory(), &pebble.trust());
    let both = AcmeConfig { contact: Some("bob@a.example".to_owned()), ..both };
    let server = TestServer::start_in(data, on(address, both)).await.unwrap();
    let second = newly_shown(address, "b.example", &browser, None).await;
    assert_eq!(shown(address, "a.example", &browser).await.unwrap(), second);
    let data = server.stop().await;
    let account: Value =
        serde_json::from_slice(&fs::read(data.path().join(FOLDER).join(ACCOUNT_FILE)).unwrap()).unwrap();
    assert_eq!(account["contact"], "bob@a.example", "the CA was told");
    let server = TestServer::start_in(data, acme(&["b.example"])).await.unwrap();
    newly_shown(address, "b.example", &browser, Some(&second)).await;
    assert!(shown(address, "a.example", &browser).await.is_err(), "it is not asked for any more");
    assert_ne!(first, second);
    server.stop().await;
}

#[tokio::test]
async fn damaged_files_are_made_anew() {
    let address = free();
    let Some(pebble) = Pebble::start(address.port()).await else { return };
    let data = TempDir::new().unwrap();
    fs::create_dir_all(data.path().join(FOLDER)).unwrap();
    for name in [ACCOUNT_FILE, CERTIFICATE_FILE] {
        fs::write(data.path().join(FOLDER).join(name), r#"{"directory": "#).unwrap();
    }
    let acme = config(&["a.example"], &pebble.directory(), &pebble.trust());
    let _server = TestServer::start_in(data, on(address, acme)).await.unwrap();
    newly_shown(address, "a.example", &pebble.roots().await, None).await;
}

#[tokio::test]
async fn a_bad_nonce_is_asked_for_anew_within_the_same_order() {
    let address = free();
    let Some(pebble) = Pebble::start(address.port()).await else { return };
    let front = CaFront::start(&pebble).await;
    front.set(Some(BadDay::BadNonceOnce));
    let acme = config(&["a.example"], &front.directory(), &pebble.trust());
    let _server = TestServer::start_with(on(address, acme)).await;
    newly_shown(address, "a.example", &pebble.roots().await, None).await;
    assert_eq!(front.asked("/dir"), 1, "one try was enough");
    assert_eq!(front.asked("/sign-me-up"), 2, "the refused request was sent again");
}

#[tokio::test]
async fn while_the_ca_is_down_the_good_certificate_stays_and_the_ca_is_asked_again_until_it_is_back() {
    let address = free();
    let Some(pebble) = Pebble::start(address.port()).await else { return };
    let (front, browser) = (CaFront::start(&pebble).await, pebble.roots().await);
    let acme = config(&["a.example"], &front.directory(), &pebble.trust());
    let server = TestServer::start_with(on(address, acme)).await;
    let first = newly_shown(address, "a.example", &browser, None).await;
    front.set(Some(BadDay::BadGateway));
    let before = front.asked("/dir");
    server.clock.set_offset_ms(FOUR_YEARS_MS);
    eventually("three more tries", || async { (front.asked("/dir") >= before + 3).then_some(()) }).await;
    assert_eq!(shown(address, "a.example", &browser).await.unwrap(), first);
    front.set(None);
    newly_shown(address, "a.example", &browser, Some(&first)).await;
}

#[tokio::test]
async fn a_ca_that_has_had_enough_is_left_alone_for_as_long_as_it_says() {
    let address = free();
    let Some(pebble) = Pebble::start(address.port()).await else { return };
    let front = CaFront::start(&pebble).await;
    front.set(Some(BadDay::RateLimited(7200)));
    let folder = TempDir::new().unwrap();
    let (data, trusted) = (folder.path().join("server"), folder.path().join("roots.pem"));
    fs::write(&trusted, pebble.root.pem()).unwrap();
    let server = start(&data, address, &front.directory(), &trusted, &["a.example"]).await;
    let line = logged(&server, "no certificate").await;
    assert!(line.contains("the CA has had enough for now: a bad day (rateLimited)"), "{line}");
    let wait: u64 = line.split("Next try in ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((7200..=7215).contains(&wait), "{line}");
    assert_eq!(front.asked(ORDER_PATH), 1);
}

#[tokio::test]
async fn a_domain_that_does_not_lead_here_is_named_with_what_to_do() {
    let (address, elsewhere) = (free(), free());
    let Some(pebble) = Pebble::start(elsewhere.port()).await else { return };
    let folder = TempDir::new().unwrap();
    let (data, trusted) = (folder.path().join("server"), folder.path().join("roots.pem"));
    fs::write(&trusted, pebble.root.pem()).unwrap();
    let server = start(&data, address, &pebble.directory(), &trusted, &["a.example"]).await;
    let line = logged(&server, "no certificate").await;
    for part in ["ERROR", "could not check a.example", "Failed to connect", "443", "--listen", "Next try in"] {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    // The server itself goes on, and nobody is shown a challenge any more.
    let pin: Pin = fs::read_to_string(data.join("pins")).unwrap().trim().parse().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    Trust::new(&[pin]).connect("a.example", stream).await.unwrap();
}

#[tokio::test]
async fn a_ca_whose_own_server_is_not_trusted_is_not_spoken_to() {
    let address = free();
    let Some(pebble) = Pebble::start(address.port()).await else { return };
    let folder = TempDir::new().unwrap();
    let (data, other) = (folder.path().join("server"), folder.path().join("roots.pem"));
    let Some(stranger) = Pebble::start(address.port()).await else { return };
    fs::write(&other, stranger.root.pem()).unwrap();
    let server = start(&data, address, &pebble.directory(), &other, &["a.example"]).await;
    let line = logged(&server, "no certificate").await;
    assert!(line.contains("does not trust") && line.contains("SSL_CERT_FILE"), "{line}");
}

#[tokio::test]
async fn what_cannot_be_ordered_is_refused_at_the_start() {
    let folder = TempDir::new().unwrap();
    for (args, part) in [
        (["--acme", "*.example", "--acme-contact", "a@b"], "without *"),
        (["--acme", "a.example", "--acme-contact", "ann"], "no e-mail address"),
        (["--acme", "a.example", "--acme-directory", "http://ca.example/dir"], "https://"),
    ] {
        let mut command = postrider();
        command.arg("serve").arg("--data").arg(folder.path().join("server")).args(args);
        let mut process = Process::spawn(command, folder.path().join("log"));
        assert_eq!(process.ended().await, Some(1), "{args:?}");
        assert!(process.printed().lines().last().unwrap().contains(part), "{}", process.printed());
    }
}
