//! Presentation times that can't be what they are told to be, and what is made of them.
//!
//! The rule, for pictures: each has a time of its own. One that is told to be presented when another of its track is,
//! or before what can no longer follow in decode order (a closed sync sample, or all pictures before an open one), is
//! presented at the next free tick. Nothing is left out and nothing else is moved. Decode times need no repair: they
//! are made anew wherever media is written.

use std::collections::VecDeque;

use crate::media::Ticks;

/// More than any codec reorders: a picture that comes later than this many others is after them.
const REACH: usize = 32;
/// Times beyond this are not believed; it keeps all sums from overflowing.
const FAR: i64 = 1 << 62;

/// The times that are taken, of one track. A few numbers, however long the stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Stamps {
    /// Nothing is presented at or before this any more.
    floor: Option<Ticks>,
    recent: VecDeque<Ticks>,
    /// An open sync sample, as long as its leading pictures may follow.
    opened: Option<Ticks>,
}

/// How a picture stands to those before it in decode order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// A sync sample that no later picture is presented before.
    Closed,
    /// A sync sample that leading pictures may follow.
    Open,
    None,
}

impl Stamps {
    /// As they stand before a sync sample, where `newest` was the latest time so far.
    pub fn after(newest: Option<Ticks>) -> Self {
        Self { floor: newest, ..Self::default() }
    }

    /// The latest time given so far.
    pub fn newest(&self) -> Option<Ticks> {
        self.recent.iter().copied().max().max(self.floor)
    }

    /// The time of the next picture in decode order, which is told to be at `pts`.
    pub fn place(&mut self, pts: Ticks, entry: Entry) -> Ticks {
        let pts = Ticks(pts.0.clamp(-FAR, FAR));
        if entry != Entry::None {
            *self = Self::after(self.newest());
        } else if self.opened.is_some_and(|opened| pts >= opened) {
            // The first picture that trails: no leading one follows it.
            self.floor = self.opened.take().max(self.floor);
        }
        let mut at = self.floor.map_or(pts, |floor| pts.max(floor + Ticks(1)));
        while self.recent.contains(&at) {
            at = at + Ticks(1);
        }
        self.recent.push_back(at);
        if self.recent.len() > REACH {
            self.floor = self.recent.pop_front().max(self.floor);
        }
        match entry {
            Entry::Closed => *self = Self::after(Some(at)),
            Entry::Open => self.opened = Some(at),
            Entry::None => {}
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn placed(told: &[(i64, Entry)]) -> Vec<i64> {
        let mut stamps = Stamps::default();
        told.iter().map(|&(pts, entry)| stamps.place(Ticks(pts), entry).0).collect()
    }

    #[test]
    fn times_in_any_legal_order_stay() {
        use Entry::{Closed, None, Open};
        let legal = [
            (0, Closed),
            (160, None),
            (80, None),
            (40, None),
            (120, None),
            (280, Open),
            (200, None),
            (240, None),
            (320, None),
        ];
        assert_eq!(placed(&legal), legal.map(|(pts, _)| pts));
    }

    #[test]
    fn a_time_that_is_taken_becomes_the_next_free_tick() {
        use Entry::{Closed, None};
        assert_eq!(placed(&[(0, Closed), (40, None), (40, None), (41, None), (40, None)]), [0, 40, 41, 42, 43]);
    }

    #[test]
    fn nothing_is_presented_before_a_sync_sample_that_it_cannot_lead() {
        use Entry::{Closed, None, Open};
        assert_eq!(placed(&[(0, Closed), (100, Closed), (40, None), (140, None)]), [0, 100, 101, 140]);
        assert_eq!(placed(&[(0, Closed), (100, Open), (40, None), (140, None), (60, None)]), [0, 100, 40, 140, 101]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn whatever_is_told_each_picture_has_a_time_of_its_own(
            told in prop::collection::vec((prop_oneof![-50i64..50, any::<i64>()], 0u8..12), 1..200),
        ) {
            let entry = |kind| match kind { 0 => Entry::Closed, 1 => Entry::Open, _ => Entry::None };
            let told: Vec<_> = told.into_iter().map(|(pts, kind)| (pts, entry(kind))).collect();
            let mut times = placed(&told);
            times.sort_unstable();
            prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
