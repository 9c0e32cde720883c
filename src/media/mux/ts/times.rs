//! Decode times and the clock, in ticks of 90 kHz before the 33-bit wrap.

/// How long before its decode time a unit's bytes may come: PCR = DTS − this.
pub const LEAD: i64 = 45_000;
/// The second that is added until nothing is negative.
const SECOND: i64 = 90_000;

/// The reorder delay that pictures with these PTS, in decode order, need: with it, no DTS is after its PTS.
pub fn delay(pts: &[i64]) -> i64 {
    let mut sorted = pts.to_vec();
    sorted.sort_unstable();
    sorted.iter().zip(pts).map(|(sorted, pts)| sorted - pts).max().unwrap_or(0)
}

/// The decode times of pictures with these PTS, in decode order: the PTS sorted, `delay` earlier.
///
/// Where the pictures need more delay than that, a DTS is taken back to its PTS and those before it make room, one
/// tick each, so that they rise strictly. They also rise from `after`, the last one of the segment before; only
/// where there is no room between that and the PTS can a DTS come after its PTS.
pub fn decode_times(pts: &[i64], delay: i64, after: Option<i64>) -> Vec<i64> {
    let mut times = pts.to_vec();
    times.sort_unstable();
    let mut limit = i64::MAX;
    for (time, pts) in times.iter_mut().zip(pts).rev() {
        *time = (*time - delay).min(*pts).min(limit);
        limit = *time - 1;
    }
    let mut last = after;
    for time in &mut times {
        *time = last.map_or(*time, |last| (*time).max(last + 1));
        last = Some(*time);
    }
    times
}

/// What is added to all times of a programme that begins with `pts` and needs `delay`: nothing where it begins at one
/// second or later, else as many whole seconds as keep PTS, DTS and PCR from being negative.
pub fn offset(pts: i64, delay: i64) -> i64 {
    let least = SECOND.max(delay + LEAD);
    let missing = (delay + LEAD - pts).max(0);
    match pts {
        pts if pts >= least => 0,
        _ => SECOND.max((missing + SECOND - 1) / SECOND * SECOND),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reordered_pictures() {
        let pts = [0, 4, 2, 1, 3, 8, 6, 5, 7].map(|n| n * 3600);
        assert_eq!(delay(&pts), 2 * 3600);
        let expect: Vec<i64> = (-2..7).map(|n| n * 3600).collect();
        assert_eq!(decode_times(&pts, 7200, None), expect);
        assert_eq!(delay(&[0, 3600, 7200]), 0);
        assert_eq!(delay(&[]), 0);
    }

    #[test]
    fn the_delay_stays_where_a_later_segment_needs_less() {
        assert_eq!(decode_times(&[32_400, 36_000], 7200, Some(21_600)), [25_200, 28_800]);
    }

    #[test]
    fn more_delay_than_the_first_segment_had() {
        let pts = [0, 4, 2, 1, 3].map(|n| 100_000 + n * 3600);
        let times = decode_times(&pts, 0, Some(96_400));
        assert!(times.is_sorted_by(|a, b| a < b) && times[0] > 96_400, "{times:?}");
        assert!(times.iter().zip(pts).all(|(dts, pts)| *dts <= pts), "{times:?}");
    }

    #[test]
    fn nothing_is_negative() {
        assert_eq!(offset(90_000, 0), 0);
        assert_eq!(offset(1 << 40, 7200), 0);
        assert_eq!(offset(0, 7200), 90_000);
        assert_eq!(offset(-2048, 7200), 90_000);
        assert_eq!(offset(89_999, 0), 90_000);
        assert_eq!(offset(-90_000, 0), 180_000);
        assert_eq!(offset(90_000, 90_000), 90_000);
    }

    proptest! {
        #[test]
        fn rise_and_never_after_their_pts(mut pts in prop::collection::vec(1000i64..1_000_000, 1..60), delay in 0i64..20_000) {
            let room = pts.len() as i64;
            pts.iter_mut().for_each(|pts| *pts += room);
            let times = decode_times(&pts, delay, Some(900 - 20_000));
            prop_assert!(times.is_sorted_by(|a, b| a < b));
            prop_assert!(times.iter().zip(&pts).all(|(dts, pts)| dts <= pts));
        }
    }
}
