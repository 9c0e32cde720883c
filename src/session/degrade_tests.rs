use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::job::Deinterlace;
use crate::ladder::{Limits, Request};
use crate::media::{AccessUnit, AudioCodec, Chroma, Colour, Hdr, Sync, Ticks, Timescale, TrackId, VideoCodec, Window};
use crate::media::{Audio, Format, Track, Video};
use crate::protocol::{AudioChoice, AudioRequest, Output, VideoChoice, VideoRequest};

fn source(codec: VideoCodec, rotation: u16) -> Vec<Track> {
    let video = Video {
        codec,
        config: Bytes::from_static(b"set-up"),
        codec_string: "avc1.640028".into(),
        width: 1920,
        height: 1080,
        sample_aspect: (1, 1),
        rotation,
        bit_depth: 8,
        chroma: Chroma::C420,
        colour: Colour::default(),
        hdr: Hdr::default(),
        interlaced: false,
        frame_rate: None,
    };
    let sound = Audio {
        codec: AudioCodec::Aac,
        config: Bytes::from_static(&[0x11, 0x90]),
        codec_string: "mp4a.40.2".into(),
        sample_rate: 48_000,
        channels: 2,
    };
    let track =
        |id, format| Track { id: TrackId(id), timescale: Timescale::new(90_000).unwrap(), language: None, format };
    vec![track(1, Format::Video(video)), track(2, Format::Audio(sound))]
}

/// Outputs as `[ts:][height][@preset][+a]`, `c` for a copy, `60` pictures a second where it ends in `/60`.
fn plan(tracks: &[Track], outputs: &[&str]) -> Plan {
    let output = |text: &&str| {
        let (container, rest) =
            text.strip_prefix("ts:").map_or((OutputContainer::Cmaf, *text), |it| (OutputContainer::Ts, it));
        let (rest, fps) = rest.strip_suffix("/60").map_or((rest, None), |it| (it, Some("60")));
        let (rest, sound) = rest.strip_suffix("+a").map_or((rest, false), |it| (it, true));
        let (height, preset) = rest.split_once('@').unwrap_or((rest, ""));
        let copy = height == "c";
        let video = (!height.is_empty()).then(|| VideoRequest {
            codec: if copy { VideoChoice::Copy } else { VideoChoice::H264 },
            width: None,
            height: height.parse().ok(),
            crf: None,
            max_kbps: None,
            preset: (!preset.is_empty()).then(|| serde_json::from_value(preset.into()).unwrap()),
            fps: fps.map(|fps| serde_json::from_value(fps.into()).unwrap()),
            deinterlace: None,
        });
        let codec = AudioChoice::Aac;
        let audio = sound.then_some(AudioRequest {
            codec,
            kbps: None,
            channels: None,
            sample_rate: None,
            track: None,
            language: None,
        });
        Output { name: text.replace([':', '@', '+', '/'], "_"), container, video, audio }
    };
    let inventory = crate::job::Inventory {
        video_decoders: vec![(VideoCodec::H264, String::new()), (VideoCodec::H265, String::new())],
        video_encoders: vec![(VideoCodec::H264, String::new())],
        audio_decoders: vec![(AudioCodec::Aac, String::new())],
        audio_encoders: vec![(AudioCodec::Aac, String::new())],
        ..crate::job::Inventory::default()
    };
    let limits = Limits { max_pixels: u64::MAX, max_outputs: 16 };
    Plan::resolve(&Request::Outputs(outputs.iter().map(output).collect()), tracks, &inventory, limits).unwrap()
}

/// By its pixels.
fn cost(spec: &VideoSpec) -> Duration {
    Duration::from_nanos(u64::from(spec.width) * u64::from(spec.height))
}

/// The levels, a letter a rendition, largest first: `=` as asked, `V`, `S`, `U` for the presets, `-` left out, `c` copied.
fn check(tracks: &[Track], outputs: &[&str], expect: &[&str]) {
    let letter = |fate: &Fate| match fate {
        Fate::AsAsked => '=',
        Fate::Preset(Preset::Veryfast) => 'V',
        Fate::Preset(Preset::Superfast) => 'S',
        Fate::Preset(Preset::Ultrafast) => 'U',
        Fate::Preset(_) => '?',
        Fate::LeftOut => '-',
        Fate::Copied => 'c',
    };
    let levels = levels(&plan(tracks, outputs), cost);
    let found: Vec<String> = levels.iter().map(|level| level.0.iter().map(letter).collect()).collect();
    assert_eq!(found, expect, "{outputs:?}");
}

