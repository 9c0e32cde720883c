mod streams;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::media::{Audio, AudioCodec, Chroma, Colour, Format, Hdr, Sync, TrackId, Video, VideoCodec};

const VIDEO: TrackId = TrackId(1);
const AUDIO: TrackId = TrackId(2);

fn video_track(codec: VideoCodec, timescale: u32) -> Track {
    let video = Video {
        codec,
        config: Bytes::new(),
        codec_string: String::new(),
        width: 320,
        height: 180,
        sample_aspect: (1, 1),
        rotation: 0,
        bit_depth: 8,
        chroma: Chroma::C420,
        colour: Colour::default(),
        hdr: Hdr::default(),
        interlaced: false,
        frame_rate: None,
    };
    Track { id: VIDEO, timescale: Timescale::new(timescale).unwrap(), language: None, format: Format::Video(video) }
}

fn audio_track(timescale: u32) -> Track {
    let audio = Audio {
        codec: AudioCodec::Opus,
        config: Bytes::new(),
        codec_string: String::new(),
        sample_rate: 48_000,
        channels: 2,
    };
    Track { id: AUDIO, timescale: Timescale::new(timescale).unwrap(), language: None, format: Format::Audio(audio) }
}

fn settings(target_ms: u32) -> Settings {
    Settings { target_ms, max_ms: 60_000, max_frames: 10_000, max_bytes: 1 << 20, max_skew_ms: 10_000 }
}

fn picture(pts: i64, sync: Sync) -> AccessUnit {
    let data = Bytes::from_static(&[0; 10]);
    AccessUnit { track: VIDEO, pts: Ticks(pts), dts: Ticks(pts), duration: None, sync, offset: 0, data }
}

/// An Opus packet of 20 ms.
fn sound(pts: i64) -> AccessUnit {
    let data = Bytes::from_static(&[0xfc, 0xff, 0xfe]);
    AccessUnit { track: AUDIO, pts: Ticks(pts), dts: Ticks(pts), duration: None, sync: Sync::Idr, offset: 0, data }
}

fn cut(settings: Settings, tracks: &Tracks<'_>, units: impl IntoIterator<Item = AccessUnit>) -> Vec<Segment> {
    let mut segmenter = Segmenter::new(settings, tracks, 1, false);
    let mut segments = Vec::new();
    for unit in units {
        segmenter.push(unit).unwrap();
        segments.extend(std::iter::from_fn(|| segmenter.poll()));
    }
    segmenter.finish();
    segments.extend(std::iter::from_fn(|| segmenter.poll()));
    segments
}

fn only_video(track: &Track) -> Tracks<'_> {
    Tracks { video: Some(track), audio: vec![] }
}

#[test]
fn cuts_at_the_first_sync_sample_at_or_after_the_target() {
    let track = video_track(VideoCodec::H264, 1000);
    // Sync samples every 400 ms at 25 fps; a target of 1 s is reached at 1.2 s.
    let units = (0..75).map(|n| picture(n * 40, if n % 10 == 0 { Sync::Idr } else { Sync::No }));
    let segments = cut(settings(1000), &only_video(&track), units);
    let ranges: Vec<_> = segments.iter().map(|segment| (segment.seq, segment.start.0, segment.end.0)).collect();
    assert_eq!(ranges, [(1, 0, 1200), (2, 1200, 2400), (3, 2400, 3000)]);
    assert!(segments[2].last && !segments[1].last);
}

