//! Cutting a stream of output into lines, and making them safe for a terminal.

use anstream::adapter::strip_bytes;

/// Longest line that is held back until its end comes, in bytes; a longer one is shown in pieces.
pub const LINE_BYTES_MAX: usize = 4 * 1024;

/// Holds back the last line of a stream until it is complete.
#[derive(Debug, Default)]
pub struct LineBuffer {
    partial: Vec<u8>,
}

impl LineBuffer {
    /// Takes bytes and gives each line that they complete, without its end, to `show`.
    ///
    /// # Errors
    /// The first of `show`.
    pub fn push<E>(&mut self, bytes: &[u8], mut show: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) if self.partial.is_empty() => show(without_cr(end))?,
                Some(end) => {
                    self.partial.extend_from_slice(end);
                    let line = std::mem::take(&mut self.partial);
                    show(without_cr(&line))?;
                }
                None => self.partial.extend_from_slice(piece),
            }
            while self.partial.len() > LINE_BYTES_MAX {
                let rest = self.partial.split_off(LINE_BYTES_MAX);
                let head = std::mem::replace(&mut self.partial, rest);
                show(&head)?;
            }
        }
        Ok(())
    }

    /// What is left of a last line without an end.
    pub fn take_rest(&mut self) -> Option<Vec<u8>> {
        (!self.partial.is_empty()).then(|| std::mem::take(&mut self.partial))
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// A line without escape sequences and control characters other than tab, for a terminal that shows several agents:
/// one agent must not paint over another's lines.
pub fn tame(line: &[u8]) -> Vec<u8> {
    let stripped: Vec<u8> = strip_bytes(line).flatten().copied().collect();
    String::from_utf8_lossy(&stripped)
        .chars()
        .filter(|c| *c == '\t' || !c.is_control())
        .collect::<String>()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn lines(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
        let mut buffer = LineBuffer::default();
        let mut lines = Vec::new();
        for piece in pieces {
            let show = |line: &[u8]| -> Result<(), Infallible> {
                lines.push(line.to_vec());
                Ok(())
            };
            buffer.push(piece, show).unwrap();
        }
        (lines, buffer.take_rest())
    }

    #[test]
    fn lines_come_whole() {
        let (whole, rest) = lines(&[b"a", b"b\nc\r\n", b"\n\xff", b"d"]);
        assert_eq!(whole, [b"ab".to_vec(), b"c".to_vec(), b"".to_vec()]);
        assert_eq!(rest, Some(b"\xffd".to_vec()));
        assert_eq!(lines(&[b"a\n"]).1, None);
    }

    #[test]
    fn a_line_without_end_does_not_fill_memory() {
        let (pieces, rest) = lines(&[&vec![b'x'; 3 * LINE_BYTES_MAX + 5]]);
        assert_eq!(pieces.len(), 3);
        assert_eq!(rest.unwrap().len(), 5);
    }

    #[test]
    fn escape_sequences_are_taken_out() {
        assert_eq!(tame(b"\x1b[31mred\x1b[0m\tx\x07\r\x1b[2J"), b"red\tx");
        assert_eq!(tame("gr\u{fc}n \u{9b}1m".as_bytes()), "gr\u{fc}n 1m".as_bytes());
    }
}
