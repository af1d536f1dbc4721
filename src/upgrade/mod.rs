//! `postrider upgrade`: a new release in the place of the running server's, or the old one back.
//!
//! `run` is the order of things; each thing is a file: `releases` the folder of executables and its links, `journal` what is
//! written down before each step and what came of it, `service` stops and starts the server, `rehearsal` asks the new
//! executable whether it would start, `probe` sends a command through the server, `database` the copy for a migration that breaks, `recover` finishes or undoes what was cut off.

pub mod database;
pub mod error;
pub mod journal;
pub mod probe;
pub mod recover;
pub mod rehearsal;
pub mod releases;
pub mod run;
pub mod service;
pub mod show;
