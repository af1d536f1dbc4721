//! A server in this process: its clock and its limits can be moved.

use super::api::Api;
use super::process::known_by;
use postrider::clock::Clock;
use postrider::server::serve::{Running, ServeConfig, ServeError, start};
use std::path::Path;
use tempfile::TempDir;

/// A server in this process, on a folder that goes with it.
pub struct TestServer {
    /// The server.
    pub running: Running,
    /// Its clock.
    pub clock: Clock,
    /// A client with the owner's token.
    pub api: Api,
    /// Its data folder.
    pub data: TempDir,
}

impl TestServer {
    /// With the defaults.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With other settings.
    pub async fn start_with(change: impl FnOnce(&mut ServeConfig)) -> Self {
        Self::start_in(TempDir::new().unwrap(), change).await.unwrap()
    }

    /// On a folder that is there.
    pub async fn start_in(data: TempDir, change: impl FnOnce(&mut ServeConfig)) -> Result<Self, ServeError> {
        let mut config = ServeConfig::new(data.path().to_owned());
        change(&mut config);
        let clock = Clock::system();
        let running = start(config, clock.clone()).await?;
        let api = Api { url: known_by(running.url.clone(), data.path()), token: owner_token(data.path()) };
        Ok(Self { running, clock, api, data })
    }

    /// Drains it and starts it again on the same folder.
    pub async fn restart(self) -> Self {
        let data = self.stop().await;
        Self::start_in(data, |_| {}).await.unwrap()
    }

    /// Drains it and gives back the folder.
    pub async fn stop(self) -> TempDir {
        self.running.drain().await.unwrap();
        self.data
    }
}

/// Keeps an address from everybody else while nobody listens there: connections to it are refused.
pub fn hold(address: &str) -> socket2::Socket {
    use socket2::{Domain, Socket, Type};
    let address: std::net::SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

/// The owner's token in a data folder.
pub fn owner_token(data: &Path) -> String {
    std::fs::read_to_string(data.join("owner.token")).unwrap().trim().to_owned()
}
