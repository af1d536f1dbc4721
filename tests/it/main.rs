//! Integration tests: real SQLite, real sockets, real processes, the real binary.
#![allow(clippy::unwrap_used)] // A test that cannot go on should panic, in its helpers too.

mod agent_disk;
mod agent_link;
mod bad_agents;
mod bad_requests;
mod black_hole;
mod cancel_race;
mod cli;
mod cli_follow;
mod cli_run;
mod clock_jumps;
mod crash_agent;
mod crash_both;
mod crash_server;
mod dead_socket;
mod demo;
mod disk;
mod dispatch;
mod enrollment;
mod events;
mod fence;
mod files;
mod fuzz;
mod fuzz_targets;
mod half_open;
#[cfg_attr(not(debug_assertions), allow(dead_code))] // Crash points are in debug builds only.
mod harness;
mod history;
mod identity;
mod interleave;
mod late_frames;
mod links;
mod lost_frames;
mod model;
mod proxy;
mod quota;
mod reconnect;
mod restore;
mod retention;
mod runner;
mod soak;
mod start;
mod storm;
mod suspend;
mod tidy;
mod time;
