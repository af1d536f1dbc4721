//! The user's configuration file: which server, and the token for it. Written by `login`, mode 0600.

use super::error::CliError;
use crate::pin::Pin;
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Largest configuration or token file that is read, in bytes: both hold a few lines.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What the file says.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server's address.
    pub url: String,
    /// The token for it.
    pub token: Secret,
    /// By whose authority it must be that server, newest first; empty: whom the system trusts.
    pub pins: Vec<Pin>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    server: ServerTable,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerTable {
    url: String,
    token: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pins: Vec<Pin>,
}

/// Where the file is: `$XDG_CONFIG_HOME/postrider/config.toml`, else under `~/.config`. None: this user has no home.
pub fn path() -> Option<PathBuf> {
    let folder = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("XDG_CONFIG_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".config")))
        .or_else(|| folder("APPDATA"))
        .map(|base| base.join("postrider").join("config.toml"))
}

/// Reads the file. None: there is none.
///
/// # Errors
/// [`CliError::File`]: unreadable, not as it should be, or readable by others.
pub fn read(path: &Path) -> Result<Option<Config>, CliError> {
    let Some(text) = read_small(path)? else { return Ok(None) };
    refuse_if_shared(path)?;
    let document: Document = toml::from_str(&text).map_err(|error| wrong(path, error.message()))?;
    let ServerTable { url, token, pins } = document.server;
    Ok(Some(Config { url, token: Secret::new(token), pins }))
}

/// Writes the file: a new one beside it, then a rename, so that there is never half of one.
///
/// # Errors
/// [`CliError::File`].
pub fn write(path: &Path, config: &Config) -> Result<(), CliError> {
    let failed = |error: std::io::Error| wrong(path, &error.to_string());
    let (url, token, pins) = (config.url.clone(), config.token.expose().to_owned(), config.pins.clone());
    let document = Document { server: ServerTable { url, token, pins } };
    let text = toml::to_string(&document).map_err(|error| wrong(path, &error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    // Temporary files are made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Replaces the pins of the server that is remembered with `known`, because it has these now. Another server's, or pins
/// that somebody else has replaced meanwhile, are left alone.
///
/// # Errors
/// [`CliError::File`].
pub fn learn(path: &Path, url: &str, known: &[Pin], pins: Vec<Pin>) -> Result<(), CliError> {
    match read(path)? {
        Some(config) if config.url == url && config.pins == known => write(path, &Config { pins, ..config }),
        _ => Ok(()),
    }
}

/// Reads a small text file. None: there is none.
///
/// # Errors
/// [`CliError::File`]: unreadable, too large or not UTF-8.
pub fn read_small(path: &Path) -> Result<Option<String>, CliError> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(path, &error.to_string())),
    };
    if meta.len() > FILE_BYTES_MAX {
        return Err(wrong(path, &format!("has {} bytes; at most {FILE_BYTES_MAX} are read", meta.len())));
    }
    std::fs::read_to_string(path).map(Some).map_err(|error| wrong(path, &error.to_string()))
}

#[cfg(unix)]
fn refuse_if_shared(path: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map_err(|error| wrong(path, &error.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        let advice = format!("others may read it, and it holds a token: run `chmod 600 {}`", path.display());
        return Err(wrong(path, &advice));
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_if_shared(_: &Path) -> Result<(), CliError> {
    Ok(())
}

fn wrong(path: &Path, message: &str) -> CliError {
    CliError::File { path: path.to_owned(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/config.toml");
        assert!(read(&path).unwrap().is_none());
        let config = Config { url: "http://127.0.0.1:7717".into(), token: Secret::new("prt_\"x"), pins: Vec::new() };
        write(&path, &config).unwrap();
        write(&path, &config).unwrap();
        let back = read(&path).unwrap().unwrap();
        assert_eq!((&back.url, &back.token), (&config.url, &config.token));
        let (one, two) = (Pin::of_key(b"1"), Pin::of_key(b"2"));
        learn(&path, "http://other:1", &[], vec![one]).unwrap();
        learn(&path, &config.url, &[two], vec![one]).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().pins, []);
        learn(&path, &config.url, &[], vec![two, one]).unwrap();
        let back = read(&path).unwrap().unwrap();
        assert_eq!((back.pins, back.token), (vec![two, one], config.token));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "[server]\nurl = \"http://a:1\"\ntoken = \"t\"\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read(&path).unwrap().is_some());
        std::fs::write(&path, "[server]\nurl = \"http://a:1\"\ntoken = \"t\"\ncolour = 1\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("colour"));
    }
}
