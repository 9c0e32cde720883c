//! The arithmetic of schedules, held against the rule said in other words.

use proptest::prelude::*;

use super::*;
use crate::job::{Deinterlace, Preset};
use crate::media::{Chroma, Colour, Hdr, VideoCodec};

fn spec(fps: Option<(u32, u32)>, deinterlace: Deinterlace) -> VideoSpec {
    VideoSpec {
        codec: VideoCodec::H264,
        width: 64,
        height: 36,
        crf: 23,
        max_kbps: None,
        preset: Preset::Veryfast,
        depth: 8,
        deinterlace,
        fps,
    }
}

fn source(interlaced: bool) -> Video {
    Video {
        codec: VideoCodec::H264,
        config: bytes::Bytes::new(),
        codec_string: String::new(),
        width: 64,
        height: 36,
        sample_aspect: (1, 1),
        rotation: 0,
        bit_depth: 8,
        chroma: Chroma::C420,
        colour: Colour::default(),
        hdr: Hdr::default(),
        interlaced,
        frame_rate: None,
    }
}

/// The schedules of a source cut into segments of these lengths (in pictures), `end` being where the last one ends.
fn cut(
    spec: &VideoSpec,
    interlaced: bool,
    timescale: u32,
    pts: &[i64],
    end: i64,
    lengths: &[usize],
) -> Vec<(usize, Schedule)> {
    let pts: Vec<Ticks> = pts.iter().map(|&at| Ticks(at)).collect();
    let timescale = Timescale::new(timescale).unwrap();
    let (mut at, mut made) = (0usize, Vec::new());
    for &length in lengths.iter().chain([&usize::MAX]) {
        let past = at.saturating_add(length.max(1)).min(pts.len());
        if past == at {
            break;
        }
        let pictures = Pictures {
            pts: &pts[at..past],
            end: pts.get(past).copied().unwrap_or(Ticks(end)),
            timescale,
            before: at.checked_sub(1).map(|before| pts[before]),
            last: past == pts.len(),
        };
        made.extend(schedule(spec, &source(interlaced), pictures).map(|schedule| (at, schedule)));
        at = past;
    }
    made
}

/// What is shown, as the numbers of the source's pictures, and at which ticks.
fn told(schedules: &[(usize, Schedule)], per_picture: usize) -> Vec<(usize, i64)> {
    let all = schedules.iter().flat_map(|(first, schedule)| {
        schedule.shown.iter().map(move |shown| (first * per_picture + shown.picture as usize, shown.pts.0))
    });
    all.collect()
}

#[test]
fn half_the_rate_shows_every_second_picture_and_twice_the_rate_each_twice() {
    let pts: Vec<i64> = (0..6).map(|n| n * 3600).collect();
    let at = |frames| {
        let schedules = cut(&spec(Some((frames, 2)), Deinterlace::Frame), false, 90_000, &pts, 6 * 3600, &[]);
        (told(&schedules, 1), schedules[0].1.dropped_and_repeated())
    };
    // 25 frames a second to 12.5: picture 1 lies as near to 0 as to 2, the earlier one counts.
    assert_eq!(at(25), (vec![(0, 0), (2, 2), (4, 4)], (3, 0)));
    let twice = (0..12).map(|n| ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5][n], 2 * n as i64)).collect::<Vec<_>>();
    assert_eq!(at(100), (twice, (0, 6)));
}

#[test]
fn fields_lie_half_way_to_the_next_picture_over_the_join_too() {
    let schedules = cut(&spec(None, Deinterlace::Field), true, 1000, &[0, 33, 67, 100], 133, &[2]);
    assert_eq!(told(&schedules, 2), [(0, 0), (1, 33), (2, 66), (3, 100), (4, 134), (5, 167), (6, 200), (7, 233)]);
    assert_eq!(schedules[0].1.timescale.get(), 2000);
    assert_eq!((schedules[0].1.end, schedules[1].1.end), (Ticks(134), Ticks(266)));
    assert!(cut(&spec(None, Deinterlace::Field), false, 1000, &[0, 33], 67, &[]).is_empty(), "not interlaced");
    assert!(cut(&spec(None, Deinterlace::Frame), true, 1000, &[0, 33], 67, &[]).is_empty(), "each at its own time");
}

