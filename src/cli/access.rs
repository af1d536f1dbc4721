//! Finding the server and the token.
//!
//! A server's address goes before a data folder, each by its flag, else by the environment; then come the configuration
//! file and the default data folder. A token is only sent to the server that it came with, unless it was named for this call.

use super::args::AccessArgs;
use super::client::ApiClient;
use super::config::{self, Config};
use super::default_dir;
use super::error::CliError;
use crate::http_client::ServerUrl;
use crate::secret::Secret;
use std::path::Path;

/// The environment variable that holds a token.
pub const TOKEN_VARIABLE: &str = "POSTRIDER_TOKEN";

/// A client for the server that the arguments, the environment and the files name.
///
/// # Errors
/// [`CliError::NoServer`], [`CliError::NoToken`], [`CliError::File`], [`CliError::Address`].
pub fn connect(args: &AccessArgs) -> Result<ApiClient, CliError> {
    let config_path = config::path();
    let found = find(args, named_token(args)?, config_path.as_deref(), &default_dir::server())?;
    Ok(ApiClient::new(ServerUrl::parse(&found.url).map_err(CliError::Address)?, found.token))
}

/// The server's address alone, by the same rules.
///
/// # Errors
/// [`CliError::NoServer`], [`CliError::File`], [`CliError::Address`].
pub fn server_url(args: &AccessArgs) -> Result<ServerUrl, CliError> {
    let some_token = Some(Secret::new(""));
    let found = find(args, some_token, config::path().as_deref(), &default_dir::server())?;
    ServerUrl::parse(&found.url).map_err(CliError::Address)
}

/// A client for the server of a data folder.
///
/// # Errors
/// [`CliError::File`], [`CliError::Address`].
pub fn of_folder(data: &Path) -> Result<ApiClient, CliError> {
    let url = ServerUrl::parse(&folder_url(data)?).map_err(CliError::Address)?;
    Ok(ApiClient::new(url, folder_token(data)?))
}

/// The token of a file, without the white space around it.
///
/// # Errors
/// [`CliError::File`].
pub fn token_file(path: &Path) -> Result<Secret, CliError> {
    let text = config::read_small(path)?.ok_or_else(|| missing(path, "there is no such file"))?;
    match text.trim() {
        "" => Err(missing(path, "it is empty; it should hold a token")),
        token => Ok(Secret::new(token)),
    }
}

/// The token that was named for this call: the file of `--token-file`, else the environment's.
///
/// # Errors
/// [`CliError::File`].
pub fn named_token(args: &AccessArgs) -> Result<Option<Secret>, CliError> {
    if let Some(path) = &args.token_file {
        return token_file(path).map(Some);
    }
    Ok(std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.trim().is_empty()).map(|t| Secret::new(t.trim())))
}

fn find(
    args: &AccessArgs,
    token: Option<Secret>,
    config_path: Option<&Path>,
    default_data: &Path,
) -> Result<Config, CliError> {
    if let Some(url) = &args.server {
        let no_token = || CliError::NoToken { url: url.clone() };
        let token = match (token, &args.data) {
            (Some(token), _) => token,
            // The folder's token is for the folder's server alone.
            (None, Some(data)) if folder_url(data).is_ok_and(|folder| is_same(&folder, url)) => folder_token(data)?,
            (None, _) => {
                let config = config_path.map(config::read).transpose()?.flatten();
                config.filter(|config| is_same(&config.url, url)).map(|config| config.token).ok_or_else(no_token)?
            }
        };
        return Ok(Config { url: url.clone(), token });
    }
    if let Some(data) = &args.data {
        let url = folder_url(data)?;
        return Ok(Config { url, token: token.map_or_else(|| folder_token(data), Ok)? });
    }
    if let Some(config) = config_path.map(config::read).transpose()?.flatten() {
        return Ok(Config { url: config.url, token: token.unwrap_or(config.token) });
    }
    let Ok(url) = folder_url(default_data) else { return Err(CliError::NoServer) };
    Ok(Config { url, token: token.map_or_else(|| folder_token(default_data), Ok)? })
}