#[test]
fn a_cut_waits_for_the_leading_pictures_of_its_sync_sample_and_gives_them_to_the_segment_before() {
    let track = video_track(VideoCodec::H265, 1000);
    let mut units: Vec<_> = (0..25).map(|n| picture(n * 40, if n == 0 { Sync::Idr } else { Sync::No })).collect();
    // Sync sample at 1080, two leading pictures presented before it, then what trails.
    units.push(picture(1080, Sync::Idr));
    units.extend([picture(1000, Sync::No), picture(1040, Sync::No)]);
    units.extend((28..40).map(|n| picture(n * 40, Sync::No)));
    let segments = cut(settings(1000), &only_video(&track), units);
    let counts: Vec<_> = segments.iter().map(|segment| segment.video.as_ref().unwrap().presented()).collect();
    assert_eq!(counts, [27, 13]);
    let first = segments[0].video.as_ref().unwrap();
    assert_eq!(first.post_roll.iter().map(|unit| unit.pts.0).collect::<Vec<_>>(), [1080, 1000, 1040]);
}

#[test]
fn the_last_picture_lasts_as_its_container_says_or_as_the_one_before() {
    let track = video_track(VideoCodec::H264, 1000);
    let mut units = vec![picture(0, Sync::Idr), picture(40, Sync::No), picture(90, Sync::No)];
    assert_eq!(cut(settings(1000), &only_video(&track), units.clone())[0].end.0, 140);
    units[2].duration = Some(Ticks(7));
    assert_eq!(cut(settings(1000), &only_video(&track), units)[0].end.0, 97);
}

#[test]
fn units_before_the_first_sync_sample_are_counted_and_left_out() {
    let track = video_track(VideoCodec::H264, 1000);
    let mut segmenter = Segmenter::new(settings(1000), &only_video(&track), 1, false);
    for unit in [picture(0, Sync::No), picture(40, Sync::No), picture(80, Sync::Idr)] {
        segmenter.push(unit).unwrap();
    }
    segmenter.finish();
    let segment = segmenter.poll().unwrap();
    assert_eq!((segment.undecodable, segment.start.0, segment.video.unwrap().units.len()), (2, 80, 1));
}

/// Random access decodable leading pictures refer to nothing before their sync sample; skipped ones do.
#[test]
fn of_what_leads_a_bare_open_point_that_is_kept_which_can_be_decoded_from_it() {
    let nal = |kind: u8, pts: i64, sync| {
        let data = Bytes::copy_from_slice(&[0, 0, 0, 3, kind << 1, 1, 0x80]);
        AccessUnit { data, ..picture(pts, sync) }
    };
    let (cra, rasl, radl, trail) = (21, 9, 7, 1);
    let units = [
        nal(cra, 160, Sync::OpenGop),
        nal(rasl, 40, Sync::No),
        nal(radl, 120, Sync::No),
        nal(radl, 80, Sync::No),
        nal(trail, 200, Sync::No),
    ];
    let track = video_track(VideoCodec::H265, 1000);
    let segments = cut(settings(1000), &only_video(&track), units);
    let times: Vec<i64> = segments[0].video.as_ref().unwrap().units.iter().map(|unit| unit.pts.0).collect();
    assert_eq!((times, segments[0].undecodable, segments[0].start.0), (vec![160, 120, 80, 200], 1, 80));
}

#[test]
fn a_stream_without_a_point_to_cut_ends_at_each_cap_and_never_grows() {
    let track = video_track(VideoCodec::H264, 1000);
    let long = Settings { max_ms: 500, ..settings(200) };
    let many = Settings { max_frames: 10, ..settings(200) };
    let big = Settings { max_bytes: 100, ..settings(200) };
    for settings in [long, many, big] {
        let mut segmenter = Segmenter::new(settings, &only_video(&track), 1, false);
        let error =
            (0..30).find_map(|n| segmenter.push(picture(n * 40, if n == 0 { Sync::Idr } else { Sync::No })).err());
        assert_eq!(error.unwrap().code(), "gop_too_long");
    }
}

