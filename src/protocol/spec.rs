//! The specification: what to run, fixed once at submission and carried byte for byte.
//!
//! It is a JSON document. The server stores and dispatches the bytes that it got or built, and never writes them
//! anew, so that they can be signed end to end. Both ends read it with [`Spec::parse`], which checks all of it.

use super::plain::{PLAIN_CHARS_MAX, plain};
use super::secret_env::SECRETS_MAX;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The version of the document this build writes and reads.
pub const SPEC_VERSION: u32 = 1;
/// Largest document, in bytes. Bigger scripts belong in a file that the command fetches.
pub const SPEC_BYTES_MAX: usize = 256 * 1024;
/// Largest document that travels inside a dispatch frame, in bytes. Larger ones are fetched over HTTP, because a
/// WebSocket's buffers keep the size of the largest frame ever seen.
pub const SPEC_INLINE_BYTES_MAX: usize = 32 * 1024;
/// Timeout when none is given, in milliseconds.
pub const TIMEOUT_MS_DEFAULT: u64 = 60_000;
/// Longest timeout, in milliseconds (a day): past it a command is a service, and belongs to a service manager.
pub const TIMEOUT_MS_MAX: u64 = 24 * 3_600_000;
/// How long a command may wait for its start when nothing is said, in milliseconds (7 days).
pub const TTL_MS_DEFAULT: i64 = 7 * 86_400_000;
/// Longest time to live, in milliseconds (30 days): nobody remembers an older command when it runs.
pub const TTL_MS_MAX: i64 = 30 * 86_400_000;
/// Output kept of each stream when nothing is said, in bytes, and the most that can be asked for.
pub const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;
/// Most arguments, and most environment variables.
pub const ITEMS_MAX: usize = 1024;

/// A shell by name. The agent looks it up on its own platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shell {
    /// `sh -c`, the default on Unix.
    Sh,
    /// `bash -c`.
    Bash,
    /// `powershell -Command` (`pwsh` where there is no Windows PowerShell).
    Powershell,
    /// `cmd /d /s /c`, the default on Windows.
    Cmd,
}

impl fmt::Display for Shell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shell::Sh => "sh",
            Shell::Bash => "bash",
            Shell::Powershell => "powershell",
            Shell::Cmd => "cmd",
        })
    }
}

/// What to run. Exactly one of `command` and `argv` is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// [`SPEC_VERSION`].
    pub v: u32,
    /// A line for the shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// A program and its arguments, without a shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// The shell for `command`; none: the platform's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Shell>,
    /// Working folder; none: the agent's home or root folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Added to the agent's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of variables whose values come beside the document and are kept nowhere; see `secret_env`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_env: Vec<String>,
    /// Standard input; none: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// The process tree is killed after this long, in milliseconds.
    pub timeout_ms: u64,
    /// It is not started after this moment, in Unix milliseconds by the server's clock.
    pub not_after_ms: i64,
    /// Output kept of each stream, in bytes; beyond it the middle is dropped.
    #[serde(default = "output_bytes_max_default")]
    pub output_bytes_max: u64,
}

fn output_bytes_max_default() -> u64 {
    OUTPUT_BYTES_MAX
}

/// A specification that cannot be taken: which field, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct SpecError {
    /// The field's name, as in the document.
    pub field: &'static str,
    /// What is wrong with it, and what is allowed.
    pub message: String,
}

fn wrong(field: &'static str, message: impl AsRef<str>) -> SpecError {
    SpecError { field, message: plain(message.as_ref(), PLAIN_CHARS_MAX) }
}

fn no_nul(field: &'static str, text: &str) -> Result<(), SpecError> {
    if text.contains('\0') {
        return Err(wrong(field, "has a NUL byte, which no program can receive"));
    }
    Ok(())
}

fn check_name(field: &'static str, name: &str) -> Result<(), SpecError> {
    if name.is_empty() || name.contains('=') {
        return Err(wrong(field, format!("has a variable named {name:?}; a name is not empty and has no '='")));
    }
    no_nul(field, name)
}

impl Spec {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// The first thing that is wrong. `field` is `spec` where the document as a whole cannot be read.
    pub fn parse(document: &[u8]) -> Result<Self, SpecError> {
        if document.len() > SPEC_BYTES_MAX {
            return Err(wrong("spec", format!("has {} bytes; at most {SPEC_BYTES_MAX} are allowed", document.len())));
        }
        let spec: Self = serde_json::from_slice(document).map_err(|error| wrong("spec", error.to_string()))?;
        spec.check()?;
        Ok(spec)
    }

