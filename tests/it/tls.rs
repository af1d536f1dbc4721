//! TLS as agents, the command line and browsers meet it: pins, own certificates, and what is refused in which words.

use crate::harness::agent::TestAgent;
use crate::harness::cli::{Ended, good, run, run_with};
use crate::harness::eventually::eventually;
use crate::harness::process::{Process, ServerProcess, postrider};
use crate::harness::server::TestServer;
use postrider::http_client::{HttpClientError, ServerUrl};
use postrider::pin::Pin;
use postrider::protocol::join::JoinString;
use postrider::tls::{TlsError, Trust, provider};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair, PublicKeyData, date_time_ymd,
};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A server that listens there, with these arguments, too.
pub async fn serve(data: &Path, listen: &str, args: &[&str]) -> ServerProcess {
    let mut command = postrider();
    command.arg("serve").arg("--data").arg(data).args(["--listen", listen]).args(args);
    let _ = fs::remove_file(data.join("listen"));
    ServerProcess::attach(Process::spawn(command, data.with_extension("log")), data).await
}

/// The address in the data folder.
pub fn url(data: &Path) -> String {
    fs::read_to_string(data.join("listen")).unwrap().trim().to_owned()
}

/// `HOST:PORT` of it.
fn address(data: &Path) -> String {
    url(data).rsplit('/').next().unwrap().to_owned()
}

/// A verb of somebody on another host, who has a configuration in `home` and these variables.
pub async fn elsewhere(home: &Path, variables: &[(&str, &str)], args: &[&str]) -> Ended {
    let mut command = postrider();
    command.env("XDG_CONFIG_HOME", home).envs(variables.iter().copied()).args(args);
    run_with(command, b"").await
}

/// An agent with this join string, which must end by itself with exit code 1; answers what it printed.
pub async fn refused_agent(join: &str) -> String {
    let mut agent = TestAgent::launch(join, "web-9");
    let code = agent.process.ended().await;
    let printed = agent.process.printed();
    assert_eq!(code, Some(1), "{printed}");
    printed
}