#[test]
fn sound_is_cut_on_the_grid_with_pre_roll_and_post_roll() {
    let (video, audio) = (video_track(VideoCodec::H264, 90_000), audio_track(48_000));
    let tracks = Tracks { video: Some(&video), audio: vec![&audio] };
    let pictures = (0..100).map(|n| picture(n * 3600, if n % 25 == 0 { Sync::Idr } else { Sync::No }));
    let sounds = (0..200).map(|n| sound(n * 960));
    let segments = cut(settings(1000), &tracks, pictures.chain(sounds));
    let windows: Vec<_> = segments.iter().map(|segment| segment.audio[0].window).collect();
    assert_eq!(
        windows.iter().map(|window| (window.start.0, window.end.0)).collect::<Vec<_>>(),
        [(0, 48_000), (48_000, 96_000), (96_000, 144_000), (144_000, 192_000)]
    );
    let second = &segments[1].audio[0];
    assert_eq!(second.units.first().unwrap().pts.0, 48_000);
    assert!(second.pre_roll.first().unwrap().pts.0 <= 48_000 - 8 * 1024, "eight AAC frames before the cut");
    assert!(second.post_roll.last().unwrap().pts.0 + 960 >= 96_000 + 2 * 1024, "two AAC frames after the cut");
    assert!(segments[3].audio[0].post_roll.is_empty());
}

#[test]
fn rounded_timestamps_of_sound_are_put_back_on_the_grid_and_a_real_gap_is_kept() {
    let audio = audio_track(1000);
    let tracks = Tracks { video: None, audio: vec![&audio] };
    // Packets of 20 ms, told 1 ms early or late; then a hole of 300 ms.
    let jittered = (0..10).map(|n| sound(n * 20 + [0, 1, -1][n as usize % 3].max(-n)));
    let later = (10..20).map(|n| sound(n * 20 + 300));
    let segments = cut(settings(10_000), &tracks, jittered.chain(later));
    let times: Vec<_> = segments[0].audio[0].units.iter().map(|unit| unit.pts.0).collect();
    let expected: Vec<_> = (0..10).map(|n| n * 960).chain((10..20).map(|n| n * 960 + 14_400)).collect();
    assert_eq!(times, expected);
}

#[test]
fn a_segment_waits_for_lagging_sound_but_not_for_ever() {
    let (video, audio) = (video_track(VideoCodec::H264, 1000), audio_track(48_000));
    let tracks = Tracks { video: Some(&video), audio: vec![&audio] };
    let settings = Settings { max_skew_ms: 3000, ..settings(1000) };
    let mut segmenter = Segmenter::new(settings, &tracks, 1, false);
    for n in 0..100 {
        segmenter.push(picture(n * 40, if n % 25 == 0 { Sync::Idr } else { Sync::No })).unwrap();
    }
    assert!(segmenter.poll().is_none(), "one second of video without its sound");
    for n in 0..60 {
        segmenter.push(sound(n * 960)).unwrap();
    }
    assert_eq!(segmenter.poll().map(|segment| segment.seq), Some(1));
    assert!(segmenter.poll().is_none());
    for n in 100..150 {
        segmenter.push(picture(n * 40, if n % 25 == 0 { Sync::Idr } else { Sync::No })).unwrap();
    }
    assert_eq!(segmenter.poll().map(|segment| segment.seq), Some(2), "the video is more than 3 s ahead");
}

#[test]
fn sound_alone_is_cut_at_its_own_units() {
    let audio = audio_track(48_000);
    let tracks = Tracks { video: None, audio: vec![&audio] };
    let segments = cut(settings(1000), &tracks, (0..120).map(|n| sound(n * 960)));
    let ranges: Vec<_> = segments.iter().map(|segment| (segment.start.0, segment.end.0)).collect();
    assert_eq!(ranges, [(0, 48_000), (48_000, 96_000), (96_000, 115_200)]);
    assert!(segments.iter().all(|segment| segment.video.is_none()));
}

