//! The HTTP bodies about rollouts: a release that goes to agents by waves.

use super::ids::{AgentId, RolloutId};
use super::name::Tags;
use super::scope::Scope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;

/// `POST /api/rollout`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutRequest {
    /// Agents that go first: a number, or a share like `5%`. Default: 5%, at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// So many may fail; one more pauses it. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures_max: Option<u32>,
    /// How long the first agents must have run before the others follow, in seconds. Default: 600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soak_s: Option<u32>,
    /// Hours in which it is offered, by the server's zone, like `22:00-05:00`. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Only to agents that carry all of these tags.
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// It may be older than what runs.
    pub downgrade: bool,
}

/// How many agents go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// So many.
    Count(u32),
    /// So many of a hundred, 0 to 100.
    Percent(u32),
}

impl Canary {
    /// How many of so many; at least one, but for a 0 that somebody asked for.
    pub fn of(self, agents: u64) -> u64 {
        match self {
            Canary::Count(count) => u64::from(count).min(agents),
            Canary::Percent(percent) => (agents * u64::from(percent)).div_ceil(100),
        }
    }
}

/// Hours of a day, by minutes since midnight. `from` is in it, `to` is not; it may go over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Begins here.
    pub from: u16,
    /// Ends here.
    pub to: u16,
}

impl Window {
    /// Whether that minute of the day is in it.
    pub fn holds(self, minute: u16) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

/// A text that is none of these.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct RolloutTextError {
    what: &'static str,
    text: String,
}

fn wrong(what: &'static str, text: &str) -> RolloutTextError {
    RolloutTextError { what, text: text.chars().take(40).collect() }
}

impl FromStr for Canary {
    type Err = RolloutTextError;
    fn from_str(text: &str) -> Result<Self, RolloutTextError> {
        let error = |_| wrong("number of agents and no share of them, like 3 or 5%", text);
        match text.strip_suffix('%') {
            None => text.parse().map(Canary::Count).map_err(error),
            Some(percent) => match percent.parse().map_err(error)? {
                percent @ 0..=100 => Ok(Canary::Percent(percent)),
                _ => Err(wrong("share: 0% to 100%", text)),
            },
        }
    }
}

impl fmt::Display for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Canary::Count(count) => write!(f, "{count}"),
            Canary::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Window {
    type Err = RolloutTextError;
    fn from_str(text: &str) -> Result<Self, RolloutTextError> {
        let error = || wrong("window of hours, like 22:00-05:00", text);
        let minute = |text: &str| {
            let (hours, minutes) = text.trim().split_once(':')?;
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let (from, to) = text.split_once('-').ok_or_else(error)?;
        let window = Self { from: minute(from).ok_or_else(error)?, to: minute(to).ok_or_else(error)? };
        if window.from == window.to { Err(error()) } else { Ok(window) }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |minute: u16| (minute % DAY_MINUTES / 60, minute % 60);
        let ((from_h, from_m), (to_h, to_m)) = (of(self.from), of(self.to));
        write!(f, "{from_h:02}:{from_m:02}-{to_h:02}:{to_m:02}")
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
as_text!(Canary);
as_text!(Window);

/// A release of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutRelease {
    /// What it runs on.
    pub platform: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of it, hexadecimal.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

/// An agent's part in a rollout.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RolloutAgent {
    /// Which.
    pub agent_id: AgentId,
    /// Its name.
    pub name: String,
    /// Whether a session of it is open.
    pub online: bool,
    /// 1: it goes first. 2: it follows. None: that is not decided yet.
    pub wave: Option<u32>,
    /// `waiting`, `offered`, `taken`, `restarting`, `upgraded`, `failed`, `rolled_back`, `unable`.
    pub state: String,
    /// How often it was offered.
    pub attempt: u32,
    /// Why, where the state does not say it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the state last changed.
    pub changed_ms: i64,
}

/// A rollout.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RolloutResponse {
    /// Its id.
    pub id: RolloutId,
    /// `running`, `paused`, `stopped` or `done`.
    pub state: String,
    /// Why, where nobody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// 1: the first agents. 2: all.
    pub wave: u32,
    /// How many go first.
    pub canaries: u64,
    /// So many may fail.
    pub failures_max: u32,
    /// How long the first must have run, in seconds.
    pub soak_s: u32,
    /// The hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// To whom; `{}`: all.
    pub scope: Scope,
    /// Whether it may be older than what runs.
    pub downgrade: bool,
    /// When it was started.
    pub created_ms: i64,
    /// By whom.
    pub created_by: String,
    /// What is rolled out.
    pub releases: Vec<RolloutRelease>,
    /// How many agents are in each state. States without an agent are missing.
    pub states: BTreeMap<String, u64>,
    /// Agents, in order of their enrollment: a page of them.
    pub agents: Vec<RolloutAgent>,
    /// Where the next page begins; none: there is none.
    pub next: Option<AgentId>,
}

/// `GET /api/rollout`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// The latest; none: there was none yet.
    pub rollout: Option<RolloutResponse>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_go_over_midnight() {
        let night: Window = "22:00-05:00".parse().unwrap();
        let day: Window = " 9:30 - 17:00".parse().unwrap();
        for (minute, is_night, is_day) in [
            (0, true, false),
            (299, true, false),
            (300, false, false),
            (570, false, true),
            (1019, false, true),
            (1020, false, false),
            (1320, true, false),
        ] {
            assert_eq!((night.holds(minute), day.holds(minute)), (is_night, is_day), "{minute}");
        }
        assert_eq!((night.to_string().as_str(), day.to_string().as_str()), ("22:00-05:00", "09:30-17:00"));
        for bad in ["", "22:00", "22-5", "24:00-05:00", "22:00-22:00", "22:60-05:00", "a:b-c:d", "-"] {
            assert!(bad.parse::<Window>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_is_at_least_one_agent() {
        let of = |text: &str, agents| text.parse::<Canary>().unwrap().of(agents);
        assert_eq!([of("5%", 0), of("5%", 1), of("5%", 20), of("5%", 21), of("100%", 7)], [0, 1, 1, 2, 7]);
        assert_eq!([of("3", 2), of("3", 9), of("0", 9), of("0%", 9)], [2, 3, 0, 0]);
        for bad in ["", "%", "101%", "-1", "1.5", "five"] {
            assert!(bad.parse::<Canary>().is_err(), "{bad}");
        }
    }
}
