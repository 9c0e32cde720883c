//! Streams of every legal shape, and what holds for all of them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::media::mux::cmaf::{self, tests::fragments};
use crate::media::mux::{OutTrack, Part, Sample};

/// What a stream looks like. All times in milliseconds.
#[derive(Debug, Clone)]
struct Shape {
    codec: VideoCodec,
    gops: Vec<Gop>,
    /// Pictures between anchors, decoded after the later one.
    between: usize,
    jitter: i64,
    /// The clock jumps at a picture in decode order, by so much: both tracks at the same moment.
    jump: Option<(usize, i64)>,
    /// A stretch without a picture or a sound, before a GOP.
    gap: Option<(usize, i64)>,
    /// This picture is told to be presented when the one decoded before it is.
    twice: Option<usize>,
    first: i64,
    sound_from: i64,
    sound_to: i64,
    /// How long it goes on after the pictures, at most.
    outlasts: i64,
    /// How much earlier, or later, in the file the sound comes.
    ahead: i64,
    target: u32,
    has_video: bool,
}

#[derive(Debug, Clone, Copy)]
struct Gop {
    pictures: usize,
    /// Presented before the sync sample.
    leading: usize,
    open: bool,
}

const FRAME: i64 = 40;
const MAX_MS: u32 = 20_000;

fn settings_of(shape: &Shape) -> Settings {
    Settings { target_ms: shape.target, max_ms: MAX_MS, max_frames: 2000, max_bytes: 1 << 20, max_skew_ms: 8000 }
}

/// In the order of a file: pictures (numbered in their data) and sounds.
fn units(shape: &Shape) -> Vec<AccessUnit> {
    let pictures = pictures(shape);
    let edge = shape.jump.and_then(|(at, by)| Some((pictures.get(at..)?.iter().map(|unit| unit.1).min()?, by)));
    let jumped = |time: i64| time + edge.filter(|(edge, _)| time >= *edge).map_or(0, |(_, by)| by);
    let gap = shape
        .gap
        .and_then(|(gop, by)| Some((shape.gops.get(..gop)?.iter().map(|gop| gop.pictures).sum::<usize>(), by)));
    let end = pictures.iter().map(|unit| unit.1).max().unwrap_or(0) + FRAME;
    let mut file: Vec<(i64, AccessUnit)> = Vec::new();
    for (n, (order, _, unit)) in pictures.into_iter().enumerate() {
        let by = shape.jump.filter(|(at, _)| n >= *at).map_or(0, |(_, by)| by);
        let told = |at: Ticks| Ticks((at.0 + by) * 90);
        file.push((order, AccessUnit { pts: told(unit.pts), dts: told(unit.dts), ..unit }));
    }
    if !shape.has_video {
        file.clear();
    }
    let hole = gap.map(|(frames, by)| (shape.first + frames as i64 * FRAME, by));
    for n in shape.sound_from / 20..(shape.sound_to.min(end - shape.first + shape.outlasts)) / 20 {
        let at = shape.first + n * 20;
        if hole.is_some_and(|(from, by)| (from..from + by).contains(&at)) {
            continue;
        }
        file.push((at - shape.ahead, sound(jumped(at) * 48)));
    }
    file.sort_by_key(|(order, _)| *order);
    file.into_iter().zip(0..).map(|((_, unit), offset)| AccessUnit { offset, ..unit }).collect()
}

/// In decode order: when each comes, its time before any jump, and the unit with times in milliseconds.
fn pictures(shape: &Shape) -> Vec<(i64, i64, AccessUnit)> {
    let mut made: Vec<(i64, i64, AccessUnit)> = Vec::new();
    let (mut base, mut number) = (shape.first, 0u32);
    for (n, gop) in shape.gops.iter().enumerate() {
        base += shape.gap.filter(|(at, _)| *at == n && n > 0).map_or(0, |(_, by)| by);
        let leading = gop.leading.min(gop.pictures - 1);
        let mut order = vec![leading];
        order.extend(0..leading);
        let mut next = leading + 1;
        while next < gop.pictures {
            let anchor = (next + shape.between).min(gop.pictures - 1);
            order.push(anchor);
            order.extend(next..anchor);
            next = anchor + 1;
        }
        for (i, place) in order.into_iter().enumerate() {
            let sync = match (i, gop.open) {
                (0, false) => Sync::Idr,
                (0, true) => Sync::OpenGop,
                _ => Sync::No,
            };
            let jitter = (number as i64 * 7919) % (shape.jitter + 1);
            let (pts, dts) = (base + place as i64 * FRAME + jitter, base + i as i64 * FRAME - 6 * FRAME);
            let told =
                shape.twice.filter(|twice| *twice == number as usize).and(made.last()).map_or(pts, |last| last.2.pts.0);
            let data = Bytes::copy_from_slice(&number.to_be_bytes());
            made.push((dts, pts, AccessUnit { dts: Ticks(dts), data, ..picture(told, sync) }));
            number += 1;
        }
        base += gop.pictures as i64 * FRAME;
    }
    made
}