proptest! {
    /// Whatever the GOPs, the reordering and the interleaving: each picture and each sound is in exactly one segment's
    /// window, and the windows follow each other without gap or overlap.
    #[test]
    fn every_unit_is_in_exactly_one_window(
        gops in prop::collection::vec(1usize..40, 1..20),
        b_frames in 0usize..4,
        target in 200u32..3000,
        skew in 0usize..60,
    ) {
        let (video, audio) = (video_track(VideoCodec::H264, 12_800), audio_track(48_000));
        let tracks = Tracks { video: Some(&video), audio: vec![&audio] };
        let mut pictures = Vec::new();
        let mut base = 0;
        for gop in gops {
            let mut order: Vec<usize> = vec![0];
            let mut next = 1;
            while next < gop {
                let anchor = (next + b_frames).min(gop - 1);
                order.push(anchor);
                order.extend(next..anchor);
                next = anchor + 1;
            }
            pictures.extend(order.iter().map(|&n| {
                picture((base + n as i64) * 512, if n == 0 { Sync::Idr } else { Sync::No })
            }));
            base += gop as i64;
        }
        let frames = pictures.len();
        let sounds: Vec<_> = (0..base * 2).map(|n| sound(n * 960)).collect();
        // Two sounds a picture, ahead by `skew` pictures.
        let mut units = Vec::new();
        let mut sound = sounds.iter().cloned();
        units.extend(sound.by_ref().take(2 * skew));
        for picture in pictures {
            units.push(picture);
            units.extend(sound.by_ref().take(2));
        }
        let segments = cut(settings(target), &tracks, units);
        let presented: u64 = segments.iter().map(|segment| segment.video.as_ref().unwrap().presented()).sum();
        prop_assert_eq!(presented, frames as u64);
        let heard: usize = segments.iter().map(|segment| segment.audio[0].units.len()).sum();
        prop_assert_eq!(heard, sounds.len());
        for pair in segments.windows(2) {
            prop_assert_eq!(pair[0].end, pair[1].start);
            prop_assert_eq!(pair[0].audio[0].window.end, pair[1].audio[0].window.start);
            prop_assert_eq!(pair[0].seq + 1, pair[1].seq);
        }
    }
}

#[test]
fn no_target_is_too_long_for_any_timescale() {
    let track = video_track(VideoCodec::H264, u32::MAX);
    let units = (0..3).map(|n| picture(n * 1_000_000, Sync::Idr));
    assert_eq!(cut(settings(u32::MAX), &only_video(&track), units).len(), 1);
}

#[test]
fn sound_may_pause_while_pictures_go_on() {
    let (video, audio) = (video_track(VideoCodec::H264, 1000), audio_track(1000));
    let tracks = Tracks { video: Some(&video), audio: vec![&audio] };
    let pictures = (0..120).map(|n| picture(n * 1000, Sync::Idr));
    let paused = [sound(0)].into_iter().chain(pictures).chain([sound(119_000), sound(119_020)]);
    let segments = cut(settings(1000), &tracks, paused);
    assert_eq!(segments.iter().filter(|segment| segment.discontinuity).count(), 0);
    assert_eq!(segments.iter().flat_map(|segment| &segment.audio[0].units).count(), 3);
}

/// What a new segmenter cuts that goes on after `segment`, given the units from its point on.
fn resumed(settings: Settings, tracks: &Tracks<'_>, segment: &Segment, units: &[AccessUnit]) -> Vec<Segment> {
    let point: Point = serde_json::from_str(&serde_json::to_string(&segment.resume).unwrap()).unwrap();
    let from = point.offset.unwrap_or(u64::MAX);
    let mut segmenter = Segmenter::resume(settings, tracks, &point);
    let mut segments = Vec::new();
    for unit in units.iter().filter(|unit| unit.offset >= from) {
        segmenter.push(unit.clone()).unwrap();
        segments.extend(std::iter::from_fn(|| segmenter.poll()));
    }
    segmenter.finish();
    segments.extend(std::iter::from_fn(|| segmenter.poll()));
    segments
}

