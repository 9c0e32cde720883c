//! More than there is capacity for, by real clients at the pace of their media; and what the cost model tells of real
//! jobs. Takes long: `make chaos`.

use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::overload;
use bytes::Bytes;
use segmill::job::{Deinterlace, Job, Preset, VideoSpec, Work};
use segmill::media::demux::{Container, Demuxer, Event, Limits, Spool};
use segmill::media::{Error, Ticks, VideoCodec, Window};
use segmill::pool::{Claim, Config, Pool};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn three_times_the_capacity_for_a_minute_costs_the_excess_and_no_one_else() {
    overload::run(&overload::Run {
        flags: &[],
        size: "1280x720",
        seconds: 60,
        segment_ms: 2000,
        deadline_ms: 4000,
        sessions: 9,
        apart: true,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_others_take_the_processor_it_is_said_and_all_is_as_asked_within_ten_seconds_after() {
    const SECONDS: u32 = 50;
    const DEADLINE_MS: u32 = 4000;
    let service = overload::apart(&[]);
    let clip = overload::media("1280x720", SECONDS);
    let start = json!({"type": "start", "mode": "live", "segment_ms": 2000, "deadline_ms": DEADLINE_MS, "outputs": [
        {"name": "720", "container": "ts", "video": {"codec": "h264", "height": 720}},
        {"name": "360", "container": "ts", "video": {"codec": "h264", "height": 360}}]});
    let begun = Instant::now();
    let streaming = tokio::spawn(overload::client(service.listen, start, clip, SECONDS));
    tokio::time::sleep(Duration::from_secs(10)).await;
    // Each wants as much of the processor as the service's worker.
    let others =
        |_| Command::new("taskset").args(["-c", "0", "sh", "-c", "while :; do :; done"]).spawn().expect("a shell");
    let mut others: Vec<Child> = (0..4).map(others).collect();
    tokio::time::sleep(Duration::from_secs(18)).await;
    for other in &mut others {
        other.kill().and_then(|()| other.wait()).expect("it runs");
    }
    let over = begun.elapsed();
    let load = overload::load();
    let overload::End::Served(session) = streaming.await.expect("a client does not panic") else {
        panic!("one alone is let in")
    };
    let number = |receipt: &Value, key: &str| receipt[key].as_u64().expect("a number");
    let first = number(&session.receipts[0], "start_ms");
    // When it was cut, since the media comes at its pace.
    let cut = |receipt: &Value| number(receipt, "start_ms") + number(receipt, "duration_ms") - first;
    for receipt in &session.receipts {
        println!(
            "  cut after {:.1} s, latency {:.1} s: {}",
            cut(receipt) as f64 / 1e3,
            number(receipt, "latency_ms") as f64 / 1e3,
            overload::said([receipt], DEADLINE_MS).into_keys().collect::<String>()
        );
    }
    println!("{:?}", overload::said(&session.receipts, DEADLINE_MS));
    assert_eq!(session.done.as_ref().expect("it is done")["failed"], 0);
    let last = session.receipts.iter().rfind(|receipt| receipt["outcome"] != "ok").expect("it has felt the others");
    let recovered = session.receipts.iter().find(|receipt| number(receipt, "seq") > number(last, "seq"));
    let recovered = cut(recovered.expect("it recovers")) as f64 / 1e3 - over.as_secs_f64();
    println!("load {load}: the first segment from which on all are as asked is cut {recovered:.1} s after the others");
    assert!(recovered <= 10.0);
}

/// Pictures of a kind, as a job for each second.
fn jobs(source: &str, encoder: &str, renditions: &[VideoSpec]) -> Vec<Job> {
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", source])
        .args(format!("{encoder} -pix_fmt yuv420p -g 25 -t 8").split(' '))
        .args("-f mp4 -movflags +frag_keyframe+empty_moov+default_base_moof pipe:1".split(' '))
        .output()
        .expect("ffmpeg is installed");
    let mut demuxer = Demuxer::new(Some(Container::Mp4), Limits::default(), Box::new(NoSpool));
    demuxer.push(Bytes::from(made.stdout)).expect("an MP4");
    demuxer.finish();
    let (mut track, mut units) = (None, Vec::new());
    while let Some(event) = demuxer.poll().expect("an MP4") {
        match event {
            Event::Tracks { tracks, .. } => track = tracks.into_iter().next(),
            Event::Unit(unit) => units.push(unit),
            Event::Data(_) => {}
        }
    }
    let track = track.expect("a track");
    let second = units.chunks(25).map(|units| {
        let pts = || units.iter().map(|unit| unit.pts.0);
        let (start, end) = (pts().min().expect("a picture"), pts().max().expect("a picture") + 1);
        let work = Work::Video {
            frame_rate: (25, 1),
            renditions: renditions.to_vec(),
            schedules: vec![None; renditions.len()],
        };
        let window = Window { start: Ticks(start), end: Ticks(end) };
        Job { id: 0, seq: 0, track: track.clone(), units: units.to_vec(), window, work, threads: 1 }
    });
    second.collect()
}

fn rendition(codec: VideoCodec, height: u32, preset: Preset) -> VideoSpec {
    VideoSpec {
        codec,
        width: height * 16 / 9 / 2 * 2,
        height,
        crf: if codec == VideoCodec::H264 { 23 } else { 32 },
        max_kbps: None,
        preset,
        depth: 8,
        deinterlace: Deinterlace::Frame,
        fps: None,
    }
}

struct NoSpool;

impl Spool for NoSpool {
    fn append(&mut self, _: &[u8]) -> Result<(), Error> {
        Err(Error::ScratchFull("fragments need none".into()))
    }

    fn read(&mut self, _: u64, _: usize) -> Result<Bytes, Error> {
        Err(Error::ScratchFailed("fragments need none".into()))
    }
}

#[tokio::test]
async fn what_jobs_cost_is_told_before_they_are_done() {
    let mut config = Config::new(env!("CARGO_BIN_EXE_segmill"), 1);
    config.args = vec!["worker".into()];
    config.env = segmill::pool::worker_env(std::env::vars_os());
    let pool = Pool::start(config, Arc::new(())).await.expect("it starts");
    println!("load {}; calibrated: {:?}", overload::load(), pool.calibrate().await);
    let claim = Claim { session: pool.session(), deadline: None };
    let rungs = |preset| [720, 480, 360].map(|height| rendition(VideoCodec::H264, height, preset)).to_vec();
    let one = |codec, preset| vec![rendition(codec, 360, preset)];
    let presets =
        [Preset::Ultrafast, Preset::Superfast, Preset::Veryfast, Preset::Faster, Preset::Fast, Preset::Medium];
    let (plain, noise, zoom) = (
        "testsrc2=size=1280x720:rate=25",
        "testsrc2=size=1280x720:rate=25,noise=alls=20:allf=t",
        "mandelbrot=size=1280x720:rate=25",
    );
    let h264 = "-c:v libx264 -preset veryfast -crf 23";
    let mut cases = vec![
        (plain, h264, rungs(Preset::Veryfast)),
        (noise, h264, rungs(Preset::Veryfast)),
        (zoom, h264, rungs(Preset::Veryfast)),
        (zoom, "-c:v libx265 -preset ultrafast -x265-params log-level=none", one(VideoCodec::H264, Preset::Veryfast)),
        (zoom, "-c:v libvpx-vp9 -deadline realtime -cpu-used 8", one(VideoCodec::H264, Preset::Veryfast)),
    ];
    cases.extend(presets.map(|preset| (zoom, h264, one(VideoCodec::H264, preset))));
    cases.extend([Preset::Ultrafast, Preset::Veryfast].map(|preset| (zoom, h264, one(VideoCodec::H265, preset))));
    cases.extend([Preset::Ultrafast, Preset::Veryfast].map(|preset| (zoom, h264, one(VideoCodec::Vp9, preset))));
    cases.push((zoom, h264, one(VideoCodec::Av1, Preset::Veryfast)));
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for (source, encoder, renditions) in cases {
        let (mut told_of, mut took_of) = (Vec::new(), Vec::new());
        for (index, job) in jobs(source, encoder, &renditions).into_iter().enumerate() {
            let told = pool.costs().of(&job);
            let outcome = pool.run(job, claim).await.result.expect("a good clip");
            let took = Duration::from_micros(outcome.stats.cpu_us);
            let error = (told.as_secs_f64() / took.as_secs_f64() - 1.0).abs();
            if index == 0 {
                first.push(error)
            } else {
                later.push(error)
            }
            told_of.push(told.as_millis());
            took_of.push(took.as_millis());
        }
        let spec = &renditions[0];
        println!("{source} {encoder} → {:?} {}p {:?} x{}", spec.codec, spec.height, spec.preset, renditions.len());
        println!("  told {told_of:?} took {took_of:?} ms");
    }
    let median = |errors: &mut Vec<f64>| {
        errors.sort_by(f64::total_cmp);
        errors[errors.len() / 2]
    };
    let (first, later) = (median(&mut first), median(&mut later));
    println!("median error: {first:.2} of the first job of a kind, {later:.2} of the next");
    // The table is rough: of the first job nothing is promised.
    assert!(later < 0.5, "{later}");
}
