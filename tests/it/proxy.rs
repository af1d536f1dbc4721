//! The proxy itself: a fault that it does not make, or one that it makes unasked, would make other tests say nothing.

use crate::harness::eventually::eventually;
use crate::harness::lane::{Direction, Flow};
use crate::harness::proxy::{Cut, Newcomers, Proxy};
use std::io::ErrorKind;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// A proxy, what listens behind it, and a connection through it: its client's and its server's end.
async fn connected() -> (Proxy, TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(&listener.local_addr().unwrap().to_string()).await;
    let client = TcpStream::connect(&proxy.address).await.unwrap();
    let server = listener.accept().await.unwrap().0;
    (proxy, listener, client, server)
}

async fn exactly(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert!(bytes == expected, "other bytes than were sent");
}

async fn vanished(proxy: &Proxy, bytes: u64) {
    eventually("they vanished", || async { (proxy.counts().vanished.load(Relaxed) == bytes).then_some(()) }).await;
}

fn nothing_there(stream: &TcpStream) {
    let error = stream.try_read(&mut [0; 1]).expect_err("nothing was to arrive");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

/// No byte twice at one distance of 251: a hole or a repetition is seen.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[tokio::test]
async fn bytes_vanish_in_the_direction_that_was_asked_for_and_in_no_other() {
    let (proxy, _listener, mut client, mut server) = connected().await;
    client.write_all(b"before").await.unwrap();
    exactly(&mut server, b"before").await;
    proxy.set(|faults| faults.to_server.flow = Flow::Vanish);
    client.write_all(b"never").await.unwrap();
    vanished(&proxy, 5).await;
    server.write_all(b"back").await.unwrap();
    exactly(&mut client, b"back").await;
    proxy.set(|faults| faults.heal());
    client.write_all(b"after").await.unwrap();
    exactly(&mut server, b"after").await;
    // Nobody hears of an end either, until the link is good again.
    proxy.set(|faults| faults.both(Flow::Vanish));
    drop(client);
    server.write_all(b"more").await.unwrap();
    vanished(&proxy, 9).await;
    nothing_there(&server);
    assert_eq!(proxy.open(), 1);
    proxy.set(|faults| faults.heal());
    assert_eq!(server.read(&mut [0; 1]).await.unwrap_or(0), 0);
    drop(server);
    eventually("the proxy has let go", || async { (proxy.open() == 0).then_some(()) }).await;
}

#[tokio::test]
async fn a_held_direction_fills_the_senders_socket_and_loses_nothing() {
    let (proxy, _listener, client, mut server) = connected().await;
    let all = pattern(16 << 20);
    proxy.set(|faults| faults.to_server.flow = Flow::Held);
    let mut sent = 0;
    // The socket is full when it takes nothing for a good while.
    while tokio::time::timeout(Duration::from_millis(300), client.writable()).await.is_ok() {
        sent += client.try_write(&all[sent..]).unwrap_or(0);
        assert!(sent < all.len(), "somebody reads");
    }
    nothing_there(&server);
    assert_eq!(proxy.counts().to_server.load(Relaxed), 0);
    let (mut from, mut to) = client.into_split();
    let rest = async {
        to.write_all(&all[sent..]).await.unwrap();
    };
    let release = async {
        // The other direction goes on all the time.
        server.write_all(b"back").await.unwrap();
        let mut back = [0; 4];
        from.read_exact(&mut back).await.unwrap();
        proxy.set(|faults| faults.heal());
        exactly(&mut server, &all).await;
    };
    futures_util::future::join(rest, release).await;
    assert_eq!(proxy.counts().to_server.load(Relaxed), all.len() as u64);
}

#[tokio::test]
async fn a_cut_is_of_the_kind_and_at_the_byte_that_was_asked_for() {
    for direction in [Direction::ToServer, Direction::ToClient] {
        for after in [1, 7, 8191] {
            let (proxy, _listener, client, server) = connected().await;
            let (mut from, mut to) = if direction == Direction::ToServer { (client, server) } else { (server, client) };
            proxy.set(|faults| faults.lane_mut(direction).cut_after = Some((after, Cut::Fin)));
            from.write_all(&pattern(10_000)).await.unwrap();
            let mut arrived = Vec::new();
            to.read_to_end(&mut arrived).await.unwrap();
            assert!(arrived == pattern(usize::try_from(after).unwrap()), "{direction:?} {after}: {}", arrived.len());
            assert_eq!(from.read(&mut [0; 1]).await.unwrap(), 0);
        }
    }
    let (proxy, listener, mut client, mut server) = connected().await;
    proxy.set(|faults| faults.cut(Cut::Reset));
    for end in [&mut client, &mut server] {
        assert_eq!(end.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    // The next connection is as good as new.
    let mut client = TcpStream::connect(&proxy.address).await.unwrap();
    let mut server = listener.accept().await.unwrap().0;
    client.write_all(b"new").await.unwrap();
    exactly(&mut server, b"new").await;
    assert_eq!(proxy.counts().connections.load(Relaxed), 2);
}

/// Lower bounds are the promise here, and no machine is too slow for them.
#[tokio::test]
async fn a_slow_a_late_and_a_split_direction_carry_every_byte_in_order() {
    let (proxy, _listener, mut client, mut server) = connected().await;
    let all = pattern(40_000);
    proxy.set(|faults| faults.to_server.bytes_per_s = Some(80_000));
    let begun = Instant::now();
    client.write_all(&all).await.unwrap();
    exactly(&mut server, &all).await;
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());

    proxy.set(|faults| {
        faults.heal();
        faults.to_server.delay = Duration::from_millis(200);
    });
    let begun = Instant::now();
    client.write_all(&all).await.unwrap();
    exactly(&mut server, &all).await;
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());

    proxy.set(|faults| {
        faults.heal();
        faults.to_server.split = true;
    });
    client.write_all(&all).await.unwrap();
    let (mut arrived, mut reads, mut buffer) = (Vec::new(), 0, [0; 4096]);
    while arrived.len() < all.len() {
        let count = server.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0);
        arrived.extend_from_slice(&buffer[..count]);
        reads += 1;
    }
    assert!(arrived == all);
    assert!(reads > 100, "{reads} reads for {} bytes", all.len());
}

#[tokio::test]
async fn new_connections_are_refused_or_left_in_the_dark() {
    let (proxy, listener, _client, _server) = connected().await;
    proxy.set(|faults| faults.newcomers = Newcomers::Refused);
    let mut refused = TcpStream::connect(&proxy.address).await.unwrap();
    assert_eq!(refused.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    proxy.set(|faults| faults.newcomers = Newcomers::Silent);
    let mut silent = TcpStream::connect(&proxy.address).await.unwrap();
    silent.write_all(b"hello").await.unwrap();
    eventually("it was accepted", || async { (proxy.counts().connections.load(Relaxed) == 3).then_some(()) }).await;
    nothing_there(&silent);
    proxy.set(|faults| faults.newcomers = Newcomers::Taken);
    let mut server = listener.accept().await.unwrap().0;
    exactly(&mut server, b"hello").await;
}
