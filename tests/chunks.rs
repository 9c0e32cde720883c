//! The same pictures and sound in every container, each cut at random a hundred times: what comes out is the same, to
//! the bit where it is copied, to the sample of a picture where it is transcoded.

use std::sync::Mutex;
use std::thread;

use crate::support::client::{self, Session};
use crate::support::media::{self, Clip, Shape};
use crate::support::service::Service;
use crate::support::verify;
use bytes::Bytes;
use segmill::config::Config;
use segmill::media::demux::{Demuxer, Event, Limits, Spool};
use segmill::media::{Error, Format, Track};
use segmill::segment::{Segment, Segmenter, Settings, Tracks};
use segmill::session;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

const SEEDS: u64 = 100;
/// Seeds that are transcoded too.
const TRANSCODED: u64 = 3;
/// Containers, and how ffmpeg is told to write them.
const CONTAINERS: [(&str, &str); 6] = [
    ("fragmented MP4", "-movflags frag_keyframe+empty_moov+default_base_moof -f mp4"),
    ("MP4 with moov first", "-movflags faststart -f mp4"),
    ("MP4 with moov last", "-f mp4"),
    ("Matroska", "-f matroska"),
    ("Matroska of unknown sizes", "-live 1 -f matroska"),
    ("MPEG-TS", "-f mpegts"),
];

/// The clip that all containers hold; at 25 pictures a second, so that no container has to round.
fn clip() -> Clip {
    Clip {
        shape: Shape::Mp4,
        frames: 50,
        rate: (25, 1),
        gop: 10,
        b_frames: 2,
        width: 160,
        height: 96,
        ..Clip::default()
    }
}

/// The clip in each container: the same coded pictures and sound.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let clip = clip().path();
    let in_container = |(name, format): (&'static str, &str)| {
        let made = NamedTempFile::new().expect("a temporary file");
        let path = made.path().to_str().expect("a plain path");
        media::ffmpeg(&clip, &format!("-i IN -c copy -bitexact -fflags +bitexact {format} -y {path}"));
        (name, std::fs::read(made.path()).expect("ffmpeg wrote it"))
    };
    CONTAINERS.into_iter().map(in_container).collect()
}

/// Chunk sizes by seed: first a stretch of single bytes, then small and large ones in any order.
fn sizes(seed: u64) -> impl Iterator<Item = usize> + Send + 'static {
    let mut random = Random(seed);
    let single = random.below(600);
    let mixed = std::iter::repeat_with(move || {
        let most = [3, 188, 1000, 5000, 60_000][random.below(5)];
        1 + random.below(most)
    });
    std::iter::repeat_n(1, single).chain(mixed)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[test]
fn a_hundred_ways_of_cutting_the_input_give_the_same_units_and_the_same_segments() {
    for (container, bytes) in files() {
        let (tracks, segments) = cut(&bytes, std::iter::once(bytes.len()));
        assert_eq!(tracks.len(), 2, "{container}");
        assert!(segments.len() > 3, "{container} is cut into {}", segments.len());
        let frames: u64 = segments.iter().flat_map(|segment| &segment.video).map(|cut| cut.presented()).sum();
        assert_eq!(frames, 50, "{container}");
        for seed in 0..SEEDS {
            let again = cut(&bytes, sizes(seed));
            assert!(again == (tracks.clone(), segments.clone()), "{container}, seed {seed}");
        }
    }
}

#[test]
fn a_hundred_ways_of_sending_the_input_copy_it_to_the_same_bytes() {
    let service = Service::start(&["--workers", "1"]);
    let outputs = verify::outputs(&["copy+copy", "ts:copy+copy", "-+copy"]);
    for (container, bytes) in files() {
        let whole = send(&service, &outputs, &bytes, None);
        let expected = said(&whole);
        assert_eq!(numbers(&whole, "o0"), (0..50).collect::<Vec<_>>(), "{container}");
        let seeds = Mutex::new(0..SEEDS);
        thread::scope(|scope| {
            let work = || {
                while let Some(seed) = { seeds.lock().expect("no one panics with it").next() } {
                    let session = send(&service, &outputs, &bytes, Some(seed));
                    assert_eq!(said(&session), expected, "{container}, seed {seed}");
                }
            };
            (0..4).for_each(|_| drop(scope.spawn(work)));
        });
    }
}

#[test]
fn every_container_and_every_way_of_sending_it_is_transcoded_to_the_same_pictures() {
    // An encoder's bytes depend on its threads: one worker has all of them. Those of x264 differ from run to run all the
    // same: of its pictures the numbers are compared.
    let service = Service::start(&["--workers", "1"]);
    let outputs = verify::outputs(&["h264@48+aac", "vp9@48", "-+opus"]);
    let mut pictures: Option<Vec<String>> = None;
    for (container, bytes) in files() {
        let mut sound: Option<Vec<String>> = None;
        for seed in 0..TRANSCODED {
            let session = send(&service, &outputs, &bytes, Some(seed));
            let label = format!("{container}, seed {seed}");
            assert_eq!(numbers(&session, "o0"), (0..50).collect::<Vec<_>>(), "{label}");
            assert_eq!(numbers(&session, "o1"), (0..50).collect::<Vec<_>>(), "{label}");
            same(&mut pictures, decoded(&session, "o1", "v"), &label);
            same(&mut sound, decoded(&session, "o2", "a"), &label);
        }
    }
}

