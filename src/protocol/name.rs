//! Names and tags of agents: labels for people, not keys.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Longest name, in characters. Host names have at most 63 a label.
pub const NAME_CHARS_MAX: usize = 64;
/// Longest tag key or value, in characters.
pub const TAG_CHARS_MAX: usize = 64;
/// Tags an agent may carry: each is shown in lists and matched in submissions.
pub const TAGS_MAX: usize = 32;

/// A checked agent name: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with `-`, and not shaped like an id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentName(String);

/// Tags: key → value.
pub type Tags = BTreeMap<String, String>;

/// A name or tag that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// The name has a wrong length or character.
    #[error(
        "{0:?} is not an agent name: 1 to {NAME_CHARS_MAX} letters, digits, dots, underscores and hyphens, not starting with a hyphen"
    )]
    Name(String),
    /// The name could be taken for an id.
    #[error("{0:?} looks like an id; an agent's name must not")]
    LooksLikeId(String),
    /// The tag is not KEY=VALUE, or one of the two has a wrong length or character.
    #[error("{0:?} is not a tag: KEY=VALUE, each 1 to {TAG_CHARS_MAX} letters, digits, dots, underscores and hyphens")]
    Tag(String),
    /// Too many tags.
    #[error("{0} tags are too many: at most {TAGS_MAX}")]
    TooManyTags(usize),
}

/// Whether `text` can be a name, a tag's key or a tag's value.
pub fn is_label(text: &str, chars_max: usize) -> bool {
    !text.is_empty()
        && text.len() <= chars_max
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl NameError {
    /// A tag that is none.
    pub fn tag(text: &str) -> Self {
        Self::Tag(shown(text))
    }
}

impl AgentName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes a name out of what a host calls itself: other characters become hyphens, an empty one "agent".
    pub fn from_host(host: &str) -> Self {
        let kept: String = host
            .trim()
            .chars()
            .take(NAME_CHARS_MAX)
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
            .collect();
        kept.trim_matches('-').parse().unwrap_or_else(|_| Self("agent".to_owned()))
    }
}

impl FromStr for AgentName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if !is_label(text, NAME_CHARS_MAX) {
            return Err(NameError::Name(shown(text)));
        }
        if text.parse::<super::ids::AgentId>().is_ok() {
            return Err(NameError::LooksLikeId(shown(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for AgentName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<AgentName> for String {
    fn from(name: AgentName) -> Self {
        name.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Splits `KEY=VALUE` and checks both.
///
/// # Errors
/// [`NameError::Tag`].
pub fn parse_tag(text: &str) -> Result<(String, String), NameError> {
    text.split_once('=')
        .filter(|(key, value)| is_label(key, TAG_CHARS_MAX) && is_label(value, TAG_CHARS_MAX))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| NameError::Tag(shown(text)))
}

/// Checks tags that came as a map.
///
/// # Errors
/// [`NameError::Tag`] for the first bad one, [`NameError::TooManyTags`].
pub fn check_tags(tags: &Tags) -> Result<(), NameError> {
    if tags.len() > TAGS_MAX {
        return Err(NameError::TooManyTags(tags.len()));
    }
    match tags.iter().find(|(key, value)| !is_label(key, TAG_CHARS_MAX) || !is_label(value, TAG_CHARS_MAX)) {
        Some((key, value)) => Err(NameError::Tag(shown(&format!("{key}={value}")))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for good in ["web-1", "RECEPTION-1", "a", "x.y_z"] {
            assert_eq!(good.parse::<AgentName>().unwrap().as_str(), good);
        }
        for bad in ["", "-x", "a b", "ä", "a/b", "\u{1b}[31m", "01928c3e-5a70-7e63-9f0a-3c1f0d6b2a11"] {
            assert!(bad.parse::<AgentName>().is_err(), "{bad:?}");
        }
        assert_eq!(AgentName::from_host("Büro PC\n").as_str(), "B-ro-PC");
        assert_eq!(AgentName::from_host("").as_str(), "agent");
    }

    #[test]
    fn tags_are_key_and_value() {
        assert_eq!(parse_tag("site=berlin").unwrap(), ("site".into(), "berlin".into()));
        for bad in ["site", "=x", "x=", "a b=c", "a=b=c"] {
            assert!(parse_tag(bad).is_err(), "{bad:?}");
        }
    }
}
