//! Demuxers, muxers and the frames between pool and worker, by themselves: bytes a second on one processor, and allocations.
//! `cargo bench --bench media`; `make bench` puts what comes of it into docs/performance.md.
//!
//! All of one input are 20 s of 720p25 at 3 Mb/s with stereo AAC, made by ffmpeg; an item is an access unit. The allocator is
//! the service's.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher, black_box};
use segmill::ipc::{pool_end, worker_end};
use segmill::job::{Job, Work};
use segmill::media::demux::{Container, Demuxer, Event, Limits, Spool};
use segmill::media::mux::{OutTrack, Part, Sample, cmaf, ts};
use segmill::media::{AccessUnit, Error, Format, Sync, Ticks, Track, Window};

#[global_allocator]
static ALLOCATOR: AllocProfiler<mimalloc::MiMalloc> = AllocProfiler::new(mimalloc::MiMalloc);

/// Bytes that come at once.
const CHUNK: usize = 64 << 10;

fn main() {
    divan::main();
}

#[divan::bench(args = [Container::Mp4, Container::Ts, Container::Webm])]
fn demux(bencher: Bencher, container: Container) {
    let input = MEDIA.of(container);
    let units = units(input, container).1.len();
    bencher.counter(BytesCount::new(input.len())).counter(ItemsCount::new(units)).bench(|| {
        each_event(input, container, |event| drop(black_box(event)));
    });
}

#[divan::bench]
fn mux_cmaf(bencher: Bencher) {
    let segments = Segments::new();
    bencher.counter(BytesCount::new(segments.bytes)).counter(ItemsCount::new(segments.units)).bench(|| {
        for (number, parts) in (1..).zip(segments.parts()) {
            black_box(cmaf::segment(number, &parts).expect("sound media"));
        }
    });
}

#[divan::bench]
fn mux_ts(bencher: Bencher) {
    let segments = Segments::new();
    bencher.counter(BytesCount::new(segments.bytes)).counter(ItemsCount::new(segments.units)).bench(|| {
        let mut writer = ts::Writer::new(segments.tracks.clone()).expect("tracks that TS holds");
        for parts in segments.parts() {
            black_box(writer.segment(&parts).expect("sound media"));
        }
    });
}

/// A segment's pictures as a job, written by the pool and read by a worker.
#[divan::bench]
fn ipc_job(bencher: Bencher) {
    let (tracks, units) = units(MEDIA.of(Container::Mp4), Container::Mp4);
    let track = tracks.into_iter().find(is_video).expect("a video track");
    let units: Vec<_> = units.into_iter().filter(|unit| unit.track == track.id).take(50).collect();
    let (bytes, count) = (units.iter().map(|unit| unit.data.len()).sum::<usize>(), units.len());
    let window = Window { start: Ticks(0), end: Ticks(i64::MAX) };
    let work = Work::Video { frame_rate: (25, 1), renditions: Vec::new(), schedules: Vec::new() };
    let job = Job { id: 1, seq: 1, track, units, window, work, threads: 1 };
    bencher.counter(BytesCount::new(bytes)).counter(ItemsCount::new(count)).bench(|| {
        let mut socket = Vec::with_capacity(bytes + (64 << 10));
        pool_end::write_job_to(&mut socket, &job).expect("it is written");
        black_box(worker_end::Reader::new(socket.as_slice()).read_job().expect("it is read"));
    });
}

/// The same media in each container.
struct Media {
    mp4: Bytes,
    ts: Bytes,
    webm: Bytes,
}

static MEDIA: LazyLock<Media> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mp4 = folder.path().join("media.mp4");
    let made = "-f lavfi -i testsrc2=size=1280x720:rate=25:duration=20,noise=alls=10:allf=t -f lavfi -i sine=duration=20 \
                -c:v libx264 -preset superfast -b:v 3M -maxrate 3M -bufsize 3M -bf 2 -pix_fmt yuv420p -g 50 -keyint_min 50 \
                -sc_threshold 0 -c:a aac -b:a 128k -ac 2 -movflags +frag_keyframe+empty_moov+default_base_moof \
                -frag_duration 200000";
    ffmpeg(made.split_whitespace(), &mp4);
    let copied = |name: &str| {
        let path = folder.path().join(name);
        ffmpeg(["-i", mp4.to_str().expect("a plain path"), "-c", "copy"].into_iter(), &path);
        read(&path)
    };
    Media { mp4: read(&mp4), ts: copied("media.ts"), webm: copied("media.mkv") }
});