/// What is first is expected of all that follow.
fn same(expected: &mut Option<Vec<String>>, found: Vec<String>, label: &str) {
    assert!(!found.is_empty(), "{label}");
    let expected = expected.get_or_insert_with(|| found.clone());
    assert!(*expected == found, "{label}: {expected:?}\n{found:?}");
}

/// The whole session; in one piece without a seed.
fn send(service: &Service, outputs: &Value, bytes: &[u8], seed: Option<u64>) -> Session {
    let start = json!({"segment_ms": 400, "outputs": outputs});
    let runtime = Runtime::new().expect("a runtime");
    let (to, bytes) = (service.listen, bytes.to_vec());
    let session = match seed {
        Some(seed) => runtime.block_on(client::stream_in_sizes(to, start, bytes, sizes(seed))),
        None => runtime.block_on(client::stream(to, start, bytes, 1 << 19)),
    };
    assert_eq!((session.close_code(), session.error_codes()), (1000, vec![]), "{:?}", session.errors);
    session
}

/// Every header and init, by output: a segment's header has the hash of its media, which the client has checked.
fn said(session: &Session) -> Vec<String> {
    let output = |(name, output): (&String, &client::Output)| {
        let inits = output.inits.iter().map(|(header, init)| format!("{name} {header} {init:?}"));
        let segments = output.segments.iter().map(|(header, _)| format!("{name} {header}"));
        inits.chain(segments).collect::<Vec<_>>()
    };
    session.outputs.iter().flat_map(output).collect()
}

fn numbers(session: &Session, output: &str) -> Vec<u16> {
    let pictures = media::decode_barcodes(&session.outputs[output].whole());
    pictures.into_iter().map(|(_, number)| number).collect()
}

/// The hash of each decoded picture or stretch of sound, without its time: containers start at different ones.
fn decoded(session: &Session, output: &str, stream: &str) -> Vec<String> {
    let mut file = NamedTempFile::new().expect("a temporary file");
    std::io::Write::write_all(&mut file, &session.outputs[output].whole()).expect("a temporary file");
    let text = media::ffmpeg(file.path(), &format!("-i IN -map 0:{stream}:0 -fps_mode passthrough -f framemd5 pipe:1"));
    let text = String::from_utf8(text).expect("text");
    let hash = |line: &str| line.rsplit(',').next().map(|hash| hash.trim().to_owned());
    text.lines().filter(|line| !line.starts_with('#')).filter_map(hash).collect()
}

/// Demuxed and cut in this process.
fn cut(bytes: &[u8], sizes: impl Iterator<Item = usize>) -> (Vec<Track>, Vec<Segment>) {
    let mut cutter = Cutter::default();
    let mut demuxer = Demuxer::new(None, Limits::default(), Box::new(Memory::default()));
    let mut rest = bytes;
    for size in sizes {
        let (chunk, after) = rest.split_at(size.clamp(1, rest.len()));
        rest = after;
        demuxer.push(Bytes::copy_from_slice(chunk)).expect("good media");
        cutter.take(&mut demuxer);
        if rest.is_empty() {
            break;
        }
    }
    demuxer.finish();
    cutter.take(&mut demuxer);
    let segmenter = cutter.segmenter.as_mut().expect("tracks were told");
    segmenter.finish();
    cutter.segments.extend(std::iter::from_fn(|| segmenter.poll()));
    (cutter.tracks, cutter.segments)
}

#[derive(Default)]
struct Cutter {
    tracks: Vec<Track>,
    segmenter: Option<Segmenter>,
    segments: Vec<Segment>,
}

impl Cutter {
    fn take(&mut self, demuxer: &mut Demuxer) {
        while let Some(event) = demuxer.poll().expect("good media") {
            match event {
                Event::Tracks { tracks, .. } => {
                    assert!(self.segmenter.is_none(), "the set-up stays");
                    let used = Tracks {
                        video: tracks.iter().find(|track| matches!(track.format, Format::Video(_))),
                        audio: tracks.iter().filter(|track| matches!(track.format, Format::Audio(_))).collect(),
                    };
                    self.segmenter = Some(Segmenter::new(settings(), &used, 1, false));
                    self.tracks = tracks;
                }
                other => {
                    let Event::Unit(unit) = other else { continue };
                    let segmenter = self.segmenter.as_mut().expect("tracks come first");
                    segmenter.push(unit).expect("within the caps");
                    self.segments.extend(std::iter::from_fn(|| segmenter.poll()));
                }
            }
        }
    }
}

/// As the service's own, with short segments.
fn settings() -> Settings {
    let config = Config::embedded(&[]).expect("the defaults are good");
    Settings { target_ms: 400, max_skew_ms: 30_000, ..session::Settings::new(&config).segment }
}

#[derive(Default)]
struct Memory(Vec<u8>);

impl Spool for Memory {
    fn append(&mut self, data: &[u8]) -> Result<(), Error> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, Error> {
        let from = offset as usize;
        Ok(Bytes::copy_from_slice(&self.0[from..from + length]))
    }
}
