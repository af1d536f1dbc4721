//! Integration tests: real SQLite, real sockets, real processes, the real binary.
#![allow(clippy::unwrap_used)] // A test that cannot go on should panic, in its helpers too.

mod agent_link;
mod bad_agents;
mod bad_requests;
mod black_hole;
mod cli;
mod cli_follow;
mod cli_run;
mod dead_socket;
mod demo;
mod disk;
mod dispatch;
mod enrollment;
mod events;
mod fence;
mod files;
mod half_open;
mod harness;
mod history;
mod identity;
mod late_frames;
mod links;
mod lost_frames;
mod proxy;
mod quota;
mod reconnect;
mod restore;
mod retention;
mod runner;
mod start;
mod storm;
mod tidy;
mod time;
