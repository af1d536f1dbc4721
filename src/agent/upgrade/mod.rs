//! The agent becomes another release of itself. `take` is the way of an offer from the frame to the decision, with `fetch` and
//! `check`; `book` is what is on disk of it; `host` is the process that was installed, which starts the decided release as its
//! `child` and puts the old one back if that does not prove itself; `key` is whose releases are taken.

pub mod book;
pub mod check;
#[cfg(unix)]
pub mod child;
pub mod fetch;
#[cfg(unix)]
pub mod host;
pub mod key;
pub mod take;
