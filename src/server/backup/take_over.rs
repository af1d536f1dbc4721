//! What a restore takes over from the state before it, where that is of the same server.
//!
//! Newer authorities: agents that have learned them, and forgotten the old, must know the restored server. And the owner's
//! token, which is in no backup.

use super::error::BackupError;
use super::files::beside_the_database;
use crate::pin::PINS_MAX;
use crate::protocol::backup::Manifest;
use crate::secret::Secret;
use crate::server::folder::{OWNER_TOKEN_FILE, make_private, write_private};
use crate::server::tls::authorities::TLS_FOLDER;
use crate::store::copy::{CopyError, knows_token, server_id};
use crate::store::handle::DATABASE_FILE;
use std::fs;
use std::path::Path;

/// Takes over from `data` into the unpacked backup at `new`; answers the files.
///
/// # Errors
/// [`BackupError`].
pub fn take_over(data: &Path, new: &Path, manifest: &Manifest) -> Result<Vec<String>, BackupError> {
    let mut taken = Vec::new();
    if let Some(token) = owner_token(data, new)? {
        write_private(new, OWNER_TOKEN_FILE, &format!("{}\n", token.expose()))?;
        taken.push(OWNER_TOKEN_FILE.to_owned());
    }
    if !data.exists() || !is_same_server(data, new, manifest) {
        return Ok(taken);
    }
    let folder = new.join(TLS_FOLDER);
    let mut room = PINS_MAX.saturating_sub(authorities(new)?.len());
    // The newest first: agents know them best.
    for name in authorities(data)?.into_iter().rev() {
        let from = data.join(&name);
        if new.join(&name).exists() || room == 0 {
            continue;
        }
        room -= 1;
        let text = fs::read_to_string(&from).map_err(BackupError::io(&from))?;
        make_private(&folder).map_err(BackupError::io(&folder))?;
        write_private(new, &name, &text)?;
        taken.push(name);
    }
    Ok(taken)
}

/// The owner's token that lies in the folder, if the restored database knows it.
fn owner_token(data: &Path, new: &Path) -> Result<Option<Secret>, BackupError> {
    let Ok(text) = fs::read_to_string(data.join(OWNER_TOKEN_FILE)) else { return Ok(None) };
    let (token, path) = (Secret::new(text.trim()), new.join(DATABASE_FILE));
    let known = knows_token(&path, &token).map_err(|source: CopyError| BackupError::Source { path, source })?;
    Ok(known.then_some(token))
}

fn authorities(data: &Path) -> Result<Vec<String>, BackupError> {
    let mut names = beside_the_database(data)?;
    names.retain(|name| name.starts_with(&format!("{TLS_FOLDER}/authority-")));
    Ok(names)
}

/// By its database, or where that cannot be read, which may be why there is a restore, by an authority that both have.
fn is_same_server(data: &Path, new: &Path, manifest: &Manifest) -> bool {
    if let Ok(id) = server_id(&data.join(DATABASE_FILE)) {
        return id == manifest.server_id;
    }
    let names = authorities(data).unwrap_or_default();
    names
        .iter()
        .any(|name| fs::read(data.join(name)).ok().is_some_and(|text| fs::read(new.join(name)).ok() == Some(text)))
}
