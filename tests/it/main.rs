//! Integration tests: real SQLite, real sockets, real processes, the real binary.
#![allow(clippy::unwrap_used)] // A test that cannot go on should panic, in its helpers too.

mod agent_link;
mod bad_agents;
mod bad_requests;
mod cli;
mod cli_follow;
mod cli_run;
mod demo;
mod disk;
mod dispatch;
mod enrollment;
mod events;
mod fence;
mod half_open;
mod harness;
mod history;
mod identity;
mod links;
mod model;
mod quota;
mod reconnect;
mod restore;
mod retention;
mod runner;
mod start;
mod tidy;
mod time;
