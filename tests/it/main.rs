//! Integration tests: real SQLite, real sockets, real processes, the real binary.

mod dispatch;
mod harness;
