//! Floor 2: all SQL of the server. Knows no network.
//!
//! One thread owns the write connection ([`commit`]) and applies [`op`]erations in groups; reads come from a pool
//! ([`pool`]). Each operation is one file, named by its verb or noun.

pub mod agent_json;
pub mod agents;
pub mod approval;
pub mod audit;
pub mod authorities;
pub mod bearers;
pub mod brake;
pub mod cancel;
pub mod check;
pub mod commit;
pub mod copy;
pub mod disk;
pub mod enqueue;
pub mod enroll;
pub mod error;
pub mod handle;
pub mod history;
pub mod joins;
pub mod logins;
pub mod migrate;
pub mod op;
pub mod outbox;
pub mod output;
pub mod parked;
pub mod pool;
pub mod progress;
pub mod reap;
pub mod retain;
pub mod rollout;
pub mod rollout_show;
pub mod rollout_turn;
pub mod seed;
pub mod session;
pub mod tokens;
pub mod totp;
pub mod trail;
pub mod transition;
