//! How much more fits: sessions by the processors that they need, against those that there are.
//!
//! What a session needs is not known when it asks to come in. For a while a nominal share is held for it, what sessions
//! have needed on average; once its plan is known, its demand takes the place of that, or it is refused where there is
//! no room. When none can be held either, a few sessions are let in all the same, to say what they want: one that
//! copies, or that is in no hurry, needs next to nothing. Time is an argument.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Observer;

/// The share of a session before any has been seen, cores.
const FIRST_NOMINAL: f64 = 0.25;
/// How much the newest session counts in the nominal share, and in how long sessions last.
const NEWEST: f64 = 0.2;
/// Least nominal share, cores.
const LEAST: f64 = 0.02;
/// Of the processors, as much as all sessions may need where one still works ahead.
const AT_EASE: f64 = 0.75;
/// What the others may need in all for a session to be let in that needs more than there is.
const NEXT_TO_NOTHING: f64 = 0.05;
/// Sessions that may look in at a time while nothing can be held for them.
const LOOKING_IN: usize = 4;
/// Of the capacity, what must be free beyond a nominal share for a full instance to be ready again.
const SLACK: f64 = 0.1;
/// Of the capacity, what sessions that were let in may have in all: a demand that is told a little too high degrades none.
const WHOLE: f64 = 1.1;
/// How long a refused client is told to wait.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The demand that the service can meet, and who has how much of it. Clones are one.
#[derive(Clone)]
pub struct Capacity(Arc<Inner>);

struct Inner {
    /// Processors that sessions may need in all.
    cores: f64,
    /// How long a nominal share is held.
    window: Duration,
    state: Mutex<State>,
    observer: Arc<dyn Observer>,
}

struct State {
    next_id: u64,
    open: HashMap<u64, Open>,
    /// What a session has needed, on average.
    nominal: f64,
    /// How long sessions have lasted, on average.
    lasted: Option<Duration>,
    /// Stays until there is [`SLACK`].
    full: bool,
}

struct Open {
    since: Instant,
    share: Share,
}

#[derive(Debug, Clone, Copy)]
enum Share {
    /// What it wants is not known yet; so many cores are kept for it until then.
    Held {
        cores: f64,
        until: Instant,
    },
    Settled(Demand),
}

/// Of a session that has said what it wants, cores.
#[derive(Debug, Clone, Copy)]
struct Demand {
    /// For all that it asked for.
    asked: f64,
    /// For what is made of that now.
    made: f64,
}

/// A session's part of the capacity; given back on drop.
pub struct Reservation {
    capacity: Capacity,
    id: u64,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the instance has no capacity left; try again in {} s", .retry_after.as_secs())]
pub struct Full {
    /// When there may be room: whole seconds, 1 to 60.
    pub retry_after: Duration,
}

impl Capacity {
    /// `cores` of demand can be met; a share for a new session is held for `window`.
    pub fn new(cores: f64, window: Duration, observer: Arc<dyn Observer>) -> Self {
        let nominal = FIRST_NOMINAL.min(cores);
        let state = State { next_id: 0, open: HashMap::new(), nominal, lasted: None, full: false };
        observer.capacity(cores, 0.0);
        Self(Arc::new(Inner { cores, window, state: Mutex::new(state), observer }))
    }

    /// Lets a session in.
    ///
    /// # Errors
    /// [`Full`] where nothing can be held for it, and others are looking in already.
    pub fn hold(&self, now: Instant) -> Result<Reservation, Full> {
        let mut state = self.lock();
        let nominal = state.nominal;
        let fits = self.fits(&state, nominal, None, now);
        let looking_in =
            |open: &Open| matches!(open.share, Share::Held { cores, until } if cores == 0.0 && now < until);
        if !fits && state.open.values().filter(|open| looking_in(open)).count() >= LOOKING_IN {
            return Err(Full { retry_after: state.retry_after(now) });
        }
        let id = state.next_id;
        state.next_id += 1;
        let share = Share::Held { cores: if fits { nominal } else { 0.0 }, until: now + self.0.window };
        state.open.insert(id, Open { since: now, share });
        self.changed(&mut state, now);
        drop(state);
        Ok(Reservation { capacity: self.clone(), id })
    }

