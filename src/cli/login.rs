//! `postrider login`: remembers a server and a token for this user.

use super::access;
use super::args::AccessArgs;
use super::client::ApiClient;
use super::config::{self, Config};
use super::error::{About, CliError};
use super::input::{ask, ask_code};
use super::out;
use super::time::moment;
use super::totp;
use crate::clock::Clock;
use crate::protocol::access::SessionResponse;
use crate::secret::Secret;
use crate::tls::Trust;
use clap::Args;

/// `postrider login`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The login string says where the server is and by which authority it is known; `postrider authority list` on the
server prints it, and it holds no secret. A server with a public certificate needs its https:// address alone.
The token is read from --token-file, else from POSTRIDER_TOKEN, else from standard input. It is tried first, then
written with the server's address and pins to ~/.config/postrider/config.toml (mode 0600). Where the server wants a
one-time password with it, that is read from standard input, and a session is written in place of the token: it is good
for 8 hours, and ends after half an hour without a verb.

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
        (None, None) => ask(
            "paste the token and press Enter (it is shown while you type; --token-file FILE avoids that):",
            "token",
        )?,
    };
    let client = ApiClient::new(url.clone(), Trust::new(&pins), token.clone());
    let tried: Result<SessionResponse, CliError> = client.get("/api/session", About::Tokens).await;
    let (token, expires_ms) = match tried {
        Ok(_) => (token, None),
        Err(error) if totp::is_asked_for(&error) => session(&client).await?,
        Err(error) => return Err(error),
    };
    let path = config::path().ok_or_else(|| {
        CliError::Usage("this user has no home folder to write to: set HOME or XDG_CONFIG_HOME".to_owned())
    })?;
    config::write(&path, &Config { url: url.to_string(), token, pins })?;
    out::note(&format!("{url} is remembered in {}", path.display()));
    if let Some(at_ms) = expires_ms {
        let at = moment(at_ms, Clock::system().now_ms());
        out::note(&format!("the session ends at {at}, or after half an hour without a verb; then log in again"));
    }
    Ok(0)
}

/// The token needs a one-time password: a session stands for both, and ends by itself.
async fn session(client: &ApiClient) -> Result<(Secret, Option<i64>), CliError> {
    let opened = totp::open_session(client, ask_code()?.expose()).await?;
    let token = opened.token.map(Secret::new).ok_or_else(|| {
        let message = "it opened a session and did not show it".to_owned();
        CliError::Answer { url: client.url().to_string(), message }
    })?;
    Ok((token, opened.expires_ms))
}
