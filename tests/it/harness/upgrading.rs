//! A server that is stopped and started by a program, as on a host without systemd, with a folder of releases.

use super::api::Api;
use super::cli::{Ended, run_with};
use super::eventually::eventually;
use super::process::{CRASH_AT, binary, postrider};
use super::server::owner_token;
use minisign::KeyPair;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// The release that runs first.
pub const FIRST: &str = "first";

/// The host of a server. Its server ends with it.
pub struct UpgradeHost {
    folder: TempDir,
    key: KeyPair,
    port: u16,
}

/// The binary under test without its debug information, which is most of it.
fn small() -> &'static [u8] {
    static SMALL: OnceLock<Vec<u8>> = OnceLock::new();
    SMALL.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let copy = folder.path().join("postrider");
        match Command::new("strip").arg("-o").arg(&copy).arg(binary()).status() {
            Ok(status) if status.success() => fs::read(copy).unwrap(),
            _ => fs::read(binary()).unwrap(),
        }
    })
}

/// The bytes of a build that is broken in this way; a name that is no way to break one gives a good build, and another one.
pub fn build(broken: &str) -> Vec<u8> {
    [small(), format!("\npostrider-break={broken}\n").as_bytes()].concat()
}

impl UpgradeHost {
    /// A host on which a server of this build runs.
    pub async fn start(broken: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host =
            Self { folder: TempDir::new().unwrap(), key: KeyPair::generate_unencrypted_keypair().unwrap(), port };
        host.configure(&format!("release_key = {:?}\n", host.key.pk.to_base64()));
        fs::create_dir_all(host.path("releases").join(FIRST)).unwrap();
        executable(&host.program(FIRST), &build(broken));
        symlink(FIRST, host.path("releases").join("current")).unwrap();
        let script = format!(
            "#!/bin/sh
cd '{folder}' || exit 1
case $1 in
stop)
    pid=$(cat pid 2>/dev/null) && kill \"$pid\" 2>/dev/null
    # What has ended is there until somebody reaps it.
    while kill -0 \"$pid\" 2>/dev/null && ! grep -q ') Z ' /proc/\"$pid\"/stat; do sleep 0.02; done
    rm -f pid
    ;;
start)
    test -e pid && kill -0 \"$(cat pid)\" 2>/dev/null && exit 0
    rm -f data/listen
    releases/current/postrider serve --config postrider.toml --data data </dev/null >>log 2>&1 &
    echo $! >pid
    while kill -0 \"$(cat pid)\" 2>/dev/null; do
        test -s data/listen && exit 0
        sleep 0.02
    done
    echo 'the server ended at once'
    exit 1
    ;;
esac
",
            folder = host.folder.path().display()
        );
        executable(&host.path("service"), script.as_bytes());
        host.service("start");
        host
    }

    /// Writes the configuration: the address, and this.
    pub fn configure(&self, more: &str) {
        let text = format!("listen = \"127.0.0.1:{}\"\n{more}", self.port);
        fs::write(self.path("postrider.toml"), text).unwrap();
    }

    /// Something in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The server's data folder.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// A release's executable.
    pub fn program(&self, release: &str) -> PathBuf {
        self.path("releases").join(release).join("postrider")
    }

    /// Stops or starts the server.
    pub fn service(&self, what: &str) {
        assert!(Command::new(self.path("service")).arg(what).status().unwrap().success(), "{what}: {}", self.log());
    }

    /// What the server has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The owner's client.
    pub async fn api(&self) -> Api {
        let data = self.data();
        eventually("there is a token", || async { data.join("owner.token").exists().then_some(()) }).await;
        Api { url: format!("http://127.0.0.1:{}", self.port), token: owner_token(&data) }
    }

    /// A signed build, ready to be installed.
    pub fn signed(&self, broken: &str) -> PathBuf {
        let file = self.unsigned(&build(broken));
        self.sign(&file, &self.key);
        file
    }

    /// Some bytes as an executable.
    pub fn unsigned(&self, bytes: &[u8]) -> PathBuf {
        let file = self.path("new");
        let _ = fs::remove_file(self.path("new.minisig"));
        executable(&file, bytes);
        file
    }

    /// Signs a file with the host's key, or another.
    pub fn sign(&self, file: &Path, key: &KeyPair) {
        let signature = minisign::sign(None, &key.sk, fs::File::open(file).unwrap(), None, None).unwrap();
        fs::write(format!("{}.minisig", file.display()), signature.into_string()).unwrap();
    }

    /// The host's own key pair.
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// `postrider upgrade` with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = postrider();
        command.arg("upgrade").args(args).arg("--config").arg(self.path("postrider.toml"));
        command.arg("--data").arg(self.data()).arg("--releases").arg(self.path("releases"));
        command.arg("--backup-to").arg(self.path("backups")).arg("--service").arg(self.path("service"));
        command
    }

    /// Runs it to its end.
    pub async fn upgrade(&self, args: &[&str]) -> Ended {
        run_with(self.command(args), b"").await
    }

    /// The same for one that is killed at a crash point.
    pub async fn killed_at(&self, point: &str, args: &[&str]) {
        let mut command = self.command(args);
        command.env(CRASH_AT, point);
        let ended = run_with(command, b"").await;
        assert_eq!(ended.code, None, "{point}: {ended:?}");
    }

    /// Runs it on a signed build.
    pub async fn upgrade_to(&self, broken: &str) -> Ended {
        let file = self.signed(broken);
        self.upgrade(&[file.to_str().unwrap(), "--deadline", "20s"]).await
    }

    /// What a link names.
    pub fn link(&self, name: &str) -> Option<String> {
        fs::read_link(self.path("releases").join(name)).ok().map(|to| to.to_str().unwrap().to_owned())
    }

    /// What became of upgrades.
    pub async fn history(&self) -> Vec<Value> {
        let ended = self.upgrade(&["--history", "--json"]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.objects()
    }
}

impl Drop for UpgradeHost {
    fn drop(&mut self) {
        let _ = Command::new(self.path("service")).arg("stop").stdout(Stdio::null()).status();
    }
}

fn executable(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::OpenOptionsExt;
    // A file that is being written cannot be run: closed before it gets its name.
    let fresh = path.with_extension("fresh");
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(true).mode(0o755);
    std::io::Write::write_all(&mut options.open(&fresh).unwrap(), bytes).unwrap();
    fs::rename(fresh, path).unwrap();
}