fn check_resume(settings: Settings, tracks: &Tracks<'_>, mut units: Vec<AccessUnit>) -> Vec<Segment> {
    units.iter_mut().zip(0..).for_each(|(unit, n)| unit.offset = n);
    let whole = cut(settings, tracks, units.clone());
    for (n, segment) in whole.iter().enumerate() {
        if n + 1 == whole.len() {
            continue; // At a flush there is nothing to go on with.
        }
        let again = resumed(settings, tracks, segment, &units);
        let differs = again.iter().zip(&whole[n + 1..]).find(|(again, whole)| again != whole);
        assert_eq!(differs, None, "after segment {}", segment.seq);
        assert_eq!(again.len(), whole.len() - n - 1, "after segment {}", segment.seq);
    }
    whole
}

proptest! {
    /// After any segment, another segmenter goes on with the very same segments.
    #[test]
    fn a_stream_can_be_taken_up_after_any_segment(
        gop in 5i64..40,
        leading in 0i64..4,
        target in 200u32..2000,
        lag in 0usize..150,
        has_video in any::<bool>(),
        hole in 0i64..100,
    ) {
        let (video, audio) = (video_track(VideoCodec::H265, 1000), audio_track(48_000));
        let tracks = Tracks { video: has_video.then_some(&video), audio: vec![&audio] };
        let mut pictures = Vec::new();
        for base in (0..200).step_by(gop as usize) {
            let first = if base == 0 { 0 } else { leading };
            pictures.push(picture((base + first) * 40, Sync::Idr));
            pictures.extend((0..first).map(|n| picture((base + n) * 40, Sync::No)));
            pictures.extend((first + 1..gop).map(|n| picture((base + n) * 40, Sync::No)));
        }
        // Told a sample early or late, with a hole.
        let sounds = (0..400).map(|n| sound(n * 960 + n % 3 + if n > 200 { hole * 480 } else { 0 }));
        let mut units: Vec<_> = pictures.iter().take(lag).cloned().collect();
        let mut pictures = pictures.into_iter().skip(lag);
        for sound in sounds {
            units.extend(pictures.next().filter(|_| has_video));
            units.push(sound);
        }
        units.extend(pictures);
        check_resume(Settings { max_skew_ms: 3000, ..settings(target) }, &tracks, units);
    }
}

#[test]
fn a_closed_point_within_half_a_target_is_better_than_an_open_one() {
    let track = video_track(VideoCodec::H264, 1000);
    let sync = |n: i64, closed: i64| match n {
        0 => Sync::Idr,
        n if n == closed => Sync::Idr,
        n if n % 25 == 0 => Sync::OpenGop,
        _ => Sync::No,
    };
    let ends = |closed: i64| {
        let units = (0..80).map(|n| picture(n * 40, sync(n, closed)));
        cut(settings(1000), &only_video(&track), units).iter().map(|segment| segment.end.0).collect::<Vec<_>>()
    };
    assert_eq!(ends(36)[0], 1440, "440 ms after the open one");
    assert_eq!(ends(38)[0], 1000, "520 ms after the open one");
}

#[test]
fn an_open_segment_takes_the_gop_before_along_where_its_codec_needs_it() {
    for (codec, pre_roll) in [(VideoCodec::H264, 25), (VideoCodec::H265, 0)] {
        let track = video_track(codec, 1000);
        let units = (0..80).map(|n| picture(n * 40, if n % 25 == 0 { Sync::OpenGop } else { Sync::No }));
        let segments = cut(settings(1000), &only_video(&track), units);
        assert_eq!(segments[1].video.as_ref().unwrap().pre_roll.len(), pre_roll, "{codec:?}");
    }
}

