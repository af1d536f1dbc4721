//! One agent's connection: a handshake, then a reader and a writer task.

pub mod handshake;
pub mod reader;
pub mod run;
pub mod writer;
