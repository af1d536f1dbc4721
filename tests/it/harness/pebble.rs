//! Pebble, the CA that Let's Encrypt tests clients with, and its name server: every name leads to this host.

use super::eventually::eventually;
use super::process::Process;
use hyper::Method;
use postrider::http_client::{HttpClient, ServerUrl};
use postrider::pin::Pin;
use postrider::tls::{Trust, pin_of};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// How often other ports are tried: they are chosen before they are used.
const TRIES: usize = 5;

/// A root that the tests' own servers are trusted by.
pub struct Root {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Root {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        // Two roots of one name would be taken for each other.
        let name = postrider::secret::hex(&postrider::secret::random::<8>());
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Its pin.
    pub fn pin(&self) -> Pin {
        pin_of(self.certificate.der()).unwrap()
    }

    /// Its certificate in PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A chain and its key, in PEM, for this host and for whoever holds the pin.
    pub fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned(), self.pin().name()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (leaf.pem() + &self.pem(), key.serialize_pem())
    }
}

/// A CA that runs.
pub struct Pebble {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whom its own server is trusted by.
    pub root: Root,
    management: SocketAddr,
    names: SocketAddr,
    checked_port: u16,
    folder: TempDir,
    _names_process: Process,
    process: Process,
}

impl Pebble {
    /// Starts one that checks domains on `checked_port` of this host. None: Pebble is not installed here.
    pub async fn start(checked_port: u16) -> Option<Self> {
        if Command::new("pebble").arg("-h").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "the gate installs pebble");
            eprintln!("SKIPPED: pebble is not installed (Debian: apt-get install pebble)");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let root = Root::new();
        let (chain, key) = root.issue();
        std::fs::write(folder.path().join("chain.pem"), chain).unwrap();
        std::fs::write(folder.path().join("key.pem"), key).unwrap();
        for _ in 0..TRIES {
            let [names, address, management] = [free(), free(), free()];
            let mut names_process = name_server(names, folder.path().join("names.log"));
            let mut process = ca(folder.path(), [address, management, names], checked_port);
            if listens([address, management], &mut [&mut process, &mut names_process]).await {
                let _names_process = names_process;
                return Some(Self { address, root, management, names, checked_port, folder, _names_process, process });
            }
        }
        panic!("pebble does not start: {:?}", std::fs::read_to_string(folder.path().join("ca.log")));
    }

    /// Its directory.
    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.address.port())
    }

    /// Trusts its own server.
    pub fn trust(&self) -> Trust {
        Trust::new(&[self.root.pin()])
    }

    /// Starts it anew: it knows no account any more.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = ca(self.folder.path(), [self.address, self.management, self.names], self.checked_port);
        assert!(listens([self.address, self.management], &mut [&mut self.process]).await, "{}", self.process.printed());
    }

    /// The root of the certificates that it issues.
    pub async fn roots(&self) -> RootCertStore {
        let url = ServerUrl::parse(&format!("https://{}", self.management)).unwrap();
        let mut client = HttpClient::connect(&url, &self.trust()).await.unwrap();
        let root = client.send(Method::GET, "/roots/0", &[], "".into(), Duration::ZERO, 1 << 20).await.unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&root.body).unwrap()).unwrap();
        roots
    }
}

/// A port that is free for now.
pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// False: a process has ended.
async fn listens(addresses: [SocketAddr; 2], processes: &mut [&mut Process]) -> bool {
    eventually("pebble listens", || {
        let ended = processes.iter_mut().any(|process| process.has_ended());
        async move {
            for address in addresses.into_iter().filter(|_| !ended) {
                TcpStream::connect(address).await.ok()?;
            }
            Some(!ended)
        }
    })
    .await
}

fn name_server(address: SocketAddr, log: PathBuf) -> Process {
    let mut command = Command::new("pebble-challtestsrv");
    command.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
    command.arg("-dns01").arg(address.to_string()).arg("-management").arg(free().to_string());
    Process::spawn(command, log)
}

fn ca(folder: &Path, [address, management, names]: [SocketAddr; 3], checked_port: u16) -> Process {
    let config = json!({"pebble": {
        "listenAddress": address.to_string(),
        "managementListenAddress": management.to_string(),
        "certificate": folder.join("chain.pem"),
        "privateKey": folder.join("key.pem"),
        "tlsPort": checked_port,
    }});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut command = Command::new("pebble");
    command.arg("-config").arg(folder.join("config.json")).arg("-dnsserver").arg(names.to_string());
    // No waiting before checks, no nonce refused by chance, each domain checked each time.
    command.envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "0"), ("PEBBLE_AUTHZREUSE", "0")]);
    Process::spawn(command, folder.join("ca.log"))
}
