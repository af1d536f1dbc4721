//! `postrider tokens`: who may use the server.

use super::access;
use super::args::{AccessArgs, parse_expires};
use super::error::{About, CliError};
use super::out;
use super::table::{self, Field, To};
use super::time::{minute, moment};
use super::totp;
use crate::clock::Clock;
use crate::protocol::access::{Role, TokenRequest, TokenResponse, TokensResponse};
use crate::protocol::ids::TokenId;
use crate::protocol::name::{AgentName, parse_tag};
use crate::protocol::scope::{SITE, Scope};
use clap::{Args, Subcommand};
use std::time::Duration;

/// `postrider tokens`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "`create` prints the token alone on standard output; the server keeps only a hash of it.

Examples:
  postrider tokens create ann --role technician --expires 90d
  postrider tokens create bob --role technician --site berlin --site munich --scope role=web
  postrider tokens list
  postrider tokens totp
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
        /// Only agents with this tag; values of one key add up [default: the agents that your own token reaches]
        #[arg(long = "scope", value_name = "KEY=VALUE", value_parser = parse_tag)]
        scopes: Vec<(String, String)>,
        /// Only agents of this site: short for --scope site=NAME
        #[arg(long = "site", value_name = "NAME")]
        sites: Vec<String>,
        /// How long it is good [default: as long as your own token]
        #[arg(long, value_name = "TIME", value_parser = parse_expires)]
        expires: Option<Duration>,
    },
    /// List tokens, without their secrets
    List,
    /// Ask for a one-time password with the token in use (an owner's)
    Totp {
        /// Ask for none any longer
        #[arg(long)]
        off: bool,
    },
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

const HEADINGS: [&str; 10] = ["id", "name", "role", "state", "scope", "totp", "by", "made", "last use", "expires"];

/// Runs the verb.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: TokensArgs) -> Result<u8, CliError> {
    let client = access::connect(&args.access)?;
    let now_ms = Clock::system().now_ms();
    match args.verb {
        TokensVerb::Create { name, role, scopes, sites, expires } => {
            let expires_s = expires.map(|expires| expires.as_secs_f64());
            let request = TokenRequest { name, role, scope: scope(scopes, sites), expires_s };
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
                out::line(&table::draw(&HEADINGS, rows, To::Stdout))?;
            }
        }
        TokensVerb::Totp { off: false } => totp::on(&client, args.json).await?,
        TokensVerb::Totp { off: true } => totp::off(&client).await?,
        TokensVerb::Revoke { id } => {
            client.delete(&format!("/api/tokens/{id}"), About::Tokens).await?;
            out::note(&format!("{id} is revoked"));
        }
    }
    Ok(0)
}

/// None: what the maker's token reaches.
fn scope(tags: Vec<(String, String)>, sites: Vec<String>) -> Option<Scope> {
    let mut scope = Scope::default();
    let sites = sites.into_iter().map(|site| (SITE.to_owned(), site));
    tags.into_iter().chain(sites).for_each(|(key, value)| scope.allow(key, value));
    (!scope.is_all()).then_some(scope)
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
        Field::from(token.scope.to_string()),
        Field::from(if token.totp { "yes" } else { "no" }),
        Field::from(token.created_by.as_deref().unwrap_or("the server")),
        moment(token.created_ms, now_ms).into(),
        used(token, now_ms).into(),
        token.expires_ms.map_or_else(|| "never".to_owned(), |at| moment(at, now_ms)).into(),
    ]
}

fn used(token: &TokenResponse, now_ms: i64) -> String {
    match (token.used_ms, &token.used_from) {
        (Some(at), Some(from)) => format!("{} from {from}", minute(at, now_ms)),
        (Some(at), None) => minute(at, now_ms),
        (None, _) => "never".to_owned(),
    }
}
