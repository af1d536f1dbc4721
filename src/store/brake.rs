//! The brake: how many agents one submission reaches before somebody says how many, or somebody else agrees.

use super::enqueue::{Selector, Target, candidates};
use super::error::StoreError;
use crate::protocol::access::Role;
use crate::protocol::http::CONFIRM_ABOVE;
use rusqlite::Connection;

/// Above which numbers of agents a submission is not just taken.
#[derive(Clone, Copy, Debug)]
pub struct Brake {
    /// A technician says how many there are.
    pub confirm_above: u64,
    /// A second person approves; none: never needed.
    pub approve_above: Option<u64>,
}

impl Default for Brake {
    fn default() -> Self {
        Self { confirm_above: CONFIRM_ABOVE, approve_above: None }
    }
}

impl Brake {
    /// Checks the number that the submitter gave, if they had to or did.
    ///
    /// # Errors
    /// `ConfirmNeeded`; SQLite's.
    pub fn confirm(
        &self,
        conn: &Connection,
        role: Role,
        selector: &Selector,
        targets: &[Target],
        given: Option<u64>,
    ) -> Result<(), StoreError> {
        let count = targets.len() as u64;
        let many = role < Role::Owner && count > self.confirm_above;
        let needed = given.is_some() || many || matches!(selector, Selector::All);
        if needed && given != Some(count) {
            return Err(StoreError::ConfirmNeeded { count, given, candidates: candidates(conn, targets)? });
        }
        Ok(())
    }

    /// Whether a submission to so many agents is held until a second person approves it.
    pub fn holds(&self, targets: usize) -> bool {
        self.approve_above.is_some_and(|above| targets as u64 > above)
    }
}
