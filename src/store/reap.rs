//! What time ends: queued rows past their expiry, held rows without a report.

use super::error::StoreError;
use super::op::Apply;
use super::transition::{Because, DeliveryRow, LOST_GRACE_MS, delivery_row, select_deliveries, transition};
use crate::protocol::state::State;

/// Rows ended in one operation, so that a large expiry does not hold up others.
pub const REAP_MAX: u32 = 500;

/// Ends what is due.
#[derive(Clone, Debug)]
pub struct Reap;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Reaped {
    /// How many rows were looked at. [`REAP_MAX`]: there may be more.
    pub rows: u32,
    /// When the next row is due, in Unix milliseconds.
    pub next_ms: Option<i64>,
}

impl Reap {
    /// Ends up to [`REAP_MAX`] rows.
    ///
    /// # Errors
    /// SQLite's.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<Reaped, StoreError> {
        const DUE: &str =
            select_deliveries!("WHERE d.finished_ms IS NULL AND d.due_ms <= ?1 ORDER BY d.due_ms LIMIT ?2"); // deliveries_due
        const NEXT: &str = "SELECT min(due_ms) FROM deliveries WHERE finished_ms IS NULL";
        let rows: Vec<DeliveryRow> = apply
            .conn
            .prepare_cached(DUE)?
            .query_map((apply.now_ms, REAP_MAX), delivery_row)?
            .collect::<Result<_, _>>()?;
        let count = u32::try_from(rows.len()).unwrap_or(REAP_MAX);
        for row in rows {
            end(apply, row)?;
        }
        let next_ms = apply.conn.prepare_cached(NEXT)?.query_row([], |row| row.get(0))?;
        Ok(Reaped { rows: count, next_ms })
    }
}

fn end(apply: &mut Apply<'_>, mut row: DeliveryRow) -> Result<(), StoreError> {
    const PUT_OFF: &str = "UPDATE deliveries SET due_ms = ?2 WHERE seq = ?1";
    let because = |reason| Because { cause: Some("reaper"), reason: Some(reason), ..Because::default() };
    // A row in doubt may have been taken in time: its report has as long as that of an accepted one.
    let doubt_over_ms = row.not_after_ms + row.timeout_ms + LOST_GRACE_MS;
    if row.state != State::Queued {
        // There is room in the agent's window.
        apply.touched.agents.insert(row.agent_seq);
    }
    match row.state {
        State::Queued if row.held => {
            transition(apply, &mut row, State::Expired, &because("not approved before its expiry"))
        }
        State::Queued if !row.in_doubt => {
            transition(apply, &mut row, State::Expired, &because("not started before its expiry"))
        }
        State::Queued if apply.now_ms < doubt_over_ms => {
            apply.conn.prepare_cached(PUT_OFF)?.execute((row.seq, doubt_over_ms))?;
            Ok(())
        }
        State::Queued => {
            let reason = "dispatched before its expiry and never acknowledged: it may have run";
            transition(apply, &mut row, State::Lost, &because(reason))
        }
        _ => transition(
            apply,
            &mut row,
            State::Lost,
            &because("no report from the agent within its timeout and a minute"),
        ),
    }
}
