//! Rollouts: releases that agents are offered by waves. `turn` is the task that makes the offers, `answer` what operators
//! ask over HTTP, `releases` what lies signed in `agents/`, `fetch` hands it to agents.

pub mod answer;
pub mod fetch;
pub mod releases;
pub mod turn;