#[test]
fn presets_then_rungs_from_the_top_then_the_source_in_place_of_the_top_one() {
    let h264 = source(VideoCodec::H264, 0);
    check(&h264, &["720", "1080", "360", "+a"], &["===", "SSS", "UUU", "-UU", "--U", "c--"]);
    check(&h264, &["1080@medium", "720@ultrafast"], &["==", "V=", "S=", "U=", "-=", "c-"]);
    // Nothing that players take as it is.
    check(&source(VideoCodec::H265, 0), &["1080", "360"], &["==", "SS", "UU", "-U"]);
    // Each picture at another time.
    check(&h264, &["1080/60", "360"], &["==", "SS", "UU", "-U", "-c"]);
    check(&source(VideoCodec::H264, 90), &["ts:1080"], &["=", "S", "U"]);
    check(&h264, &["ts:1080"], &["=", "S", "U", "c"]);
}

#[test]
fn a_copy_carries_the_pictures_when_all_rungs_are_left_out() {
    check(&source(VideoCodec::H264, 0), &["c", "720", "360"], &["==", "SS", "UU", "-U", "--"]);
}

#[test]
fn an_output_with_sound_is_left_out_only_where_another_has_that_sound() {
    let h264 = source(VideoCodec::H264, 0);
    check(&h264, &["1080+a", "360+a"], &["==", "SS", "UU", "-U", "c-"]);
    check(&h264, &["1080", "360+a"], &["==", "SS", "UU", "-U", "cc"]);
    check(&h264, &["c", "720+a", "360"], &["==", "SS", "UU", "U-", "c-"]);
    check(&h264, &["c", "720+a", "360+a", "+a"], &["==", "SS", "UU", "-U", "--"]);
}

#[test]
fn what_makes_no_pictures_has_one_level() {
    let h264 = source(VideoCodec::H264, 0);
    assert_eq!(levels(&plan(&h264, &["c", "+a"]), cost), [Level::default()]);
    assert_eq!(levels(&plan(&h264[1..], &["+a"]), cost), [Level::default()]);
}

#[test]
fn a_rendition_is_found_in_an_outcome_that_lacks_others() {
    let level = Level(vec![Fate::LeftOut, Fate::Preset(Preset::Ultrafast), Fate::Copied, Fate::AsAsked]);
    assert_eq!([0, 1, 2, 3].map(|index| level.place(index)), [None, Some(0), None, Some(1)]);
    assert_eq!(Level::default().place(5), Some(5));
    let asked = VideoSpec {
        codec: VideoCodec::H264,
        width: 16,
        height: 16,
        crf: 23,
        max_kbps: None,
        preset: Preset::Slow,
        depth: 8,
        deinterlace: Deinterlace::Frame,
        fps: None,
    };
    let presets = [0, 1, 2, 3].map(|index| level.spec(index, &asked).map(|spec| spec.preset));
    assert_eq!(presets, [None, Some(Preset::Ultrafast), None, Some(Preset::Slow)]);
}

/// A segment of these units from `window.0` to before `window.1`, which copied go from `span.0` to `span.1`.
fn cut(sync: Sync, pts: &[i64], window: (i64, i64), span: (i64, i64)) -> Cut {
    let unit = |(n, &pts): (usize, &i64)| AccessUnit {
        track: TrackId(1),
        pts: Ticks(pts),
        dts: Ticks(pts),
        duration: None,
        sync: if n == 0 { sync } else { Sync::No },
        offset: 0,
        data: Bytes::new(),
    };
    let [window, span] = [window, span].map(|(start, end)| Window { start: Ticks(start), end: Ticks(end) });
    let units = pts.iter().enumerate().map(unit).collect();
    Cut { track: TrackId(1), pre_roll: Vec::new(), units, post_roll: Vec::new(), window, span }
}

