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
use crate::pin::Pin;
use crate::protocol::login::LoginString;
use crate::secret::Secret;
use crate::tls::Trust;
use std::path::Path;

/// The environment variable that holds a token.
pub const TOKEN_VARIABLE: &str = "POSTRIDER_TOKEN";

/// A server, the token for it, and whether the configuration file says so.
#[derive(Debug)]
struct Found {
    config: Config,
    is_remembered: bool,
}

/// A client for the server that the arguments, the environment and the files name.
///
/// # Errors
/// [`CliError::NoServer`], [`CliError::NoToken`], [`CliError::File`], [`CliError::Address`], [`CliError::Login`].
pub fn connect(args: &AccessArgs) -> Result<ApiClient, CliError> {
    let config_path = config::path();
    let found = find(args, named_token(args)?, config_path.as_deref(), &default_dir::server())?;
    let Config { url, token, pins } = found.config;
    let client = ApiClient::new(ServerUrl::parse(&url).map_err(CliError::Address)?, Trust::new(&pins), token);
    Ok(match config_path {
        Some(path) if found.is_remembered => client.remembered_in(&path),
        _ => client,
    })
}

/// The server's address and pins alone, by the same rules.
///
/// # Errors
/// [`CliError::NoServer`], [`CliError::File`], [`CliError::Address`], [`CliError::Login`].
pub fn server(args: &AccessArgs) -> Result<(ServerUrl, Vec<Pin>), CliError> {
    let some_token = Some(Secret::new(""));
    let found = find(args, some_token, config::path().as_deref(), &default_dir::server())?.config;
    Ok((ServerUrl::parse(&found.url).map_err(CliError::Address)?, found.pins))
}

/// A client for the server of a data folder.
///
/// # Errors
/// [`CliError::File`], [`CliError::Address`].
pub fn of_folder(data: &Path) -> Result<ApiClient, CliError> {
    let url = ServerUrl::parse(&folder_url(data)?).map_err(CliError::Address)?;
    Ok(ApiClient::new(url, Trust::new(&folder_pins(data)?), folder_token(data)?))
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
) -> Result<Found, CliError> {
    let remembered = || config_path.map(config::read).transpose().map(Option::flatten);
    if let Some(server) = &args.server {
        return named(server, args.data.as_deref(), token, remembered()?);
    }
    let of_folder = |data: &Path, token: Option<Secret>| {
        let (url, pins) = (folder_url(data)?, folder_pins(data)?);
        let config = Config { url, token: token.map_or_else(|| folder_token(data), Ok)?, pins };
        Ok(Found { config, is_remembered: false })
    };
    if let Some(data) = &args.data {
        return of_folder(data, token);
    }
    if let Some(config) = remembered()? {
        let config = Config { token: token.unwrap_or(config.token), ..config };
        return Ok(Found { config, is_remembered: true });
    }
    if folder_url(default_data).is_err() {
        return Err(CliError::NoServer);
    }
    of_folder(default_data, token)
}

/// The server of `--server`: an address or a login string. What is known of that very server beside it, its pins and a
/// token for it, comes from the data folder or the configuration file.
fn named(
    server: &str,
    data: Option<&Path>,
    token: Option<Secret>,
    remembered: Option<Config>,
) -> Result<Found, CliError> {
    let (url, given) = match LoginString::decode(server)? {
        Some(login) => (login.url, login.pins),
        None => (server.to_owned(), Vec::new()),
    };
    let remembered = remembered.filter(|config| is_same(&config.url, &url));
    let data = data.filter(|data| folder_url(data).is_ok_and(|folder| is_same(&folder, &url)));
    let (known, own_token) = match (data, &remembered) {
        (Some(data), _) => (folder_pins(data)?, Some(folder_token(data)).filter(|_| token.is_none()).transpose()?),
        (None, Some(config)) => (config.pins.clone(), Some(config.token.clone())),
        (None, None) => (Vec::new(), None),
    };
    // At the same address with none of the same authorities it is another server.
    let is_other = !given.is_empty() && !known.is_empty() && !given.iter().any(|pin| known.contains(pin));
    let own_token = own_token.filter(|_| !is_other);
    let token = token.or(own_token).ok_or_else(|| CliError::NoToken { url: url.clone() })?;
    let is_remembered = data.is_none() && given.is_empty() && remembered.is_some();
    let pins = if given.is_empty() { known } else { given };
    Ok(Found { config: Config { url, token, pins }, is_remembered })
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

/// The pins of a data folder's server, newest first; none: it speaks plain HTTP.
fn folder_pins(data: &Path) -> Result<Vec<Pin>, CliError> {
    let path = data.join("pins");
    let Some(text) = config::read_small(&path)? else { return Ok(Vec::new()) };
    let pins = text.lines().map(|line| line.trim().parse::<Pin>()).collect::<Result<_, _>>();
    pins.map_err(|error| missing(&path, &error.to_string()))
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
            let config = Config { url: "http://config:7".into(), token: Secret::new("configured"), pins: Vec::new() };
            config::write(&self.folder.path().join("config.toml"), &config).unwrap();
        }

        fn find(&self, args: &AccessArgs, token: Option<&str>, data: &str) -> Result<(String, String), CliError> {
            let config = self.folder.path().join("config.toml");
            find(args, token.map(Secret::new), Some(&config), &self.folder.path().join(data))
                .map(|found| (found.config.url, found.config.token.expose().to_owned()))
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
    fn a_login_string_names_its_server_and_a_token_goes_to_no_other_authority() {
        let host = Host::new();
        let path = host.folder.path().join("config.toml");
        let (ours, theirs) = (Pin::of_key(b"ours"), Pin::of_key(b"theirs"));
        let url = "https://config:7";
        let config = Config { url: url.into(), token: Secret::new("configured"), pins: vec![ours] };
        config::write(&path, &config).unwrap();
        let find = |server: &str, token: Option<&str>| {
            let args = AccessArgs { server: Some(server.into()), ..AccessArgs::default() };
            find(&args, token.map(Secret::new), Some(&path), Path::new("/nonexistent"))
        };
        let login = |pins: &[Pin]| {
            let server_id = crate::protocol::ids::ServerId::new();
            LoginString { url: url.into(), server_id, pins: pins.to_vec() }.encode()
        };
        let found = find(url, None).unwrap();
        assert_eq!((found.config.pins, found.is_remembered), (vec![ours], true));
        let found = find(&login(&[theirs, ours]), None).unwrap();
        assert_eq!(found.config.token.expose(), "configured");
        assert_eq!((found.config.pins, found.is_remembered), (vec![theirs, ours], false));
        assert!(matches!(find(&login(&[theirs]), None), Err(CliError::NoToken { .. })));
        assert_eq!(find(&login(&[theirs]), Some("t")).unwrap().config.pins, [theirs]);
        assert!(matches!(find(&login(&[ours])[..20], None), Err(CliError::Login(_))));
        assert!(matches!(find("http://config:7", None), Err(CliError::NoToken { .. })), "nor in the clear");
    }

    #[test]
    fn a_folder_without_a_server_says_so() {
        let host = Host::new();
        let data = AccessArgs { data: Some(host.folder.path().to_owned()), ..AccessArgs::default() };
        assert!(host.find(&data, None, "data").unwrap_err().to_string().contains("has it been started?"));
    }
}
