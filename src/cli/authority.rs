//! `postrider authority`: by what agents and users know the server.

use super::access;
use super::args::AccessArgs;
use super::client::part;
use super::error::{About, CliError};
use super::out;
use super::table::{self, Field, To};
use super::time::moment;
use crate::clock::Clock;
use crate::pin::Pin;
use crate::protocol::authorities::{AuthoritiesResponse, AuthorityResponse};
use clap::{Args, Subcommand};

/// `postrider authority`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "An authority is a key of the server; its pin is in join and login strings. `rotate` makes another one, and agents and
users that are connected learn it by the trust of the old. When all know it, `retire` the old one.

Examples:
  postrider authority list
  postrider authority rotate
  postrider authority retire 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
)]
pub struct AuthorityArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: AuthorityVerb,
    /// As JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub access: AccessArgs,
}

/// The verbs of `postrider authority`.
#[derive(Clone, Debug, Subcommand)]
pub enum AuthorityVerb {
    /// List authorities, and print the login string
    List,
    /// Make another one; agents reconnect to learn it
    Rotate,
    /// Forget an old one
    Retire {
        /// Its pin, from `list`
        pin: Pin,
        /// Even if agents know no newer one: they must enroll anew
        #[arg(long)]
        force: bool,
    },
}

/// Runs the verb.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: AuthorityArgs) -> Result<u8, CliError> {
    let client = access::connect(&args.access)?;
    match args.verb {
        AuthorityVerb::List => show(&client.get("/api/authorities", About::Authorities).await?, args.json)?,
        AuthorityVerb::Rotate => {
            let body = serde_json::json!({});
            show(&client.post("/api/authorities", &body, None, About::Authorities).await?, args.json)?;
            out::note("the old ones stay good until they are retired; who comes with their pin learns the new one");
        }
        AuthorityVerb::Retire { pin, force } => {
            let force = if force { "?force=true" } else { "" };
            let path = format!("/api/authorities/{}{force}", part(&pin.to_string()));
            client.delete(&path, About::Authorities).await?;
            out::note(&format!("{pin} is retired"));
        }
    }
    Ok(0)
}

fn show(list: &AuthoritiesResponse, json: bool) -> Result<(), CliError> {
    if json {
        return out::json(list);
    }
    let now_ms = Clock::system().now_ms();
    let rows = list.authorities.iter().map(|authority| row(authority, now_ms)).collect();
    out::line(&table::draw(&["pin", "state", "made", "agents"], rows, To::Stdout))?;
    out::line(&format!("login string: {}", list.login))
}

fn row(authority: &AuthorityResponse, now_ms: i64) -> Vec<Field> {
    vec![
        authority.pin.to_string().into(),
        Field::either(authority.newest, "newest", "old"),
        moment(authority.created_ms, now_ms).into(),
        authority.agents.to_string().into(),
    ]
}
