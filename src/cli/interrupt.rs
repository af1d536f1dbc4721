//! Ctrl-C and SIGTERM, as something to wait for.

use std::io;

/// The signals that ask a process to end. From its making on they no longer end the process by themselves.
#[derive(Debug)]
pub struct Interrupts {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
}

impl Interrupts {
    /// Listens. Must be called within a runtime.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn new() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hangup: None,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Listens for the terminal's end, too. Not for what `nohup` should keep alive.
    ///
    /// # Errors
    /// When the operating system refuses.
    #[cfg_attr(not(unix), allow(unused_mut))]
    pub fn and_hangup(mut self) -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            self.hangup = Some(signal(SignalKind::hangup())?);
        }
        Ok(self)
    }

    /// Waits for the next one. May be dropped while it waits.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            Some(Some(())) = async {
                match &mut self.hangup {
                    Some(hangup) => Some(hangup.recv().await),
                    None => std::future::pending().await,
                }
            } => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
