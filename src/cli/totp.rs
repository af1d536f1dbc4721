//! `postrider tokens totp`: a one-time password beside the token, from an authenticator.

use super::client::ApiClient;
use super::error::{About, CliError};
use super::input::ask_code;
use super::out;
use crate::protocol::access::{SessionRequest, SessionResponse, TotpRequest, TotpResponse};
use serde_json::Value;

/// The code of a token that needs a one-time password.
const TOTP_REQUIRED: &str = "totp_required";

/// Turns it on for the token in use: shows the secret, and asks for the first password.
///
/// # Errors
/// [`CliError`].
pub async fn on(client: &ApiClient, json: bool) -> Result<(), CliError> {
    let path = path(client).await?;
    let made: TotpResponse = client.post(&path, &Value::Object(Default::default()), None, About::Tokens).await?;
    if json {
        out::json(&made)?;
    } else {
        out::line(&made.url)?;
    }
    out::note(
        "put this address into your authenticator; it is shown once. It is not in force before a password proves it",
    );
    let code = ask_code()?.expose().to_owned();
    let _: Value = client.put(&path, &TotpRequest { code }, About::Tokens).await?;
    out::note("one-time passwords are on: this token alone only opens sessions now; run `postrider login` with it");
    Ok(())
}

/// Turns it off for the token in use.
///
/// # Errors
/// [`CliError`].
pub async fn off(client: &ApiClient) -> Result<(), CliError> {
    client.delete(&path(client).await?, About::Tokens).await?;
    out::note("one-time passwords are off: this token is good by itself again");
    Ok(())
}

async fn path(client: &ApiClient) -> Result<String, CliError> {
    let session: SessionResponse = client.get("/api/session", About::Tokens).await?;
    Ok(format!("/api/tokens/{}/totp", session.token_id))
}

/// Whether the server wants a one-time password with the token.
pub fn is_asked_for(error: &CliError) -> bool {
    matches!(error, CliError::Problem { problem, .. } if problem.code == TOTP_REQUIRED)
}

/// Opens a session of the kind that the command line uses.
///
/// # Errors
/// [`CliError`].
pub async fn open_session(client: &ApiClient, code: &str) -> Result<SessionResponse, CliError> {
    let request = SessionRequest { code: Some(code.to_owned()), kind: crate::protocol::access::SessionKind::Bearer };
    client.post("/api/session", &request, None, About::Tokens).await
}