/// Waits until it has printed all of these.
async fn prints(process: &Process, parts: &[&str]) {
    eventually(&format!("{parts:?} is printed"), || async {
        let printed = process.printed();
        parts.iter().all(|part| printed.contains(part)).then_some(())
    })
    .await;
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn agents_and_users_know_the_server_by_its_pin() {
    let folder = TempDir::new().unwrap();
    let (data, home) = (folder.path().join("server"), folder.path().join("home"));
    let server = serve(&data, "127.0.0.1:0", &["--tls"]).await;
    prints(&server.process, &["listening on https://127.0.0.1:", "postrider login --server prl1_"]).await;
    let _agent = TestAgent::start(&server.api, "web-1").await;
    assert_eq!(good(&data, &["run", "web-1", "--", "echo", "there"]).await.out(), "there\n");
    // Too large for a dispatch frame: fetched by the same pins.
    server.api.round_trip("web-1", &format!("true # {}", "x".repeat(40_000))).await;
    // Elsewhere, with the login string.
    let login = good(&data, &["authority", "list", "--json"]).await.objects()[0]["login"].as_str().unwrap().to_owned();
    let token = [("POSTRIDER_TOKEN", server.api.token.as_str())];
    let ended = elsewhere(&home, &token, &["login", "--server", &login]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ended = elsewhere(&home, &[], &["run", "web-1", "--", "echo", "from afar"]).await;
    assert_eq!((ended.code, ended.out().as_str()), (Some(0), "from afar\n"), "{ended:?}");
    let ended = elsewhere(&home, &token, &["agents", "--server", &login, "--json"]).await;
    assert_eq!(ended.objects()[0]["name"], "web-1");
    // By its address alone it is nobody that this system knows.
    let ended = elsewhere(folder.path(), &token, &["agents", "--server", &url(&data)]).await;
    assert_eq!(ended.code, Some(125));
    says(&ended.stderr, &["does not know", "login string", "postrider authority list"]);
}

#[tokio::test]
async fn what_the_server_answers_to_the_world_is_tls() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let server = serve(&data, "0.0.0.0:0", &[]).await;
    prints(&server.process, &["listening on https://0.0.0.0:"]).await;
    assert!(url(&data).starts_with("https://127.0.0.1:"), "{}", url(&data));
    let join = good(&data, &["join", "create"]).await.out();
    let join = JoinString::decode(&join).unwrap();
    assert!(!join.url.contains("0.0.0.0") && join.url.starts_with("https://"), "{}", join.url);
    let text = JoinString { url: url(&data), ..join }.encode();
    let agent = TestAgent::launch(&text, "web-1");
    eventually("web-1 is online", || async {
        let reply = server.api.call("GET", "/api/agents/web-1", serde_json::Value::Null).await;
        (reply.status == 200 && reply.json()["online"] == true).then_some(())
    })
    .await;
    server.api.round_trip("web-1", "true").await;
    drop(agent);
    for (plain, words) in [("http://msp.example:7717", "--public-url"), ("http://msp.example:7717", "https://")] {
        let mut command = postrider();
        let other = folder.path().join("other");
        command.arg("serve").arg("--data").arg(&other).args(["--listen", "0.0.0.0:0", "--public-url", plain]);
        let ended = run_with(command, b"").await;
        assert_eq!(ended.code, Some(1));
        says(&ended.stderr, &[words]);
    }
    let ended = run(&data, &["join", "create", "--server-url", "http://msp.example:7717"]).await;
    says(&ended.stderr, &["speaks TLS", "https://"]);
}

#[tokio::test]
async fn a_join_string_of_another_server_is_told_at_once() {
    let folder = TempDir::new().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let (ours, theirs) = (serve(&one, "127.0.0.1:0", &["--tls"]).await, serve(&two, "127.0.0.1:0", &["--tls"]).await);
    let join = JoinString::decode(&ours.api.join().await).unwrap();
    assert_eq!(join.pins.len(), 1);
    let secret = join.secret.expose().to_owned();
    let printed = refused_agent(&JoinString { url: url(&two), ..join }.encode()).await;
    says(&printed, &[&url(&two), "another authority", "fresh string"]);
    assert!(!printed.contains(&secret), "{printed}");
    assert_eq!(theirs.api.get("/api/agents").await["agents"], serde_json::json!([]));
}

#[tokio::test]
async fn plain_http_to_the_tls_port_and_tls_to_a_plain_port_are_told_so() {
    let folder = TempDir::new().unwrap();
    let (secure, plain) = (folder.path().join("secure"), folder.path().join("plain"));
    let (server, _open) = (serve(&secure, "127.0.0.1:0", &["--tls"]).await, serve(&plain, "127.0.0.1:0", &[]).await);
    let mut stream = TcpStream::connect(address(&secure)).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    says(&answer, &["this port speaks TLS", "https://"]);
    let as_plain = url(&secure).replace("https", "http");
    let token = [("POSTRIDER_TOKEN", "prt_x")];
    let ended = elsewhere(folder.path(), &token, &["agents", "--server", &as_plain]).await;
    says(&ended.stderr, &["speaks TLS", "https://"]);
    let join = JoinString::decode(&server.api.join().await).unwrap();
    says(&refused_agent(&JoinString { url: as_plain, ..join.clone() }.encode()).await, &["speaks TLS", "https://"]);
    let as_tls = url(&plain).replace("http", "https");
    let ended = elsewhere(folder.path(), &token, &["agents", "--server", &as_tls]).await;
    assert_eq!(ended.code, Some(125));
    says(&ended.stderr, &["does not speak TLS", "http://"]);
}

#[tokio::test]
async fn old_versions_of_tls_are_refused() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("server");
    let _server = serve(&data, "127.0.0.1:0", &["--tls"]).await;
    // A hello of TLS 1.1 (RFC 4346): no session, one suite, no compression.
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    let mut stream = TcpStream::connect(address(&data)).await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    // A fatal alert and nothing else (RFC 8446 section 6).
    assert!(answer.len() == 7 && answer[0] == 21 && answer[5] == 2, "{answer:?}");
}

/// An authority of another make.
fn authority() -> (KeyPair, CertificateParams) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (KeyPair::generate().unwrap(), params)
}

