//! The jobs that wait for a worker: bounded, fair between sessions by deficit round robin, earliest deadline first
//! within one. Synchronous, and without a clock.
//!
//! A session's turn brings it [`QUANTUM`] of processor time to spend on its jobs by their projected costs; what is not
//! enough for a job is kept for its next turn, what is left when it has no more is not. Sessions with deadlines have
//! their own round, which gets [`LIVE_SHARE`] of the time while both have work: a batch of files can't make live
//! sessions late, and they can't starve it.
//!
//! Only so many items have a place. Who comes when all are taken waits outside; a place that gets free goes to who
//! holds fewest, and none may hold more than half.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Claim, SessionId};

/// Processor time that a session's turn brings it.
const QUANTUM: Duration = Duration::from_millis(200);
/// Least cost of an item: none is for free, so that none comes for ever.
const LEAST: Duration = Duration::from_millis(1);
/// Most cost of an item: what is believed of a projection.
const MOST: Duration = Duration::from_secs(3600);
/// Of the processor time, in tenths, what goes to sessions with deadlines while others wait.
pub(super) const LIVE_SHARE: u32 = 9;

/// Items by whose they are. An item holds its place until it is popped.
pub(super) struct Queue<T> {
    places: usize,
    state: Mutex<State<T>>,
    filled: Notify,
}

/// Whose an item is and when it came; it keeps its turn with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket {
    /// Earliest first, none last.
    deadline: (bool, Option<Instant>),
    number: u64,
    session: SessionId,
}

/// What an item will take, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    /// Processor time.
    pub cost: Duration,
    pub media: Duration,
}

/// What waits now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Depth {
    /// That have a place.
    pub items: usize,
    pub media: Duration,
}

struct State<T> {
    next_ticket: u64,
    closed: bool,
    /// Came back from a worker: their turn has been.
    returned: BTreeMap<u64, (Ticket, Item<T>)>,
    live: Round<T>,
    file: Round<T>,
    inside: usize,
    outside: usize,
}

struct Item<T> {
    item: T,
    load: Load,
}

/// Sessions that take turns.
struct Round<T> {
    sessions: HashMap<SessionId, Line<T>>,
    /// Those of them that have items inside, the next one first.
    turns: VecDeque<SessionId>,
    /// Processor time handed out, in tenths by its share: see [`State::next_round`].
    served: Duration,
}

/// What one session has waiting.
struct Line<T> {
    inside: BTreeMap<Ticket, Item<T>>,
    outside: BTreeMap<Ticket, Item<T>>,
    deficit: Duration,
    /// This turn's quantum has been given.
    in_turn: bool,
}

impl Ticket {
    fn is_live(self) -> bool {
        self.deadline.1.is_some()
    }
}

impl<T> Queue<T> {
    pub(super) fn new(places: usize) -> Self {
        let state = State {
            next_ticket: 0,
            closed: false,
            returned: BTreeMap::new(),
            live: Round::default(),
            file: Round::default(),
            inside: 0,
            outside: 0,
        };
        Self { places: places.max(1), state: Mutex::new(state), filled: Notify::new() }
    }

    /// Of two items of a session with the same deadline, the one that took its ticket first is popped first.
    pub(super) fn ticket(&self, claim: Claim) -> Ticket {
        let mut state = self.lock();
        state.next_ticket += 1;
        let deadline = (claim.deadline.is_none(), claim.deadline);
        Ticket { deadline, number: state.next_ticket, session: claim.session }
    }

