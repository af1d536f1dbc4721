//! Two and three sessions of one agent: whoever begins and ends when, the newest stands and the others are told to go.

use super::orders::each_order;
use futures_util::FutureExt;
use postrider::protocol::close::CloseReason;
use postrider::server::presence::{Presence, Standing};
use std::sync::Arc;

const AGENT: i64 = 3;

fn was_told(session: &Standing) -> bool {
    session.ended().now_or_never().is_some()
}

#[test]
fn in_every_order_the_newest_session_stands_and_the_others_are_told_to_go() {
    let mut tried = 0;
    // Each session begins, and ends.
    each_order(&[2, 2, 2], &mut |order| {
        let presence = Presence::default();
        let sessions: Vec<_> = (1..=3).map(|epoch| Arc::new(Standing::new(epoch, 0))).collect();
        let (mut begun, mut over) = ([false; 3], [false; 3]);
        for number in order {
            if begun[*number] {
                over[*number] = true;
                presence.end(AGENT, sessions[*number].epoch);
            } else {
                begun[*number] = true;
                presence.begin(AGENT, &sessions[*number]);
            }
            let newest = (0..3).rev().find(|number| begun[*number]).unwrap();
            let stands = presence.get(AGENT);
            if !over[newest] {
                assert_eq!(stands.as_ref().map(|session| session.epoch), Some(sessions[newest].epoch), "{order:?}");
            }
            if let Some(session) = &stands {
                assert!(!was_told(session), "{order:?}: {session:?} is listed and was told to go");
            }
            assert_eq!(presence.count(), usize::from(stands.is_some()));
            for number in (0..3).filter(|number| begun[*number] && !over[*number]) {
                let listed = stands.as_ref().is_some_and(|session| Arc::ptr_eq(session, &sessions[number]));
                assert!(listed || was_told(&sessions[number]), "{order:?}: nobody knows of {number}");
                assert!(listed || sessions[number].reason() == CloseReason::Superseded, "{order:?}");
            }
        }
        assert_eq!(presence.count(), 0, "{order:?}");
        tried += 1;
    });
    println!("{tried} orders");
}