impl Media {
    fn of(&self, container: Container) -> &Bytes {
        match container {
            Container::Mp4 => &self.mp4,
            Container::Ts => &self.ts,
            Container::Webm => &self.webm,
        }
    }
}

fn ffmpeg<'a>(arguments: impl Iterator<Item = &'a str>, to: &Path) {
    let status = Command::new("ffmpeg").args(["-v", "error", "-y"]).args(arguments).arg(to).status();
    assert!(status.expect("ffmpeg starts").success(), "ffmpeg made no {}", to.display());
}

fn read(path: &Path) -> Bytes {
    std::fs::read(path).expect("it was made").into()
}

fn each_event(input: &Bytes, container: Container, mut take: impl FnMut(Event)) {
    let mut demuxer = Demuxer::new(Some(container), Limits::default(), Box::new(NoSpool));
    let mut drain = |demuxer: &mut Demuxer| {
        while let Some(event) = demuxer.poll().expect("sound media") {
            take(event);
        }
    };
    for from in (0..input.len()).step_by(CHUNK) {
        demuxer.push(input.slice(from..input.len().min(from + CHUNK))).expect("sound media");
        drain(&mut demuxer);
    }
    demuxer.finish();
    drain(&mut demuxer);
}

fn units(input: &Bytes, container: Container) -> (Vec<Track>, Vec<AccessUnit>) {
    let (mut all, mut units) = (Vec::new(), Vec::new());
    each_event(input, container, |event| match event {
        Event::Tracks { tracks, .. } => all = tracks,
        Event::Unit(unit) => units.push(unit),
        Event::Data(_) => {}
    });
    (all, units)
}

fn is_video(track: &Track) -> bool {
    matches!(track.format, Format::Video(_))
}

/// Fragmented input needs none.
struct NoSpool;

impl Spool for NoSpool {
    fn append(&mut self, _: &[u8]) -> Result<(), Error> {
        Err(Error::ScratchFailed("there is none".into()))
    }

    fn read(&mut self, _: u64, _: usize) -> Result<Bytes, Error> {
        Err(Error::ScratchFailed("there is none".into()))
    }
}

/// What the muxers are given: segments of two seconds, of each track its samples and its end.
struct Segments {
    tracks: Vec<OutTrack>,
    cut: Vec<Vec<(Vec<Sample>, Ticks)>>,
    bytes: usize,
    units: usize,
}

impl Segments {
    const SECONDS: i64 = 2;

    fn new() -> Self {
        let (tracks, units) = units(MEDIA.of(Container::Mp4), Container::Mp4);
        let count = 20 / Self::SECONDS;
        // Pictures and sound are cut alike, by their presentation times; the first picture may lie after 0.
        let samples = |track: &Track, number: i64| {
            let from =
                units.iter().filter(|unit| unit.track == track.id).map(|unit| unit.pts).min().unwrap_or_default();
            let length = i64::from(track.timescale.get()) * Self::SECONDS;
            let from = Ticks(from.0.max(0) + number * length);
            let inside = Window { start: from, end: from + Ticks(length) };
            let mine = units.iter().filter(|unit| unit.track == track.id && inside.contains(unit.pts));
            let sample =
                |unit: &AccessUnit| Sample { pts: unit.pts, sync: unit.sync != Sync::No, data: unit.data.clone() };
            (mine.map(sample).collect::<Vec<_>>(), inside.end)
        };
        let cut: Vec<Vec<_>> =
            (0..count).map(|number| tracks.iter().map(|track| samples(track, number)).collect()).collect();
        let all = || cut.iter().flatten().flat_map(|(samples, _)| samples);
        let (bytes, units) = (all().map(|sample| sample.data.len()).sum(), all().count());
        let tracks = (1..).zip(tracks).map(|(number, Track { timescale, language, format, .. })| OutTrack {
            number,
            timescale,
            language,
            format,
        });
        Self { tracks: tracks.collect(), cut, bytes, units }
    }

    fn parts(&self) -> impl Iterator<Item = Vec<Part<'_>>> {
        fn part<'a>((track, (samples, end)): (&'a OutTrack, &'a (Vec<Sample>, Ticks))) -> Part<'a> {
            Part { track, samples, end: *end }
        }
        self.cut.iter().map(move |segment| self.tracks.iter().zip(segment).map(part).collect())
    }
}
