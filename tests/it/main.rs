//! Integration tests: real SQLite, real sockets, real processes, the real binary.
#![allow(clippy::unwrap_used)] // A test that cannot go on should panic, in its helpers too.

mod acme;
mod agent_disk;
mod agent_link;
mod agents;
mod approval;
mod audit;
mod backup;
mod backup_crypt;
mod backup_restore;
mod backup_schedule;
mod bad_agents;
mod bad_links;
mod bad_requests;
mod bench;
mod black_hole;
mod brake;
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
mod doctor;
mod enrollment;
mod events;
mod fence;
mod files;
mod fuzz;
mod fuzz_targets;
mod golden;
mod half_black_holed;
mod half_open;
#[cfg_attr(not(debug_assertions), allow(dead_code))] // Crash points are in debug builds only.
mod harness;
mod history;
mod identity;
#[cfg(unix)]
mod install;
#[cfg(unix)]
mod install_bad;
mod interleave;
mod late_frames;
mod limits;
mod links;
#[cfg(unix)]
mod log;
mod lost_frames;
mod man;
mod model;
#[cfg(unix)]
mod notify;
mod operators;
mod pending;
mod proxy;
mod quota;
mod random_cuts;
mod reconnect;
mod refusals;
mod restore;
mod retention;
mod rollout;
mod runner;
mod secret_env;
#[cfg(unix)]
mod serve_check;
mod serve_file;
mod sessions;
mod soak;
mod start;
mod starts_limit;
mod storm;
mod suspend;
mod tidy;
mod time;
mod tls;
mod tls_bounds;
mod tls_rotation;
mod totp;
mod units;
mod upgrade;
mod upgrade_agent;
mod upgrade_bad;
#[cfg(debug_assertions)]
mod upgrade_killed;
