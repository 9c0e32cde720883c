//! Hostile but legal streams as real encoders write them, through the real binary: pictures that come in any order and at
//! any time, clocks that wrap and jump, tracks that begin late, end early and have gaps. Each decodable picture comes out
//! once, in order, at its own time; sound goes on without a gap; segments join.
//!
//! `HOSTILE_SEEDS=from..to` tries other made-up shapes than those of every run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::support::client::{self, Output, Session};
use crate::support::media::{self, Clip, Fraction, Picture, Shape, Sound};
use crate::support::service::Service;
use crate::support::{sound, verify};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

/// Shapes of every run.
const SEEDS: std::ops::Range<u64> = 0..16;
/// How far sound may be from where it was against the pictures, seconds.
const SYNC: f64 = 0.002;
/// Samples that are looked at together, and every how many.
const STRETCH: usize = 2400;
const EVERY: usize = 9000;

/// What is sent, and what of it can be decoded.
struct Sent {
    name: String,
    bytes: Vec<u8>,
    parts: Vec<Part>,
}

/// Media on one timeline.
struct Part {
    /// When each picture is shown, and its number, in this order.
    pictures: Vec<(Fraction, u16)>,
    /// By how much each stretch of the sound is later than the pictures, seconds; none where there is no sound.
    sound: Option<Vec<f64>>,
    /// Whether the stamps can be kept: those that repeat can not.
    stamped: bool,
}

impl Part {
    fn new(file: &[u8]) -> Self {
        let pictures = media::decode_barcodes(file);
        let sound = has_sound(file).then(|| lateness(file, pictures[0].0.seconds()));
        Self { pictures, sound, stamped: true }
    }
}

impl Sent {
    /// A stream of which libav decodes all that can be decoded.
    fn whole(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), parts: vec![Part::new(&bytes)], bytes }
    }

    fn clip(name: impl Into<String>, clip: &Clip) -> Self {
        let sent = Self::whole(name, clip.bytes());
        assert!(sent.parts[0].pictures.len() > 1, "{}: there is something to see", sent.name);
        sent
    }

    /// Files one after the other, as one stream.
    fn joined(name: &str, clips: &[Clip]) -> Self {
        let bytes: Vec<Vec<u8>> = clips.iter().map(Clip::bytes).collect();
        let parts = bytes.iter().map(|bytes| Part::new(bytes)).collect();
        Self { name: name.into(), bytes: bytes.concat(), parts }
    }
}

#[test]
fn made_up_shapes_come_out_exact() {
    let seeds = match std::env::var("HOSTILE_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("from..to");
            from.parse().expect("a number")..to.parse().expect("a number")
        }
        Err(_) => SEEDS,
    };
    check(seeds.map(|seed| {
        let clip = made_up(seed);
        move || Sent::clip(format!("seed {seed}: {clip:?}"), &clip)
    }));
}

#[test]
fn clocks_that_wrap_come_out_exact() {
    // 2^33 ticks of 90 kHz are 95443.717 s, and libav starts 1.4 s late.
    let at = |name: &'static str, offset: &'static str, audio: &'static str| {
        let more: &'static str = format!("-output_ts_offset {offset} {audio}").leak();
        move || Sent::clip(name, &Clip { more, ..ts() })
    };
    check([
        at("all clocks wrap in the middle", "95441.3", ""),
        at("the sound's clock wraps first", "95441.3", "-af asetpts=PTS+0.4/TB"),
        at("the sound has wrapped before the pictures do", "95442.2", "-af asetpts=PTS+0.4/TB"),
        at("presentation times wrap at once, decode times not yet", "95442.3", ""),
    ]);
}