    /// Whether another session like those that there are would not fit. Once so, it stays so until there is some slack.
    pub fn is_full(&self, now: Instant) -> bool {
        let mut state = self.lock();
        self.changed(&mut state, now);
        state.full
    }

    /// When there may be room again.
    pub fn retry_after(&self, now: Instant) -> Duration {
        self.lock().retry_after(now)
    }

    /// Whether so much more can be met, besides what `own` has.
    fn fits(&self, state: &State, cores: f64, own: Option<u64>, now: Instant) -> bool {
        let used = state.used(own, now);
        used + cores <= self.0.cores || used <= NEXT_TO_NOTHING
    }

    /// Whether a session that was made at less can have so much again, besides what the others are made at.
    fn has_room(&self, state: &State, cores: f64, own: u64) -> bool {
        let others = state.open.iter().filter(|(id, _)| **id != own);
        let made: f64 = others.filter_map(|(_, open)| open.share.made()).sum();
        made + cores <= self.0.cores * WHOLE || made <= NEXT_TO_NOTHING
    }

    fn changed(&self, state: &mut State, now: Instant) {
        let used = state.used(None, now);
        let slack = if state.full { SLACK * self.0.cores } else { 0.0 };
        state.full = used + state.nominal + slack > self.0.cores && used > NEXT_TO_NOTHING;
        self.0.observer.capacity(self.0.cores, used);
    }

    /// No code that holds the lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn used(&self, but: Option<u64>, now: Instant) -> f64 {
        let others = self.open.iter().filter(|(id, _)| Some(**id) != but);
        others.map(|(_, open)| open.share.cores(now)).sum()
    }

    /// The next hold to end, or the next session, if they last as long as those that have ended; while none has, as
    /// long again as they have lasted so far.
    fn retry_after(&self, now: Instant) -> Duration {
        let holds = self.open.values().filter_map(|open| match open.share {
            Share::Held { until, .. } => until.checked_duration_since(now),
            Share::Settled(_) => None,
        });
        let count = u32::try_from(self.open.len()).unwrap_or(u32::MAX).max(1);
        let ages = || self.open.values().map(|open| now.saturating_duration_since(open.since)).sum::<Duration>();
        let next_end = self.lasted.unwrap_or_else(|| ages() / count) / count;
        let wait = holds.min().map_or(next_end, |hold| hold.min(next_end));
        Duration::from_secs(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)).clamp(RETRY.0, RETRY.1)
    }
}

impl Share {
    fn cores(self, now: Instant) -> f64 {
        match self {
            Self::Held { cores, until } if now < until => cores,
            Self::Held { .. } => 0.0,
            Self::Settled(demand) => demand.asked,
        }
    }

    fn made(self) -> Option<f64> {
        match self {
            Self::Held { .. } => None,
            Self::Settled(demand) => Some(demand.made),
        }
    }
}

impl Reservation {
    /// The session's demand is known for the first time, in cores: it takes the place of what was held. What is held
    /// already is never refused; a session that has settled before is only [updated](Self::update).
    ///
    /// # Errors
    /// [`Full`] where there is no room for it, or it was [withdrawn](Self::withdraw).
    pub fn settle(&self, demand: f64, now: Instant) -> Result<(), Full> {
        let mut state = self.capacity.lock();
        match state.open.get(&self.id).map(|open| open.share) {
            Some(share @ Share::Held { .. }) => {
                if demand > share.cores(now) && !self.capacity.fits(&state, demand, Some(self.id), now) {
                    return Err(Full { retry_after: state.retry_after(now) });
                }
                let most = self.capacity.0.cores.max(LEAST);
                state.nominal = (state.nominal + NEWEST * (demand - state.nominal)).clamp(LEAST, most);
            }
            Some(Share::Settled(_)) => {}
            None => return Err(Full { retry_after: state.retry_after(now) }),
        }
        self.set(&mut state, Demand { asked: demand, made: demand }, now);
        Ok(())
    }

    /// Gives back what is held for a session that has not settled: it never will then. False where it has.
    pub fn withdraw(&self, now: Instant) -> bool {
        let mut state = self.capacity.lock();
        let held = |open: &Open| matches!(open.share, Share::Held { .. });
        if state.open.get(&self.id).is_some_and(held) {
            state.open.remove(&self.id);
            self.capacity.changed(&mut state, now);
            return true;
        }
        false
    }

