//! Live output of one or several agents.
//!
//! One agent: its bytes as they are, standard output to ours and standard error to ours. Several: whole lines behind
//! the agent's name. A status line on a terminal is taken away before anything else is written.

use super::error::CliError;
use super::lines::{LineBuffer, tame};
use super::look::Look;
use super::out::written;
use super::text::clean;
use crate::protocol::http::DeliveryResponse;
use crate::protocol::ids::DeliveryId;
use crate::protocol::output::Stream;
use anstyle::AnsiColor;
use std::collections::HashMap;
use std::io::{self, Write};

/// Names longer than this do not widen the other agents' prefixes, in characters.
const PREFIX_CHARS_MAX: usize = 24;
const COLOURS: [AnsiColor; 6] =
    [AnsiColor::Cyan, AnsiColor::Green, AnsiColor::Yellow, AnsiColor::Magenta, AnsiColor::Blue, AnsiColor::BrightCyan];

/// Where the bytes go and how they look there.
struct Sink {
    to: Box<dyn Write + Send>,
    look: Look,
    at_line_start: bool,
}

/// One stream of one delivery.
#[derive(Default)]
struct Track {
    lines: LineBuffer,
    next_offset: u64,
}

/// Prints output.
pub struct Printer {
    stdout: Sink,
    stderr: Sink,
    /// None: one agent, no prefixes.
    labels: Option<HashMap<DeliveryId, Label>>,
    tracks: HashMap<(DeliveryId, Stream), Track>,
    status_shown: bool,
}

struct Label {
    text: String,
    colour: AnsiColor,
}

impl std::fmt::Debug for Printer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Printer").finish_non_exhaustive()
    }
}

impl Printer {
    /// To the process's own streams.
    pub fn new(deliveries: &[DeliveryResponse]) -> Self {
        Self::to(deliveries, (Box::new(io::stdout()), Look::stdout()), (Box::new(io::stderr()), Look::stderr()))
    }

    fn to(
        deliveries: &[DeliveryResponse],
        stdout: (Box<dyn Write + Send>, Look),
        stderr: (Box<dyn Write + Send>, Look),
    ) -> Self {
        let sink = |(to, look)| Sink { to, look, at_line_start: true };
        Self {
            stdout: sink(stdout),
            stderr: sink(stderr),
            labels: (deliveries.len() > 1).then(|| labels(deliveries)),
            tracks: HashMap::new(),
            status_shown: false,
        }
    }

    /// Whether each line carries an agent's name.
    pub fn is_prefixed(&self) -> bool {
        self.labels.is_some()
    }

    /// Whether a person reads standard error.
    pub fn has_status_line(&self) -> bool {
        self.stderr.look.terminal
    }

    /// Prints a piece of output. `offset` is its place in the whole stream: what was printed before is not printed
    /// again, and what was dropped is told.
    ///
    /// # Errors
    /// [`CliError::StdoutClosed`], [`CliError::Stdout`].
    pub fn output(&mut self, delivery: DeliveryId, stream: Stream, offset: u64, bytes: &[u8]) -> Result<(), CliError> {
        let track = self.tracks.entry((delivery, stream)).or_default();
        let gap = offset.saturating_sub(track.next_offset);
        let seen = usize::try_from(track.next_offset.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(fresh) = bytes.get(seen..).filter(|fresh| !fresh.is_empty()) else { return Ok(()) };
        track.next_offset = offset.max(track.next_offset).saturating_add(fresh.len() as u64);
        self.clear_status();
        if gap > 0 {
            self.end_line(delivery, stream)?;
            self.dropped(delivery, stream, gap);
        }
        let Some(labels) = &self.labels else { return self.raw(stream, fresh) };
        let Some(track) = self.tracks.get_mut(&(delivery, stream)) else { return Ok(()) };
        let sink = if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr };
        let label = labels.get(&delivery);
        track.lines.push(fresh, |line| sink.line(label, line)).and_then(|()| sink.flush())
    }

