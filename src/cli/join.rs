//! `postrider join`: join strings for new agents.

use super::access;
use super::args::{AccessArgs, parse_expires};
use super::duration::span;
use super::error::{About, CliError};
use super::out;
use super::table::{self, Field, To};
use super::text::tags_line;
use super::time::moment;
use crate::clock::Clock;
use crate::protocol::access::{JoinRequest, JoinResponse, JoinsResponse};
use crate::protocol::ids::JoinId;
use crate::protocol::name::parse_tag;
use clap::{Args, Subcommand};
use std::time::Duration;

/// `postrider join`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "`create` prints the string alone on standard output. It holds the server's address and a secret: whoever has it
can enroll an agent, until it is used up, expired or revoked.

Examples:
  postrider join create
  postrider join create --install                 a line that installs an agent, for a root shell on a Linux host
  postrider join create --site berlin --tag role=web
  postrider join create --uses 20 --approve       the agents wait for `postrider agents approve`
  postrider join create --uses 20 --expires 7d --server-url https://msp.example:7717
  postrider agent --join \"$(postrider join create)\"
  postrider join list"
)]
pub struct JoinArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: JoinVerb,
    /// As JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub access: AccessArgs,
}

/// The verbs of `postrider join`.
#[derive(Clone, Debug, Subcommand)]
pub enum JoinVerb {
    /// Make a join string
    Create {
        /// How many agents may enroll with it
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        /// How long it is good
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_expires)]
        expires: Duration,
        /// The site of its agents: short for --tag site=NAME
        #[arg(long, value_name = "NAME")]
        site: Option<String>,
        /// A tag that its agents carry, whatever they say themselves; may be repeated
        #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
        tags: Vec<(String, String)>,
        /// Its agents are given nothing until somebody approves them
        #[arg(long)]
        approve: bool,
        /// Print the line that installs an agent on a Linux host in the string's place
        #[arg(long)]
        install: bool,
        /// The server's address as the agents reach it [default: the server's own choice]
        #[arg(long, value_name = "URL")]
        server_url: Option<String>,
    },
    /// List join strings, without their secrets
    List,
    /// Make a join string worthless
    Revoke {
        /// Its id, from `list`
        id: JoinId,
    },
}

/// Runs the verb.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: JoinArgs) -> Result<u8, CliError> {
    let client = access::connect(&args.access)?;
    let now_ms = Clock::system().now_ms();
    match args.verb {
        JoinVerb::Create { uses, expires, site, tags, approve, install, server_url } => {
            let expires_s = Some(expires.as_secs_f64());
            let tags = tags.into_iter().collect();
            let request = JoinRequest { uses: Some(uses), expires_s, server_url, tags, site, approve };
            let made: JoinResponse = client.post("/api/join", &request, None, About::Joins).await?;
            let wanted = if install { &made.install } else { &made.join };
            match wanted {
                _ if args.json => out::json(&made)?,
                Some(text) => {
                    out::line(text)?;
                    let life = span(made.expires_ms - made.created_ms);
                    let how =
                        if install { "paste it into a root shell there" } else { "postrider agent --join STRING" };
                    out::note(&format!("good for {} within {life}: {how}", enrollments(uses)));
                    if made.approve {
                        out::note("they wait for approval then: `postrider agents` shows them");
                    }
                }
                None => {
                    let message = "it made a join string and did not show what was asked for".to_owned();
                    return Err(CliError::Answer { url: client.url().to_string(), message });
                }
            }
        }
        JoinVerb::List => {
            let list: JoinsResponse = client.get("/api/join", About::Joins).await?;
            if args.json {
                list.joins.iter().try_for_each(out::json)?;
            } else {
                let rows = list.joins.iter().map(|join| row(join, now_ms)).collect();
                let headings = ["id", "state", "uses", "made", "by", "expires", "tags", "approval"];
                out::line(&table::draw(&headings, rows, To::Stdout))?;
            }
        }
        JoinVerb::Revoke { id } => {
            client.delete(&format!("/api/join/{id}"), About::Joins).await?;
            out::note(&format!("{id} is revoked"));
        }
    }
    Ok(0)
}

fn enrollments(uses: u32) -> String {
    if uses == 1 { "1 agent".to_owned() } else { format!("{uses} agents") }
}

fn row(join: &JoinResponse, now_ms: i64) -> Vec<Field> {
    let state = if join.revoked_ms.is_some() {
        "revoked"
    } else if join.expires_ms <= now_ms {
        "expired"
    } else if join.uses >= join.uses_max {
        "used up"
    } else {
        "good"
    };
    vec![
        join.id.to_string().into(),
        Field::either(state == "good", "good", state),
        format!("{} of {}", join.uses, join.uses_max).into(),
        moment(join.created_ms, now_ms).into(),
        Field::from(&join.created_by),
        moment(join.expires_ms, now_ms).into(),
        tags_line(&join.tags).into(),
        if join.approve { "needed" } else { "" }.into(),
    ]
}
