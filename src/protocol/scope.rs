//! Scopes: which agents a token reaches. Outside of it agents and their commands look as if they were not there.

use super::name::{NameError, TAG_CHARS_MAX, TAGS_MAX, Tags, is_label};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The tag that says at which customer's location an agent is.
pub const SITE: &str = "site";
/// Most values of one key.
pub const SCOPE_VALUES_MAX: usize = 256;

/// An agent is in the scope when it carries each key with one of that key's values. Empty: all agents.
///
/// As JSON `{"site": ["berlin", "munich"], "role": ["web"]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scope(BTreeMap<String, BTreeSet<String>>);

impl Scope {
    /// Whether it reaches all agents.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// The agents that carry every one of these tags.
    pub fn of_tags(tags: &Tags) -> Self {
        Self(tags.iter().map(|(key, value)| (key.clone(), BTreeSet::from([value.clone()]))).collect())
    }

    /// Adds a value that a key may have.
    pub fn allow(&mut self, key: String, value: String) {
        self.0.entry(key).or_default().insert(value);
    }

    /// Whether an agent with these tags is in it.
    pub fn holds(&self, tags: &Tags) -> bool {
        self.0.iter().all(|(key, values)| tags.get(key).is_some_and(|value| values.contains(value)))
    }

    /// Whether every agent of `other` is in it, whatever agents there are.
    pub fn contains(&self, other: &Self) -> bool {
        self.0.iter().all(|(key, values)| other.0.get(key).is_some_and(|theirs| theirs.is_subset(values)))
    }

    /// Checks what came as JSON.
    ///
    /// # Errors
    /// [`NameError::TooManyTags`], and [`NameError::Tag`] for the first key or value that is none; a key without values
    /// would reach nobody and is taken for a mistake.
    pub fn check(&self) -> Result<(), NameError> {
        if self.0.len() > TAGS_MAX {
            return Err(NameError::TooManyTags(self.0.len()));
        }
        for (key, values) in &self.0 {
            let good = |text: &String| is_label(text, TAG_CHARS_MAX);
            if !good(key) || values.is_empty() || values.len() > SCOPE_VALUES_MAX || !values.iter().all(good) {
                let values: Vec<&str> = values.iter().take(4).map(String::as_str).collect();
                return Err(NameError::tag(&format!("{key}={}", values.join(","))));
            }
        }
        Ok(())
    }

    /// As the database's statements take it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| unreachable!("maps of texts are JSON"))
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_all() {
            return f.pad("all");
        }
        let keys: Vec<String> = self
            .0
            .iter()
            .map(|(key, values)| format!("{key}={}", values.iter().cloned().collect::<Vec<_>>().join(",")))
            .collect();
        f.pad(&keys.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(json: &str) -> Scope {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_scope_holds_agents_and_contains_scopes() {
        let all = Scope::default();
        let cities = scope(r#"{"site": ["berlin", "munich"]}"#);
        let berlin = scope(r#"{"site": ["berlin"]}"#);
        let web = scope(r#"{"site": ["berlin"], "role": ["web"]}"#);
        let other = scope(r#"{"role": ["web"]}"#);
        for (wide, narrow) in [(&all, &cities), (&cities, &berlin), (&berlin, &web), (&other, &web), (&web, &web)] {
            assert!(wide.contains(narrow), "{wide} {narrow}");
            assert!(wide == narrow || !narrow.contains(wide), "{wide} {narrow}");
        }
        assert!(!cities.contains(&other) && !other.contains(&cities));
        let tags = Tags::from([("site".to_owned(), "munich".to_owned())]);
        assert!(all.holds(&tags) && cities.holds(&tags) && !berlin.holds(&tags) && !other.holds(&tags));
        assert!(!cities.holds(&Tags::new()));
        assert_eq!(Scope::of_tags(&tags).to_string(), "site=munich");
        assert_eq!(cities.to_json(), r#"{"site":["berlin","munich"]}"#);
    }

    #[test]
    fn wrong_scopes_are_refused() {
        for bad in [r#"{"site": []}"#, r#"{"": ["a"]}"#, r#"{"site": ["a b"]}"#, r#"{"-x": ["a"]}"#] {
            assert!(scope(bad).check().is_err(), "{bad}");
        }
        assert!(scope(r#"{"site": ["a"]}"#).check().is_ok());
    }
}
