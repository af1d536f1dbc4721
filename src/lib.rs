//! postrider gets a technician's command to an endpoint, runs it at most once and brings back the truth.
//!
//! One crate is the server, the agent and the command line. `ARCHITECTURE.md` has the map; the floors below
//! import downwards only, and `tests/it/tidy.rs` keeps it so.

// Floor 0: knows nothing of us.
pub mod backoff;
pub mod ballast;
pub mod bell;
pub mod clock;
pub mod crash;
pub mod http_client;
pub mod journald;
pub mod log;
pub mod open_files;
pub mod pin;
pub mod release;
pub mod seal;
pub mod secret;
pub mod tasks;
pub mod tls;
pub mod uptime;
pub mod usage;
pub mod version;
pub mod websocket;

// Floor 1: the words that both ends share. No I/O.
pub mod protocol;

// Floor 2: all SQL of the server. Knows no network.
pub mod store;

// Floor 3: the roles. They never import each other.
pub mod agent;
pub mod cli;
pub mod server;

// Floor 4: what uses several roles. Nobody imports it. `bench` measures them from outside, as a stranger with many hands;
// `upgrade` exchanges the server's program; `doctor` looks at a host.
pub mod bench;
pub mod doctor;
pub mod upgrade;
