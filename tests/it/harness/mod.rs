//! The harness: real servers, real agents, an agent that speaks frames by hand, and a proxy that breaks links.

pub mod agent;
pub mod api;
pub mod ca_front;
pub mod chance;
pub mod claim;
pub mod cli;
pub mod eventually;
pub mod fleet;
pub mod installing;
pub mod lane;
pub mod left;
pub mod operators;
pub mod pebble;
pub mod process;
pub mod proxy;
pub mod raw_agent;
pub mod releases;
pub mod runs;
pub mod scene;
pub mod server;
pub mod small_disk;
pub mod upgrading;
