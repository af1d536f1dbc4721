//! `postrider doctor`: looks at a server's host, or an endpoint, as somebody does on a bad morning, and says the cure of what is
//! wrong. It changes nothing, and works whether or not the server or the agent runs.
//!
//! `run` collects and prints; `server` asks the server that runs, `stored` looks at what is on the disk, `host` at clock and
//! units, `endpoint` at an agent.

pub mod endpoint;
pub mod host;
pub mod run;
pub mod server;
pub mod stored;
