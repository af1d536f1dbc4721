//! Integration tests: real SQLite, real sockets, real processes, the real binary.
#![allow(clippy::unwrap_used)] // A test that cannot go on should panic, in its helpers too.

mod agent_link;
mod disk;
mod dispatch;
mod half_open;
mod harness;
mod runner;
