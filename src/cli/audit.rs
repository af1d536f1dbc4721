//! `postrider audit`: who did what, and whether the record of it is whole.

use super::access;
use super::args::AccessArgs;
use super::audit_export;
use super::audit_verify::{self, Head};
use super::client::ApiClient;
use super::error::{About, CliError};
use super::out;
use super::table::{self, Field, To};
use super::text::line;
use super::time::moment;
use crate::clock::Clock;
use crate::protocol::audit::{AuditResponse, AuditRow};
use crate::protocol::http::PAGE_MAX;
use crate::protocol::spec::Spec;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::path::PathBuf;

/// Longest detail in the table, in characters.
const DETAIL_CHARS_MAX: usize = 100;

/// `postrider audit`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Each row vouches for all before it by its hash, so that a row that was changed or taken away later is told.
`verify` checks that here, row by row, and prints the head: number and hash of the newest row. Whoever can rewrite the
server's database can also make the chain anew, or cut its end off: only a head that was kept elsewhere tells that.
The server writes the head into its log when it starts.

`export` writes the rows as JSON, one a line, exactly as they are hashed. To a FILE that has the first part of the same
chain it adds what is missing; any other file it leaves alone.

Exit codes: 0; 1 the chain is broken, or is not the one of --head or of the file; 2 usage; 125 it could not be checked.

Examples:
  postrider audit --limit 50
  postrider audit verify --head 4711:5be0…
  postrider audit export /srv/audit/postrider.jsonl
  postrider audit verify /srv/audit/postrider.jsonl"
)]
pub struct AuditArgs {
    /// Without one of these verbs: the newest rows, the newest last
    #[command(subcommand)]
    pub verb: Option<AuditVerb>,
    /// How many rows
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=i64::from(PAGE_MAX)))]
    pub limit: u32,
    /// As JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub access: AccessArgs,
}

/// The verbs of `postrider audit`.
#[derive(Clone, Debug, Subcommand)]
pub enum AuditVerb {
    /// Check the chain: the server's, or that of an exported file
    Verify {
        /// An exported file
        file: Option<PathBuf>,
        /// A head that was noted earlier and must be on the chain
        #[arg(long, value_name = "SEQ:HASH")]
        head: Option<Head>,
    },
    /// Write the rows to standard output, or add what is missing to a file
    Export {
        /// The file
        file: Option<PathBuf>,
    },
}

/// Runs the verb.
///
/// # Errors
/// [`CliError`]; a broken chain is the exit code.
pub async fn run(args: AuditArgs) -> Result<u8, CliError> {
    match &args.verb {
        Some(AuditVerb::Verify { file: Some(file), head }) => audit_verify::file(file, head.as_ref(), args.json),
        Some(AuditVerb::Verify { file: None, head }) => {
            audit_verify::server(&access::connect(&args.access)?, head.as_ref(), args.json).await
        }
        Some(AuditVerb::Export { file: Some(file) }) => {
            audit_export::to_file(&access::connect(&args.access)?, file).await
        }
        Some(AuditVerb::Export { file: None }) => audit_export::to_stdout(&access::connect(&args.access)?).await,
        None => list(&access::connect(&args.access)?, &args).await.map(|()| 0),
    }
}

/// The rows after a number, oldest first: one page.
///
/// # Errors
/// [`CliError`].
pub async fn rows_after(client: &ApiClient, seq: i64) -> Result<AuditResponse, CliError> {
    client.get(&format!("/api/audit?after={seq}&limit={PAGE_MAX}"), About::Audit).await
}

async fn list(client: &ApiClient, args: &AuditArgs) -> Result<(), CliError> {
    let mut rows: Vec<AuditRow> = Vec::new();
    let mut before = Some(i64::MAX);
    // A page may be shorter than asked for.
    while let (Some(seq), left @ 1..) = (before, args.limit as usize - rows.len()) {
        let page: AuditResponse = client.get(&format!("/api/audit?before={seq}&limit={left}"), About::Audit).await?;
        before = page.next;
        rows.extend(page.rows);
    }
    rows.reverse();
    if args.json {
        return rows.iter().try_for_each(out::json);
    }
    let now_ms = Clock::system().now_ms();
    let rows = rows.iter().map(|row| fields(row, now_ms)).collect();
    let headings = ["time", "who", "from", "what", "target", "outcome", "detail"];
    out::line(&table::draw(&headings, rows, To::Stdout))
}

fn fields(row: &AuditRow, now_ms: i64) -> Vec<Field> {
    vec![
        moment(row.at_ms, now_ms).into(),
        Field::from(&row.actor),
        row.peer.as_deref().unwrap_or("").into(),
        Field::from(&row.action),
        row.target.as_deref().unwrap_or("").into(),
        Field::either(row.outcome == "done", "done", &row.outcome),
        line(&detail(row.detail.get()), DETAIL_CHARS_MAX).into(),
    ]
}

/// What is in a detail, for people: a submission's command and agents, else all of its fields.
fn detail(json: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(json) else { return json.to_owned() };
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let summary = fields.get("spec").and_then(Value::as_str).map(|spec| {
        Spec::parse(spec.as_bytes()).map_or_else(|_| "(a long specification)".to_owned(), |spec| spec.summary())
    });
    let Some(summary) = summary else {
        return fields.iter().map(|(key, value)| format!("{key}={}", shown(value))).collect::<Vec<_>>().join(" ");
    };
    let agents =
        match (fields.get("agent_count").and_then(Value::as_u64), fields.get("agents").and_then(Value::as_array)) {
            (Some(1), Some(agents)) if agents.len() == 1 => shown(&agents[0]["name"]),
            (count, _) => format!("{} agents", count.unwrap_or_default()),
        };
    format!("{agents}: {summary}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_short() {
        assert_eq!(detail(r#"{"code":"unauthorized","status":401}"#), "code=unauthorized status=401");
        let spec = r#"{\"v\":1,\"command\":\"uptime\",\"timeout_ms\":1,\"not_after_ms\":5}"#;
        let one = format!(r#"{{"spec":"{spec}","agents":[{{"id":"x","name":"web-1"}}],"agent_count":1}}"#);
        assert_eq!(detail(&one), "web-1: uptime");
        let many = format!(r#"{{"spec":"{spec}","agents":[],"agent_count":70}}"#);
        assert_eq!(detail(&many), "70 agents: uptime");
        assert_eq!(detail(r#"{"spec":"{","cut":true}"#), "0 agents: (a long specification)");
        assert_eq!(detail("[1]"), "[1]");
    }
}