#[test]
fn a_time_that_is_out_of_line_alone_is_no_jump() {
    let (video, audio) = (video_track(VideoCodec::H264, 1000), audio_track(48_000));
    let tracks = Tracks { video: Some(&video), audio: vec![&audio] };
    let mut units: Vec<_> =
        (0..50).flat_map(|n| [picture(n * 40, if n == 0 { Sync::Idr } else { Sync::No }), sound(n * 1920)]).collect();
    units[20].pts = Ticks(900_000);
    units[41].pts = Ticks(-1 << 50);
    let segments = cut(settings(10_000), &tracks, units);
    assert_eq!((segments.len(), segments[0].repaired), (1, 2));
    let video = segments[0].video.as_ref().unwrap();
    assert_eq!((video.presented(), video.units[10].pts.0), (50, 361));
    assert_eq!(segments[0].audio[0].units.len(), 50);
}

/// As Matroska tells it: no decode times, and a recorder that begins again from 0.
#[test]
fn a_clock_without_decode_times_that_begins_again_is_a_jump_from_its_first_picture_on() {
    let track = video_track(VideoCodec::H264, 1000);
    let gop = |first: i64| {
        // I3 P0 … in decode order: the key frame, then each anchor before the two that lead it.
        let anchors = (0..5).flat_map(|n| [3 * n + 3, 3 * n + 1, 3 * n + 2]).map(|n| picture(n * 40, Sync::No));
        let pictures = std::iter::once(picture(0, Sync::Idr)).chain(anchors);
        pictures.map(move |unit| picture(unit.pts.0 + first, unit.sync)).collect::<Vec<_>>()
    };
    let units = [gop(0), gop(640), gop(0), gop(640)].concat();
    let segments = cut(settings(5000), &only_video(&track), units.clone());
    let counts = |segments: &[Segment]| -> Vec<(u64, i64, bool)> {
        let one = |it: &Segment| (it.video.as_ref().unwrap().presented(), it.start.0, it.discontinuity);
        segments.iter().map(one).collect()
    };
    assert_eq!(counts(&segments), [(32, 0, false), (32, 0, true)]);
    // A sync sample alone whose time is out of line is still none.
    let mut stray = units[..32].to_vec();
    stray[16].pts = Ticks(20);
    stray[16].dts = Ticks(20);
    assert_eq!(counts(&cut(settings(5000), &only_video(&track), stray)), [(32, 0, false)]);
}

#[test]
fn a_jump_of_both_tracks_begins_a_new_timeline_and_loses_nothing() {
    let (video, audio) = (video_track(VideoCodec::H264, 1000), audio_track(48_000));
    let tracks = Tracks { video: Some(&video), audio: vec![&audio] };
    let pictures =
        |from: i64, first: Sync| (0..25).map(move |n| picture(from + n * 40, if n == 0 { first } else { Sync::No }));
    let sounds = |from: i64| (0..50).map(move |n| sound((from + n * 20) * 48));
    // The sound of the old clock comes after the pictures of the new one, which begin without a sync sample.
    let units = pictures(700_000, Sync::Idr).chain(pictures(3000, Sync::No)).chain(sounds(700_000)).chain(sounds(3000));
    let segments = check_resume(settings(500), &tracks, units.collect());
    let seen: Vec<_> = segments.iter().map(|s| (s.start.0, s.discontinuity, s.audio[0].units.len())).collect();
    assert_eq!(seen, [(700_000, false, 50), (3000, true, 50)]);
    let second = segments[1].video.as_ref().unwrap();
    assert_eq!((second.pre_roll.len(), second.presented()), (25, 25));
    assert!(second.pre_roll.iter().all(|unit| unit.pts.0 < 3000));
}

#[test]
fn a_step_forward_within_the_cap_is_a_gap_and_no_jump() {
    let track = video_track(VideoCodec::H264, 1000);
    let units = [0, 40, 50_000, 50_040].map(|pts| picture(pts, Sync::Idr));
    let segments = cut(settings(1000), &only_video(&track), units);
    let ranges: Vec<_> = segments.iter().map(|s| (s.start.0, s.end.0, s.discontinuity)).collect();
    assert_eq!(ranges, [(0, 50_000, false), (50_000, 50_080, false)]);
}

