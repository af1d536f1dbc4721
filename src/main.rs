//! Composes the roles.
fn main() {}