    /// The demand of a session that has settled, as it is known now, in cores: for all that it asked for, which counts for
    /// who may come in, and for what is made of that, which counts for who may have more again.
    pub fn update(&self, asked: f64, made: f64, now: Instant) {
        self.set(&mut self.capacity.lock(), Demand { asked, made }, now);
    }

    /// Whether there are so many cores for this session, besides what the others are made at.
    pub fn has_room(&self, cores: f64) -> bool {
        self.capacity.has_room(&self.capacity.lock(), cores, self.id)
    }

    /// Whether all sessions together leave the processors much to do nothing in, or there is no other.
    pub fn is_at_ease(&self) -> bool {
        let state = self.capacity.lock();
        let made = |own: bool| {
            let some = state.open.iter().filter(|(id, _)| own || **id != self.id);
            some.filter_map(|(_, open)| open.share.made()).sum::<f64>()
        };
        made(true) <= self.capacity.0.cores * AT_EASE || made(false) <= NEXT_TO_NOTHING
    }

    fn set(&self, state: &mut State, demand: Demand, now: Instant) {
        if let Some(open) = state.open.get_mut(&self.id) {
            open.share = Share::Settled(demand);
        }
        self.capacity.changed(state, now);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.capacity.lock();
        if let Some(open) = state.open.remove(&self.id) {
            let lasted = now.saturating_duration_since(open.since);
            state.lasted = Some(match state.lasted {
                Some(before) => before.mul_f64(1.0 - NEWEST) + lasted.mul_f64(NEWEST),
                None => lasted,
            });
        }
        self.capacity.changed(&mut state, now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn capacity(cores: f64) -> Capacity {
        Capacity::new(cores, WINDOW, Arc::new(()))
    }

    /// Sessions that have settled, each with that demand.
    fn settled(capacity: &Capacity, demands: &[f64], now: Instant) -> Vec<Reservation> {
        let settle = |demand: &f64| {
            let reservation = capacity.hold(now).unwrap();
            reservation.settle(*demand, now).unwrap();
            reservation
        };
        demands.iter().map(settle).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn at_ease_is_who_is_alone_or_all_where_much_is_left() {
        let (capacity, now) = (capacity(2.0), Instant::now());
        let alone = settled(&capacity, &[1.9], now).remove(0);
        assert!(alone.is_at_ease());
        let other = settled(&capacity, &[0.1], now).remove(0);
        assert!(!alone.is_at_ease() && !other.is_at_ease());
        alone.update(1.9, 1.4, now);
        assert!(alone.is_at_ease() && other.is_at_ease());
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_is_held_until_the_demand_is_known_or_the_window_ends() {
        let (capacity, now) = (capacity(1.0), Instant::now());
        let held: Vec<_> = (0..4).map(|_| capacity.hold(now).unwrap()).collect();
        assert!(capacity.is_full(now), "four quarters are held");
        held[0].settle(0.1, now).unwrap();
        assert!(capacity.is_full(now), "three are");
        assert!(!capacity.is_full(now + WINDOW), "those that never said what they want hold nothing any more");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_fit_is_refused_once_that_is_known_and_copies_are_not() {
        let (capacity, now) = (capacity(1.0), Instant::now());
        let _busy = settled(&capacity, &[0.45, 0.5], now);
        let looking_in: Vec<_> = (0..LOOKING_IN).map(|_| capacity.hold(now).unwrap()).collect();
        assert!(capacity.hold(now).is_err(), "there is no room, and enough are looking in");
        assert!(looking_in[0].settle(0.4, now).is_err());
        assert!(looking_in[1].settle(0.001, now).is_ok(), "a copy");
        assert!(capacity.hold(now).is_ok(), "one of them has said what it wants");
        assert!(capacity.hold(now + WINDOW).is_ok(), "those that say nothing don't keep others out");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_withdrawn_is_free_and_who_has_settled_is_not_turned_away() {
        let (capacity, now) = (capacity(0.5), Instant::now());
        let (settled, held) = (capacity.hold(now).unwrap(), capacity.hold(now).unwrap());
        settled.settle(0.25, now).unwrap();
        assert!(!settled.withdraw(now) && held.withdraw(now) && !held.withdraw(now));
        assert!(held.settle(0.0, now).is_err(), "it came too late");
        let next = capacity.hold(now).unwrap();
        next.settle(0.25, now).unwrap();
        assert!(capacity.hold(now).unwrap().settle(0.25, now).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_with_nothing_to_do_takes_what_is_more_than_it_has() {
        let (capacity, now) = (capacity(1.0), Instant::now());
        let huge = settled(&capacity, &[3.0], now);
        assert!(capacity.is_full(now));
        drop(huge);
        assert!(!capacity.is_full(now));
    }

    #[tokio::test(start_paused = true)]
    async fn ready_ends_before_the_capacity_does_and_does_not_flap() {
        let (capacity, now) = (capacity(2.0), Instant::now());
        let mut sessions = Vec::new();
        while !capacity.is_full(now) {
            sessions.extend(settled(&capacity, &[0.3], now));
        }
        let demand = capacity.lock().used(None, now);
        assert!(demand <= 2.0 && demand + 0.3 > 2.0 - 0.05, "{demand}");
        sessions[0].update(0.25, 0.25, now);
        assert!(capacity.is_full(now), "a little less is not room for another");
        sessions.truncate(sessions.len() - 2);
        assert!(!capacity.is_full(now));
    }

    #[tokio::test(start_paused = true)]
    async fn when_to_come_back_is_when_a_hold_or_a_session_is_likely_to_end() {
        let (capacity, now) = (capacity(1.0), Instant::now());
        let seconds = |at: Instant| capacity.retry_after(at).as_secs();
        let held = capacity.hold(now).unwrap();
        tokio::time::advance(Duration::from_secs(40)).await;
        drop(held);
        let now = Instant::now();
        let sessions = settled(&capacity, &[0.2, 0.2], now);
        assert_eq!(seconds(now), 20, "of two that last 40 s, one ends in 20 s");
        let _held = capacity.hold(now).unwrap();
        assert_eq!(seconds(now), 10, "the window ends first");
        drop(sessions);
        tokio::time::advance(WINDOW).await;
        assert!((1..=60).contains(&seconds(Instant::now())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_made_of_less_counts_whole_for_who_comes_and_not_for_who_goes_back() {
        let (capacity, now) = (capacity(1.0), Instant::now());
        let sessions = settled(&capacity, &[0.5, 0.5], now);
        // Their pictures have become harder, and both are made of less.
        sessions.iter().for_each(|session| session.update(0.9, 0.1, now));
        assert!(capacity.is_full(now), "no one comes in because others are degraded");
        assert!(sessions[0].has_room(0.9), "one can have all of it again");
        sessions[0].update(0.9, 0.9, now);
        assert!(!sessions[1].has_room(0.9) && sessions[1].has_room(0.2), "then the other can't");
        drop(sessions);
        let huge = settled(&capacity, &[3.0], now);
        assert!(huge[0].has_room(3.0), "alone it has what there is");
    }

    proptest! {
        /// However sessions come, settle, change and go: what has been promised fits, and all comes back.
        #[test]
        fn what_is_let_in_fits(steps in proptest::collection::vec((0..4_u8, 0.0..1.5_f64, 0..30_usize), 1..200)) {
            let (capacity, mut now) = (capacity(2.0), Instant::now());
            let mut open: Vec<(Reservation, bool)> = Vec::new();
            for (step, demand, index) in steps {
                match step {
                    0 => open.extend(capacity.hold(now).ok().map(|reservation| (reservation, false))),
                    1 if !open.is_empty() => {
                        let index = index % open.len();
                        let others = capacity.lock().used(Some(open[index].0.id), now);
                        let (reservation, is_settled) = &mut open[index];
                        if !*is_settled && reservation.settle(demand, now).is_ok() {
                            *is_settled = true;
                            prop_assert!(others + demand <= 2.0 + 1e-9 || others <= NEXT_TO_NOTHING);
                        }
                    }
                    2 if !open.is_empty() => drop(open.swap_remove(index % open.len())),
                    _ => now += Duration::from_secs(1),
                }
            }
            open.clear();
            prop_assert_eq!(capacity.lock().used(None, now), 0.0);
            prop_assert!(!capacity.is_full(now));
        }
    }
}