#[test]
fn sound_that_is_told_twice_is_given_once_and_counted() {
    let audio = audio_track(48_000);
    let tracks = Tracks { video: None, audio: vec![&audio] };
    let units = (0..20).chain(15..40).map(|n| sound(n * 960));
    let segments = cut(settings(10_000), &tracks, units);
    let times: Vec<_> = segments[0].audio[0].units.iter().map(|unit| unit.pts.0).collect();
    assert_eq!(times, (0..40).map(|n| n * 960).collect::<Vec<_>>());
    assert_eq!(segments[0].repaired, 5);
}

#[test]
fn a_cut_that_is_asked_for_is_made_at_the_next_sync_sample_however_short_the_segment() {
    let track = video_track(VideoCodec::H264, 1000);
    let mut segmenter = Segmenter::new(settings(5000), &only_video(&track), 1, false);
    segmenter.cut_at(Ticks(90_000), Timescale::new(90_000).unwrap());
    for n in 0..100 {
        segmenter.push(picture(n * 40, if n % 10 == 0 { Sync::OpenGop } else { Sync::No })).unwrap();
    }
    segmenter.finish();
    let ends: Vec<_> = std::iter::from_fn(|| segmenter.poll()).map(|segment| segment.end.0).collect();
    assert_eq!(ends, [1200, 4000]);
}

#[test]
fn sound_that_goes_on_after_the_pictures_is_cut_too() {
    let (video, audio) = (video_track(VideoCodec::H264, 1000), audio_track(48_000));
    let tracks = Tracks { video: Some(&video), audio: vec![&audio] };
    let units = [picture(0, Sync::Idr), picture(40, Sync::No)].into_iter().chain((0..250).map(|n| sound(n * 960)));
    let segments = cut(settings(1000), &tracks, units);
    let seen: Vec<_> = segments.iter().map(|s| (s.video.is_some(), s.audio[0].units.len())).collect();
    assert_eq!(seen, [(true, 4), (false, 50), (false, 50), (false, 50), (false, 50), (false, 46)]);
}

#[test]
fn times_near_the_end_of_all_time_break_nothing() {
    let (video, audio) = (video_track(VideoCodec::H264, 90_000), audio_track(90_000));
    let tracks = Tracks { video: Some(&video), audio: vec![&audio] };
    for base in [1 << 62, i64::MAX - 10, i64::MIN + 10] {
        let units = (0..50).flat_map(|n: i64| {
            let at = base.saturating_add(n * 3600);
            [picture(at, if n % 10 == 0 { Sync::Idr } else { Sync::No }), sound(at)]
        });
        let mut segmenter = Segmenter::new(settings(1000), &tracks, 1, false);
        let _refused_or_taken: Result<(), Error> = units.into_iter().try_for_each(|unit| segmenter.push(unit));
        segmenter.finish();
    }
}

#[test]
fn an_old_timeline_is_not_waited_for_longer_than_a_lagging_track() {
    let (video, audio) = (video_track(VideoCodec::H264, 1000), audio_track(90_000));
    let tracks = Tracks { video: Some(&video), audio: vec![&audio] };
    let mut segmenter = Segmenter::new(Settings { max_skew_ms: 3000, ..settings(5000) }, &tracks, 1, false);
    for n in 0..25 {
        segmenter.push(picture(n * 40, if n == 0 { Sync::Idr } else { Sync::No })).unwrap();
        segmenter.push(sound(n * 3600)).unwrap();
    }
    // Only the sound jumps; no picture comes any more.
    for n in 0..200 {
        segmenter.push(sound(700 * 90_000 + n * 1800)).unwrap();
    }
    let segment = segmenter.poll().expect("the old timeline's segment, without an end of the stream");
    assert!(segment.last && segment.resume.discontinuity);
}
