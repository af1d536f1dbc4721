//! Integration tests: real SQLite, real sockets, real processes, the real binary.
#![allow(clippy::unwrap_used)] // A test that cannot go on should panic, in its helpers too.

mod agent_disk;
mod agent_link;
mod bad_agents;
mod bad_requests;
mod cancel_race;
mod cli;
mod cli_follow;
mod cli_run;
mod clock_jumps;
mod crash_agent;
mod crash_both;
mod crash_server;
mod demo;
mod disk;
mod dispatch;
mod enrollment;
mod events;
mod fence;
mod half_open;
#[cfg_attr(not(debug_assertions), allow(dead_code))] // Crash points are in debug builds only.
mod harness;
mod history;
mod links;
mod quota;
mod reconnect;
mod retention;
mod runner;
mod soak;
mod start;
mod suspend;
mod tidy;
mod time;
