//! What systemd is told: a real socket in `NOTIFY_SOCKET`, and the real binary.

use crate::harness::process::{Process, ServerProcess, postrider};
use postrider::store::handle::DATABASE_FILE;
use rusqlite::Connection;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// The watchdog's time, in microseconds: beats come three times as often.
const WATCHDOG_USEC: &str = "300000";
/// So long without a word is silence: many times longer than between two beats.
const SILENCE: Duration = Duration::from_secs(2);

/// The service manager's end.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn listen(path: &Path) -> Self {
        Self { socket: UnixDatagram::bind(path).unwrap() }
    }

    /// The next message; none: there was silence.
    fn heard(&self, patience: Duration) -> Option<String> {
        let mut bytes = [0; 4096];
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let size = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..size].to_vec()).unwrap())
    }

    /// Waits for a message with this line.
    fn hears(&self, line: &str) -> String {
        for _ in 0..10_000 {
            let message = self.heard(crate::harness::eventually::PATIENCE).unwrap_or_else(|| panic!("no {line}"));
            if message.lines().any(|said| said == line) {
                return message;
            }
        }
        panic!("everything but {line}")
    }

    /// Waits until nothing is said any more.
    fn hears_silence(&self) {
        for _ in 0..1000 {
            if self.heard(SILENCE).is_none() {
                return;
            }
        }
        panic!("it never fell silent");
    }
}

async fn server(folder: &Path, socket: &Path) -> ServerProcess {
    let data = folder.join("server");
    let mut command = postrider();
    command.arg("serve").arg("--data").arg(&data).args(["--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", WATCHDOG_USEC);
    ServerProcess::attach(Process::spawn(command, folder.join("log")), &data).await
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_of_the_start_the_life_and_the_end() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("notify");
    let manager = Manager::listen(&socket);
    let mut server = server(folder.path(), &socket).await;
    let first = manager.heard(crate::harness::eventually::PATIENCE).unwrap();
    assert_eq!(first, "READY=1\nSTATUS=0 agents connected\n", "the first word, and not before it listens");
    manager.hears("WATCHDOG=1");
    let identity = crate::harness::raw_agent::Identity::enroll(&server.api, "web-1").await;
    let _agent = crate::harness::raw_agent::RawAgent::connect(&server.api, &identity).await;
    manager.hears("STATUS=1 agents connected");
    server.process.signal("TERM");
    assert!(manager.hears("STOPPING=1").contains("STATUS=draining"));
    assert_eq!(server.process.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committing_thread_that_hangs_beats_no_watchdog() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("notify");
    let manager = Manager::listen(&socket);
    let server = server(folder.path(), &socket).await;
    manager.hears("WATCHDOG=1");
    // Somebody holds the database: the thread waits and gets nothing through, while all others live.
    let lock = Connection::open(folder.path().join("server").join(DATABASE_FILE)).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    manager.hears_silence();
    assert_eq!(server.api.get("/healthz").await["status"], "ok");
    lock.execute_batch("ROLLBACK").unwrap();
    manager.hears("WATCHDOG=1");
}

#[tokio::test]
async fn nobody_there_to_tell_does_no_harm() {
    let folder = TempDir::new().unwrap();
    // A socket that nobody listens on.
    let server = server(folder.path(), &folder.path().join("nobody")).await;
    assert_eq!(server.api.get("/readyz").await["status"], "ok");
    let printed = server.process.printed();
    assert!(printed.contains("the service manager cannot be told"), "{printed}");
}
