//! Each decoded picture's time, where stamps and decoder may disagree about the order.
//!
//! Pictures are shown in the decoder's order, which is that of their picture order counts (ISO/IEC 14496-10 C.4.5.3,
//! ISO/IEC 23008-2 C.5.2), and never at a time that no picture has: the n-th of the window that comes out is shown at the
//! n-th of the window's times. Where both agree, that is its own.

use crate::media::{Ticks, Window};

/// The times of one job's window, and who has come for them.
pub struct Order {
    window: Window,
    /// In order, each once; and whether the picture that is stamped with it has come.
    times: Vec<(Ticks, bool)>,
    count: usize,
    moved: u64,
}

/// What becomes of a decoded picture.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// It is outside the window.
    Dropped,
    /// It is shown at this time.
    Shown(Ticks),
    /// It is none of the job's, or has come before.
    Unknown,
}

impl Order {
    /// `times`: of all the job's pictures, in order, each once.
    pub fn new(times: &[Ticks], window: Window) -> Self {
        let times = times.iter().filter(|&&pts| window.contains(pts)).map(|&pts| (pts, false)).collect();
        Self { window, times, count: 0, moved: 0 }
    }

    /// The time of the next picture out of the decoder, which is stamped `pts`.
    pub fn place(&mut self, pts: Ticks) -> Place {
        if !self.window.contains(pts) {
            return Place::Dropped;
        }
        let Ok(stamped) = self.times.binary_search_by_key(&pts, |&(time, _)| time) else { return Place::Unknown };
        if std::mem::replace(&mut self.times[stamped].1, true) {
            return Place::Unknown;
        }
        let Some(&(at, _)) = self.times.get(self.count) else { return Place::Unknown };
        self.count += 1;
        self.moved += u64::from(at != pts);
        Place::Shown(at)
    }

    /// Pictures inside the window so far.
    pub fn count(&self) -> u64 {
        self.count as u64
    }

    /// Pictures that are shown at another time than they are stamped with.
    pub fn moved(&self) -> u64 {
        self.moved
    }
}

/// The same where not all of the times are known yet: pictures have to come in the order of their stamps.
pub struct Rising {
    start: Ticks,
    last: Option<Ticks>,
    count: u64,
}

impl Rising {
    /// Of a window that starts there.
    pub fn new(start: Ticks) -> Self {
        Self { start, last: None, count: 0 }
    }

    pub fn place(&mut self, pts: Ticks) -> Place {
        if pts < self.start {
            return Place::Dropped;
        }
        if self.last.is_some_and(|last| pts <= last) {
            return Place::Unknown;
        }
        self.last = Some(pts);
        self.count += 1;
        Place::Shown(pts)
    }

    pub fn last(&self) -> Option<Ticks> {
        self.last
    }

    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Window = Window { start: Ticks(10), end: Ticks(50) };

    fn order() -> Order {
        Order::new(&[0, 10, 20, 30, 40, 50].map(Ticks), WINDOW)
    }

    fn placed(order: &mut Order, stamps: &[i64]) -> Vec<Place> {
        stamps.iter().map(|&pts| order.place(Ticks(pts))).collect()
    }

    #[test]
    fn pictures_in_the_order_of_their_stamps_keep_them() {
        use Place::{Dropped, Shown};
        let mut order = order();
        let shown = [10, 20, 30, 40].map(|pts| Shown(Ticks(pts)));
        let [first, second, third, fourth] = shown;
        assert_eq!(placed(&mut order, &[0, 10, 20, 30, 40, 50]), [Dropped, first, second, third, fourth, Dropped]);
        assert_eq!((order.count(), order.moved()), (4, 0));
    }

    #[test]
    fn a_picture_that_comes_twice_or_from_nowhere_has_no_place() {
        let mut order = order();
        assert_eq!(
            placed(&mut order, &[20, 20, 21, 10]),
            [Place::Shown(Ticks(10)), Place::Unknown, Place::Unknown, Place::Shown(Ticks(20))]
        );
        assert_eq!((order.count(), order.moved()), (2, 2));
    }

    #[test]
    fn where_not_all_is_known_only_what_is_later_than_all_before_is_shown() {
        let mut rising = Rising::new(Ticks(10));
        let placed = [9, 10, 30, 20, 30, 31].map(|pts| rising.place(Ticks(pts)));
        let shown = |pts| Place::Shown(Ticks(pts));
        assert_eq!(placed, [Place::Dropped, shown(10), shown(30), Place::Unknown, Place::Unknown, shown(31)]);
        assert_eq!((rising.count(), rising.last()), (3, Some(Ticks(31))));
    }

    proptest! {
        #[test]
        fn in_whatever_order_they_come_each_time_is_given_once_and_in_order(
            stamps in Just((0..60).step_by(5).collect::<Vec<i64>>()).prop_shuffle(),
        ) {
            let all: Vec<Ticks> = (0..60).step_by(5).map(Ticks).collect();
            let mut order = Order::new(&all, WINDOW);
            let shown: Vec<i64> = placed(&mut order, &stamps)
                .into_iter()
                .filter_map(|place| if let Place::Shown(at) = place { Some(at.0) } else { None })
                .collect();
            prop_assert_eq!(shown, (10..50).step_by(5).collect::<Vec<i64>>());
        }
    }
}
