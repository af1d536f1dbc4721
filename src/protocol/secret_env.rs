//! Secret variables of a command's environment: they travel beside the specification, which has their names alone.
//!
//! No error and no log has a value: neither when it is printed, nor when what came instead cannot be read.

use super::spec::SpecError;
use crate::secret::Secret;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Most secrets of one command.
pub const SECRETS_MAX: usize = 16;
/// Their names and values together, in bytes: escaped in JSON, too, they fit a dispatch frame.
pub const SECRETS_BYTES_MAX: usize = 8 * 1024;

/// Names and values. Prints as nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretEnv(BTreeMap<String, Secret>);

impl SecretEnv {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one, or puts it in the place of one of the same name.
    pub fn set(&mut self, name: String, value: Secret) {
        self.0.insert(name, value);
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// The variables. What calls this must not log them.
    pub fn expose(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.expose()))
    }

    /// Whether these are the ones that a specification names: all of them, and no others.
    pub fn are_named_by(&self, names: &[String]) -> bool {
        names.len() == self.0.len() && names.iter().all(|name| self.0.contains_key(name))
    }

    /// Checks the values. The names are checked with the specification that has them.
    ///
    /// # Errors
    /// `secret_env`.
    pub fn check(&self) -> Result<(), SpecError> {
        let wrong = |message: String| Err(SpecError { field: "secret_env", message });
        if self.0.len() > SECRETS_MAX {
            return wrong(format!("has {} secrets; at most {SECRETS_MAX} are allowed", self.0.len()));
        }
        let bytes: usize = self.expose().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > SECRETS_BYTES_MAX {
            return wrong(format!("has {bytes} bytes of names and values; at most {SECRETS_BYTES_MAX} are allowed"));
        }
        if self.expose().any(|(_, value)| value.contains('\0')) {
            return wrong("has a NUL byte in a value, which no program can receive".to_owned());
        }
        Ok(())
    }
}

impl fmt::Debug for SecretEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for SecretEnv {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.expose())
    }
}

impl<'de> Deserialize<'de> for SecretEnv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Serde's own errors repeat what they did not expect.
        const WRONG: &str = "an object of names and texts is needed";
        let serde_json::Value::Object(fields) = serde_json::Value::deserialize(deserializer)? else {
            return Err(D::Error::custom(WRONG));
        };
        let secrets = fields.into_iter().map(|(name, value)| match value {
            serde_json::Value::String(value) => Ok((name, Secret::new(value))),
            _ => Err(D::Error::custom(WRONG)),
        });
        secrets.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_no_error_and_in_no_debug_text() {
        let secrets: SecretEnv = serde_json::from_str(r#"{"B": "hunter2", "A": ""}"#).unwrap();
        assert_eq!(format!("{secrets:?} {:?}", Some(&secrets)), "[redacted] Some([redacted])");
        assert_eq!(secrets.names(), ["A", "B"]);
        assert_eq!(serde_json::to_string(&secrets).unwrap(), r#"{"A":"","B":"hunter2"}"#);
        for wrong in [r#""hunter2""#, r#"["hunter2"]"#, r#"{"A": 42424242}"#, r#"{"A": {"B": "hunter2"}}"#, "42424242"]
        {
            let error = serde_json::from_str::<SecretEnv>(wrong).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.contains("42424242"), "{error}");
        }
        for wrong in ["hunter2\0".to_owned(), "hunter2".repeat(SECRETS_BYTES_MAX / 6)] {
            let mut secrets = SecretEnv::default();
            secrets.set("A".to_owned(), Secret::new(wrong));
            let error = secrets.check().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn names_match_or_do_not() {
        let secrets: SecretEnv = serde_json::from_str(r#"{"A": "x", "B": "y"}"#).unwrap();
        let named =
            |names: &[&str]| secrets.are_named_by(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert!(named(&["A", "B"]) && named(&["B", "A"]));
        assert!(!named(&["A"]) && !named(&["A", "C"]) && !named(&["A", "B", "C"]) && !named(&[]));
        assert!(SecretEnv::default().are_named_by(&[]));
    }
}