    /// Puts an item in, or outside until there is a place. Gives it back when the queue is closed.
    pub(super) fn push(&self, ticket: Ticket, item: T, load: Load) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(item);
        }
        let load = Load { cost: load.cost.clamp(LEAST, MOST), ..load };
        state.outside += 1;
        let line = state.round(ticket).sessions.entry(ticket.session).or_default();
        line.outside.insert(ticket, Item { item, load });
        state.let_in(self.places);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Puts an item that was popped back: it is the next to be popped, since its turn has been, and needs no place.
    /// Gives it back when the queue is closed.
    pub(super) fn push_back_in_turn(&self, ticket: Ticket, item: T, load: Load) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(item);
        }
        state.returned.insert(ticket.number, (ticket, Item { item, load }));
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// The item whose turn it is, when there is one. Nothing is lost when the future is dropped.
    pub(super) async fn pop(&self) -> (Ticket, T) {
        loop {
            let filled = self.filled.notified();
            if let Some(popped) = self.try_pop() {
                return popped;
            }
            filled.await;
        }
    }

    fn try_pop(&self) -> Option<(Ticket, T)> {
        let mut state = self.lock();
        if let Some((_, (ticket, Item { item, .. }))) = state.returned.pop_first() {
            return Some((ticket, item));
        }
        let (ticket, Item { item, .. }) = state.next_round()?.pop()?;
        state.inside -= 1;
        self.place_free(&mut state);
        Some((ticket, item))
    }

    fn place_free(&self, state: &mut State<T>) {
        state.let_in(self.places);
        if state.inside > 0 {
            // Who was woken for what stood outside may have found nothing.
            self.filled.notify_one();
        }
    }

    /// Takes an item out of turn, where it still waits.
    pub(super) fn remove(&self, ticket: Ticket) -> Option<T> {
        let returned = self.lock().returned.remove(&ticket.number);
        returned.map_or_else(|| self.remove_fresh(ticket), |(_, item)| Some(item.item))
    }

    /// The same, of an item that has never been popped.
    pub(super) fn remove_fresh(&self, ticket: Ticket) -> Option<T> {
        let mut state = self.lock();
        let (Item { item, .. }, was_inside) = state.round(ticket).remove(ticket)?;
        if was_inside {
            state.inside -= 1;
            self.place_free(&mut state);
        } else {
            state.outside -= 1;
        }
        Some(item)
    }

    /// Lets nothing in any more, and hands out what waits.
    pub(super) fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.closed = true;
        (state.inside, state.outside) = (0, 0);
        let returned = std::mem::take(&mut state.returned).into_values().map(|(_, item)| item.item);
        let mut items: Vec<(Ticket, T)> = Vec::new();
        for round in [std::mem::take(&mut state.live), std::mem::take(&mut state.file)] {
            for line in round.sessions.into_values() {
                items.extend(line.inside.into_iter().chain(line.outside).map(|(ticket, item)| (ticket, item.item)));
            }
        }
        items.sort_unstable_by_key(|(ticket, _)| ticket.number);
        returned.chain(items.into_iter().map(|(_, item)| item)).collect()
    }

    pub(super) fn depth(&self) -> Depth {
        let state = self.lock();
        let lines = state.live.sessions.values().chain(state.file.sessions.values());
        let items = lines.flat_map(|line| line.inside.values()).chain(state.returned.values().map(|(_, item)| item));
        let media = items.fold(Duration::ZERO, |sum, item| sum.saturating_add(item.load.media));
        Depth { items: state.inside + state.returned.len(), media }
    }

    /// Processor time of what will be popped before an item of that claim and cost that is put in now, by the rounds as
    /// they are.
    pub(super) fn ahead_of(&self, claim: Claim, cost: Duration) -> Duration {
        let state = self.lock();
        let back = state.returned.values().map(|(_, item)| item.load.cost).sum::<Duration>();
        let is_live = claim.deadline.is_some();
        let (own, other) = if is_live { (&state.live, &state.file) } else { (&state.file, &state.live) };
        let before = |ticket: &Ticket| ticket.deadline <= (claim.deadline.is_none(), claim.deadline);
        let mut ahead = Duration::ZERO;
        let mut service = cost.clamp(LEAST, MOST);
        if let Some(line) = own.sessions.get(&claim.session) {
            let first = line.items().filter(|(ticket, _)| before(ticket)).map(|(_, item)| item.load.cost);
            ahead = first.sum();
            service = service.saturating_add(ahead);
        }
        let others = own.sessions.iter().filter(|(session, _)| **session != claim.session);
        // In as many turns as the item waits for, another session is served no more, but for a turn's part.
        ahead += others.map(|(_, line)| line.cost().min(service.saturating_add(QUANTUM))).sum::<Duration>();
        let (ours, theirs) = if is_live { (LIVE_SHARE, 10 - LIVE_SHARE) } else { (10 - LIVE_SHARE, LIVE_SHARE) };
        let waiting = other.sessions.values().map(Line::cost).sum::<Duration>();
        back + ahead + waiting.min((ahead + cost) * theirs / ours)
    }

    /// No code that holds the lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn round(&mut self, ticket: Ticket) -> &mut Round<T> {
        if ticket.is_live() { &mut self.live } else { &mut self.file }
    }

    /// Of two rounds that both have work, the one that has had less by its share.
    fn next_round(&mut self) -> Option<&mut Round<T>> {
        match (self.live.turns.is_empty(), self.file.turns.is_empty()) {
            (true, true) => None,
            (false, true) => Some(&mut self.live),
            (true, false) => Some(&mut self.file),
            (false, false) => {
                let live_first = self.live.served * (10 - LIVE_SHARE) <= self.file.served * LIVE_SHARE;
                Some(if live_first { &mut self.live } else { &mut self.file })
            }
        }
    }

    /// Gives free places to those outside: who holds fewest first, then who came first.
    fn let_in(&mut self, places: usize) {
        let most = places.div_ceil(2);
        while self.outside > 0 && self.inside < places {
            let lines = [&self.live, &self.file].into_iter().flat_map(|round| round.sessions.values());
            let waiting = lines.filter(|line| line.inside.len() < most);
            let first = waiting.filter_map(|line| Some((line.inside.len(), *line.outside.first_key_value()?.0)));
            let Some((_, ticket)) = first.min_by_key(|(held, ticket)| (*held, ticket.number)) else { return };
            // What both rounds have had is compared only while both have work.
            if self.live.turns.is_empty() || self.file.turns.is_empty() {
                (self.live.served, self.file.served) = (Duration::ZERO, Duration::ZERO);
            }
            self.round(ticket).let_in(ticket);
            self.inside += 1;
            self.outside -= 1;
        }
    }
}

