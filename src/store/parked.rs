//! Claims that found nothing and wait: the committing thread looks for them again when something is there.
//!
//! So a submission and the dispatch of what it added are one commit, and the writer is woken once, with the rows in its
//! hands. There is at most one for each agent, also of one that has left since, until its rows are touched. They live and
//! die with the committing thread; nothing depends on them.

use super::commit::{BATCH_MAX, Job, Touched};
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
    /// It looks in one of the next groups.
    is_due: bool,
}

type Reply = oneshot::Sender<Result<Done, StoreError>>;

impl Waiting {
    fn into_job(self) -> Job {
        Job { op: Op::Claim(self.claim), reply: self.reply, more: false }
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
        let nudged = std::mem::take(&mut touched.nudged);
        touched.agents.retain(|agent| !self.wake_one(*agent, &mut room, group));
        for agent in nudged {
            if !self.wake_one(agent, &mut room, group) {
                touched.nudged.insert(agent);
            }
        }
    }

    /// False: the agent has no claim here.
    fn wake_one(&mut self, agent: i64, room: &mut usize, group: &mut Vec<Job>) -> bool {
        self.forget_if_gone(agent);
        if *room == 0 {
            return self.set_due(agent);
        }
        let Some(waiting) = self.claims.remove(&agent) else { return false };
        group.push(waiting.into_job());
        *room -= 1;
        true
    }

    fn set_due(&mut self, agent: i64) -> bool {
        let Some(waiting) = self.claims.get_mut(&agent) else { return false };
        if !std::mem::replace(&mut waiting.is_due, true) {
            self.due.push_back(agent);
        }
        true
    }

    /// A claim whose session has ended must take nothing: nobody would send it.
    fn forget_if_gone(&mut self, agent: i64) {
        if self.claims.get(&agent).is_some_and(|waiting| waiting.reply.is_closed()) {
            self.claims.remove(&agent);
        }
    }

    /// Begins a group with the claims that are due, of which none is twice there: at most half a group.
    pub fn due(&mut self, group: &mut Vec<Job>) {
        while group.len() < BATCH_MAX / 2
            && let Some(agent) = self.due.pop_front()
        {
            self.forget_if_gone(agent);
            if self.claims.get(&agent).is_some_and(|waiting| waiting.is_due) {
                group.extend(self.claims.remove(&agent).map(|waiting| waiting.into_job()));
            }
        }
    }

    /// Keeps a claim that found nothing, and hands back every other. If its own group touched its agent, perhaps after it
    /// looked, it is due at once.
    pub fn keep(&mut self, job: Job, result: &Result<Done, StoreError>, touched: &Touched) -> Option<Job> {
        let (claim, reply) = match (job, result) {
            (Job { op: Op::Claim(claim), reply, .. }, Ok(Done::Claim(found))) if claim.parks && found.is_empty() => {
                (claim, reply)
            }
            (Job { op: Op::Claim(claim), reply, more }, Err(StoreError::Fenced)) => {
                // It may have been woken in the place of its successor.
                self.set_due(claim.agent_seq);
                return Some(Job { op: Op::Claim(claim), reply, more });
            }
            (job, _) => return Some(job),
        };
        if reply.is_closed() {
            return None;
        }
        let agent = claim.agent_seq;
        if let Some(older) = self.claims.insert(agent, Box::new(Waiting { claim, reply, is_due: false })) {
            // Of an older session: its writer has not heard yet that it is over.
            let _ = older.reply.send(Err(StoreError::Fenced));
        }
        if touched.agents.contains(&agent) || touched.nudged.contains(&agent) {
            self.set_due(agent);
        }
        None
    }
}
