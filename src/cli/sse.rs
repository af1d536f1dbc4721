//! Server-sent events, taken apart as the bytes come. Source: WHATWG HTML, section 9.2.6.
//!
//! Does not reconnect and reads no JSON. `retry` is ignored: our own backoff decides. Memory is bounded by
//! [`EVENT_BYTES_MAX`].

use super::client::ANSWER_BYTES_MAX;

/// Largest event, in bytes: the last one holds the whole command.
pub const EVENT_BYTES_MAX: usize = ANSWER_BYTES_MAX;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Its cursor for `Last-Event-ID`, if it has one.
    pub id: Option<String>,
    /// Its name; `message` if none was given.
    pub name: String,
    /// Its lines of data, joined.
    pub data: String,
}

/// An event that is larger than [`EVENT_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {EVENT_BYTES_MAX} bytes")]
pub struct SseError;

/// Takes a stream apart.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    after_cr: bool,
    started: bool,
    id: Option<String>,
    name: Option<String>,
    data: Option<String>,
}

impl SseParser {
    /// Takes the next bytes and appends the events that they complete to `events`.
    ///
    /// # Errors
    /// [`SseError`].
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (head, tail) = rest.split_at(end);
            // The line feed of a CR LF whose CR ended the line already.
            if !(self.after_cr && head.is_empty() && tail[0] == b'\n') {
                self.line.extend_from_slice(head);
                self.end_line(events)?;
            }
            self.after_cr = tail[0] == b'\r';
            rest = &tail[1..];
        }
        if !rest.is_empty() {
            self.after_cr = false;
            self.line.extend_from_slice(rest);
        }
        if self.line.len() > EVENT_BYTES_MAX {
            return Err(SseError);
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let line = if self.started { &*text } else { text.strip_prefix('\u{feff}').unwrap_or(&text) };
        self.started = true;
        if line.is_empty() {
            self.end_event(events);
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = Some(value.to_owned()),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "data" => {
                if self.data.as_ref().map_or(0, String::len) + value.len() > EVENT_BYTES_MAX {
                    return Err(SseError);
                }
                match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => self.data = Some(value.to_owned()),
                }
            }
            // A comment has an empty field name; other fields are for others.
            _ => {}
        }
        Ok(())
    }

    fn end_event(&mut self, events: &mut Vec<SseEvent>) {
        let name = self.name.take();
        let id = self.id.take();
        if let Some(data) = self.data.take() {
            events.push(SseEvent { id, name: name.unwrap_or_else(|| "message".to_owned()), data });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"\xef\xbb\xbf: welcome\n\nid: 7\nevent: output\ndata: {\"a\":1}\n\ndata:one\r\ndata: two\r\n\r\nevent: lonely\n\nid\rdata\r\rdata:  x: y\nretry: 5\n\ndata: cut off";

    fn expected() -> Vec<SseEvent> {
        let event = |id: Option<&str>, name: &str, data: &str| SseEvent {
            id: id.map(Into::into),
            name: name.into(),
            data: data.into(),
        };
        vec![
            event(Some("7"), "output", "{\"a\":1}"),
            event(None, "message", "one\ntwo"),
            event(Some(""), "message", ""),
            event(None, "message", " x: y"),
        ]
    }

    #[test]
    fn the_pieces_do_not_matter() {
        for size in 1..=STREAM.len() {
            let mut parser = SseParser::default();
            let mut events = Vec::new();
            for piece in STREAM.chunks(size) {
                parser.push(piece, &mut events).unwrap();
            }
            assert_eq!(events, expected(), "pieces of {size}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = SseParser::default();
        let piece = vec![b'x'; 1024 * 1024];
        let mut events = Vec::new();
        let refused = (0..=EVENT_BYTES_MAX / piece.len()).any(|_| parser.push(&piece, &mut events).is_err());
        assert!(refused && events.is_empty());
    }
}