fn shapes() -> impl Strategy<Value = Shape> {
    let gop = (1usize..30, 0usize..5, any::<bool>());
    let jump = prop::option::weighted(0.5, (1usize..120, prop_oneof![-400_000i64..-9000, 30_000i64..400_000]));
    let times = (prop_oneof![Just(0i64), Just(1 << 40), 0i64..100_000], prop_oneof![Just(0i64), -3000i64..3000]);
    let outlasts = prop_oneof![3 => Just(0i64), 1 => 0i64..5000];
    let sound = (prop_oneof![Just(0i64), 0i64..3000], prop_oneof![Just(i64::MAX), 500i64..6000], outlasts);
    let gap = prop::option::weighted(0.3, (1usize..6, 100i64..15_000));
    let odd = (prop::option::weighted(0.3, 1usize..100), jump, gap);
    (
        any::<bool>(),
        prop::collection::vec(gop, 1..10),
        (0usize..5, 0i64..19, 200u32..2500, prop::bool::weighted(0.9)),
        times,
        sound,
        odd,
    )
        .prop_map(
            |(
                h264,
                gops,
                (between, jitter, target, has_video),
                (first, ahead),
                (from, to, outlasts),
                (twice, jump, gap),
            )| {
                let gop = |(pictures, leading, open): (usize, usize, bool)| Gop {
                    pictures,
                    leading: if h264 && !open { 0 } else { leading },
                    open,
                };
                Shape {
                    codec: if h264 { VideoCodec::H264 } else { VideoCodec::H265 },
                    gops: gops.into_iter().map(gop).collect(),
                    between,
                    jitter,
                    jump,
                    gap,
                    twice,
                    first: if jump.is_some_and(|(_, by)| by < 0) { first + 500_000 } else { first },
                    sound_from: from,
                    sound_to: to,
                    outlasts,
                    ahead,
                    target,
                    has_video,
                }
            },
        )
}

fn check(shape: &Shape) {
    let (video, audio) = (video_track(shape.codec, 90_000), audio_track(48_000));
    let tracks = Tracks { video: shape.has_video.then_some(&video), audio: vec![&audio] };
    let units = units(shape);
    let segments = cut(settings_of(shape), &tracks, units.clone());
    each_picture_is_presented_once(&units, &segments);
    own_units_join(&segments);
    each_sound_is_in_one_segment(shape, &units, &segments);
    for (n, pair) in segments.windows(2).enumerate() {
        assert_eq!((pair[0].seq, pair[1].seq), (n as u64 + 1, n as u64 + 2));
        if !pair[1].discontinuity {
            let end = pair[0].end.ceil(pair[0].timescale, pair[1].timescale);
            assert_eq!(end, pair[1].start, "segment {}", pair[1].seq);
            let epoch = segments[..=n].iter().rposition(|segment| segment.discontinuity).unwrap_or(0);
            let begun = segments[epoch..=n].iter().any(|segment| !segment.audio[0].units.is_empty());
            let (before, after) = (pair[0].audio[0].window, pair[1].audio[0].window);
            assert!(!begun || before.end == after.start, "{before:?}, {after:?}");
        }
    }
}

fn each_picture_is_presented_once(units: &[AccessUnit], segments: &[Segment]) {
    let mut seen: BTreeMap<&[u8], u32> = BTreeMap::new();
    for cut in segments.iter().filter_map(|segment| segment.video.as_ref()) {
        let mut times: Vec<_> = cut.all().map(|unit| unit.pts).collect();
        times.sort_unstable();
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "a time for each picture");
        assert!(!cut.pre_roll.iter().any(|unit| cut.window.contains(unit.pts)), "pre-roll is not presented");
        for unit in cut.units.iter().chain(&cut.post_roll).filter(|unit| cut.window.contains(unit.pts)) {
            *seen.entry(&unit.data[..]).or_default() += 1;
        }
    }
    let undecodable: u64 = segments.iter().map(|segment| segment.undecodable).sum();
    let pictures = units.iter().filter(|unit| unit.track == VIDEO).count() as u64;
    assert!(seen.values().all(|times| *times == 1), "once");
    assert_eq!(seen.len() as u64 + undecodable, pictures, "all that can be decoded");
}

/// What is copied: each decodable unit once, in decode order, in ranges that join.
fn own_units_join(segments: &[Segment]) {
    let cuts: Vec<(bool, &Cut)> =
        segments.iter().filter_map(|segment| Some((segment.discontinuity, segment.video.as_ref()?))).collect();
    let own: Vec<_> = cuts.iter().flat_map(|(_, cut)| &cut.units).map(|unit| &unit.data).collect();
    assert!(own.windows(2).all(|pair| pair[0] < pair[1]), "each own unit once, in decode order");
    for (_, cut) in &cuts {
        assert!(cut.units.iter().all(|unit| cut.span.contains(unit.pts)), "{:?}", cut.span);
    }
    for pair in cuts.windows(2).filter(|pair| !pair[1].0) {
        assert_eq!(pair[0].1.span.end, pair[1].1.span.start);
    }
}

