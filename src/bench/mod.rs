//! The load generator: measures a server from outside, with simulated agents over real sockets or with real ones.

pub mod cost;
pub mod fleet;
pub mod flights;
pub mod list;
pub mod load;
pub mod place;
pub mod report;
pub mod run;
pub mod simulated;
pub mod stage;
pub mod tally;
pub mod verdict;
