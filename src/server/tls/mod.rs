//! The server's side of TLS.
//!
//! [`authority`] is one authority, [`authorities`] are all in the data folder, [`certificates`] decides which certificate
//! is shown to whom, [`own`] is the owner's own, [`door`] makes a TLS connection of a fresh socket, and [`start`] puts
//! them together.

pub mod authorities;
pub mod authority;
pub mod certificates;
pub mod door;
pub mod own;
pub mod start;