    /// Ends a stream's last line, if it has no end of its own, when several agents are shown.
    ///
    /// # Errors
    /// Like [`Printer::output`].
    pub fn end(&mut self, delivery: DeliveryId) -> Result<(), CliError> {
        self.clear_status();
        Stream::ALL.into_iter().try_for_each(|stream| self.end_line(delivery, stream))
    }

    /// Ends the last lines of all streams.
    ///
    /// # Errors
    /// Like [`Printer::output`].
    pub fn end_all(&mut self) -> Result<(), CliError> {
        let mut keys: Vec<_> = self.tracks.keys().copied().collect();
        keys.sort_unstable();
        self.clear_status();
        keys.into_iter().try_for_each(|(delivery, stream)| self.end_line(delivery, stream))
    }

    /// Says something on standard error, on a line of its own.
    pub fn note(&mut self, text: &str) {
        self.clear_status();
        self.fresh_line();
        // Nobody is left to be told that it could not be written.
        let _ = writeln!(self.stderr.to, "{text}");
    }

    /// Shows `text` until something else is written. On a terminal only, and never behind a line without an end.
    pub fn status(&mut self, text: &str) {
        if !self.has_status_line() || !self.stdout.at_line_start || !self.stderr.at_line_start {
            return;
        }
        let columns = usize::from(super::table::stderr_width().unwrap_or(80));
        let text = super::text::line(text, columns.saturating_sub(1));
        let _ = write!(self.stderr.to, "\r\x1b[K{}", self.stderr.look.dim(&text)).and_then(|()| self.stderr.to.flush());
        self.status_shown = true;
    }

    /// Takes the status line away.
    pub fn clear_status(&mut self) {
        if std::mem::take(&mut self.status_shown) {
            let _ = write!(self.stderr.to, "\r\x1b[K").and_then(|()| self.stderr.to.flush());
        }
    }

    fn raw(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), CliError> {
        let sink = if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr };
        sink.at_line_start = bytes.ends_with(b"\n");
        if stream == Stream::Stdout {
            return written(sink.to.write_all(bytes).and_then(|()| sink.to.flush()));
        }
        let _ = sink.to.write_all(bytes).and_then(|()| sink.to.flush());
        Ok(())
    }

    fn end_line(&mut self, delivery: DeliveryId, stream: Stream) -> Result<(), CliError> {
        let Some(labels) = &self.labels else { return Ok(()) };
        let rest = self.tracks.get_mut(&(delivery, stream)).and_then(|track| track.lines.take_rest());
        let Some(rest) = rest else { return Ok(()) };
        let sink = if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr };
        sink.line(labels.get(&delivery), &rest).and_then(|()| sink.flush())
    }

    fn dropped(&mut self, delivery: DeliveryId, stream: Stream, bytes: u64) {
        let name = self.labels.as_ref().and_then(|labels| labels.get(&delivery));
        let name = name.map(|label| format!("{}: ", label.text.trim_end())).unwrap_or_default();
        self.note(&format!("[… {name}{bytes} bytes of {stream} dropped …]"));
    }

    /// Raw output may have left the cursor in the middle of a line.
    fn fresh_line(&mut self) {
        let stdout_hangs = self.stdout.look.terminal && !self.stdout.at_line_start;
        if stdout_hangs || !self.stderr.at_line_start {
            let _ = writeln!(self.stderr.to);
            self.stdout.at_line_start |= stdout_hangs;
            self.stderr.at_line_start = true;
        }
    }
}

impl Sink {
    fn line(&mut self, label: Option<&Label>, line: &[u8]) -> Result<(), CliError> {
        let (text, colour) = label.map_or(("?", AnsiColor::White), |label| (label.text.as_str(), label.colour));
        let tamed;
        let line = if self.look.terminal {
            tamed = tame(line);
            &tamed[..]
        } else {
            line
        };
        let prefix = self.look.paint(colour, text);
        written(
            write!(self.to, "{prefix} {} ", self.look.dim("|"))
                .and_then(|()| self.to.write_all(line))
                .and_then(|()| self.to.write_all(b"\n")),
        )
    }

