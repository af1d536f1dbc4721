//! The secrets of commands between submission and dispatch: sealed for one command, so that one's cannot become another's.

use crate::protocol::ids::CommandId;
use crate::protocol::secret_env::SecretEnv;
use crate::seal::SealKey;
use crate::store::enqueue::Sealed;

fn context(command: CommandId) -> Vec<u8> {
    [b"secrets of command ", &command.as_bytes()[..]].concat()
}

/// Seals the secrets of a command that is about to be submitted; none when it has none.
pub fn seal(key: &SealKey, secrets: &SecretEnv) -> Option<Sealed> {
    if secrets.is_empty() {
        return None;
    }
    let command = CommandId::new();
    let plain = serde_json::to_vec(secrets).unwrap_or_else(|_| unreachable!("maps of texts are JSON"));
    Some(Sealed { command, bytes: key.seal(&context(command), &plain) })
}

/// Opens them; none: they were sealed under another key, or are not this command's.
pub fn open(key: &SealKey, command: CommandId, sealed: &[u8]) -> Option<SecretEnv> {
    serde_json::from_slice(&key.open(&context(command), sealed)?).ok()
}
