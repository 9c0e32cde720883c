//! Whole streams through the real binary: every shape and codec in, every codec and container out, exact to the
//! picture, the tick and the sample.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::support::client::{self, Session};
use crate::support::media::{Clip, Picture, Shape, Sound};
use crate::support::service::Service;
use crate::support::{media, sound, verify};
use serde_json::json;
use tokio::runtime::Runtime;

const CHUNK: usize = 20_000;
/// Closed GOPs in MPEG-2.
const CLOSED: &str = "-flags +cgop";

struct Case {
    clip: Clip,
    outputs: &'static [&'static str],
}

fn case(shape: Shape, video: Picture, audio: Sound, outputs: &'static [&'static str]) -> Case {
    Case { clip: Clip { shape, video: Some(video), audio: Some(audio), gop: 15, ..Clip::default() }, outputs }
}

impl Case {
    fn with(mut self, change: impl FnOnce(&mut Clip)) -> Self {
        change(&mut self.clip);
        self
    }
}

fn stream(service: &Service, clip: &Clip, outputs: &[&str], chunk: usize) -> Session {
    let start = json!({"segment_ms": 500, "outputs": verify::outputs(outputs)});
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(client::stream(service.listen, start, clip.bytes(), chunk))
}

/// Streams each case through one service, and says all that went wrong at the end.
fn check(cases: &[Case]) {
    let service = Service::start(&["--workers", "2"]);
    let mut failed = Vec::new();
    for Case { clip, outputs } in cases {
        let label = format!("{:?} {:?} {:?} to {outputs:?}", clip.shape, clip.video, clip.audio);
        println!("{label}");
        let one = || {
            let session = stream(&service, clip, outputs, CHUNK);
            verify::session(clip, outputs, &session);
            let open = clip.open_gop || (clip.video == Some(Picture::Mpeg2) && clip.more != CLOSED);
            let cut = session.receipts.len();
            assert!(open || cut > 2, "cut into {cut}");
        };
        if catch_unwind(AssertUnwindSafe(one)).is_err() {
            failed.push(label);
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

#[test]
fn mp4_of_every_shape_comes_out_exact() {
    use {Picture::*, Shape::*, Sound::*};
    check(&[
        case(FragmentedMp4, H264, Aac, &["copy+copy", "h264@90+aac", "ts:h264+aac", "-+opus"])
            .with(|clip| (clip.rate, clip.b_frames) = ((30_000, 1001), 2)),
        case(FaststartMp4, H265, Aac, &["copy", "ts:copy+copy", "h265@90", "-+copy", "-+aac"])
            .with(|clip| (clip.b_frames, clip.sample_rate) = (2, 44_100)),
        case(Mp4, Av1, Opus, &["copy+copy", "av1@90", "ts:h264@90+aac"]),
        case(FragmentedMp4, Vp9, Opus, &["copy+copy", "vp9@90+opus", "h264"]),
        case(Mp4, H264, Mp3, &["copy+copy", "ts:copy+copy", "-+aac"])
            .with(|clip| (clip.rate, clip.b_frames) = ((25, 1), 3)),
        case(FaststartMp4, H264, Ac3, &["-+copy", "h265@90+aac"]),
        case(FaststartMp4, H265, Eac3, &["copy+copy", "h264+opus"]),
        case(FragmentedMp4, Av1, Aac, &["copy", "-+copy"]),
        case(Mp4, Mpeg2, Aac, &["copy+copy", "h264@90"]).with(|clip| clip.more = CLOSED),
    ]);
}

#[test]
fn webm_and_matroska_come_out_exact() {
    use {Picture::*, Shape::*, Sound::*};
    check(&[
        case(Webm, Vp8, Opus, &["copy+copy", "vp9@90", "ts:h264+aac", "-+opus"]),
        case(Webm, Vp9, Opus, &["copy", "h265@90+aac", "-+copy"]).with(|clip| clip.rate = (30_000, 1001)),
        case(Webm, Av1, Opus, &["copy+opus", "h264@90+copy"]),
        case(MatroskaLive, H264, Aac, &["copy+copy", "ts:copy+copy", "h264@90+aac"]),
        case(MatroskaLive, H265, Mp3, &["copy+copy", "h264+aac"]),
        case(MatroskaLive, Vp9, Ac3, &["copy", "-+copy", "-+opus"]),
        case(MatroskaLive, Av1, Eac3, &["copy+copy", "ts:h264@90+aac"]),
        case(MatroskaLive, Vp8, Aac, &["h264+copy"]),
        case(MatroskaLive, Mpeg2, Aac, &["copy+copy", "h264@90"]).with(|clip| clip.more = CLOSED),
    ]);
}

#[test]
fn transport_streams_come_out_exact() {
    use {Picture::*, Shape::Ts, Sound::*};
    check(&[
        case(Ts, H264, Aac, &["copy+copy", "ts:copy+copy", "h264@90+aac", "ts:h264@90+aac", "-+opus"])
            .with(|clip| (clip.rate, clip.b_frames) = ((30_000, 1001), 2)),
        case(Ts, H265, Ac3, &["copy+copy", "ts:copy+copy", "h265@90+aac"]).with(|clip| clip.b_frames = 2),
        case(Ts, Mpeg2, Mp3, &["copy+copy", "ts:copy+copy", "h264+aac"])
            .with(|clip| (clip.b_frames, clip.more) = (2, CLOSED)),
        case(Ts, H264, Eac3, &["copy+copy", "ts:copy+copy", "vp9@90", "-+aac"]).with(|clip| clip.rate = (25, 1)),
    ]);
}

#[test]
fn open_gops_lose_and_repeat_nothing() {
    use {Picture::*, Shape::*, Sound::*};
    let open = |shape, video| {
        case(shape, video, Aac, &["h264@90", "ts:h265@90"]).with(|clip| (clip.b_frames, clip.open_gop) = (2, true))
    };
    check(&[
        open(FragmentedMp4, H264),
        open(Ts, H264),
        open(FaststartMp4, H265),
        open(Ts, H265),
        case(Ts, Mpeg2, Aac, &["h264@90+copy"]).with(|clip| clip.b_frames = 2),
    ]);
}

/// As an encoder writes it: in ADTS, which has no word for SBR; and in MP4 whose set-up keeps silent about it.
#[test]
fn he_aac_that_does_not_say_so_comes_out_at_its_full_rate_with_its_highs_and_in_its_place() {
    let service = Service::start(&["--workers", "1"]);
    let folder = tempfile::tempdir().expect("a folder");
    for (clip, told, rate) in [("he-aac", "mp4a.40.5", 48_000), ("he-aac-v2", "mp4a.40.29", 44_100)] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/clips/{clip}.aac"));
        let (_, _, expected) = media::decode_audio_of(&source);
        for shape in ["-f mpegts", "-movflags +faststart -f mp4", "-f matroska"] {
            let label = format!("{clip} {shape}");
            let input = folder.path().join("input");
            media::ffmpeg(&source, &format!("-i IN -c copy {shape} -y {}", input.display()));
            let (first, ..) = media::decode_audio_of(&input);
            let input = std::fs::read(&input).expect("it was just written");
            let start = json!({"segment_ms": 1000, "outputs": verify::outputs(&["-+copy", "-+aac", "-+opus"])});
            let session =
                Runtime::new().expect("a runtime").block_on(client::stream(service.listen, start, input, 1000));
            assert_eq!(session.close_code(), 1000, "{label}: {:?}", session.errors);
            let track = &session.tracks[0]["tracks"][0];
            assert_eq!((&track["codec"], &track["sample_rate"]), (&json!(told), &json!(rate)), "{label}");
            assert_eq!(track["channels"], 2, "{label}");
            for (output, its_rate) in [("o0", rate), ("o1", rate), ("o2", 48_000)] {
                let (begins, heard_rate, heard) = media::decode_audio(&session.outputs[output].whole());
                assert_eq!(heard_rate, its_rate, "{label}: {output}");
                let apart = begins.seconds() - first.seconds();
                let at = |seconds: f64, rate: u32| (seconds * f64::from(rate)) as usize;
                let (from, length) = (1.5, 0.5);
                let original = &expected[at(from, rate)..at(from + length, rate)];
                let made = &heard[at(from - apart, its_rate)..at(from - apart + length, its_rate)];
                let highs = |samples: &[f32], rate| sound::power_above(samples, rate, 9_000.0);
                let (had, has) = (highs(original, rate), highs(made, its_rate));
                assert!(had > 1e-4, "{label}: the source has highs: {had}");
                assert!((0.5..2.0).contains(&(has / had)), "{label}: {output}: {has} of {had}");
                if its_rate == rate {
                    let snr = sound::snr(&low(original), &low(made));
                    assert!(snr > 15.0, "{label}: {output} is where the source is: {snr} dB");
                }
            }
        }
    }
}

/// Without what is rebuilt from noise: a mean over eight samples.
fn low(samples: &[f32]) -> Vec<f32> {
    samples.windows(8).map(|eight| eight.iter().sum::<f32>() / 8.0).collect()
}

#[test]
fn the_chunks_of_the_input_leave_no_trace() {
    use {Picture::*, Shape::*, Sound::*};
    // The bytes of an encode depend on its threads: one worker gives all of them to each job. Those of x264 differ
    // from run to run all the same.
    let service = Service::start(&["--workers", "1"]);
    let outputs = ["copy+copy", "ts:copy+copy", "vp9@90+aac"];
    for (shape, video, audio) in
        [(FragmentedMp4, H264, Aac), (FaststartMp4, H264, Aac), (Mp4, H264, Aac), (Webm, Vp9, Opus), (Ts, H264, Aac)]
    {
        let clip = Clip { shape, video: Some(video), audio: Some(audio), gop: 15, ..Clip::default() };
        let outputs = if video == Vp9 { &["copy+copy", "vp9@90+aac"][..] } else { &outputs[..] };
        let [expected, others @ ..] =
            [1_000_000, 7, 188, 1000, 65_536].map(|chunk| stream(&service, &clip, outputs, chunk));
        assert_eq!(expected.close_code(), 1000);
        for other in others {
            assert_eq!(hashes(&other), hashes(&expected), "{clip:?}");
        }
    }
}

/// All that was sent, by output.
fn hashes(session: &Session) -> Vec<String> {
    let output = |(name, output): (&String, &client::Output)| {
        let segments = output.segments.iter().map(|(header, _)| header.to_string());
        let inits = output.inits.iter().map(|(header, init)| format!("{header} {init:?}"));
        inits.chain(segments).map(|line| format!("{name} {line}")).collect::<Vec<_>>()
    };
    session.outputs.iter().flat_map(output).collect()
}
