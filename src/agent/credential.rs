//! Who this agent is: its Ed25519 key and what the server called it, in one private file.
//!
//! The key is written, as pending, before it is sent anywhere, so that an enrollment whose answer was lost is repeated
//! with the same key and gives the same agent. The private key leaves this host never and this file only for signing.

use super::data::{DataFolder, write_whole};
use super::error::AgentError;
use crate::http_client::ServerUrl;
use crate::pin::Pin;
use crate::protocol::frame::hello_signature_input;
use crate::protocol::ids::{AgentId, ServerId};
use crate::protocol::name::AgentName;
use crate::secret::Secret;
use crate::tls::Trust;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The version of the file that this build reads and writes.
const CREDENTIAL_VERSION: u32 = 1;
/// Largest file read, in bytes: a real one has under 1 KiB.
const CREDENTIAL_BYTES_MAX: usize = 64 * 1024;

/// What the credential file holds.
#[derive(Debug)]
pub struct Credential {
    /// Where the server is.
    pub url: ServerUrl,
    /// Which server it must be.
    pub server_id: ServerId,
    /// By whose authority it must be that server.
    pub trust: Trust,
    /// Given at enrollment; none: it is pending.
    pub agent_id: Option<AgentId>,
    /// The agent's name.
    pub name: AgentName,
    key: Secret,
    pair: Ed25519KeyPair,
}

#[derive(Serialize, Deserialize)]
struct Document {
    v: u32,
    server_url: String,
    server_id: ServerId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pins: Vec<Pin>,
    agent_id: Option<AgentId>,
    name: AgentName,
    /// PKCS#8 in URL-safe base64 without padding.
    key: String,
}

impl Credential {
    /// A pending one with a fresh key and no pins.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn generate(url: ServerUrl, server_id: ServerId, name: AgentName) -> Self {
        let pkcs8 =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("the operating system gives random bytes");
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key that was just made can be read");
        let key = Secret::new(URL_SAFE_NO_PAD.encode(pkcs8.as_ref()));
        Self { url, server_id, trust: Trust::default(), agent_id: None, name, key, pair }
    }

    /// Reads the folder's credential; none: there is no file.
    ///
    /// # Errors
    /// [`AgentError::Data`], [`AgentError::Credential`].
    pub fn load(folder: &DataFolder) -> Result<Option<Self>, AgentError> {
        Self::read(&folder.credential())
    }

    /// The same from the file itself, whoever uses the folder.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn read(path: &Path) -> Result<Option<Self>, AgentError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(AgentError::Data { path: path.to_owned(), source }),
        };
        Self::parse(&bytes).map(Some).map_err(|message| AgentError::Credential { path: path.to_owned(), message })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > CREDENTIAL_BYTES_MAX {
            return Err(format!("it has {} bytes", bytes.len()));
        }
        // The reader's own message could quote the key.
        let document: Document = serde_json::from_slice(bytes)
            .map_err(|error| format!("line {}, column {}", error.line(), error.column()))?;
        if document.v != CREDENTIAL_VERSION {
            return Err(format!("its version is {}; this build knows {CREDENTIAL_VERSION}", document.v));
        }
        let url = ServerUrl::parse(&document.server_url).map_err(|error| error.to_string())?;
        let pkcs8 = URL_SAFE_NO_PAD.decode(&document.key).map_err(|_| "the key is no base64".to_owned())?;
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| "the key is no Ed25519 key".to_owned())?;
        Ok(Self {
            url,
            server_id: document.server_id,
            trust: Trust::new(&document.pins),
            agent_id: document.agent_id,
            name: document.name,
            key: Secret::new(document.key),
            pair,
        })
    }

    /// Writes it to the folder, atomically.
    ///
    /// # Errors
    /// [`AgentError::Data`].
    pub fn save(&self, folder: &DataFolder) -> Result<(), AgentError> {
        self.save_to(&folder.credential())
    }

    fn save_to(&self, path: &Path) -> Result<(), AgentError> {
        let document = Document {
            v: CREDENTIAL_VERSION,
            server_url: self.url.to_string(),
            server_id: self.server_id,
            pins: self.trust.pins().to_vec(),
            agent_id: self.agent_id,
            name: self.name.clone(),
            key: self.key.expose().to_owned(),
        };
        serde_json::to_vec_pretty(&document)
            .map_err(std::io::Error::from)
            .and_then(|bytes| write_whole(path, &bytes))
            .map_err(|source| AgentError::Data { path: path.to_owned(), source })
    }

    /// The public key: 32 bytes in URL-safe base64 without padding.
    pub fn public_key(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref())
    }

    /// The answer to a challenge, in URL-safe base64 without padding.
    pub fn sign_hello(&self, nonce: &[u8; 32], agent_id: AgentId) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.sign(&hello_signature_input(nonce, self.server_id, agent_id)).as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_with_the_same_key_and_damage_is_told_without_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        assert!(Credential::load(&data).unwrap().is_none());
        let url = ServerUrl::parse("http://127.0.0.1:7").unwrap();
        let mut made = Credential::generate(url, ServerId::new(), "a".parse().unwrap());
        made.save(&data).unwrap();
        assert_eq!(Credential::load(&data).unwrap().unwrap().agent_id, None);
        made.agent_id = Some(AgentId::new());
        made.trust = Trust::new(&[Pin::of_key(b"a")]);
        made.save(&data).unwrap();
        let read = Credential::load(&data).unwrap().unwrap();
        assert_eq!((read.agent_id, read.public_key()), (made.agent_id, made.public_key()));
        assert_eq!(read.trust.pins(), made.trust.pins());
        assert!(!format!("{read:?}").contains(made.key.expose()));
        let text = std::fs::read_to_string(data.credential()).unwrap();
        std::fs::write(data.credential(), text.replace("\"v\"", "\"w\"")).unwrap();
        let told = Credential::load(&data).unwrap_err().to_string();
        assert!(told.contains("damaged") && !told.contains(made.key.expose()), "{told}");
    }

    #[test]
    fn hello_is_signed_for_this_server_and_agent() {
        let url = ServerUrl::parse("http://127.0.0.1:7").unwrap();
        let made = Credential::generate(url, ServerId::new(), "a".parse().unwrap());
        let agent = AgentId::new();
        let signature = URL_SAFE_NO_PAD.decode(made.sign_hello(&[7; 32], agent)).unwrap();
        let public = URL_SAFE_NO_PAD.decode(made.public_key()).unwrap();
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public);
        assert!(key.verify(&hello_signature_input(&[7; 32], made.server_id, agent), &signature).is_ok());
        assert!(key.verify(&hello_signature_input(&[8; 32], made.server_id, agent), &signature).is_err());
    }
}
