//! Running commands: `queue` gives each delivery its slot and its end, `starts` limits how many begin a minute, `process`
//! follows one command through the supervising child (`supervise` beside this folder, to which `inbox`, `program` and
//! `tree` belong), `control` is what the two say to each other, `hand_over` how.

pub mod control;
pub mod drain;
pub mod hand_over;
pub mod inbox;
pub mod process;
pub mod program;
pub mod queue;
pub mod ready;
pub mod report;
pub mod starts;
#[cfg(target_os = "linux")]
#[path = "tree_linux.rs"]
pub mod tree;
#[cfg(not(target_os = "linux"))]
#[path = "tree_other.rs"]
pub mod tree;
