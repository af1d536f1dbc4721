//! Floor 3: the agent. It dials the server, journals what it is given, runs it at most once and reports the truth.
//!
//! `run` composes the parts. `board` is what is known of every delivery right now; the journal is the same on disk.
//! The runner writes to both, the link reads the board and tells the server. Nothing else is shared.

pub mod board;
pub mod boot;
pub mod config;
pub mod credential;
pub mod data;
pub mod enroll;
pub mod error;
pub mod facts;
pub mod journal;
pub mod journal_thread;
pub mod link;
pub mod place;
pub mod run;
pub mod runner;
pub mod server_time;
pub mod sessions;
pub mod spool;
pub mod supervise;
pub mod upgrade;