#[test]
fn clocks_that_jump_start_again_and_lose_nothing_of_either_side() {
    let later = |first: u16, more: &'static str| Clip { first, frames: 40, more, ..ts() };
    check(
        [
            ("back", vec![later(0, "-output_ts_offset 100"), later(40, "")]),
            ("ahead", vec![later(0, ""), later(40, "-output_ts_offset 1000")]),
            ("twice", vec![later(0, ""), later(40, "-output_ts_offset 5000"), later(80, "-output_ts_offset 7")]),
            (
                "with another size",
                vec![later(0, ""), Clip { width: 192, height: 108, ..later(40, "-output_ts_offset 50") }],
            ),
            ("with another codec", vec![later(0, ""), Clip { video: Some(Picture::H265), ..later(40, "") }]),
            (
                "in fragmented MP4",
                vec![Clip { shape: Shape::FragmentedMp4, ..later(0, "") }; 2].tap(|clips| clips[1].first = 40),
            ),
            (
                "in WebM, as a recorder that starts again",
                vec![Clip { shape: Shape::MatroskaLive, ..later(0, "") }; 2].tap(|clips| clips[1].first = 40),
            ),
        ]
        .map(|(name, clips)| move || Sent::joined(name, &clips)),
    );
}

#[test]
fn a_stream_that_starts_between_sync_samples_loses_only_what_can_not_be_decoded() {
    let headless = |name: &'static str, clip: Clip| {
        move || {
            let whole = clip.bytes();
            // From the sixth picture in decode order on.
            let rows = media::probe(&clip.path(), &["-select_streams", "v:0", "-show_entries", "packet=pos"]);
            let cut: usize = rows[5][0].parse().expect("a position");
            let mut part = Part::new(&whole);
            part.pictures.retain(|(_, number)| *number >= clip.gop as u16);
            part.sound = None;
            Sent { name: name.into(), bytes: whole[cut..].to_vec(), parts: vec![part] }
        }
    };
    check([
        headless("H.264", ts()),
        headless("H.265", Clip { video: Some(Picture::H265), ..ts() }),
        headless("without B-frames", Clip { b_frames: 0, ..ts() }),
    ]);
}

#[test]
fn a_lone_picture_is_a_stream() {
    let lone = |shape, video, audio| Clip { shape, video: Some(video), audio, frames: 1, b_frames: 0, ..ts() };
    check(
        [
            lone(Shape::Ts, Picture::H264, None),
            lone(Shape::FragmentedMp4, Picture::H265, None),
            lone(Shape::Mp4, Picture::H264, None),
            lone(Shape::Webm, Picture::Vp8, None),
            lone(Shape::Ts, Picture::H264, Some(Sound::Aac)),
        ]
        .map(|clip| move || Sent::whole(format!("{clip:?}"), clip.bytes())),
    );
}

#[test]
fn stamps_that_repeat_are_moved_and_no_picture_is_lost() {
    let plain = || Clip { b_frames: 0, ..ts() };
    let pictures = |name: &'static str, pictures: &'static [(usize, usize)]| {
        move || {
            let mut part = Part::new(&plain().bytes());
            (part.sound, part.stamped) = (None, false);
            Sent { name: name.into(), bytes: restamped(&plain().bytes(), pictures), parts: vec![part] }
        }
    };
    check([
        pictures("a picture at the time of the one before", &[(20, 19)]),
        pictures("three pictures at one time", &[(20, 19), (21, 19)]),
        pictures("a key frame at the time of the one before", &[(30, 29)]),
        pictures("a picture two times too early", &[(20, 18)]),
    ]);
}

#[test]
fn frames_of_sound_at_one_time_are_each_given_a_place() {
    check([|| {
        let made = NamedTempFile::new().expect("a temporary file");
        let path = made.path().to_str().expect("a plain path");
        // libav ends a fragment at each picture here, and stamps two frames of sound alike.
        let format = "-movflags frag_every_frame+empty_moov+default_base_moof -f mp4";
        media::ffmpeg(&Clip { shape: Shape::Mp4, ..ts() }.path(), &format!("-i IN -c copy {format} -y {path}"));
        let bytes = std::fs::read(made.path()).expect("ffmpeg wrote it");
        let mut sent = Sent::whole("frames of sound at one time", bytes);
        sent.parts[0].sound = None;
        sent
    }]);
}