impl<T> Round<T> {
    fn let_in(&mut self, ticket: Ticket) {
        let Some(line) = self.sessions.get_mut(&ticket.session) else { return };
        let Some(item) = line.outside.remove(&ticket) else { return };
        if line.inside.is_empty() {
            self.turns.push_back(ticket.session);
        }
        line.inside.insert(ticket, item);
    }

    fn pop(&mut self) -> Option<(Ticket, Item<T>)> {
        let mut passed_over = 0;
        loop {
            if passed_over > self.turns.len() {
                self.skip_turns();
                passed_over = 0;
            }
            let session = *self.turns.front()?;
            let line = self.sessions.get_mut(&session)?;
            if !std::mem::replace(&mut line.in_turn, true) {
                line.deficit = line.deficit.saturating_add(QUANTUM);
            }
            let (ticket, item) = line.inside.first_key_value()?;
            let (ticket, cost) = (*ticket, item.load.cost);
            if cost <= line.deficit {
                line.deficit -= cost;
                self.served = self.served.saturating_add(cost);
                return self.remove(ticket).map(|(item, _)| (ticket, item));
            }
            line.in_turn = false;
            passed_over += 1;
            self.turns.rotate_left(1);
        }
    }

    /// Turns in which none can be served are given all at once.
    fn skip_turns(&mut self) {
        let missing = |line: &Line<T>| {
            let cost = line.inside.values().next().map_or(LEAST, |item| item.load.cost);
            let missing = cost.saturating_sub(line.deficit).as_micros().div_ceil(QUANTUM.as_micros());
            u32::try_from(missing).unwrap_or(u32::MAX)
        };
        let in_turns = self.turns.iter().filter_map(|session| self.sessions.get(session));
        let turns = in_turns.map(missing).min().unwrap_or(0).saturating_sub(1);
        for session in &self.turns {
            if let Some(line) = self.sessions.get_mut(session) {
                line.deficit = line.deficit.saturating_add(QUANTUM.saturating_mul(turns));
            }
        }
    }

    /// The item, and whether it was inside.
    fn remove(&mut self, ticket: Ticket) -> Option<(Item<T>, bool)> {
        let line = self.sessions.get_mut(&ticket.session)?;
        let inside = line.inside.remove(&ticket).map(|item| (item, true));
        let removed = inside.or_else(|| line.outside.remove(&ticket).map(|item| (item, false)))?;
        if line.inside.is_empty() && removed.1 {
            (line.deficit, line.in_turn) = (Duration::ZERO, false);
            self.turns.retain(|session| *session != ticket.session);
        }
        if line.inside.is_empty() && line.outside.is_empty() {
            self.sessions.remove(&ticket.session);
        }
        Some(removed)
    }
}

impl<T> Line<T> {
    fn items(&self) -> impl Iterator<Item = (&Ticket, &Item<T>)> {
        self.inside.iter().chain(&self.outside)
    }

    fn cost(&self) -> Duration {
        self.items().map(|(_, item)| item.load.cost).sum()
    }
}

impl<T> Default for Round<T> {
    fn default() -> Self {
        Self { sessions: HashMap::new(), turns: VecDeque::new(), served: Duration::ZERO }
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { inside: BTreeMap::new(), outside: BTreeMap::new(), deficit: Duration::ZERO, in_turn: false }
    }
}

#[cfg(test)]
mod tests;
