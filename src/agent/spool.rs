//! Output on disk: what a process writes, kept within a limit, readable while it grows.
//!
//! Each stream is one file of at most `bytes_max` bytes. Its first half keeps the stream's beginning as it is (the
//! head); the second half is a ring that keeps the stream's end (the tail). What is written between them and
//! overtaken is dropped from the middle. The head never changes once written, so it is read and sent while the process
//! runs; the tail is settled only at the end, and is read then. Positions are those of the whole stream. A stream that says
//! nothing has no file.
//!
//! Nothing here is synced to the disk: output lost to a power cut is the price of 100 MB/s.

use super::data::private;
use crate::protocol::ids::DeliveryId;
use crate::protocol::outcome::{Outcome, StreamSummary};
use crate::protocol::output::Stream;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Both streams of one delivery.
#[derive(Debug)]
pub struct Spool {
    streams: [StreamFile; 2],
}

#[derive(Debug)]
struct StreamFile {
    path: PathBuf,
    // Empty: nothing was written, or it could not be opened. Then nothing can be read.
    file: OnceLock<File>,
    head_max: u64,
    tail_max: u64,
    bytes: AtomicU64,
    // Dropped because of the limit, or because it could not be written.
    dropped: AtomicU64,
    settled: AtomicBool,
}

fn path(folder: &Path, delivery: DeliveryId, stream: Stream) -> PathBuf {
    folder.join(format!("{delivery}.{stream}"))
}

