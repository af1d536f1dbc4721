//! Releases for agents: signed, and put into a server's folder.

use super::api::Api;
use super::eventually::eventually;
use super::process::binary;
use minisign::KeyPair;
use postrider::release::{Platform, ReleaseKey, SIGNATURE_SUFFIX};
use postrider::secret::{hex, sha256};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Whoever answers for releases.
pub struct Signer(KeyPair);

impl Default for Signer {
    fn default() -> Self {
        Self(KeyPair::generate_unencrypted_keypair().unwrap())
    }
}

impl Signer {
    /// The key by which its releases are known.
    pub fn key(&self) -> ReleaseKey {
        self.0.pk.to_base64().parse().unwrap()
    }

    /// A signature's text.
    pub fn sign(&self, bytes: &[u8]) -> String {
        minisign::sign(None, &self.0.sk, bytes, None, None).unwrap().into_string()
    }

    /// Puts a release for this host into the folder of a server's data folder; answers its SHA-256.
    pub fn put(&self, data: &Path, bytes: &[u8]) -> String {
        let signature = self.sign(bytes);
        put(data, bytes);
        fs::write(format!("{}{SIGNATURE_SUFFIX}", place(data).display()), signature).unwrap();
        hex(&sha256(bytes))
    }
}

/// Puts an executable there and leaves the signature as it is.
pub fn put(data: &Path, bytes: &[u8]) {
    fs::create_dir_all(data.join("agents")).unwrap();
    let fresh = data.join("agents/fresh");
    fs::write(&fresh, bytes).unwrap();
    fs::rename(fresh, place(data)).unwrap();
}

/// Where this host's release lies.
pub fn place(data: &Path) -> PathBuf {
    data.join("agents").join(format!("postrider-{}", Platform::here().unwrap()))
}

fn marked(mut bytes: Vec<u8>, version: &str) -> Vec<u8> {
    bytes.extend(format!("\x16postrider-version={version}\x16").into_bytes());
    bytes
}

/// The binary under test as a release of another version: the same but for a mark at its end.
pub fn real(version: &str) -> Vec<u8> {
    static STRIPPED: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = STRIPPED.get_or_init(|| {
        // Its debug information is most of it, and would be copied, hashed and sent for each test.
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("stripped");
        let stripped = Command::new("strip").arg("-o").arg(&out).arg(binary()).status();
        fs::read(if stripped.is_ok_and(|status| status.success()) { out } else { binary().into() }).unwrap()
    });
    marked(bytes.clone(), version)
}

/// An executable's header with nothing behind it that could run.
pub fn dummy(version: &str) -> Vec<u8> {
    let mut bytes = vec![7; 4096];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let machine = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    bytes[18..20].copy_from_slice(&[machine, 0]);
    bytes[40..48].copy_from_slice(&4032u64.to_le_bytes());
    bytes[58..62].copy_from_slice(&[64, 0, 1, 0]);
    marked(bytes, version)
}

/// Starts a rollout that must be taken; `rest` is its body. Nothing soaks, if nothing is said.
pub async fn start(api: &Api, rest: Value) -> Value {
    let mut body = json!({ "soak_s": 0 });
    body.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    let reply = api.call("POST", "/api/rollout", body).await;
    assert_eq!(reply.status, 201, "{:?}", String::from_utf8_lossy(&reply.body));
    reply.json()["rollout"].clone()
}

/// The latest rollout.
pub async fn rollout(api: &Api) -> Value {
    api.get("/api/rollout").await["rollout"].clone()
}

/// Pauses, resumes or stops it.
pub async fn change(api: &Api, change: &str) {
    assert_eq!(api.call("POST", &format!("/api/rollout/{change}"), Value::Null).await.status, 200);
}

/// An agent's part in it.
pub fn part(rollout: &Value, agent: &str) -> Value {
    rollout["agents"].as_array().unwrap().iter().find(|part| part["name"] == agent).unwrap().clone()
}

/// Waits until an agent's part has this state; answers it.
pub async fn until(api: &Api, agent: &str, state: &str) -> Value {
    eventually(&format!("{agent} is {state} in the rollout"), || async {
        let part = part(&rollout(api).await, agent);
        (part["state"] == state).then_some(part)
    })
    .await
}

/// Waits until the rollout has this state; answers it.
pub async fn until_rollout(api: &Api, state: &str) -> Value {
    eventually(&format!("the rollout is {state}"), || async {
        let rollout = rollout(api).await;
        (rollout["state"] == state).then_some(rollout)
    })
    .await
}
