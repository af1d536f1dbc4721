//! Floor 3: the server: HTTP interface, agents' sessions, reaper.
//!
//! [`serve`] starts and drains it, [`listener`] accepts connections, [`routes`] is the whole HTTP interface in one
//! table, [`session`] is one agent's connection.

pub mod acme;
pub mod admission;
pub mod agents;
pub mod agents_folder;
pub mod app;
pub mod attempt;
pub mod audit;
pub mod authorities;
pub mod authorize;
pub mod backup;
pub mod block;
pub mod call;
pub mod check;
pub mod commands;
pub mod enroll;
pub mod error;
pub mod events;
pub mod files;
pub mod folder;
pub mod health;
pub mod install;
pub mod joins;
pub mod limits;
pub mod listener;
pub mod lockout;
pub mod login;
pub mod metrics;
#[cfg(unix)]
pub mod notify;
pub mod outside;
pub mod places;
pub mod presence;
pub mod proxy;
pub mod reaper;
pub mod refusals;
pub mod rollout;
pub mod routes;
pub mod sealed;
pub mod serve;
pub mod session;
pub mod submit;
pub mod tls;
pub mod tokens;
pub mod totp;
pub mod upgrade;
pub mod web_sessions;