/// Removes a delivery's files. What is not there is fine.
///
/// # Errors
/// What the file system says.
pub fn remove(folder: &Path, delivery: DeliveryId) -> io::Result<()> {
    for stream in Stream::ALL {
        match std::fs::remove_file(path(folder, delivery, stream)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the files of all deliveries but these: a crash came between forgetting one and removing its files.
///
/// # Errors
/// What the file system says.
pub fn sweep(folder: &Path, known: &[DeliveryId]) -> io::Result<()> {
    for file in std::fs::read_dir(folder)? {
        let file = file?;
        let name = file.file_name();
        let delivery = name.to_str().and_then(|name| name.split_once('.')?.0.parse::<DeliveryId>().ok());
        if delivery.is_some_and(|delivery| !known.contains(&delivery)) {
            std::fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

impl Spool {
    /// For a new run.
    pub fn new(folder: &Path, delivery: DeliveryId, bytes_max: u64) -> Self {
        let stream = |stream| StreamFile::new(path(folder, delivery, stream), bytes_max);
        Self { streams: [stream(Stream::Stdout), stream(Stream::Stderr)] }
    }

    /// The files of a run whose outcome is known.
    pub fn reopen(folder: &Path, delivery: DeliveryId, bytes_max: u64, outcome: &Outcome) -> Self {
        let open = |stream, summary: StreamSummary| {
            let reopened = StreamFile::new(path(folder, delivery, stream), bytes_max);
            if let Ok(file) = File::open(&reopened.path) {
                // It is empty: nobody else has it yet.
                let _ = reopened.file.set(file);
            }
            reopened.bytes.store(summary.bytes, Ordering::Release);
            reopened.dropped.store(summary.dropped, Ordering::Release);
            reopened.settled.store(true, Ordering::Release);
            reopened
        };
        Self { streams: [open(Stream::Stdout, outcome.stdout), open(Stream::Stderr, outcome.stderr)] }
    }

    /// What the files of a run that was cut off still hold. A full file's ring may have turned any number of times:
    /// then only the head counts, and the size is the least that was written.
    pub fn salvage(folder: &Path, delivery: DeliveryId, bytes_max: u64) -> [StreamSummary; 2] {
        Stream::ALL.map(|stream| {
            let found = std::fs::metadata(path(folder, delivery, stream)).map_or(0, |file| file.len());
            let (head_max, _) = halves(bytes_max);
            match found {
                bytes if bytes < bytes_max => StreamSummary { bytes, dropped: 0 },
                _ => StreamSummary { bytes: bytes_max, dropped: bytes_max - head_max },
            }
        })
    }

    fn stream(&self, stream: Stream) -> &StreamFile {
        match stream {
            Stream::Stdout => &self.streams[0],
            Stream::Stderr => &self.streams[1],
        }
    }

    /// Keeps the next bytes of a stream. One writer at a time.
    ///
    /// # Errors
    /// What the file system says; the bytes then count as dropped, and so do all later ones.
    pub fn append(&self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        self.stream(stream).append(bytes)
    }

    /// Says that nothing more comes: the tail can be read.
    pub fn settle(&self) {
        self.streams.iter().for_each(|stream| stream.settled.store(true, Ordering::Release));
    }

    /// How much a stream had.
    pub fn summary(&self, stream: Stream) -> StreamSummary {
        let stream = self.stream(stream);
        StreamSummary { bytes: stream.bytes.load(Ordering::Acquire), dropped: stream.dropped.load(Ordering::Acquire) }
    }

    /// Where the next bytes from `from` on are, and how many there are for now: none: nothing yet, or nothing any more.
    pub fn available(&self, stream: Stream, from: u64) -> Option<(u64, u64)> {
        self.stream(stream).available(from)
    }

    /// Up to `len` of the bytes at `offset`, which [`Spool::available`] gave. Fewer where the file is shorter than it
    /// should be: a power cut.
    ///
    /// # Errors
    /// What the file system says.
    pub fn read(&self, stream: Stream, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.stream(stream).read(offset, len)
    }
}

fn halves(bytes_max: u64) -> (u64, u64) {
    (bytes_max / 2, bytes_max - bytes_max / 2)
}

impl StreamFile {
    fn new(path: PathBuf, bytes_max: u64) -> Self {
        let (head_max, tail_max) = halves(bytes_max);
        Self {
            path,
            file: OnceLock::new(),
            head_max,
            tail_max,
            bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            settled: AtomicBool::new(false),
        }
    }

    /// Where a position of the stream lies in the file, and how many bytes from there on lie in one piece.
    fn place(&self, offset: u64) -> (u64, u64) {
        if offset < self.head_max {
            return (offset, self.head_max - offset);
        }
        let turned = (offset - self.head_max) % self.tail_max;
        (self.head_max + turned, self.tail_max - turned)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let from = self.bytes.load(Ordering::Acquire);
        let end = from + bytes.len() as u64;
        let kept = self.head_max + self.tail_max;
        let lost = self.dropped.load(Ordering::Acquire);
        // A failed write leaves a hole that a ring cannot describe: from then on everything is dropped.
        let failed = lost > from.saturating_sub(kept);
        let written = if failed { Err(io::Error::other("an earlier write failed")) } else { self.write(from, bytes) };
        let dropped = match written {
            Ok(()) => end.saturating_sub(kept),
            Err(_) if failed => lost + bytes.len() as u64,
            // What the ring held is given up too: only the head is certain.
            Err(_) => end - from.min(self.head_max),
        };
        self.dropped.store(dropped, Ordering::Release);
        self.bytes.store(end, Ordering::Release);
        if failed { Ok(()) } else { written }
    }

    /// The file, made with the first bytes: most streams have none.
    fn opened(&self) -> io::Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = private().read(true).write(true).create(true).truncate(true).open(&self.path)?;
        Ok(self.file.get_or_init(|| file))
    }

    fn write(&self, from: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() || self.tail_max == 0 {
            return Ok(());
        }
        let file = self.opened()?;
        let mut at = from;
        let mut rest = bytes;
        // Only the end of a piece longer than the ring can stay in it.
        if at >= self.head_max && rest.len() as u64 > self.tail_max {
            let skip = rest.len() as u64 - self.tail_max;
            at += skip;
            rest = &rest[usize::try_from(skip).unwrap_or(rest.len())..];
        }
        while !rest.is_empty() {
            let (place, room) = self.place(at);
            let piece = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
            write_at(file, &rest[..piece], place)?;
            at += piece as u64;
            rest = &rest[piece..];
        }
        Ok(())
    }

    fn available(&self, from: u64) -> Option<(u64, u64)> {
        // In this order: what is settled has its last sizes.
        let settled = self.settled.load(Ordering::Acquire);
        let bytes = self.bytes.load(Ordering::Acquire);
        let dropped = self.dropped.load(Ordering::Acquire);
        // Between the two loads a writer may have been: then there is less for now, and its ring brings us back.
        let head = self.head_max.min(bytes.saturating_sub(dropped));
        if from < head {
            return Some((from, head - from));
        }
        if !settled {
            return None;
        }
        let start = from.max(head + dropped);
        (start < bytes).then(|| (start, self.place(start).1.min(bytes - start)))
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let Some(file) = self.file.get() else { return Ok(Vec::new()) };
        let (place, room) = self.place(offset);
        let mut bytes = vec![0; usize::try_from(room).unwrap_or(usize::MAX).min(len)];
        let mut filled = 0;
        while filled < bytes.len() {
            match read_at(file, &mut bytes[filled..], place + filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], place: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, place)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], place: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, place)
}

#[cfg(windows)]
fn write_at(file: &File, bytes: &[u8], place: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        done += std::os::windows::fs::FileExt::seek_write(file, &bytes[done..], place + done as u64)?;
    }
    Ok(())
}

#[cfg(windows)]
fn read_at(file: &File, bytes: &mut [u8], place: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(spool: &Spool, stream: Stream) -> Vec<(u64, Vec<u8>)> {
        let mut from = 0;
        let mut pieces = Vec::new();
        while let Some((offset, len)) = spool.available(stream, from) {
            let bytes = spool.read(stream, offset, usize::try_from(len).unwrap().min(7)).unwrap();
            assert!(!bytes.is_empty());
            from = offset + bytes.len() as u64;
            pieces.push((offset, bytes));
        }
        pieces
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn the_beginning_and_the_end_are_kept(
            bytes_max in 0_u64..40,
            writes in proptest::collection::vec(0_usize..60, 0..8),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let delivery = DeliveryId::new();
            let spool = Spool::new(folder.path(), delivery, bytes_max);
            let mut whole = Vec::new();
            for length in writes {
                let bytes: Vec<u8> = (0..length).map(|i| u8::try_from((whole.len() + i) % 251).unwrap()).collect();
                spool.append(Stream::Stdout, &bytes).unwrap();
                whole.extend(bytes);
            }
            let live: usize = all(&spool, Stream::Stdout).iter().map(|(_, bytes)| bytes.len()).sum();
            prop_assert_eq!(live as u64, (whole.len() as u64).min(bytes_max / 2));
            spool.settle();
            let summary = spool.summary(Stream::Stdout);
            prop_assert_eq!(summary.bytes, whole.len() as u64);
            prop_assert_eq!(summary.dropped, summary.bytes.saturating_sub(bytes_max));
            let outcome = Outcome { stdout: summary, ..Outcome::without_run(crate::protocol::state::State::Failed, "") };
            let reopened = Spool::reopen(folder.path(), delivery, bytes_max, &outcome);
            for spool in [spool, reopened] {
                let pieces = all(&spool, Stream::Stdout);
                let kept: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
                prop_assert_eq!(kept as u64, summary.bytes - summary.dropped);
                for (offset, bytes) in pieces {
                    let offset = usize::try_from(offset).unwrap();
                    prop_assert_eq!(&whole[offset..offset + bytes.len()], &bytes[..]);
                }
            }
            let file = std::fs::metadata(path(folder.path(), delivery, Stream::Stdout)).map_or(0, |file| file.len());
            prop_assert!(!path(folder.path(), delivery, Stream::Stderr).exists());
            prop_assert!(file <= bytes_max);
            let saved = Spool::salvage(folder.path(), delivery, bytes_max)[0];
            prop_assert!(saved.bytes <= summary.bytes);
            let outcome = Outcome { stdout: saved, ..outcome };
            let saved_spool = Spool::reopen(folder.path(), delivery, bytes_max, &outcome);
            for (offset, bytes) in all(&saved_spool, Stream::Stdout) {
                let offset = usize::try_from(offset).unwrap();
                prop_assert_eq!(&whole[offset..offset + bytes.len()], &bytes[..]);
            }
        }
    }

    #[test]
    fn files_are_removed_and_may_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let count = || std::fs::read_dir(folder.path()).unwrap().count();
        let delivery = DeliveryId::new();
        let write = || {
            let spool = Spool::new(folder.path(), delivery, 10);
            Stream::ALL.iter().for_each(|stream| spool.append(*stream, b"x").unwrap());
        };
        write();
        sweep(folder.path(), &[delivery]).unwrap();
        assert_eq!(count(), 2);
        sweep(folder.path(), &[]).unwrap();
        assert_eq!(count(), 0);
        write();
        remove(folder.path(), delivery).unwrap();
        remove(folder.path(), delivery).unwrap();
        assert_eq!(count(), 0);
        assert_eq!(Spool::salvage(folder.path(), delivery, 10), [StreamSummary::default(); 2]);
    }

    #[test]
    fn output_that_cannot_be_kept_is_told_once_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(&folder.path().join("missing"), DeliveryId::new(), 10);
        spool.append(Stream::Stdout, b"").unwrap();
        assert_eq!(spool.append(Stream::Stdout, b"abc").unwrap_err().kind(), io::ErrorKind::NotFound);
        spool.append(Stream::Stdout, b"de").unwrap();
        spool.settle();
        assert_eq!(spool.summary(Stream::Stdout), StreamSummary { bytes: 5, dropped: 5 });
        assert_eq!(spool.available(Stream::Stdout, 0), None);
    }
}