#[test]
fn a_picture_is_held_for_ten_seconds_and_no_longer() {
    let schedules = cut(&spec(Some((1, 1)), Deinterlace::Frame), false, 1, &[0, 1000], 1001, &[1]);
    let shown: Vec<i64> = told(&schedules, 1).iter().map(|&(_, at)| at).collect();
    assert_eq!(shown, (0..10).chain(990..=1000).collect::<Vec<_>>());
    assert_eq!(schedules[0].1.end, Ticks(10));
}

#[test]
fn times_at_the_ends_of_their_range_do_no_harm() {
    for pts in [[i64::MIN, i64::MIN + 1], [i64::MAX - 1, i64::MAX], [i64::MIN, i64::MAX]] {
        for timescale in [1, u32::MAX] {
            for deinterlace in [Deinterlace::Frame, Deinterlace::Field] {
                for fps in [None, Some((1, 1)), Some((1_000_000, 4167))] {
                    let made = cut(&spec(fps, deinterlace), true, timescale, &pts, i64::MAX, &[1]);
                    assert!(told(&made, 2).len() <= 4 * (20 * 240 + 1));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However the source is cut and whatever its times: each place of the grid once, showing the nearest picture, of
    /// two the earlier; and where one segment ends the next begins.
    #[test]
    fn each_place_on_the_grid_shows_the_nearest_picture_once(
        first in prop_oneof![-100_000i64..100_000, Just(1i64 << 50)],
        steps in prop::collection::vec(1i64..2000, 1..40),
        lengths in prop::collection::vec(1usize..12, 0..6),
        timescale in prop_oneof![Just(1000u32), Just(90_000), Just(600), Just(44_100)],
        rate in prop_oneof![Just((30_000u32, 1001u32)), Just((25, 2)), (1u32..=240).prop_map(|rate| (rate, 1))],
        fields in any::<bool>(),
    ) {
        let mut pts = vec![first];
        for step in &steps {
            pts.push(pts[pts.len() - 1] + step);
        }
        let end = pts.pop().unwrap();
        let deinterlace = if fields { Deinterlace::Field } else { Deinterlace::Frame };
        let schedules = cut(&spec(Some(rate), deinterlace), true, timescale, &pts, end, &lengths);
        let per_picture = if fields { 2 } else { 1 };
        let shown = told(&schedules, per_picture);

        // In units of 1/(2·timescale) s, times the rate.
        let (frames, seconds, scale) = (i128::from(rate.0), i128::from(rate.1), 2 * i128::from(timescale));
        let next = pts.iter().copied().skip(1).chain([end]);
        let pictures: Vec<i128> = pts.iter().zip(next).flat_map(|(&at, next)| {
            let at = i128::from(at);
            [2 * at, at + i128::from(next)].into_iter().take(per_picture)
        }).map(|at| at * frames).collect();
        let grid = |n: i128| n * seconds * scale;
        let last = 2 * i128::from(end) * frames;

        let places: Vec<i128> = shown.iter().map(|&(_, at)| i128::from(at) / seconds).collect();
        let start = (pictures[0].div_euclid(seconds * scale)..).find(|&n| grid(n) >= pictures[0]).unwrap();
        let expected: Vec<i128> = (start..).take_while(|&n| grid(n) < last).collect();
        prop_assert_eq!(&places, &expected);
        for (&(picture, _), &place) in shown.iter().zip(&places) {
            let nearest = (0..pictures.len()).min_by_key(|&n| (pictures[n] - grid(place)).abs()).unwrap();
            prop_assert_eq!(picture, nearest);
        }
        for pair in schedules.windows(2) {
            if let Some(shown) = pair[1].1.shown.first() {
                prop_assert!(pair[0].1.end <= shown.pts);
            }
            prop_assert_eq!(pair[0].1.shown.last().map_or(true, |shown| shown.pts < pair[0].1.end), true);
        }
        let counted: u64 = schedules.iter().map(|(_, schedule)| {
            let (dropped, repeated) = schedule.dropped_and_repeated();
            u64::from(schedule.pictures) - dropped + repeated
        }).sum();
        prop_assert_eq!(counted, shown.len() as u64);
    }
}