/// Shows this chain to one connection; answers what a client with that pin says to it.
async fn shown(chain: Vec<CertificateDer<'static>>, key: &KeyPair, pin: Pin) -> Result<(), TlsError> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = ServerUrl::parse(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
    let accept = async {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
    };
    let trust = Trust::new(&[pin]);
    let (dialled, ()) = tokio::join!(url.dial(&trust), accept);
    match dialled {
        Ok(_) => Ok(()),
        Err(HttpClientError::Tls { source, .. }) => Err(source),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_leaf_must_be_of_the_pinned_authority_for_its_name_and_not_have_ended() {
    let (key, params) = authority();
    let pin = Pin::of_key(&key.subject_public_key_info());
    let root = params.self_signed(&key).unwrap().der().clone();
    let issuer = Issuer::from_params(&params, &key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = |name: String, first: i32, last: i32| {
        let mut leaf = CertificateParams::new(vec![name]).unwrap();
        (leaf.not_before, leaf.not_after) = (date_time_ymd(first, 1, 1), date_time_ymd(last, 1, 1));
        leaf.signed_by(&leaf_key, &issuer).unwrap().der().clone()
    };
    let good = leaf(pin.name(), 1970, 4000);
    assert_eq!(shown(vec![good.clone(), root.clone()], &leaf_key, pin).await, Ok(()));
    let ended = leaf(pin.name(), 1970, 2001);
    assert_eq!(shown(vec![ended, root.clone()], &leaf_key, pin).await, Err(TlsError::Expired));
    let later = leaf(pin.name(), 3999, 4000);
    assert_eq!(shown(vec![later, root.clone()], &leaf_key, pin).await, Err(TlsError::NotYetValid));
    let localhost = leaf("localhost".to_owned(), 1970, 4000);
    assert_eq!(shown(vec![localhost, root.clone()], &leaf_key, pin).await, Err(TlsError::WrongName));
    let other = Pin::of_key(b"another");
    assert_eq!(shown(vec![good.clone(), root.clone()], &leaf_key, other).await, Err(TlsError::OtherAuthority));
    assert_eq!(shown(vec![good], &leaf_key, pin).await, Err(TlsError::OtherAuthority), "without the authority");
    // The authority's certificate is no secret: whoever shows it must have a leaf of it.
    let (forger, params) = authority();
    let forged = Issuer::from_params(&params, &forger);
    let leaf = CertificateParams::new(vec![pin.name()]).unwrap().signed_by(&leaf_key, &forged).unwrap().der().clone();
    assert!(shown(vec![leaf, root.clone()], &leaf_key, pin).await.is_err());
    // Nor is it a leaf itself, though its key is the pinned one.
    assert_eq!(shown(vec![root], &key, pin).await, Err(TlsError::OtherAuthority));
}

/// An issuer that a system may trust, and its certificate in a file.
pub struct PublicIssuer {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl PublicIssuer {
    /// A fresh one.
    pub fn new(file: &Path) -> Self {
        let (key, params) = authority();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        fs::write(file, issuer.pem()).unwrap();
        Self { issuer }
    }

    /// A certificate for localhost and its key.
    pub fn certify(&self, chain: &Path, key: &Path) {
        let leaf_key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        // The issuer's own name would make it look self-signed to OpenSSL.
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
        fs::write(key, leaf_key.serialize_pem()).unwrap();
        fs::write(chain, leaf.signed_by(&leaf_key, &self.issuer).unwrap().pem()).unwrap();
    }
}

#[tokio::test]
async fn an_own_certificate_is_shown_to_whoever_has_no_pin_and_replaced_while_the_server_runs() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (old, new) = (PublicIssuer::new(&at("old.pem")), PublicIssuer::new(&at("new.pem")));
    let (chain, key, data) = (at("chain.pem"), at("key.pem"), at("server"));
    old.certify(&chain, &key);
    let own = ["--tls-cert", chain.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = serve(&data, "127.0.0.1:0", &own).await;
    let agent = TestAgent::start(&server.api, "web-1").await;
    let url = url(&data).replace("127.0.0.1", "localhost");
    let agents = async |roots: &str| {
        let roots = at(roots);
        let variables = [("SSL_CERT_FILE", roots.to_str().unwrap()), ("POSTRIDER_TOKEN", server.api.token.as_str())];
        elsewhere(folder.path(), &variables, &["agents", "--json", "--server", &url]).await
    };
    let ended = agents("old.pem").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(agents("new.pem").await.code, Some(125));
    new.certify(&chain, &key);
    eventually("the new certificate is shown", || async { (agents("new.pem").await.code == Some(0)).then_some(()) })
        .await;
    fs::write(&chain, "garbage").unwrap();
    eventually("the garbage was seen", || async {
        server.process.printed().contains("the certificate that was there before is shown on").then_some(())
    })
    .await;
    assert_eq!(agents("new.pem").await.code, Some(0));
    // Agents never saw any of it.
    server.api.round_trip("web-1", "true").await;
    assert_eq!(server.api.get("/api/agents/web-1").await["epoch"], 1, "{}", agent.process.printed());
}

/// The leaf that is shown to a client that asks for this name and offers this protocol; none: the handshake fails.
async fn leaf_for(address: &str, name: &str, protocol: &[u8]) -> Option<CertificateDer<'static>> {
    let roots = RootCertStore::empty();
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let seen = Arc::new(Seen(Mutex::new(None)));
    config.dangerous().set_certificate_verifier(Arc::clone(&seen) as Arc<dyn ServerCertVerifier>);
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let leaf = seen.0.lock().unwrap().clone();
    leaf.filter(|_| connected.is_ok())
}

/// Takes any certificate and remembers it.
#[derive(Debug)]
struct Seen(Mutex<Option<CertificateDer<'static>>>);

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.0.lock().unwrap() = Some(leaf.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn each_name_and_protocol_is_shown_its_own_certificate() {
    let server = TestServer::start_with(|config| config.tls = true).await;
    let tls = server.running.app().tls.clone().unwrap();
    let address = server.running.address.to_string();
    let certified = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let leaf = made.der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (Some(Arc::new(CertifiedKey::from_der(vec![leaf.clone()], key, &provider()).unwrap())), leaf)
    };
    let pin_name = tls.authorities.newest().name();
    let (http, challenge) = (&b"http/1.1"[..], &b"acme-tls/1"[..]);
    let own = leaf_for(&address, &pin_name, http).await.unwrap();
    assert_eq!(leaf_for(&address, "msp.example", http).await.unwrap(), own, "there is no other");
    let (key, public) = certified("msp.example");
    tls.certificates.set_public(key);
    assert_eq!(leaf_for(&address, "msp.example", http).await.unwrap(), public);
    assert_eq!(leaf_for(&address, &pin_name, http).await.unwrap(), own);
    assert_eq!(leaf_for(&address, &Pin::of_key(b"unknown").name(), http).await.unwrap(), own);
    assert_eq!(leaf_for(&address, "msp.example", challenge).await, None, "nothing was asked for");
    let (key, asked) = certified("msp.example");
    tls.certificates.set_challenge("MSP.example", key);
    assert_eq!(leaf_for(&address, "msp.example", challenge).await.unwrap(), asked);
    assert_eq!(leaf_for(&address, "other.example", challenge).await, None);
    assert_eq!(leaf_for(&address, "msp.example", http).await.unwrap(), public);
    tls.certificates.set_challenge("msp.example", None);
    assert_eq!(leaf_for(&address, "msp.example", challenge).await, None);
    tls.certificates.set_public(None);
    assert_eq!(leaf_for(&address, "msp.example", http).await.unwrap(), own);
    server.stop().await;
}

#[tokio::test]
async fn an_own_certificate_is_checked_at_the_start() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let issuer = PublicIssuer::new(&at("root.pem"));
    issuer.certify(&at("chain.pem"), &at("key.pem"));
    issuer.certify(&at("other-chain.pem"), &at("other-key.pem"));
    fs::write(at("garbage"), "garbage").unwrap();
    for (chain, key, words) in [
        ("chain.pem", "other-key.pem", "does not fit"),
        ("garbage", "key.pem", "no certificate"),
        ("chain.pem", "garbage", "no key can be read"),
        ("missing", "key.pem", "missing"),
    ] {
        let mut command = postrider();
        command.arg("serve").arg("--data").arg(at("server")).args(["--listen", "127.0.0.1:0"]);
        command.arg("--tls-cert").arg(at(chain)).arg("--tls-key").arg(at(key));
        let ended = run_with(command, b"").await;
        assert_eq!(ended.code, Some(1), "{chain} {key}");
        says(&ended.stderr, &["--tls-cert", words]);
    }
}
