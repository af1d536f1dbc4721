//! Backups: [`make`] writes one while the server runs, [`restore`] puts one in a data folder's place,
//! [`schedule`] makes them by the clock.
//!
//! A backup is an [`archive`] of the files that a server needs to be the same server afterwards ([`files`]).

pub mod archive;
pub mod crypt;
pub mod error;
pub mod files;
pub mod make;
pub mod restore;
pub mod schedule;
pub mod stamp;
pub mod swap;
pub mod take_over;
pub mod unpack;
pub mod work;