/// A transport stream in which pictures, by their place, have the PTS of others.
fn restamped(stream: &[u8], pictures: &[(usize, usize)]) -> Vec<u8> {
    let starts_pes = |packet: &[u8]| packet[1] & 0x40 != 0 && packet.windows(4).any(|w| w == [0, 0, 1, 0xe0]);
    let header = |n: usize, packet: &[u8]| n * 188 + packet.windows(4).position(|w| w == [0, 0, 1, 0xe0]).unwrap_or(0);
    let packets = stream.chunks(188).enumerate().filter(|(_, packet)| starts_pes(packet));
    let stamps: Vec<usize> = packets.map(|(n, packet)| header(n, packet) + 9).collect();
    let mut changed = stream.to_vec();
    for &(picture, other) in pictures {
        changed[stamps[picture]..stamps[picture] + 5].copy_from_slice(&stream[stamps[other]..stamps[other] + 5]);
    }
    changed
}

/// Changes a value in passing.
trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl<T> Tap for Vec<T> {}

/// Reordered pictures and sound in MPEG-TS.
fn ts() -> Clip {
    Clip { shape: Shape::Ts, frames: 75, gop: 15, b_frames: 2, width: 160, height: 96, ..Clip::default() }
}

/// A clip by its seed: what is coded how, when its pictures are shown, and where its sound is.
fn made_up(seed: u64) -> Clip {
    let mut random = Random(seed);
    let shape = [Shape::Ts, Shape::Ts, Shape::FragmentedMp4, Shape::FaststartMp4, Shape::Mp4, Shape::MatroskaLive];
    let shape = random.of(&shape);
    let video = match shape {
        Shape::MatroskaLive => random.of(&[Picture::H264, Picture::H265, Picture::Vp9]),
        _ => random.of(&[Picture::H264, Picture::H264, Picture::H265]),
    };
    let b_frames = if video == Picture::Vp9 { 0 } else { random.below(4) };
    let rate = random.of(&[(25, 1), (30, 1), (30_000, 1001), (24_000, 1001), (50, 1)]);
    let open_gop = b_frames > 0 && random.below(2) == 0;
    let clip = Clip {
        shape,
        video: Some(video),
        audio: Some(if shape == Shape::MatroskaLive { Sound::Opus } else { Sound::Aac }),
        frames: 50 + random.below(40) as u16,
        first: random.below(60_000) as u16,
        rate,
        gop: 4 + random.below(26),
        b_frames,
        open_gop,
        width: 160,
        height: 96,
        sample_rate: if shape == Shape::MatroskaLive { 48_000 } else { random.of(&[48_000, 44_100]) },
        ..Clip::default()
    };
    let mut more = String::new();
    if video == Picture::H264 && random.below(2) == 0 {
        let references = 1 + random.below(5);
        let open = u8::from(open_gop);
        more += &format!("-x264-params open-gop={open}:b-adapt=0:b-pyramid=normal:ref={references} ");
    }
    more += &pictures_in_time(&mut random, shape);
    more += &sound_in_time(&mut random);
    more += match shape {
        Shape::Ts => random.of(&["", "-output_ts_offset 95441 ", "-output_ts_offset 36000 ", "-muxdelay 0 "]),
        Shape::FaststartMp4 | Shape::Mp4 => random.of(&["", "-output_ts_offset 2.5 "]),
        _ => "",
    };
    Clip { more: more.leak(), ..clip }
}

/// When pictures are shown: evenly, at lengths of their own, off by a little, or with a gap.
fn pictures_in_time(random: &mut Random, shape: Shape) -> String {
    let fine = match shape {
        Shape::Ts | Shape::MatroskaLive => "-enc_time_base 1/90000 ",
        _ => "-enc_time_base 1/90000 -video_track_timescale 90000 ",
    };
    match random.below(4) {
        0 => String::new(),
        1 => format!("-vf settb=1/90000,setpts=(1.3*N+0.3*mod(N\\,4))/(FR*TB) {fine}"),
        2 => format!("-vf settb=1/90000,setpts=PTS+{}*mod(N*N\\,5) {fine}", 50 + random.below(200)),
        _ => {
            let from = 10 + random.below(20);
            format!("-vf select=not(between(n\\,{from}\\,{})) ", from + 5 + random.below(10))
        }
    }
}

