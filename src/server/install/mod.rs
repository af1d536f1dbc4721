//! How a host gets its agent from here: [`mod@line`] is what an operator pastes, [`script`] what it fetches, [`executables`]
//! what that downloads, and [`holder`] says who may.

pub mod executables;
pub mod holder;
pub mod line;
pub mod script;
