//! Claims that found nothing and wait: the committing thread looks for them again when something is there.
//!
//! So a submission and the dispatch of what it added are one commit, and the writer is woken once, with the rows in its
//! hands. There is at most one for each agent. They live and die with the committing thread; nothing depends on them.

use super::commit::{Job, Touched};
use super::error::StoreError;
use super::op::{Done, Op};
use super::outbox::Claim;
use std::collections::{HashMap, VecDeque};
use tokio::sync::oneshot;

/// Parked claims that look in one group. A command to everybody is answered before its dispatches are recorded.
pub const WOKEN_MAX: usize = 128;

/// A claim that waits, and whom to answer.
#[derive(Debug)]
struct Waiting {
    claim: Claim,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<Done, StoreError>>;

impl Waiting {
    fn into_job(self) -> Job {
        Job { op: Op::Claim(self.claim), reply: self.reply }
    }
}

/// The claims that wait, by their agents' rows.
#[derive(Debug, Default)]
pub struct Parked {
    // Boxed: the map keeps places free, and a job is large.
    claims: HashMap<i64, Box<Waiting>>,
    /// Whose look in the next groups.
    due: VecDeque<i64>,
}

impl Parked {
    /// Takes the claims of agents whose rows a group has just touched: they belong to the group. Those beyond
    /// [`WOKEN_MAX`] are due in the next ones. Their bells need not ring.
    pub fn wake(&mut self, touched: &mut Touched, group: &mut Vec<Job>) {
        if self.claims.is_empty() {
            return;
        }
        let mut room = WOKEN_MAX;
        touched.agents.retain(|agent| {
            self.forget_if_gone(*agent);
            if room > 0
                && let Some(waiting) = self.claims.remove(agent)
            {
                group.push(waiting.into_job());
                room -= 1;
                return false;
            }
            let is_due = self.claims.contains_key(agent);
            if is_due {
                self.due.push_back(*agent);
            }
            !is_due
        });
    }

    /// A claim whose session has ended must take nothing: nobody would send it.
    fn forget_if_gone(&mut self, agent: i64) {
        if self.claims.get(&agent).is_some_and(|waiting| waiting.reply.is_closed()) {
            self.claims.remove(&agent);
        }
    }

    /// Begins a group with the claims that are due.
    pub fn due(&mut self, group: &mut Vec<Job>) {
        while group.len() < WOKEN_MAX
            && let Some(agent) = self.due.pop_front()
        {
            self.forget_if_gone(agent);
            group.extend(self.claims.remove(&agent).map(|waiting| waiting.into_job()));
        }
    }

    /// Keeps a claim that found nothing, and hands back every other. If its own group touched its agent, perhaps after it
    /// looked, it is due at once.
    pub fn keep(&mut self, job: Job, result: &Result<Done, StoreError>, touched: &Touched) -> Option<Job> {
        let (claim, reply) = match (job, result) {
            (Job { op: Op::Claim(claim), reply }, Ok(Done::Claim(found))) if claim.parks && found.is_empty() => {
                (claim, reply)
            }
            (job, _) => return Some(job),
        };
        if reply.is_closed() {
            return None;
        }
        let agent = claim.agent_seq;
        if touched.agents.contains(&agent) {
            self.due.push_back(agent);
        }
        if let Some(older) = self.claims.insert(agent, Box::new(Waiting { claim, reply })) {
            // Of an older session: its writer has not heard yet that it is over.
            let _ = older.reply.send(Err(StoreError::Fenced));
        }
        None
    }
}
