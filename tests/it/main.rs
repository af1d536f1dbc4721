//! Integration tests.

mod agent_link;
mod runner;
