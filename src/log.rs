//! The log of `serve` and `agent`, on standard error: text for people, JSON for what collects logs, and under systemd
//! entries of its journal, where `journalctl -p warning` and `journalctl AGENT=web-1` find them.
//!
//! A line that cannot be written is given up: nobody who logs waits or fails for it.

use crate::clock::Clock;
use crate::journald::Journald;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, registry};

/// What the log is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; under systemd, entries of the journal.
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl LogFormat {
    /// As it is written in flags and files.
    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// Begins the log of this process: what is logged from now on, and panics. `POSTRIDER_LOG` says what.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env("POSTRIDER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let is_journal = is_journal();
    if format == LogFormat::Text && !is_journal {
        let stderr = std::io::stderr;
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_target(false);
        // Or a full disk under the log would panic whoever logs: that error is told on standard error, too.
        let log = log.log_internal_errors(false);
        log.with_ansi(stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).init();
    } else {
        let journald = if format == LogFormat::Text { Journald::open() } else { None };
        registry().with(filter).with(Lines { format, is_journal, journald, clock: Clock::system() }).init();
    }
    // Or it would be a line of another shape, without a priority.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{}; please report it: this is a defect of postrider", panic.to_string().replace('\n', " "));
    }));
}

/// What goes before the reason why a process ends, on standard error: it is an error to the journal, too.
pub fn error_mark() -> &'static str {
    if is_journal() { "<3>" } else { "" }
}

/// Whether standard error is systemd's journal itself, not a file or pipe that was put in its place (systemd.exec(5)).
#[cfg(unix)]
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let here = nix::sys::stat::fstat(std::io::stderr());
    here.is_ok_and(|here| stream == format!("{}:{}", here.st_dev, here.st_ino))
}

#[cfg(not(unix))]
fn is_journal() -> bool {
    false
}

/// One event.
#[derive(Debug, Default)]
pub struct Entry {
    /// What happened.
    pub message: String,
    /// What more there is to it, by name.
    pub fields: Map<String, Value>,
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            name => drop(self.fields.insert(name.to_owned(), value.into())),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
}

impl Entry {
    /// Message and fields, for people.
    pub fn text(&self) -> String {
        self.fields.iter().fold(self.message.clone(), |mut text, (name, value)| {
            let _ = match value {
                Value::String(value) => write!(text, " {name}={value}"),
                value => write!(text, " {name}={value}"),
            };
            text
        })
    }
}

/// Its priority in the journal (syslog(3)): 3 to 7. What is `info` here is daily life: 6.
pub fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// A line of JSON.
#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    level: &'static str,
    target: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: &'a Map<String, Value>,
}

/// Writes events.
struct Lines {
    format: LogFormat,
    is_journal: bool,
    journald: Option<Journald>,
    clock: Clock,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let mut entry = Entry::default();
        event.record(&mut entry);
        if self.journald.as_ref().is_some_and(|journald| journald.send(priority(level), target, &entry)) {
            return;
        }
        let line = match self.format {
            LogFormat::Text => one_line(&entry.text()),
            LogFormat::Json => json(level, target, &entry, self.clock.now_ms()),
        };
        // The journal takes it off again (sd-daemon(3)).
        let mark = if self.is_journal { format!("<{}>", priority(level)) } else { String::new() };
        let _ = std::io::stderr().lock().write_all(format!("{mark}{line}\n").as_bytes());
    }
}

fn json(level: Level, target: &str, entry: &Entry, now_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(now_ms).unwrap_or_default();
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        _ => "trace",
    };
    let (message, fields) = (entry.message.as_str(), &entry.fields);
    let line = JsonLine { time: format!("{time:.3}"), level, target, message, fields };
    serde_json::to_string(&line).unwrap_or_default()
}

/// A line break would begin another entry, with a priority that anybody could choose.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let fields = [("agent".to_owned(), "web-1".into()), ("epoch".to_owned(), 3.into())];
        Entry { message: "it\n<0>ended".to_owned(), fields: fields.into_iter().collect() }
    }

    #[test]
    fn an_entry_is_one_line_of_either_shape() {
        assert_eq!(one_line(&entry().text()), "it <0>ended agent=web-1 epoch=3");
        let line = json(Level::WARN, "postrider::server", &entry(), 1_700_000_000_123);
        assert_eq!(
            line,
            r#"{"time":"2023-11-14T22:13:20.123Z","level":"warn","target":"postrider::server","message":"it\n<0>ended","fields":{"agent":"web-1","epoch":3}}"#
        );
    }

    #[test]
    fn formats_are_written_as_flags_have_them() {
        for format in LogFormat::value_variants() {
            let value = format.to_possible_value().unwrap();
            assert_eq!(value.get_name(), format.as_str());
        }
    }
}