    /// Checks everything that the types do not, except the time: see [`Spec::check_ttl`].
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.v != SPEC_VERSION {
            return Err(wrong("v", format!("is {}; this build knows version {SPEC_VERSION}", self.v)));
        }
        match (&self.command, &self.argv) {
            (Some(_), Some(_)) => return Err(wrong("command", "and argv are both there; give exactly one")),
            (None, None) => return Err(wrong("command", "is missing; give command, argv or spec")),
            (Some(line), None) => {
                if line.trim().is_empty() {
                    return Err(wrong("command", "is empty"));
                }
                no_nul("command", line)?;
            }
            (None, Some(argv)) => {
                if argv.first().is_none_or(String::is_empty) {
                    return Err(wrong("argv", "is empty; its first item is the program"));
                }
                if argv.len() > ITEMS_MAX {
                    return Err(wrong("argv", format!("has {} items; at most {ITEMS_MAX} are allowed", argv.len())));
                }
                argv.iter().try_for_each(|argument| no_nul("argv", argument))?;
                if self.shell.is_some() {
                    return Err(wrong("shell", "goes with command; argv is run without a shell"));
                }
            }
        }
        if let Some(cwd) = &self.cwd {
            if cwd.is_empty() {
                return Err(wrong("cwd", "is empty; leave it out for the default"));
            }
            no_nul("cwd", cwd)?;
        }
        self.check_env()?;
        self.check_limits()
    }

    fn check_env(&self) -> Result<(), SpecError> {
        if self.env.len() > ITEMS_MAX {
            return Err(wrong("env", format!("has {} variables; at most {ITEMS_MAX} are allowed", self.env.len())));
        }
        for (name, value) in &self.env {
            check_name("env", name)?;
            no_nul("env", value)?;
        }
        if self.secret_env.len() > SECRETS_MAX {
            let count = self.secret_env.len();
            return Err(wrong("secret_env", format!("has {count} names; at most {SECRETS_MAX} are allowed")));
        }
        for (index, name) in self.secret_env.iter().enumerate() {
            check_name("secret_env", name)?;
            if self.env.contains_key(name) || self.secret_env[..index].contains(name) {
                return Err(wrong("secret_env", format!("has {name:?}, which is there already: give it once")));
            }
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), SpecError> {
        if !(1..=TIMEOUT_MS_MAX).contains(&self.timeout_ms) {
            return Err(wrong("timeout_ms", format!("is {}; 1 to {TIMEOUT_MS_MAX} are allowed", self.timeout_ms)));
        }
        if self.output_bytes_max > OUTPUT_BYTES_MAX {
            return Err(wrong(
                "output_bytes_max",
                format!("is {}; at most {OUTPUT_BYTES_MAX} are allowed", self.output_bytes_max),
            ));
        }
        Ok(())
    }

    /// Checks at submission that `not_after_ms` lies ahead, and at most [`TTL_MS_MAX`] ahead.
    ///
    /// # Errors
    /// `not_after_ms`.
    pub fn check_ttl(&self, now_ms: i64) -> Result<(), SpecError> {
        let ttl_ms = self.not_after_ms.saturating_sub(now_ms);
        if !(1..=TTL_MS_MAX).contains(&ttl_ms) {
            return Err(wrong(
                "not_after_ms",
                format!("is {ttl_ms} ms from now; more than 0 and at most {TTL_MS_MAX} are allowed"),
            ));
        }
        Ok(())
    }

    /// One line for people: the command line, or the arguments quoted where they need it.
    pub fn summary(&self) -> String {
        match (&self.command, &self.argv) {
            (Some(line), _) => line.clone(),
            (None, Some(argv)) => argv.iter().map(|argument| quoted(argument)).collect::<Vec<_>>().join(" "),
            (None, None) => String::new(),
        }
    }
}

fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Spec, SpecError> {
        Spec::parse(text.as_bytes())
    }

    #[test]
    fn a_small_document_gets_defaults() {
        let spec = parse(r#"{"v":1,"command":"true","timeout_ms":1000,"not_after_ms":5}"#).unwrap();
        assert_eq!(spec.output_bytes_max, OUTPUT_BYTES_MAX);
        assert_eq!(spec.summary(), "true");
    }

    #[test]
    fn each_wrong_field_is_named() {
        let cases = [
            (r#"{"v":2,"command":"x","timeout_ms":1,"not_after_ms":5}"#, "v"),
            (r#"{"v":1,"command":"x","argv":["x"],"timeout_ms":1,"not_after_ms":5}"#, "command"),
            (r#"{"v":1,"timeout_ms":1,"not_after_ms":5}"#, "command"),
            (r#"{"v":1,"command":" ","timeout_ms":1,"not_after_ms":5}"#, "command"),
            (r#"{"v":1,"command":"a\u0000b","timeout_ms":1,"not_after_ms":5}"#, "command"),
            (r#"{"v":1,"argv":[],"timeout_ms":1,"not_after_ms":5}"#, "argv"),
            (r#"{"v":1,"argv":["a"],"shell":"sh","timeout_ms":1,"not_after_ms":5}"#, "shell"),
            (r#"{"v":1,"command":"x","env":{"A=B":"c"},"timeout_ms":1,"not_after_ms":5}"#, "env"),
            (r#"{"v":1,"command":"x","secret_env":["A=B"],"timeout_ms":1,"not_after_ms":5}"#, "secret_env"),
            (r#"{"v":1,"command":"x","secret_env":["A","A"],"timeout_ms":1,"not_after_ms":5}"#, "secret_env"),
            (
                r#"{"v":1,"command":"x","env":{"A":"b"},"secret_env":["A"],"timeout_ms":1,"not_after_ms":5}"#,
                "secret_env",
            ),
            (r#"{"v":1,"command":"x","timeout_ms":0,"not_after_ms":5}"#, "timeout_ms"),
            (r#"{"v":1,"command":"x","timeout_ms":86400001,"not_after_ms":5}"#, "timeout_ms"),
            (r#"{"v":1,"command":"x","timeout_ms":1,"not_after_ms":5,"output_bytes_max":1048577}"#, "output_bytes_max"),
            (r#"{"v":1,"command":"x","timeout_ms":1,"not_after_ms":5,"surprise":1}"#, "spec"),
            ("garbage", "spec"),
        ];
        for (document, field) in cases {
            assert_eq!(parse(document).unwrap_err().field, field, "{document}");
        }
    }

    #[test]
    fn the_past_and_the_far_future_are_refused() {
        let mut spec = parse(r#"{"v":1,"argv":["a b","c"],"timeout_ms":1,"not_after_ms":5}"#).unwrap();
        assert!(spec.check_ttl(4).is_ok());
        assert!(spec.check_ttl(5).is_err());
        spec.not_after_ms = TTL_MS_MAX + 1;
        assert!(spec.check_ttl(0).is_err());
        assert_eq!(spec.summary(), "'a b' c");
    }
}