#[test]
fn only_a_segment_that_stands_alone_is_copied_among_those_that_are_made() {
    let copied = Level(vec![Fate::Copied]);
    let whole = (0, 40);
    assert!(copied.can_be_of(&cut(Sync::Idr, &[0, 20, 10, 30], whole, whole)));
    // An open sync sample, pictures that lead the next one, and some before the beginning.
    assert!(!copied.can_be_of(&cut(Sync::OpenGop, &[0, 20, 10, 30], whole, whole)));
    assert!(!copied.can_be_of(&cut(Sync::Idr, &[0, 20, 10, 30], (0, 50), whole)));
    assert!(!copied.can_be_of(&cut(Sync::Idr, &[-10, 0, 10], (0, 20), (0, 20))));
    assert!(Level(vec![Fate::LeftOut]).can_be_of(&cut(Sync::OpenGop, &[0], whole, whole)));
}

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Of a segment of two seconds.
fn time(left: u64, waits: u64) -> Time {
    Time { left: MS(left), waits: MS(waits), lasts: MS(2000) }
}

/// A segment each: what the levels take with this load, of a second.
fn levels_at(degrader: &mut Degrader, loads: &[u64]) -> Vec<usize> {
    let mut next =
        |&load: &u64| match degrader.next(time(1000, 0), |level| Some(MS(load / (1 + level as u64))), |_| true) {
            Choice::Level(level) => level,
            Choice::Late(_) => panic!("it can be begun"),
        };
    loads.iter().map(&mut next).collect()
}

#[test]
fn down_at_once_as_far_as_it_takes_and_back_as_far_as_was_ample_all_the_while() {
    let mut degrader = Degrader::new(4);
    assert_eq!(levels_at(&mut degrader, &[1000, 1001, 2500, 2500]), [0, 1, 2, 2]);
    // In time at the better level, but not amply.
    assert_eq!(levels_at(&mut degrader, &[1900; 20]), [2; 20]);
    // Ample at level 1 but not at 0.
    assert_eq!(levels_at(&mut degrader, &[900; 10]), [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]);
    assert_eq!(levels_at(&mut degrader, &[100; 4]), [1, 1, 0, 0]);
    assert_eq!(levels_at(&mut degrader, &[100; 40]), [0; 40]);
    assert_eq!(levels_at(&mut degrader, &[4000]), [3]);
    assert_eq!(levels_at(&mut degrader, &[1; 6]), [3, 3, 0, 0, 0, 0]);
}

#[test]
fn within_ten_seconds_after_the_load_all_is_as_asked_again() {
    for lasts in [200, 500, 1000, 2000, 4000, 6000, 10_000] {
        let mut degrader = Degrader::new(8);
        let mut next = |takes: u64| {
            let time = Time { left: MS(2 * lasts), waits: MS(0), lasts: MS(lasts) };
            degrader.next(time, |level| Some(MS(if level == 7 { 0 } else { takes })), |_| true)
        };
        assert_eq!(next(4 * lasts), Choice::Level(7));
        // The first is cut as long after the load as it lasts.
        let back = (1..).find(|_| next(lasts) == Choice::Level(0)).unwrap();
        assert!(back * lasts <= 10_000, "{back} segments of {lasts} ms");
        assert!(back * lasts >= 4_000, "not at once: {back} segments of {lasts} ms");
    }
}

#[test]
fn without_room_beside_what_others_are_made_at_it_does_not_go_back() {
    let mut degrader = Degrader::new(3);
    let mut next = |takes: u64, room: usize| {
        let choice = degrader.next(time(1000, 0), |level| Some(MS(takes / (1 + level as u64))), |level| level >= room);
        let Choice::Level(level) = choice else { panic!("{choice:?}") };
        level
    };
    assert_eq!(next(3000, 0), 2);
    assert_eq!([2, 2, 2, 2, 2, 2].map(|room| next(10, room)), [2; 6]);
    assert_eq!([1, 1, 1, 1].map(|room| next(10, room)), [2, 2, 1, 1]);
    assert_eq!([0, 0, 0].map(|room| next(10, room)), [1, 1, 0]);
    // Room that ends takes nothing away.
    assert_eq!([1, 1].map(|room| next(10, room)), [0, 0]);
}

