//! Floor 3: the command line. Speaks HTTP only and never opens a database. One verb a file.

// Words and the terminal.
pub mod args;
pub mod duration;
pub mod error;
pub mod look;
pub mod man;
pub mod out;
pub mod table;
pub mod text;
pub mod time;

// Reaching the server.
pub mod access;
pub mod client;
pub mod config;
pub mod default_dir;
pub mod doctor;
pub mod feed;
pub mod interrupt;
pub mod sse;

// Submitting a command and following it.
pub mod confirm;
pub mod follow;
pub mod lines;
pub mod outcome;
pub mod printer;
pub mod secret_env;
pub mod submit;
pub mod upgrade;
pub mod waiting;
pub mod words;

// The verbs.
pub mod agents;
pub mod approve;
pub mod audit;
pub mod audit_export;
pub mod audit_verify;
pub mod authority;
pub mod backup;
pub mod bench;
pub mod cancel;
pub mod children;
pub mod commands;
pub mod completions;
pub mod demo;
pub mod dispatch;
pub mod input;
pub mod join;
pub mod login;
pub mod output;
pub mod restore;
pub mod rollout;
pub mod run;
pub mod serve_file;
pub mod show;
pub mod tokens;
pub mod totp;
