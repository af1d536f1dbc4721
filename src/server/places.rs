//! How many connections there may be: in all, of strangers, and of strangers from one address. A stranger is every
//! connection that is not an authenticated agent's session.

use super::block::Block;
use super::proxy::Proxy;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Strangers from one address at one time. An agent is a stranger for a second, so a whole office behind one address
/// can come back at once; fewer would hold it up, more would let a few hosts take all places of strangers.
pub const STRANGERS_PER_ADDRESS: u32 = 256;
/// One place of this many is for agents whose session stands, whatever strangers do.
const AGENTS_SHARE: usize = 4;

/// All places.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    addresses: Arc<Addresses>,
    proxy: Option<Proxy>,
    count_loopback: bool,
}

/// A place that is free, and not yet anybody's.
#[derive(Debug)]
pub struct FreePlace {
    place: OwnedSemaphorePermit,
    stranger: OwnedSemaphorePermit,
}

/// A connection's place. It is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    _place: OwnedSemaphorePermit,
    stranger: Mutex<Option<Stranger>>,
}

#[derive(Debug)]
struct Stranger {
    _place: OwnedSemaphorePermit,
    _address: Option<AddressPlace>,
}

impl Place {
    /// The connection is an authenticated agent's from now on: strangers have one place more.
    pub fn is_no_stranger(&self) {
        let stranger = self.stranger.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(stranger);
    }
}

impl Places {
    /// Room for `connections_max`. The proxy, and loopback unless `count_loopback`, may have all places of strangers.
    pub fn new(connections_max: usize, proxy: Option<Proxy>, count_loopback: bool) -> Self {
        let strangers_max = connections_max - connections_max / AGENTS_SHARE;
        Self {
            all: Arc::new(Semaphore::new(connections_max)),
            strangers: Arc::new(Semaphore::new(strangers_max)),
            addresses: Arc::default(),
            proxy,
            count_loopback,
        }
    }

    /// Waits for a place. None never happens: the places are not closed.
    pub async fn free(&self) -> Option<FreePlace> {
        let stranger = Arc::clone(&self.strangers).acquire_owned().await.ok()?;
        let place = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(FreePlace { place, stranger })
    }

    /// Gives a place to a connection from `ip`; none: too many are from there already.
    pub fn take(&self, free: FreePlace, ip: IpAddr) -> Option<Place> {
        let is_exempt = match self.proxy {
            Some(proxy) => proxy.admits(ip),
            None => ip.is_loopback() && !self.count_loopback,
        };
        let address = if is_exempt { None } else { Some(self.addresses.take(ip)?) };
        let stranger = Stranger { _place: free.stranger, _address: address };
        Some(Place { _place: free.place, stranger: Mutex::new(Some(stranger)) })
    }
}

/// Strangers by address. Only addresses with at least one are in it.
#[derive(Debug, Default)]
struct Addresses {
    counts: Mutex<HashMap<Block, u32>>,
}

#[derive(Debug)]
struct AddressPlace {
    addresses: Arc<Addresses>,
    block: Block,
}

impl Addresses {
    fn counts(&self) -> MutexGuard<'_, HashMap<Block, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, ip: IpAddr) -> Option<AddressPlace> {
        let block = Block::of(ip);
        let mut counts = self.counts();
        let count = counts.entry(block).or_default();
        if *count >= STRANGERS_PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(AddressPlace { addresses: Arc::clone(self), block })
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut counts = self.addresses.counts();
        if let Some(count) = counts.get_mut(&self.block) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_address_takes_its_share_and_an_agent_gives_it_back() {
        let places = Places::new(16_384, None, false);
        let take = async |ip: &str| places.take(places.free().await.unwrap(), ip.parse().unwrap());
        let mut held = Vec::new();
        for _ in 0..STRANGERS_PER_ADDRESS {
            held.push(take("2001:db8::1").await.unwrap());
        }
        assert!(take("2001:db8::ffff:1").await.is_none(), "the same network");
        assert!(take("2001:db8:0:1::1").await.is_some() && take("192.0.2.1").await.is_some());
        assert!(take("127.0.0.1").await.is_some());
        held[0].is_no_stranger();
        held.push(take("2001:db8::2").await.unwrap());
        assert!(take("2001:db8::2").await.is_none());
        held.clear();
        assert!(places.addresses.counts().is_empty(), "nothing is kept of who has gone");
    }

    #[tokio::test]
    async fn strangers_leave_a_quarter_to_agents() {
        let places = Places::new(8, Some(Proxy::Here), true);
        let home: IpAddr = "127.0.0.1".parse().unwrap();
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(places.take(places.free().await.unwrap(), home).unwrap());
        }
        assert_eq!(places.strangers.available_permits(), 0);
        held[0].is_no_stranger();
        held.push(places.take(places.free().await.unwrap(), home).unwrap());
        assert_eq!((places.strangers.available_permits(), places.all.available_permits()), (0, 1));
    }
}
