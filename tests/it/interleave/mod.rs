//! The hand-overs that carry the promise, in every order: bell against commit, answer against crash, an epoch's end
//! against writes under way, and two sessions of one agent.
//!
//! `loom` and `shuttle` were weighed and left out. Both replace the primitives of a program by their own and run it
//! under each schedule of these. What is handed over here goes through tokio's `Notify` and `mpsc`, which neither
//! replaces (tokio checks them with loom itself), and through SQLite, which neither sees. What is ours is the order of a
//! few whole steps. So the steps are run here by hand, in every order, on the real bell board, the real store and the
//! real presence; nothing is modelled but who goes next.

mod answers;
mod bells;
mod epochs;
mod orders;
mod parked;
mod sessions;
