//! Good tokens' rows in memory, so that a request with one reads no database.
//!
//! All that is kept was read at one count of [`Watch::token_changes`](super::handle::Watch::token_changes), and is good for
//! nothing at another. A reader takes the count before it reads; the committing thread raises it between its commit and its
//! answers. So an old row is kept under an old count, and who is told that a token is revoked finds it revoked.
//! What is not good is not kept. What ends by time is compared with the clock at each use.

use super::tokens::{Bearer, TokenKey};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most rows, each some hundred bytes. With more in use, some are read anew now and then.
const BEARERS_MAX: usize = 1024;
/// After this they are read anew, whatever the count says: it may not know of another process's write. Longer, and such a
/// write is noticed later when the look for it fails; shorter, and there is more to read.
const KNOWN_FOR: Duration = Duration::from_secs(15);

/// What is known of good tokens.
#[derive(Debug, Default)]
pub struct Bearers {
    known: Mutex<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    /// The count at which all of them were read.
    changes: u64,
    /// When the first of them was kept.
    since: Instant,
    /// A row may be here by its hash and by its number.
    rows: HashMap<TokenKey, Arc<Bearer>>,
}

impl Known {
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < KNOWN_FOR
    }
}

impl Bearers {
    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that is known to be good at this count, and has not ended by this time, in Unix milliseconds.
    pub fn get(&self, key: &TokenKey, changes: u64, now_ms: i64) -> Option<Arc<Bearer>> {
        let known = self.known();
        let rows = known.as_ref().filter(|known| known.changes == changes && known.is_fresh())?;
        rows.rows.get(key).filter(|bearer| bearer.is_good_at(now_ms)).cloned()
    }

