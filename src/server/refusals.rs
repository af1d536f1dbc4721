//! Refused attempts on their way into the audit, within bounds: a flood of them must not fill the disk.
//!
//! What is over the bounds is counted, and the count is written when a minute is over, or an hour. Nobody who is refused
//! waits for the database.

use super::attempt::NOBODY;
use super::block::Block;
use crate::protocol::ids::TokenId;
use crate::store::audit::{Actor, Refuse};
use crate::store::handle::Store;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// For how long requests are counted together.
pub const MINUTE: Duration = Duration::from_secs(60);
/// For how long agents that are turned away are: a forgotten one tries once a minute, for years.
pub const HOUR: Duration = Duration::from_secs(3600);
/// Rows in that time for one address and error code: enough to see what somebody tries.
pub const ROWS_MAX: u32 = 10;
/// Rows in that time for all of them. With [`KEYS_MAX`] counts, a flood from everywhere writes about 0.1 MB a minute.
pub const ROWS_OF_ALL_MAX: u32 = 200;
/// Addresses and codes that are told apart in that time; what more there are is counted together.
pub const KEYS_MAX: usize = 200;
/// The code under which those are counted.
const REST: &str = "various";

/// The address, whose token it was, and the error's code. None: more than are told apart.
type Key = Option<(Block, Option<TokenId>, &'static str)>;

#[derive(Default)]
struct Tally {
    /// Who; none: nobody that is known.
    actor: Option<Actor>,
    rows: u32,
    beyond: u64,
}

#[derive(Default)]
struct Period {
    tallies: HashMap<Key, Tally>,
    rows: u32,
}

/// What was refused since the last count.
#[derive(Default)]
pub struct Refusals {
    period: Mutex<Period>,
}

impl Refusals {
    fn period(&self) -> MutexGuard<'_, Period> {
        self.period.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a refused attempt, or counts it: when there were many, or when the database has too much to do or no room.
    pub fn note(&self, store: &Store, from: IpAddr, code: &'static str, refuse: Refuse) {
        let mut period = self.period();
        // Strangers cannot use up the rows of those who are known: there are few of these.
        let known = refuse.actor.token_id.map(|_| refuse.actor.clone());
        let key = Some((Block::of(from), refuse.actor.token_id, code));
        let fits = known.is_some() || period.tallies.len() < KEYS_MAX;
        let key = key.filter(|key| fits || period.tallies.contains_key(&Some(*key)));
        let stranger = known.is_none();
        let room = known.is_some() || period.rows < ROWS_OF_ALL_MAX;
        let tally = period.tallies.entry(key).or_default();
        tally.actor = known;
        if room && tally.rows < ROWS_MAX && store.watch.refusal().is_none() && store.offer(refuse) {
            tally.rows += 1;
            period.rows += u32::from(stranger);
        } else {
            tally.beyond += 1;
        }
    }

    /// Ends the period: writes how many there were beyond the rows, one row for each address and code.
    pub async fn count(&self, store: &Store) {
        let period = std::mem::take(&mut *self.period());
        for (key, tally) in period.tallies.into_iter().filter(|(_, tally)| tally.beyond > 0) {
            let (peer, code) = key.map_or((None, REST), |(block, _, code)| (Some(block.to_string()), code));
            let detail = serde_json::json!({ "code": code, "count": tally.beyond });
            if let Some(why) = store.watch.refusal() {
                tracing::warn!(
                    count = tally.beyond,
                    code,
                    why,
                    "refused attempts are not in the audit, for want of space"
                );
                continue;
            }
            let actor = match tally.actor {
                Some(actor) => Actor { peer, ..actor },
                None => Actor::nobody(NOBODY, peer),
            };
            let refuse = Refuse { actor, action: "and more".to_owned(), target: None, detail };
            if let Err(error) = store.write(refuse).await {
                tracing::warn!(count = tally.beyond, code, %error, "refused attempts could not be written into the audit");
            }
        }
    }

    /// Counts once in each `period` until `stop`.
    pub async fn keep(&self, period: Duration, store: &Store, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
            self.count(store).await;
        }
    }
}