fn each_sound_is_in_one_segment(shape: &Shape, units: &[AccessUnit], segments: &[Segment]) {
    let told = units.iter().filter(|unit| unit.track == AUDIO).count();
    let heard: Vec<_> =
        segments.iter().flat_map(|segment| segment.audio[0].units.iter().map(|unit| unit.offset)).collect();
    assert!(heard.windows(2).all(|pair| pair[0] < pair[1]), "each sound once, in order");
    assert_eq!(heard.len(), told, "all sound: {shape:?}");
}

/// Found by the property below: the clock jumps at the last picture of a GOP, and the next comes so late that meanwhile the
/// sound alone has ended the old timeline.
#[test]
fn a_first_picture_that_waits_to_be_believed_is_taken_up_with_its_gop() {
    let gop = |pictures| Gop { pictures, leading: 0, open: false };
    let shape = Shape {
        codec: VideoCodec::H265,
        gops: [15, 17, 25, 17, 28, 1].map(gop).to_vec(),
        between: 0,
        jitter: 1,
        jump: Some((101, 30_000)),
        gap: Some((5, 9898)),
        twice: None,
        first: 0,
        sound_from: 0,
        sound_to: i64::MAX,
        outlasts: 0,
        ahead: 243,
        target: 200,
        has_video: true,
    };
    let (video, audio) = (video_track(shape.codec, 90_000), audio_track(48_000));
    let tracks = Tracks { video: Some(&video), audio: vec![&audio] };
    check_resume(settings_of(&shape), &tracks, units(&shape));
}

/// Found by the property below: such a sound comes before all else that is needed after the cut.
#[test]
fn sound_that_has_jumped_ahead_of_its_pictures_is_taken_up() {
    let closed = |(pictures, leading)| Gop { pictures, leading, open: false };
    let one = Shape {
        codec: VideoCodec::H265,
        gops: [(7, 0), (13, 1), (1, 0)].map(closed).to_vec(),
        between: 4,
        jitter: 1,
        jump: Some((19, -12364)),
        gap: Some((2, 7962)),
        twice: None,
        first: 500_000,
        sound_from: 0,
        sound_to: 800,
        outlasts: 0,
        ahead: 741,
        target: 200,
        has_video: true,
    };
    let many = Shape {
        gops: [(15, 0), (2, 1)].map(closed).to_vec(),
        between: 0,
        jitter: 0,
        jump: Some((16, -9002)),
        gap: Some((1, 1410)),
        sound_to: i64::MAX,
        ahead: 251,
        ..one.clone()
    };
    let (video, audio) = (video_track(VideoCodec::H265, 90_000), audio_track(48_000));
    let tracks = Tracks { video: Some(&video), audio: vec![&audio] };
    for shape in [one, many] {
        check_resume(settings_of(&shape), &tracks, units(&shape));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_shape_each_picture_and_each_sound_is_given_once(shape in shapes()) {
        check(&shape);
    }

    #[test]
    fn whatever_the_shape_it_can_be_taken_up_after_any_segment(shape in shapes()) {
        let (video, audio) = (video_track(shape.codec, 90_000), audio_track(48_000));
        let tracks = Tracks { video: shape.has_video.then_some(&video), audio: vec![&audio] };
        check_resume(settings_of(&shape), &tracks, units(&shape));
    }

    /// What is copied reads back as it was, and each fragment ends where the next begins.
    #[test]
    fn whatever_the_shape_its_copy_joins_in_cmaf(shape in shapes()) {
        let video = video_track(shape.codec, 90_000);
        let tracks = Tracks { video: Some(&video), audio: vec![] };
        let shape = Shape { has_video: true, sound_to: 0, ..shape };
        let segments = cut(settings_of(&shape), &tracks, units(&shape));
        let track = OutTrack { number: 1, timescale: video.timescale, language: None, format: video.format.clone() };
        let mut next = None;
        for (segment, cut) in segments.iter().filter_map(|segment| Some((segment, segment.video.as_ref()?))) {
            let sample = |unit: &AccessUnit| Sample { pts: unit.pts, sync: unit.sync != Sync::No, data: unit.data.clone() };
            let samples: Vec<Sample> = cut.units.iter().map(sample).collect();
            let part = Part { track: &track, samples: &samples, end: cut.span.end };
            let written = cmaf::segment(segment.seq as u32, &[part]).unwrap();
            let read = fragments(&written);
            let (_, start, ref samples) = read[0];
            prop_assert!(segment.discontinuity || next.is_none_or(|next| next == start));
            next = Some(start + samples.iter().map(|sample| u64::from(sample.duration)).sum::<u64>());
            let told: Vec<_> = cut.units.iter().map(|unit| unit.pts.0).collect();
            prop_assert_eq!(samples.iter().map(|sample| sample.pts).collect::<Vec<_>>(), told);
        }
    }
}
