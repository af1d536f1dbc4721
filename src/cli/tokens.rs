//! `postrider tokens`: who may use the server.

use super::access;
use super::args::{AccessArgs, parse_expires};
use super::error::{About, CliError};
use super::out;
use super::table::{self, Field, To};
use super::time::moment;
use crate::clock::Clock;
use crate::protocol::access::{Role, TokenRequest, TokenResponse, TokensResponse};
use crate::protocol::ids::TokenId;
use crate::protocol::name::AgentName;
use clap::{Args, Subcommand};
use std::time::Duration;

/// `postrider tokens`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "`create` prints the token alone on standard output; the server keeps only a hash of it.

Examples:
  postrider tokens create ann --role technician --expires 90d
  postrider tokens list
  postrider tokens revoke 01928c3e-5a70-7e63-9f0a-3c1f0d6b2a11")]
pub struct TokensArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: TokensVerb,
    /// As JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub access: AccessArgs,
}

/// The verbs of `postrider tokens`.
#[derive(Clone, Debug, Subcommand)]
pub enum TokensVerb {
    /// Make a token
    Create {
        /// Whose it is; shown in the history
        name: AgentName,
        /// What it may do: viewer (reads), technician (submits and cancels) or owner (everything)
        #[arg(long, value_name = "ROLE", value_parser = parse_role)]
        role: Role,
        /// How long it is good [default: until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = parse_expires)]
        expires: Option<Duration>,
    },
    /// List tokens, without their secrets
    List,
    /// Make a token worthless
    Revoke {
        /// Its id, from `list`
        id: TokenId,
    },
}

fn parse_role(text: &str) -> Result<Role, String> {
    [Role::Viewer, Role::Technician, Role::Owner]
        .into_iter()
        .find(|role| role.as_str() == text)
        .ok_or_else(|| "the roles are viewer, technician and owner".to_owned())
}

/// Runs the verb.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: TokensArgs) -> Result<u8, CliError> {
    let client = access::connect(&args.access)?;
    let now_ms = Clock::system().now_ms();
    match args.verb {
        TokensVerb::Create { name, role, expires } => {
            let request =
                TokenRequest { name, role, scope: None, expires_s: expires.map(|expires| expires.as_secs_f64()) };
            let made: TokenResponse = client.post("/api/tokens", &request, None, About::Tokens).await?;
            match &made.token {
                _ if args.json => out::json(&made)?,
                Some(token) => out::line(token)?,
                None => {
                    let message = "it made a token and did not show it".to_owned();
                    return Err(CliError::Answer { url: client.url().to_string(), message });
                }
            }
        }
        TokensVerb::List => {
            let list: TokensResponse = client.get("/api/tokens", About::Tokens).await?;
            if args.json {
                list.tokens.iter().try_for_each(out::json)?;
            } else {
                let rows = list.tokens.iter().map(|token| row(token, now_ms)).collect();
                out::line(&table::draw(&["id", "name", "role", "state", "made", "expires"], rows, To::Stdout))?;
            }
        }
        TokensVerb::Revoke { id } => {
            client.delete(&format!("/api/tokens/{id}"), About::Tokens).await?;
            out::note(&format!("{id} is revoked"));
        }
    }
    Ok(0)
}

fn row(token: &TokenResponse, now_ms: i64) -> Vec<Field> {
    let state = if token.revoked_ms.is_some() {
        "revoked"
    } else if token.expires_ms.is_some_and(|at| at <= now_ms) {
        "expired"
    } else {
        "good"
    };
    vec![
        token.id.to_string().into(),
        Field::from(&token.name),
        token.role.as_str().into(),
        Field::either(state == "good", "good", state),
        moment(token.created_ms, now_ms).into(),
        token.expires_ms.map_or_else(|| "never".to_owned(), |at| moment(at, now_ms)).into(),
    ]
}