    /// Keeps what was read after the count was this. What was read at an older one than others is not kept.
    pub fn keep(&self, key: TokenKey, changes: u64, bearer: &Arc<Bearer>) {
        let mut known = self.known();
        if known.as_ref().is_some_and(|known| changes < known.changes) {
            return;
        }
        let fits = |known: &Known| known.changes == changes && known.is_fresh() && known.rows.len() < BEARERS_MAX;
        if !known.as_ref().is_some_and(fits) {
            *known = None;
        }
        let known = known.get_or_insert_with(|| Known { changes, since: Instant::now(), rows: HashMap::new() });
        known.rows.insert(key, Arc::clone(bearer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::protocol::access::Role;
    use crate::protocol::ids::TokenId;
    use crate::protocol::scope::Scope;
    use crate::protocol::state::State;
    use crate::store::audit::Actor;
    use crate::store::disk::DiskLimits;
    use crate::store::error::StoreError;
    use crate::store::handle::{Committed, Counter, Store, StoreThread};
    use crate::store::logins::{CloseLogin, OpenLogin, UseToken};
    use crate::store::op::Close;
    use crate::store::tokens::{CreateToken, RevokeToken};
    use crate::store::totp::{ClearTotp, ProveTotp, SetTotp};
    use futures_util::FutureExt;

    struct Nothing;

    impl Counter for Nothing {
        fn committed(&self, _: Committed) {}
        fn moved(&self, _: State) {}
        fn accepted(&self, _: i64) {}
    }

    /// A real store with an owner who stays, and tokens that are made on it.
    struct World {
        store: Store,
        thread: StoreThread,
        clock: Clock,
        _folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
            let opened = Store::open(folder.path(), clock.clone(), DiskLimits::default(), Box::new(Nothing));
            let (store, thread) = opened.unwrap();
            Self { store, thread, clock, _folder: folder }
        }

        /// Makes an owner's token whose hash is all `byte`; answers its key, and who acts with it.
        async fn token(&self, byte: u8, expires_ms: Option<i64>) -> (TokenKey, Actor) {
            let (hash, name) = ([byte; 32], format!("token-{byte}"));
            let actor = Actor::server("test");
            let make =
                CreateToken { actor, name: name.clone(), role: Role::Owner, scope: Scope::default(), hash, expires_ms };
            self.store.write(make).await.unwrap();
            let key = TokenKey::Hash(hash);
            let bearer = self.store.bearer(key).await.unwrap().unwrap();
            let actor = Actor { token_seq: Some(bearer.seq), token_id: Some(bearer.id), name, ..Actor::server("test") };
            (key, actor)
        }

        fn known(&self, key: TokenKey) -> Option<Arc<Bearer>> {
            self.store.bearers.get(&key, self.store.watch.token_changes(), self.clock.now_ms())
        }

        async fn close(self) {
            self.store.write(Close).await.unwrap();
            drop(self.store);
            self.thread.join();
        }
    }

    fn id(actor: &Actor) -> TokenId {
        actor.token_id.unwrap()
    }

    #[tokio::test]
    async fn what_was_read_before_a_revocation_is_not_known_after_it() {
        let world = World::new();
        let (_, owner) = world.token(1, None).await;
        let (key, actor) = world.token(2, None).await;
        assert!(world.known(key).is_some());
        // A reader that is slow: it took the count and the row, and keeps it when the revocation has been answered.
        let (store, changes) = (&world.store, world.store.watch.token_changes());
        let read = Arc::new(store.read_bearer(key).await.unwrap().unwrap());
        store.write(RevokeToken { actor: owner, id: id(&actor) }).await.unwrap();
        assert!(world.known(key).is_none());
        store.bearers.keep(key, changes, &read);
        assert!(world.known(key).is_none() && store.bearer(key).await.unwrap().is_none());
        // The same when others were kept since.
        store.bearer(TokenKey::Hash([1; 32])).await.unwrap().unwrap();
        store.bearers.keep(key, changes, &read);
        assert!(world.known(key).is_none() && world.known(TokenKey::Hash([1; 32])).is_some());
        assert!(
            store.bearer(key).await.unwrap().is_none() && world.known(key).is_none(),
            "what is not good is not kept"
        );
        world.close().await;
    }

    #[tokio::test]
    async fn a_reader_that_a_revocation_overtakes_keeps_nothing_that_is_used() {
        let world = World::new();
        let (_, owner) = world.token(1, None).await;
        let store = &world.store;
        for byte in 2..100 {
            let (_, actor) = world.token(byte, None).await;
            let by_row = TokenKey::Seq(actor.token_seq.unwrap());
            let mut slow = Box::pin(store.bearer(by_row));
            // It reads on another thread, which may be done before it is looked at.
            if slow.as_mut().now_or_never().is_some() {
                continue;
            }
            store.write(RevokeToken { actor: owner.clone(), id: id(&actor) }).await.unwrap();
            // Either read first: what it read before the revocation is its answer, and nobody else's.
            let read = slow.await.unwrap();
            assert!(world.known(by_row).is_none() && store.bearer(by_row).await.unwrap().is_none());
            if read.is_some() {
                return world.close().await;
            }
        }
        panic!("no revocation came between a read and its end");
    }

    #[tokio::test]
    async fn after_every_operation_what_is_known_is_what_is_stored() {
        let world = World::new();
        let (key, actor) = world.token(1, None).await;
        let (store, token, sealed) = (&world.store, id(&actor), b"sealed".to_vec());
        let same = async |what: &str| {
            let stored = store.read_bearer(key).await.unwrap();
            assert_eq!(store.bearer(key).await.unwrap().as_deref(), stored.as_ref(), "{what}");
            stored.unwrap()
        };
        let login = |totp_step| OpenLogin { actor: actor.clone(), totp_step, expires_ms: 1 };
        store.write(SetTotp { actor: actor.clone(), id: token, sealed: b"other".to_vec() }).await.unwrap();
        same("a secret").await;
        store.write(SetTotp { actor: actor.clone(), id: token, sealed: sealed.clone() }).await.unwrap();
        assert_eq!(same("another secret").await.totp.as_deref(), Some(&sealed[..]));
        let prove = ProveTotp { actor: actor.clone(), id: token, sealed, step: 5 };
        assert!(store.write(prove).await.unwrap());
        assert_eq!(same("proven").await.totp_step, 5);
        assert!(store.write(login(Some(6))).await.unwrap());
        assert_eq!(same("a password used").await.totp_step, 6);
        assert!(
            !store.write(login(Some(6))).await.unwrap(),
            "what is used up is so in the database, whatever is known"
        );
        same("a password used twice").await;
        store.write(ClearTotp { actor: actor.clone(), id: token }).await.unwrap();
        assert_eq!(same("taken away").await.totp, None);
        assert!(store.write(login(None)).await.unwrap());
        same("without a password").await;
        store.write(CloseLogin { actor: actor.clone() }).await.unwrap();
        same("logged out").await;
        let (_, other) = world.token(2, None).await;
        store.write(RevokeToken { actor: other, id: token }).await.unwrap();
        assert!(store.bearer(key).await.unwrap().is_none());
        let again = store.write(RevokeToken { actor: actor.clone(), id: TokenId::new() }).await;
        assert!(matches!(again, Err(StoreError::NotFound { .. })));
        world.close().await;
    }

    #[tokio::test]
    async fn a_use_and_a_fresh_token_leave_what_is_known() {
        let world = World::new();
        let (key, actor) = world.token(1, None).await;
        let changes = world.store.watch.token_changes();
        let use_it = UseToken { token_seq: actor.token_seq.unwrap(), from: "::1".to_owned() };
        world.store.write(use_it).await.unwrap();
        world.token(2, None).await;
        assert_eq!(world.store.watch.token_changes(), changes);
        assert!(world.known(key).is_some());
        let by_row = TokenKey::Seq(actor.token_seq.unwrap());
        assert!(world.known(by_row).is_none(), "not asked for yet");
        let found = world.store.bearer(by_row).await.unwrap().unwrap();
        assert_eq!((&found, &world.known(by_row).unwrap()), (&world.known(key).unwrap(), &found));
        world.close().await;
    }

    #[tokio::test]
    async fn a_known_token_ends_by_the_clock() {
        let world = World::new();
        let expires_ms = world.clock.now_ms() + 60_000;
        let (key, _) = world.token(1, Some(expires_ms)).await;
        let changes = world.store.watch.token_changes();
        let known = |now_ms| world.store.bearers.get(&key, changes, now_ms).is_some();
        assert!(known(expires_ms - 1) && !known(expires_ms));
        world.clock.set_offset_ms(61_000);
        assert!(world.store.bearer(key).await.unwrap().is_none());
        world.clock.set_offset_ms(0);
        assert!(world.store.bearer(key).await.unwrap().is_some());
        world.close().await;
    }

    #[tokio::test]
    async fn their_number_and_their_age_have_a_limit() {
        let world = World::new();
        let (key, _) = world.token(1, None).await;
        let (bearers, changes) = (&world.store.bearers, world.store.watch.token_changes());
        let bearer = world.known(key).unwrap();
        for seq in 0..2 * BEARERS_MAX as i64 {
            bearers.keep(TokenKey::Seq(seq), changes, &bearer);
            assert!(world.known(TokenKey::Seq(seq)).is_some());
            assert!(bearers.known().as_ref().unwrap().rows.len() <= BEARERS_MAX);
        }
        bearers.keep(key, changes, &bearer);
        let old = Instant::now().checked_sub(KNOWN_FOR).unwrap();
        bearers.known().as_mut().unwrap().since = old;
        assert!(world.known(key).is_none());
        assert!(world.store.bearer(key).await.unwrap().is_some() && world.known(key).is_some());
        assert_eq!(bearers.known().as_ref().unwrap().rows.len(), 1);
        world.close().await;
    }
}