/// Where sound is: throughout, not from the start, not to the end, not in the middle, or later than it was.
fn sound_in_time(random: &mut Random) -> String {
    let at = 0.3 + f64::from(random.below(60)) / 100.0;
    match random.below(5) {
        0 => String::new(),
        1 => format!("-af aselect=gt(t\\,{at}) "),
        2 => format!("-af aselect=lt(t\\,{}) ", at + 0.3),
        3 => format!("-af aselect=lt(t\\,{at})+gt(t\\,{}) ", at + 0.3),
        _ => format!("-af asetpts=PTS+{}/TB ", at / 3.0),
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(bound)) as u32
    }

    fn of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len() as u32) as usize]
    }
}

/// Streams each through one service, and says all that went wrong at the end.
fn check<F: FnOnce() -> Sent>(all: impl IntoIterator<Item = F>) {
    let service = Service::start(&["--workers", "2"]);
    let mut failed = Vec::new();
    for make in all {
        let sent = make();
        println!("{}", sent.name);
        if catch_unwind(AssertUnwindSafe(|| exact(&service, &sent))).is_err() {
            failed.push(sent.name);
        }
    }
    assert!(failed.is_empty(), "{}:\n{}", failed.len(), failed.join("\n"));
}

fn exact(service: &Service, sent: &Sent) {
    let heard = sent.parts.iter().any(|part| part.sound.is_some());
    let outputs = if heard { &["h264@48", "copy", "-+aac"][..] } else { &["h264@48", "copy"] };
    let start = json!({"segment_ms": 500, "outputs": verify::outputs(outputs)});
    let runtime = Runtime::new().expect("a runtime");
    let session = runtime.block_on(client::stream(service.listen, start, sent.bytes.clone(), 5000));
    assert_eq!((session.close_code(), session.error_codes()), (1000, vec![]), "{:?}", session.errors);
    let pictures: usize = sent.parts.iter().map(|part| part.pictures.len()).sum();
    receipts(&session, pictures as u64);
    for output in session.outputs.values() {
        joins(output);
    }
    let mut origins = Vec::new();
    for name in ["o0", "o1"] {
        let stretches = stretches(&session.outputs[name]);
        assert_eq!(stretches.len(), sent.parts.len(), "{name}: each timeline is told");
        for (stretch, part) in stretches.iter().zip(&sent.parts) {
            let shown = media::decode_barcodes(&stretch.media);
            same_pictures(name, &shown, part, stretch.timescale);
            if name == "o0" {
                origins.push(shown[0].0.seconds());
            }
        }
    }
    if heard {
        let stretches = stretches(&session.outputs["o2"]);
        assert_eq!(stretches.len(), sent.parts.len(), "the sound's timelines");
        for ((stretch, part), origin) in stretches.iter().zip(&sent.parts).zip(origins) {
            let Some(source) = &part.sound else { continue };
            same_sound(&lateness(&stretch.media, origin), source);
        }
    }
}

/// The same numbers in the same order, each as long after the first as in the source.
fn same_pictures(name: &str, shown: &[(Fraction, u16)], part: &Part, timescale: i64) {
    let numbers = |pictures: &[(Fraction, u16)]| pictures.iter().map(|picture| picture.1).collect::<Vec<_>>();
    assert_eq!(numbers(shown), numbers(&part.pictures), "{name}");
    if !part.stamped {
        return;
    }
    let since = |pictures: &[(Fraction, u16)]| {
        let ticks = |at: Fraction| at.ticks(timescale);
        pictures.iter().map(|picture| ticks(picture.0) - ticks(pictures[0].0)).collect::<Vec<_>>()
    };
    assert_eq!(since(shown), since(&part.pictures), "{name}");
}

/// All that is heard is as far from the pictures as in the source.
fn same_sound(heard: &[f64], source: &[f64]) {
    let least = source.len().saturating_sub(3);
    assert!(heard.len() >= least, "{} stretches of sound of {}", heard.len(), source.len());
    let Some(first) = source.first() else { return };
    for late in heard {
        assert!((late - first).abs() < SYNC, "sound is off by {}: {heard:?}, not {source:?}", late - first);
    }
}

