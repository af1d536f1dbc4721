//! The command line as a person or a script uses it: the real binary, its exit code and its two streams.

use super::process::postrider;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Beyond this a verb hangs: far more than anything needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a verb ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// Its standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Ended {
    /// Its standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    /// Its standard output as JSON objects, one a line.
    pub fn objects(&self) -> Vec<Value> {
        let objects: Vec<Value> = self.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(objects.iter().all(Value::is_object), "{objects:?}");
        objects
    }
}

/// A verb on the host of the server whose data folder this is.
pub fn verb(data: &Path, args: &[&str]) -> Command {
    let mut command = postrider();
    command.args(args).env("POSTRIDER_DATA", data);
    command
}

/// Runs a verb to its end, with `stdin` as its standard input.
pub async fn run_with(mut command: Command, stdin: &[u8]) -> Ended {
    use tokio::io::AsyncWriteExt;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // A verb that does not read its input may have ended already.
    let _ = pipe.write_all(stdin).await;
    drop(pipe);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("the verb ends").unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    Ended { code: output.status.code(), stdout: output.stdout, stderr }
}

/// Runs a verb on the server's host to its end.
pub async fn run(data: &Path, args: &[&str]) -> Ended {
    run_with(verb(data, args), b"").await
}

/// The same for one that must succeed.
pub async fn good(data: &Path, args: &[&str]) -> Ended {
    let ended = run(data, args).await;
    assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
    ended
}