    fn flush(&mut self) -> Result<(), CliError> {
        written(self.to.flush())
    }
}

/// Names padded to one width; where two agents share a name, the end of the id tells them apart.
fn labels(deliveries: &[DeliveryResponse]) -> HashMap<DeliveryId, Label> {
    let mut count: HashMap<&str, usize> = HashMap::new();
    for delivery in deliveries {
        *count.entry(&delivery.agent_name).or_default() += 1;
    }
    let name = |delivery: &DeliveryResponse| match count.get(delivery.agent_name.as_str()) {
        Some(2..) => {
            let id = delivery.agent_id.to_string();
            clean(&format!("{}/{}", delivery.agent_name, &id[id.len() - 4..]))
        }
        _ => clean(&delivery.agent_name),
    };
    let width = deliveries.iter().map(|d| name(d).chars().count()).filter(|w| *w <= PREFIX_CHARS_MAX).max();
    let width = width.unwrap_or(PREFIX_CHARS_MAX);
    deliveries
        .iter()
        .zip(COLOURS.into_iter().cycle())
        .map(|(delivery, colour)| (delivery.id, Label { text: format!("{:width$}", name(delivery)), colour }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::waiting::tests::delivery;
    use super::*;
    use crate::protocol::state::State;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Shared {
        fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
        }
    }

    fn printer(deliveries: &[DeliveryResponse], look: Look) -> (Printer, Shared, Shared) {
        let (out, err) = (Shared::default(), Shared::default());
        let printer = Printer::to(deliveries, (Box::new(out.clone()), look), (Box::new(err.clone()), look));
        (printer, out, err)
    }

    #[test]
    fn one_agent_passes_through() {
        let one = [delivery("web-1", State::Running)];
        let (mut printer, out, err) = printer(&one, Look::default());
        printer.output(one[0].id, Stream::Stdout, 0, b"a\x1b[31m\xff").unwrap();
        printer.output(one[0].id, Stream::Stderr, 0, b"oops").unwrap();
        // A repetition after a reconnect, partly new.
        printer.output(one[0].id, Stream::Stdout, 1, b"\x1b[31m\xffb").unwrap();
        printer.output(one[0].id, Stream::Stdout, 0, b"a").unwrap();
        printer.output(one[0].id, Stream::Stdout, 1000, b"z").unwrap();
        printer.end_all().unwrap();
        assert_eq!(out.0.lock().unwrap().as_slice(), b"a\x1b[31m\xffbz");
        assert_eq!(err.text(), "oops\n[… 992 bytes of stdout dropped …]\n");
    }

    #[test]
    fn several_agents_have_prefixes() {
        let two = [delivery("web-1", State::Running), delivery("db", State::Running)];
        let (mut printer, out, err) = printer(&two, Look::default());
        printer.output(two[0].id, Stream::Stdout, 0, b"one\ntw").unwrap();
        printer.output(two[1].id, Stream::Stdout, 0, b"x\n").unwrap();
        printer.output(two[0].id, Stream::Stdout, 6, b"o").unwrap();
        printer.output(two[1].id, Stream::Stderr, 0, b"e").unwrap();
        printer.output(two[1].id, Stream::Stdout, 12, b"y").unwrap();
        printer.end_all().unwrap();
        assert_eq!(out.text(), "web-1 | one\ndb    | x\nweb-1 | two\ndb    | y\n");
        assert_eq!(err.text(), "[… db: 10 bytes of stdout dropped …]\ndb    | e\n");
    }

    #[test]
    fn a_terminal_is_protected_and_its_status_line_is_taken_away() {
        let two = [delivery("web-1", State::Running), delivery("web-1", State::Running)];
        let (mut printer, out, err) = printer(&two, Look { terminal: true, colour: false });
        printer.status("waiting");
        printer.output(two[0].id, Stream::Stdout, 0, b"\x1b[2Jx\n").unwrap();
        assert!(out.text().starts_with("web-1/") && out.text().ends_with(" | x\n"));
        assert_eq!(err.text(), "\r\u{1b}[Kwaiting\r\u{1b}[K");
    }
}
