//! What really ran: a file to which every command appends its name.

use serde_json::Value;
use std::path::{Path, PathBuf};

/// The file.
pub struct Runs(PathBuf);

impl Runs {
    /// In this folder.
    pub fn new(folder: &Path) -> Self {
        Self(folder.join("runs"))
    }

    /// A shell line that appends `name`, then goes on with `rest`.
    pub fn line(&self, name: &str, rest: &str) -> String {
        format!("echo {name} >> {}; {rest}", self.0.display())
    }

    /// A shell line that runs until `go`, and says with another name that it went on.
    pub fn line_until(&self, name: &str, go: &Path) -> String {
        let rest = format!("until [ -e {} ]; do sleep 0.02; done; ", go.display());
        self.line(name, &(rest + &self.line(&went_on(name), "")))
    }

    /// How often `name` is there.
    pub fn count(&self, name: &str) -> usize {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().filter(|line| *line == name).count()
    }

    /// Checks what must be true of an ended command whose processes died and came back; no other end may come of it.
    pub fn check(&self, what: &str, name: &str, command: &Value) {
        let runs = self.count(name);
        assert!(runs <= 1, "{what}: {name} ran {runs} times: {command}");
        match command["state"].as_str().unwrap() {
            "succeeded" => assert_eq!(runs, 1, "{what}: {name} did not run: {command}"),
            "interrupted" => assert_eq!(self.count(&went_on(name)), 0, "{what}: {name} went on: {command}"),
            _ => panic!("{what}: {name}: {command}"),
        }
    }
}

fn went_on(name: &str) -> String {
    format!("{name}-went-on")
}
