//! Output frames: binary, because output is bytes and not text.
//!
//! Layout: 16 bytes delivery id, 1 byte stream (1 standard output, 2 standard error), 8 bytes offset (big-endian:
//! the position of the first byte in the whole stream), then 1 to [`OUTPUT_CHUNK_BYTES_MAX`] bytes.

use super::ids::DeliveryId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bytes before the payload.
pub const OUTPUT_HEADER_BYTES: usize = 25;
/// Largest frame, in bytes. Larger frames would make each connection's buffers larger for ever.
pub const OUTPUT_FRAME_BYTES_MAX: usize = 8 * 1024;
/// Most payload of one frame, in bytes.
pub const OUTPUT_CHUNK_BYTES_MAX: usize = OUTPUT_FRAME_BYTES_MAX - OUTPUT_HEADER_BYTES;

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Both.
    pub const ALL: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

    /// Its number on the wire and in the database: the file descriptor's.
    pub fn number(self) -> u8 {
        match self {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        }
    }

    /// The stream with that number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.number() == number)
    }

    /// The word used in HTTP and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that names no stream.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a stream; the streams are stdout and stderr")]
pub struct StreamError(String);

impl FromStr for Stream {
    type Err = StreamError;
    fn from_str(text: &str) -> Result<Self, StreamError> {
        Self::ALL
            .into_iter()
            .find(|stream| stream.as_str() == text)
            .ok_or_else(|| StreamError(text.chars().take(32).collect()))
    }
}

/// A piece of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFrame {
    /// Whose output.
    pub delivery: DeliveryId,
    /// Which stream.
    pub stream: Stream,
    /// Position of `bytes[0]` in the whole stream. A jump means that bytes between were dropped.
    pub offset: u64,
    /// 1 to [`OUTPUT_CHUNK_BYTES_MAX`] bytes.
    pub bytes: Vec<u8>,
}

/// A binary frame that is no output frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputFrameError {
    /// Too short, too long, or without payload.
    #[error(
        "an output frame has a header of {OUTPUT_HEADER_BYTES} bytes and at most {OUTPUT_FRAME_BYTES_MAX} in all, this one has {0}"
    )]
    Length(usize),
    /// The stream's number is neither 1 nor 2.
    #[error("no stream has the number {0}")]
    Stream(u8),
    /// Offset and length overflow.
    #[error("the offset {0} is too large")]
    Offset(u64),
}

impl OutputFrame {
    /// The frame as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(OUTPUT_HEADER_BYTES + self.bytes.len());
        frame.extend_from_slice(self.delivery.as_bytes());
        frame.push(self.stream.number());
        frame.extend_from_slice(&self.offset.to_be_bytes());
        frame.extend_from_slice(&self.bytes);
        frame
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(frame: &[u8]) -> Result<Self, OutputFrameError> {
        let length = OutputFrameError::Length(frame.len());
        if frame.len() > OUTPUT_FRAME_BYTES_MAX {
            return Err(length);
        }
        let Some((id, rest)) = frame.split_first_chunk::<16>() else { return Err(length) };
        let Some((number, rest)) = rest.split_first() else { return Err(length) };
        let Some((offset, bytes)) = rest.split_first_chunk::<8>() else { return Err(length) };
        if bytes.is_empty() {
            return Err(length);
        }
        let stream = Stream::from_number(*number).ok_or(OutputFrameError::Stream(*number))?;
        let offset = u64::from_be_bytes(*offset);
        if offset > i64::MAX as u64 - OUTPUT_FRAME_BYTES_MAX as u64 {
            return Err(OutputFrameError::Offset(offset));
        }
        Ok(Self { delivery: DeliveryId::from_bytes(*id), stream, offset, bytes: bytes.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back() {
        let frame = OutputFrame {
            delivery: DeliveryId::new(),
            stream: Stream::Stderr,
            offset: 1 << 40,
            bytes: vec![0, 255, 10],
        };
        assert_eq!(OutputFrame::decode(&frame.encode()).unwrap(), frame);
    }

    #[test]
    fn garbage_is_refused() {
        let good =
            OutputFrame { delivery: DeliveryId::new(), stream: Stream::Stdout, offset: 0, bytes: vec![1] }.encode();
        for length in 0..good.len() {
            assert_eq!(OutputFrame::decode(&good[..length]), Err(OutputFrameError::Length(length)));
        }
        let mut wrong = good.clone();
        wrong[16] = 3;
        assert_eq!(OutputFrame::decode(&wrong), Err(OutputFrameError::Stream(3)));
        let mut wrong = good;
        wrong[17] = 0xff;
        assert!(matches!(OutputFrame::decode(&wrong), Err(OutputFrameError::Offset(_))));
        assert!(OutputFrame::decode(&vec![1; OUTPUT_FRAME_BYTES_MAX + 1]).is_err());
    }
}
