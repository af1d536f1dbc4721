//! Words over a local socket, with open files beside them.

use rustix::cmsg_space;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Most files that go with one piece of words.
pub const FILES_MAX: usize = 2;

/// Sends all of `words`, and the files with the first of them.
///
/// # Errors
/// Nobody is there any more, or `words` is empty.
pub fn send(socket: &UnixStream, words: &[u8], files: [BorrowedFd<'_>; FILES_MAX]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !beside.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("there is no room for the files"));
    }
    let sent = loop {
        match sendmsg(socket, &[IoSlice::new(words)], &mut beside, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if sent == 0 {
        return Err(ErrorKind::WriteZero.into());
    }
    (&*socket).write_all(&words[sent..])
}

/// Reads what there is, waiting for the first byte; files that come with it are added to `files`, and no child inherits
/// them. Returns the number of bytes; 0: the other side has gone.
///
/// # Errors
/// What the kernel says; an interruption, too.
pub fn receive(socket: &UnixStream, words: &mut [u8], files: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(words)], &mut beside, RecvFlags::empty())?;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            for file in came {
                // One thread: nothing is spawned in between.
                fcntl_setfd(&file, FdFlags::CLOEXEC)?;
                files.push(file);
            }
        }
    }
    Ok(received.bytes)
}
