//! The connection to the server: `connect` opens one, `session` lives on it, `wait` says what comes after its end.

pub mod connect;
pub mod dial;
pub mod fetch;
pub mod intake;
pub mod keepalive;
pub mod reader;
pub mod sent;
pub mod session;
pub mod wait;
pub mod writer;
