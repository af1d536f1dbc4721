//! A second person's approval: it releases a held command. To whom it goes was fixed when it was submitted.

use super::audit::{self, Actor};
use super::enqueue::in_scope;
use super::error::StoreError;
use super::history::command_response;
use super::op::Apply;
use super::transition::{Because, DeliveryRow, delivery_row, record, select_deliveries};
use crate::protocol::http::CommandResponse;
use crate::protocol::ids::CommandId;
use rusqlite::OptionalExtension;

/// Releases a held command.
#[derive(Clone, Debug)]
pub struct ApproveCommand {
    /// Who approves. Always has a token.
    pub actor: Actor,
    /// Which command.
    pub command: CommandId,
}

/// What the decision needs of a command.
struct Held {
    seq: i64,
    token_seq: i64,
    by: String,
    needed: bool,
    approved: bool,
    /// The submitter's token was revoked since.
    revoked: bool,
}

impl ApproveCommand {
    /// Marks the command, takes its deliveries off hold and rings for their agents. Idempotent. Whoever does not reach
    /// every agent of it does not find it: they cannot know what they would approve.
    ///
    /// # Errors
    /// `NotFound`; `SamePerson`; `Conflict` for one that needs no approval or has ended; SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<CommandResponse, StoreError> {
        const APPROVE: &str = "UPDATE commands SET approved_by = ?2, approved_ms = ?3 WHERE seq = ?1";
        const HELD: &str = select_deliveries!("WHERE d.command_seq = ?1 AND d.held = 1 ORDER BY d.seq");
        const RELEASE: &str = "UPDATE deliveries SET held = 0 WHERE seq = ?1";
        let command = self.find(apply)?;
        if !command.needed {
            return Err(StoreError::Conflict(
                "the command needs no approval: it went out when it was submitted".into(),
            ));
        }
        if !command.approved {
            self.check_person(apply, &command)?;
            if command.revoked {
                let why =
                    format!("the token of {} was revoked: cancel it, and submit it anew if it is wanted", command.by);
                return Err(StoreError::Conflict(why));
            }
            let held: Vec<DeliveryRow> =
                apply.conn.prepare_cached(HELD)?.query_map([command.seq], delivery_row)?.collect::<Result<_, _>>()?;
            if held.is_empty() {
                return Err(StoreError::Conflict("the command has ended without approval; submit it anew".into()));
            }
            apply.conn.prepare_cached(APPROVE)?.execute((command.seq, self.actor.token_seq, apply.now_ms))?;
            let because = Because { cause: Some(&self.actor.name), ..Because::default() };
            for row in &held {
                apply.conn.prepare_cached(RELEASE)?.execute([row.seq])?;
                record(apply, row, "approved", None, &because)?;
                apply.touched.agents.insert(row.agent_seq);
            }
            let detail = serde_json::json!({ "submitted_by": command.by, "agents": held.len() });
            audit::record(apply, &self.actor, "command.approve", &self.command, &detail)?;
        }
        Ok(command_response(apply.conn, self.command, None, false, &self.actor.scope)?.response)
    }

    fn find(&self, apply: &Apply<'_>) -> Result<Held, StoreError> {
        const COMMAND: &str = concat!(
            "SELECT c.seq, c.token_seq, t.name, c.approval, c.approved_ms IS NOT NULL, t.revoked_ms IS NOT NULL \
             FROM commands c JOIN tokens t ON t.seq = c.token_seq WHERE c.id = ?1 AND NOT EXISTS ( \
                 SELECT 1 FROM deliveries d JOIN agents a ON a.seq = d.agent_seq WHERE d.command_seq = c.seq AND NOT (",
            in_scope!("a.tags", "?2"),
            "))"
        );
        let held = |row: &rusqlite::Row<'_>| {
            Ok(Held {
                seq: row.get(0)?,
                token_seq: row.get(1)?,
                by: row.get(2)?,
                needed: row.get(3)?,
                approved: row.get(4)?,
                revoked: row.get(5)?,
            })
        };
        let found = apply
            .conn
            .prepare_cached(COMMAND)?
            .query_row((self.command.as_bytes(), self.actor.scope.to_json()), held)
            .optional()?;
        found.ok_or_else(|| StoreError::NotFound { what: "command", key: self.command.to_string() })
    }

    /// Another person: neither the submitter's token, nor one that it made, directly or by way of others, nor one of the
    /// same name. Rows of tokens are never deleted, so the chain of makers is whole.
    fn check_person(&self, apply: &Apply<'_>, command: &Held) -> Result<(), StoreError> {
        const MADE: &str = "WITH RECURSIVE maker (seq) AS (SELECT ?1 UNION \
             SELECT made_by FROM tokens JOIN maker ON tokens.seq = maker.seq WHERE made_by IS NOT NULL) \
             SELECT 1 FROM maker WHERE seq = ?2";
        let made = apply.conn.prepare_cached(MADE)?.exists((self.actor.token_seq, command.token_seq))?;
        if made || self.actor.name == command.by {
            return Err(StoreError::SamePerson { by: command.by.clone() });
        }
        Ok(())
    }
}