#[test]
fn a_step_back_that_is_soon_regretted_is_tried_again_ever_later() {
    let mut degrader = Degrader::new(2);
    // Ample whenever it is degraded, too late whenever it is not.
    let mut tries = Vec::new();
    for segment in 0..400 {
        let before = degrader.level;
        let load = if before == 0 { 1500 } else { 400 };
        levels_at(&mut degrader, &[load]);
        if before == 1 && degrader.level == 0 {
            tries.push(segment);
        }
    }
    let waits: Vec<i32> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(waits[..5], [7, 13, 25, 49, 49]);
}

#[test]
fn late_only_where_it_could_not_even_be_begun() {
    let mut degrader = Degrader::new(3);
    let never = |_| Some(MS(5000));
    let mut next =
        |left, waits, takes: &dyn Fn(usize) -> Option<Duration>| degrader.next(time(left, waits), takes, |_| true);
    assert_eq!(next(1000, 999, &never), Choice::Level(2));
    assert_eq!(next(1000, 1000, &never), Choice::Late(2));
    // The last can't be had of this segment.
    let but_the_last = |level| (level < 2).then_some(MS(5000));
    assert_eq!(next(1000, 1000, &but_the_last), Choice::Late(1));
    assert_eq!(next(1000, 0, &but_the_last), Choice::Level(1));
    // What takes no work is never late.
    assert_eq!(next(0, 9000, &|level| Some(MS(if level == 2 { 0 } else { 1 }))), Choice::Level(2));
}

#[test]
fn where_the_level_can_not_be_had_a_better_one_in_time_is_and_nothing_is_forgotten() {
    let mut degrader = Degrader::new(3);
    let mut next = |takes: [Option<u64>; 3]| degrader.next(time(1000, 0), |level| takes[level].map(MS), |_| true);
    assert_eq!(next([Some(3000), Some(2000), Some(0)]), Choice::Level(2));
    assert_eq!(next([Some(900), Some(800), None]), Choice::Level(1));
    assert_eq!(next([Some(900), Some(800), Some(0)]), Choice::Level(2));
}

proptest! {
    /// Whatever comes: a chosen level is in time where any possible one is, it is the first in the order that is, unless
    /// a better one was left a while ago; and back it goes only after segments that had ample time, and room, all the while.
    #[test]
    fn any_load_is_met_in_order_and_without_flapping(
        levels in 1_usize..8,
        loads in prop::collection::vec((0_u64..4000, 0_u64..1500, any::<bool>(), 0_usize..8), 1..300),
    ) {
        let mut degrader = Degrader::new(levels);
        // By level, since it last went down: segments in a row that would have had ample time there.
        let mut ample = vec![Duration::ZERO; levels];
        for (load, left, all, room) in loads {
            // Each level costs no more than the one before; the last may not be possible.
            let takes = |level: usize| {
                (all || level + 1 < levels || levels == 1).then(|| MS(load * (levels - level) as u64 / levels as u64))
            };
            let fits = |level: usize| takes(level).is_some_and(|takes| takes <= MS(left));
            let was = degrader.level;
            let choice = degrader.next(time(left, 0), takes, |level| level >= room);
            let now = degrader.level;
            match choice {
                Choice::Level(level) => {
                    prop_assert!(takes(level).is_some());
                    prop_assert!(fits(level) || !(0..levels).any(fits), "in time where any is");
                    if level > was {
                        prop_assert!(!(was..level).any(fits), "no further down than it takes");
                    }
                }
                Choice::Late(_) => prop_assert!(left == 0 && !(0..levels).any(fits)),
            }
            for (level, ample) in ample.iter_mut().enumerate() {
                let has = takes(level).is_some_and(|takes| takes <= MS(left) / AMPLE) && (level >= was || level >= room);
                *ample = if has { *ample + MS(2000) } else { Duration::ZERO };
            }
            if now < was {
                prop_assert!(ample[now] >= PATIENCE, "back only after a while of ample time");
            }
            if now > was {
                ample.fill(Duration::ZERO);
            }
        }
    }
}
