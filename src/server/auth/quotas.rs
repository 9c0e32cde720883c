//! What each token's owner may take: sessions at once, bytes and pixels a second. Sessions over it are refused; over the
//! rates they are slowed down, which is the session's own doing ([`Allowance`]).
//!
//! An owner's account is kept as long as it has sessions, and until its rates have come back to full: so nobody gets a
//! burst again by connecting again, and what is kept is bounded by what was let in in that time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::jwt::{Account, Bearer, Limits};
use crate::session::{Allowance, Meter, Rate};

/// Accounts that are kept before it is looked which are of use no more.
const KEPT: usize = 256;

/// All accounts.
pub struct Quotas {
    limits: Limits,
    burst: Duration,
    accounts: Mutex<Accounts>,
}

struct Accounts {
    by_owner: HashMap<Key, Arc<Counters>>,
    /// How many there may be before it is looked again.
    look_at: usize,
}

/// What a token says of its own quotas is an account of its own, beside its owner's: it can only be less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    owner: Account,
    own: Option<Limits>,
}

struct Counters {
    sessions: Option<Arc<Semaphore>>,
    bytes: Option<Arc<Rate>>,
    pixels: Option<Arc<Rate>>,
    /// When a session last ended.
    left: Mutex<Instant>,
}

/// One session's share; what it holds is given back when it is dropped.
#[derive(Default)]
pub struct Share {
    _sessions: Vec<OwnedSemaphorePermit>,
    counters: Vec<Arc<Counters>>,
}

impl Quotas {
    pub fn new(limits: Limits, burst: Duration) -> Self {
        let accounts = Mutex::new(Accounts { by_owner: HashMap::new(), look_at: KEPT });
        Self { limits, burst, accounts }
    }

    /// None where the owner has as many sessions as it may.
    pub fn open(&self, bearer: &Bearer) -> Option<Share> {
        let none = Limits::default();
        let service = (self.limits != none).then_some((self.limits, None));
        let own = (bearer.limits != none).then_some((bearer.limits, Some(bearer.limits)));
        let mut share = Share::default();
        for (limits, own) in service.into_iter().chain(own) {
            let counters = self.counters(Key { owner: bearer.account, own }, limits);
            // From now on a drop of the share tells when it was.
            share.counters.push(Arc::clone(&counters));
            if let Some(sessions) = &counters.sessions {
                share._sessions.push(Arc::clone(sessions).try_acquire_owned().ok()?);
            }
        }
        Some(share)
    }

    fn counters(&self, key: Key, limits: Limits) -> Arc<Counters> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = accounts.by_owner.get(&key) {
            return Arc::clone(counters);
        }
        if accounts.by_owner.len() >= accounts.look_at {
            accounts
                .by_owner
                .retain(|_, counters| Arc::strong_count(counters) > 1 || counters.left().elapsed() < self.burst);
            accounts.look_at = KEPT.max(2 * accounts.by_owner.len());
        }
        let rate = |per_second| Arc::new(Rate::new(per_second, self.burst));
        let counters = Arc::new(Counters {
            sessions: limits.sessions.map(|most| Arc::new(Semaphore::new(most.get() as usize))),
            bytes: limits.bytes_per_s.map(rate),
            pixels: limits.pixels_per_s.map(rate),
            left: Mutex::new(Instant::now()),
        });
        accounts.by_owner.insert(key, Arc::clone(&counters));
        counters
    }
}

impl Counters {
    fn left(&self) -> Instant {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// The rates that hold for the session.
    pub fn allowance(&self) -> Allowance {
        let of = |rate: fn(&Counters) -> &Option<Arc<Rate>>| {
            Meter::new(self.counters.iter().filter_map(move |counters| rate(counters).clone()))
        };
        Allowance { bytes: of(|counters| &counters.bytes), pixels: of(|counters| &counters.pixels) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        for counters in &self.counters {
            *counters.left.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroU64};

    use super::*;

    const BURST: Duration = Duration::from_secs(5);

    fn limits(sessions: u32, bytes_per_s: u64) -> Limits {
        Limits { sessions: NonZeroU32::new(sessions), bytes_per_s: NonZeroU64::new(bytes_per_s), pixels_per_s: None }
    }

    fn bearer(owner: u32, limits: Limits) -> Bearer {
        let mut account = Account::default();
        account[..4].copy_from_slice(&owner.to_be_bytes());
        Bearer { account, holds: BURST, limits, email: None }
    }

    #[tokio::test(start_paused = true)]
    async fn each_owner_has_its_own_sessions_and_a_token_can_only_lower_them() {
        let quotas = Quotas::new(limits(2, 0), BURST);
        let open = |owner, own| quotas.open(&bearer(owner, own));
        let none = Limits::default();
        let first = [open(1, none).unwrap(), open(1, none).unwrap()];
        assert!(open(1, none).is_none());
        assert!(open(1, limits(100, 0)).is_none(), "a token can't raise what its owner has");
        assert!(open(2, none).is_some());
        drop(first);
        let _low = open(1, limits(1, 0)).unwrap();
        assert!(open(1, limits(1, 0)).is_none());
        let _other = open(1, none).unwrap();
        assert!(open(1, none).is_none(), "they all count for the owner");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_gets_a_burst_again_by_connecting_again() {
        let quotas = Quotas::new(limits(0, 1000), BURST);
        let took = async || {
            let share = quotas.open(&bearer(1, Limits::default())).unwrap();
            let begun = Instant::now();
            share.allowance().bytes.take(5000).await;
            begun.elapsed().as_secs_f64()
        };
        assert!(took().await < 0.01);
        // Others come and go, so that accounts are looked through.
        for owner in 2..2000 {
            quotas.open(&bearer(owner, Limits::default())).unwrap();
        }
        assert!((4.9..5.1).contains(&took().await));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_of_owners_who_have_gone_is_bounded() {
        let quotas = Quotas::new(limits(1, 1000), BURST);
        let _stays = quotas.open(&bearer(0, Limits::default())).unwrap();
        for owner in 1..10_000 {
            drop(quotas.open(&bearer(owner, limits(1, 10))).unwrap());
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        let kept = quotas.accounts.lock().unwrap().by_owner.len();
        // 250 come in 5 s, with two accounts each.
        assert!(kept <= 4 * 2 * 250, "{kept}");
        assert!(quotas.open(&bearer(0, Limits::default())).is_none(), "who is there is kept");
    }
}