fn is_same(a: &str, b: &str) -> bool {
    matches!((ServerUrl::parse(a), ServerUrl::parse(b)), (Ok(a), Ok(b)) if a == b)
}

fn folder_url(data: &Path) -> Result<String, CliError> {
    let path = data.join("listen");
    let text = config::read_small(&path)?.ok_or_else(|| {
        missing(&path, "no server has written its address there: is this its data folder, and has it been started?")
    })?;
    Ok(text.trim().to_owned())
}

/// The owner's token of a data folder.
///
/// # Errors
/// [`CliError::File`].
pub fn folder_token(data: &Path) -> Result<Secret, CliError> {
    token_file(&data.join("owner.token"))
}

fn missing(path: &Path, message: &str) -> CliError {
    CliError::File { path: path.to_owned(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host {
        folder: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("data")).unwrap();
            std::fs::write(folder.path().join("data/listen"), "http://127.0.0.1:1\n").unwrap();
            std::fs::write(folder.path().join("data/owner.token"), "owner\n").unwrap();
            Self { folder }
        }

        fn login(&self) {
            let config = Config { url: "http://config:7".into(), token: Secret::new("configured") };
            config::write(&self.folder.path().join("config.toml"), &config).unwrap();
        }

        fn find(&self, args: &AccessArgs, token: Option<&str>, data: &str) -> Result<(String, String), CliError> {
            let config = self.folder.path().join("config.toml");
            find(args, token.map(Secret::new), Some(&config), &self.folder.path().join(data))
                .map(|found| (found.url, found.token.expose().to_owned()))
        }
    }

    fn pair(url: &str, token: &str) -> (String, String) {
        (url.to_owned(), token.to_owned())
    }

    #[test]
    fn what_is_nearer_goes_first() {
        let host = Host::new();
        let none = AccessArgs::default();
        assert!(matches!(host.find(&none, None, "nothing"), Err(CliError::NoServer)));
        assert_eq!(host.find(&none, None, "data").unwrap(), pair("http://127.0.0.1:1", "owner"));
        host.login();
        assert_eq!(host.find(&none, None, "data").unwrap(), pair("http://config:7", "configured"));
        assert_eq!(host.find(&none, Some("mine"), "data").unwrap(), pair("http://config:7", "mine"));
        let data = AccessArgs { data: Some(host.folder.path().join("data")), ..AccessArgs::default() };
        assert_eq!(host.find(&data, None, "nothing").unwrap(), pair("http://127.0.0.1:1", "owner"));
    }

    #[test]
    fn a_token_does_not_go_to_another_server() {
        let host = Host::new();
        host.login();
        let server = |url: &str| AccessArgs { server: Some(url.into()), ..AccessArgs::default() };
        assert!(matches!(host.find(&server("http://other:7"), None, "data"), Err(CliError::NoToken { .. })));
        assert_eq!(
            host.find(&server("http://config:7/"), None, "data").unwrap(),
            pair("http://config:7/", "configured")
        );
        assert_eq!(host.find(&server("http://other:7"), Some("t"), "data").unwrap(), pair("http://other:7", "t"));
        let folder = |url: &str| AccessArgs { data: Some(host.folder.path().join("data")), ..server(url) };
        assert!(matches!(host.find(&folder("http://other:7"), None, "x"), Err(CliError::NoToken { .. })));
        assert_eq!(host.find(&folder("http://127.0.0.1:1"), None, "x").unwrap().1, "owner");
    }

    #[test]
    fn a_folder_without_a_server_says_so() {
        let host = Host::new();
        let data = AccessArgs { data: Some(host.folder.path().to_owned()), ..AccessArgs::default() };
        assert!(host.find(&data, None, "data").unwrap_err().to_string().contains("has it been started?"));
    }
}
