//! `postrider login`: remembers a server and a token for this user.

use super::access;
use super::args::AccessArgs;
use super::client::ApiClient;
use super::config::{self, Config};
use super::error::{About, CliError};
use super::out;
use crate::protocol::http::AgentsResponse;
use crate::secret::Secret;
use crate::tls::Trust;
use clap::Args;
use std::io::{IsTerminal, Read};

/// Longest token that is read, in bytes.
const TOKEN_BYTES_MAX: u64 = 4096;

/// `postrider login`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The login string says where the server is and by which authority it is known; `postrider authority list` on the
server prints it, and it holds no secret. A server with a public certificate needs its https:// address alone.
The token is read from --token-file, else from POSTRIDER_TOKEN, else from standard input. It is tried first, then
written with the server's address and pins to ~/.config/postrider/config.toml (mode 0600).

Examples:
  postrider login --server prl1_… --token-file ann.token
  pass msp/token | postrider login --server https://msp.example"
)]
pub struct LoginArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub access: AccessArgs,
}

/// Runs the verb.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: LoginArgs) -> Result<u8, CliError> {
    let (url, pins) = access::server(&args.access)?;
    let token = match (access::named_token(&args.access)?, &args.access.data) {
        (Some(token), _) => token,
        (None, Some(data)) => access::folder_token(data)?,
        (None, None) => read_token()?,
    };
    let client = ApiClient::new(url.clone(), Trust::new(&pins), token.clone());
    let _agents: AgentsResponse = client.get("/api/agents?limit=1", About::Agents).await?;
    let path = config::path().ok_or_else(|| {
        CliError::Usage("this user has no home folder to write to: set HOME or XDG_CONFIG_HOME".to_owned())
    })?;
    config::write(&path, &Config { url: url.to_string(), token, pins })?;
    out::note(&format!("{url} is remembered in {}", path.display()));
    Ok(0)
}

fn read_token() -> Result<Secret, CliError> {
    let stdin = std::io::stdin();
    let failed = |error: std::io::Error| CliError::Stdin(error.to_string());
    let mut text = String::new();
    if stdin.is_terminal() {
        out::note("paste the token and press Enter (it is shown while you type; --token-file FILE avoids that):");
        stdin.read_line(&mut text).map_err(failed)?;
    } else {
        stdin.lock().take(TOKEN_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    }
    match text.trim() {
        "" => Err(CliError::Stdin("it holds no token".to_owned())),
        token => Ok(Secret::new(token)),
    }
}
