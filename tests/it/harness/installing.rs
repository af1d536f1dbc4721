//! Install scripts run by a shell, below a folder of their own: nothing of this host is touched.

use super::api::Api;
use super::cli::{Ended, run_with};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A new host's root folder.
pub struct NewHost(TempDir);

impl Default for NewHost {
    fn default() -> Self {
        Self(TempDir::new().unwrap())
    }
}

impl NewHost {
    /// Where it is.
    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// Where a file of it is.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// All files in it, without folders.
    pub fn files(&self) -> Vec<String> {
        let mut folders = vec![self.root().to_owned()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() && !path.is_symlink() {
                    true => folders.push(path),
                    false => files.push(path.strip_prefix(self.root()).unwrap().display().to_string()),
                }
            }
        }
        files.sort();
        files
    }

    /// Has this shell read a script from its standard input.
    pub async fn sh(&self, shell: &[&str], script: &str) -> Ended {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).env("DESTDIR", self.root());
        run_with(command, script.as_bytes()).await
    }
}

/// An executable's header for a processor, with nothing behind it that could run.
pub fn dummy(machine: u8, filling: u8, bytes: usize) -> Vec<u8> {
    let mut dummy = vec![filling; bytes];
    dummy[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    dummy[18..20].copy_from_slice(&[machine, 0]);
    dummy[40..48].copy_from_slice(&(bytes as u64 - 64).to_le_bytes());
    dummy[58..62].copy_from_slice(&[64, 0, 1, 0]);
    dummy
}

/// Puts one into a server's folder for its own platform; answers where.
pub fn put_dummy(data: &Path, filling: u8, bytes: usize) -> PathBuf {
    let (platform, machine) = if cfg!(target_arch = "aarch64") { ("linux-aarch64", 183) } else { ("linux-x86_64", 62) };
    fs::create_dir_all(data.join("agents")).unwrap();
    let path = data.join("agents").join(format!("postrider-{platform}"));
    fs::write(&path, dummy(machine, filling, bytes)).unwrap();
    path
}

/// A fresh join string, and the install script for it.
pub async fn script(api: &Api, request: serde_json::Value) -> (String, String) {
    let made = api.call("POST", "/api/join", request).await.json();
    let join = made["join"].as_str().unwrap().to_owned();
    let reply = api.request("GET", &format!("/install/{join}"), &[], Vec::new()).await;
    assert_eq!(reply.status, 200, "{:?}", String::from_utf8_lossy(&reply.body));
    (join, String::from_utf8(reply.body).unwrap())
}

/// The line that an owner pastes.
pub async fn line(api: &Api) -> String {
    let made = api.call("POST", "/api/join", json!({})).await.json();
    made["install"].as_str().unwrap().to_owned()
}
