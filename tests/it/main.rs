//! Integration tests.
#![allow(clippy::unwrap_used)] // A test that cannot go on should panic, in its helpers too.

mod agent_link;
mod runner;
