//! Decode times from presentation times.
//!
//! A picture may be decoded later than others that are presented after it; how to write that down is free, as long as
//! decode times rise and each segment's join those of the next. Offsets below zero would be the plainest way (the i-th
//! picture decoded at the i-th smallest PTS), but libav adds the largest such offset that it has seen so far to every
//! PTS, so that pictures run late against the sound, and by a different amount from segment to segment. Here decode
//! runs ahead of presentation by a constant lag, which is built up over a segment's first pictures and given back by
//! its last (docs/adr/002).

use crate::media::{Error, Ticks};

/// When each sample is decoded, in decode order: from the earliest PTS on, rising, before `end`; and no sample after
/// it is presented, save by a few ticks where the first one to be decoded is not the first to be presented.
///
/// `Error::BadMedia` where a PTS is negative or there twice, or `end` is not after all of them. Without samples, nothing.
pub(super) fn decode_times(pts: &[i64], end: Ticks) -> Result<Vec<i64>, Error> {
    let mut order = pts.to_vec();
    order.sort_unstable();
    let (Some(&earliest), Some(&last)) = (order.first(), order.last()) else { return Ok(Vec::new()) };
    if earliest < 0 {
        return Err(Error::bad(format!("a picture at the negative time {earliest}")));
    }
    if end.0 <= last {
        return Err(Error::bad(format!("a part that ends at {}, not after its last picture at {last}", end.0)));
    }
    if let Some(twice) = order.windows(2).find(|w| w[0] == w[1]) {
        return Err(Error::bad(format!("two pictures at one time, {}", twice[0])));
    }

    // The latest time that is not after any PTS still to come.
    let mut latest = pts.to_vec();
    for_each_backward(&mut latest, |time, next| time.min(next));
    // How far the plain order would run behind that: what decoding has to be ahead by.
    let lag = order.iter().zip(&latest).map(|(plain, latest)| plain - latest).max().unwrap_or(0);
    let lead_in = order.partition_point(|&plain| plain - lag <= earliest);
    let full_lag_from = order.get(lead_in).map_or(end.0, |plain| plain - lag);

    let mut times: Vec<i64> = (0_i128..)
        .zip(order.iter().zip(&latest))
        .map(|(i, (&plain, &latest))| {
            let time = if i < lead_in as i128 {
                let share = i128::from(full_lag_from - earliest) * i / lead_in as i128;
                earliest + share as i64
            } else {
                plain - lag
            };
            time.min(latest)
        })
        .collect();
    // A tick apart: first at the cost of being early, then, from `earliest` on, at that of being late.
    for_each_backward(&mut times, |time, next| time.min(next - 1));
    let mut least = earliest;
    for time in &mut times {
        *time = (*time).max(least);
        least = *time + 1;
    }
    Ok(times)
}

/// Each value made from itself and the one after it, from the last but one to the first.
fn for_each_backward(values: &mut [i64], make: impl Fn(i64, i64) -> i64) {
    let mut next = None;
    for value in values.iter_mut().rev() {
        *value = next.map_or(*value, |next| make(*value, next));
        next = Some(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pts: &[i64], end: i64, expected: &[i64]) {
        assert_eq!(decode_times(pts, Ticks(end)).unwrap(), expected);
    }

    #[test]
    fn in_order_they_are_the_presentation_times() {
        check(&[7, 40, 73, 106], 140, &[7, 40, 73, 106]);
        check(&[5], 6, &[5]);
        check(&[], 0, &[]);
    }

    #[test]
    fn the_lag_is_built_up_over_the_first_pictures() {
        // A pyramid of three B pictures, twice: two frames of lag.
        let pts = [0, 400, 200, 100, 300, 800, 600, 500, 700];
        check(&pts, 900, &[0, 33, 66, 100, 200, 300, 400, 500, 600]);
    }

    #[test]
    fn one_long_picture_does_not_make_others_late() {
        // VFR: the picture at 10 is shown for 1000 ticks.
        let pts = [0, 1020, 10, 1010, 1030];
        let times = decode_times(&pts, Ticks(1040)).unwrap();
        assert!(times.iter().zip(&pts).all(|(time, pts)| time <= pts), "{times:?}");
    }

    #[test]
    fn leading_pictures_of_an_open_gop_are_late_by_no_more_than_ticks() {
        // I at 300, its leading pictures at 100 and 200.
        check(&[300, 100, 200, 600, 400, 500], 700, &[100, 101, 200, 300, 400, 500]);
    }
}