/// By how much each stretch of the sound is later than its place, counted from `origin`; what is silent, or has silence
/// in it, is left out.
fn lateness(file: &[u8], origin: f64) -> Vec<f64> {
    let (start, rate, heard) = media::decode_audio(file);
    let hertz = f64::from(rate);
    let mut late: Vec<f64> = Vec::new();
    for from in (0..heard.len().saturating_sub(STRETCH)).step_by(EVERY) {
        let stretch = &heard[from..from + STRETCH];
        let time = start.seconds() + from as f64 / hertz - origin;
        // All of a file's sound is moved alike: only the first stretch is looked for far and wide.
        let shift = late.first().copied().unwrap_or_default();
        let expected = ((time - shift) * hertz).round() as i64;
        let near = if late.is_empty() { roughly(stretch, rate, expected) } else { expected };
        let (at, fit) = sound::locate(stretch, rate, near, NEAR);
        if fit > 0.9 {
            late.push(time - at as f64 / hertz);
        }
    }
    late
}

/// Sound is moved by less than half a second: what lies 0.95 s further sounds the same, for a while.
const FAR: i64 = 20_000;
const NEAR: i64 = 200;

/// Within a few samples of where `heard` is, looked for with every fourth sample: it has nothing above 3 kHz.
fn roughly(heard: &[f32], rate: u32, expected: i64) -> i64 {
    let coarse: Vec<f32> = heard.iter().step_by(4).copied().collect();
    let original = sound::samples(expected - FAR, heard.len() + 2 * FAR as usize, rate);
    let fit = |from: usize| -> f32 { original[from..].iter().step_by(4).zip(&coarse).map(|(a, b)| a * b).sum() };
    let places = (0..2 * FAR as usize).step_by(2);
    let best = places.map(|at| (fit(at), at)).max_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |best| best.1);
    expected - FAR + best as i64
}

/// Receipts add up to what was sent.
fn receipts(session: &Session, pictures: u64) {
    let sum = |read: &dyn Fn(&Value) -> u64| session.receipts.iter().map(read).sum::<u64>();
    for receipt in &session.receipts {
        assert_eq!((&receipt["outcome"], &receipt["degraded"]), (&json!("ok"), &json!([])), "{receipt}");
    }
    assert_eq!(sum(&|receipt| receipt["frames_in"].as_u64().unwrap_or_default()), pictures);
    assert_eq!(sum(&|receipt| receipt["frames_out"]["o0"].as_u64().unwrap_or_default()), pictures);
    assert_eq!(sum(&|receipt| receipt["frames_out"]["o1"].as_u64().unwrap_or_default()), pictures);
}

/// Each segment starts where the one before it ended, unless it says that it doesn't.
fn joins(output: &Output) {
    for pair in output.segments.windows(2) {
        let [first, second] = [&pair[0].0, &pair[1].0];
        let number = |header: &Value, key: &str| header[key].as_i64().expect("a number");
        if second["discontinuity"] == false {
            assert_eq!(number(first, "start") + number(first, "duration"), number(second, "start"), "{first} {second}");
            assert_eq!(first["init"], second["init"], "{first} {second}");
        }
    }
}

/// An output's media from one discontinuity to the next, with its init.
struct Stretch {
    media: Vec<u8>,
    timescale: i64,
}

fn stretches(output: &Output) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for (header, media) in &output.segments {
        if stretches.is_empty() || header["discontinuity"] == true {
            let init = header["init"].as_u64().expect("CMAF has inits") as usize;
            let timescale = header["timescale"].as_i64().expect("a timescale");
            stretches.push(Stretch { media: output.inits[init - 1].1.clone(), timescale });
        }
        stretches.last_mut().expect("one was made").media.extend_from_slice(media);
    }
    stretches
}

fn has_sound(file: &[u8]) -> bool {
    let kept = NamedTempFile::new().expect("a temporary file");
    std::fs::write(kept.path(), file).expect("a temporary file");
    let rows = |path: &Path| media::probe(path, &["-select_streams", "a:0", "-show_entries", "packet=pts"]);
    !rows(kept.path()).is_empty()
}
