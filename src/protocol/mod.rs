//! Floor 1: the words that server, agent and command line share. No I/O. `PROTOCOL.md` beside this file is the prose.

pub mod access;
pub mod audit;
pub mod authorities;
pub mod backup;
pub mod close;
pub mod facts;
pub mod frame;
pub mod http;
pub mod ids;
pub mod join;
pub mod login;
pub mod name;
pub mod outcome;
pub mod output;
pub mod plain;
pub mod rollout;
pub mod scope;
pub mod secret_env;
pub mod spec;
pub mod state;
pub mod upgrade;
