//! The whole way of a copy: bytes → units → segments → CMAF and MPEG-TS. The first byte chooses chunks and length.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use segmill::config::Config;
use segmill::media::demux::Event;
use segmill::media::mux::{OutTrack, Part, Sample, cmaf, ts};
use segmill::media::{Format, Sync, Ticks, Timescale, Track};
use segmill::segment::{Cut, Segment, Segmenter, Settings, Tracks};
use segmill::session;

fuzz_target!(|data: &[u8]| {
    let Some((choice, input)) = segmill_fuzz::split(data) else { return };
    segmill_fuzz::bounded(input.len(), || Path::default().run(choice, input));
});

#[derive(Default)]
struct Path {
    stage: Option<Stage>,
    seq: u64,
}

/// What holds from one set-up to the next.
struct Stage {
    segmenter: Segmenter,
    /// The video's first, where there is any.
    tracks: Vec<OutTrack>,
    writer: Option<ts::Writer>,
    /// Where the segment before ended.
    end: Option<(Ticks, Timescale)>,
}

impl Path {
    fn run(mut self, choice: u8, input: &[u8]) {
        // What is wrong with the input has its code; what was complete before it goes on all the same.
        let _ = segmill_fuzz::each_event(None, input, choice, |event| self.take(choice, event));
        self.flush();
    }

    fn take(&mut self, choice: u8, event: Event) -> bool {
        match event {
            Event::Tracks { tracks, .. } => {
                self.flush();
                self.stage = Stage::new(settings(choice), &tracks, self.seq + 1);
            }
            other => {
                let Event::Unit(unit) = other else { return true };
                let Some(stage) = &mut self.stage else { return true };
                if stage.segmenter.push(unit).is_err() {
                    return false;
                }
                self.segments();
            }
        }
        true
    }

    fn flush(&mut self) {
        if let Some(stage) = &mut self.stage {
            stage.segmenter.finish();
        }
        self.segments();
    }

    fn segments(&mut self) {
        let Some(stage) = &mut self.stage else { return };
        while let Some(segment) = stage.segmenter.poll() {
            self.seq += 1;
            assert_eq!(segment.seq, self.seq, "numbers have no holes");
            stage.mux(&segment);
        }
    }
}

impl Stage {
    fn new(settings: Settings, tracks: &[Track], first_seq: u64) -> Option<Self> {
        let video = tracks.iter().find(|track| matches!(track.format, Format::Video(_)));
        let audio: Vec<&Track> =
            tracks.iter().filter(|track| matches!(track.format, Format::Audio(_))).take(2).collect();
        if video.is_none() && audio.is_empty() {
            return None;
        }
        let rate = |track: &Track| match &track.format {
            Format::Audio(audio) => Timescale::new(audio.sample_rate).unwrap_or(track.timescale),
            _ => track.timescale,
        };
        let out = |(n, track): (usize, &Track)| OutTrack {
            number: n as u32 + 1,
            timescale: rate(track),
            language: track.language.clone(),
            format: track.format.clone(),
        };
        let used: Vec<&Track> = video.into_iter().chain(audio.iter().copied()).collect();
        let out: Vec<OutTrack> = used.into_iter().enumerate().map(out).collect();
        let _ = (cmaf::init(&out), cmaf::mime(&out));
        let segmenter = Segmenter::new(settings, &Tracks { video, audio }, first_seq, false);
        Some(Self { segmenter, writer: ts::Writer::new(out.clone()).ok(), tracks: out, end: None })
    }

    fn mux(&mut self, segment: &Segment) {
        assert!(segment.start <= segment.end, "{:?} to {:?}", segment.start, segment.end);
        if let Some((end, timescale)) = self.end
            && !segment.discontinuity
        {
            // One of sound alone counts in samples.
            assert_eq!(segment.start, end.ceil(timescale, segment.timescale), "segments join");
        }
        self.end = Some((segment.end, segment.timescale));
        let cuts: Vec<&Cut> = segment.video.iter().chain(&segment.audio).collect();
        let tracks = &self.tracks[self.tracks.len() - cuts.len()..];
        let samples: Vec<Vec<Sample>> = cuts.iter().map(|cut| samples(cut)).collect();
        let parts: Vec<Part<'_>> = (tracks.iter().zip(&samples).zip(&cuts))
            .filter(|((_, samples), _)| !samples.is_empty())
            .map(|((track, samples), cut)| Part { track, samples, end: end(cut) })
            .collect();
        let _: Result<Bytes, _> = cmaf::segment(segment.seq as u32, &parts);
        let _ = self.writer.as_mut().map(|writer| writer.segment(&parts));
    }
}

fn samples(cut: &Cut) -> Vec<Sample> {
    cut.units
        .iter()
        .map(|unit| Sample { pts: unit.pts, sync: unit.sync != Sync::No, data: unit.data.clone() })
        .collect()
}

fn end(cut: &Cut) -> Ticks {
    let last = cut.units.iter().map(|unit| unit.pts + unit.duration.unwrap_or(Ticks(1))).max();
    last.unwrap_or(cut.window.end).max(cut.window.end)
}

/// The service's own, but for what an input of a few kilobytes can reach.
fn settings(choice: u8) -> Settings {
    static DEFAULT: LazyLock<Settings> = LazyLock::new(|| {
        let config = Config::embedded(&[]).expect("the defaults are good");
        session::Settings::new(&config).segment
    });
    Settings {
        target_ms: if choice % 2 == 0 { 40 } else { 500 },
        max_frames: 200,
        max_bytes: 256 << 10,
        max_skew_ms: if choice % 3 == 0 { 100 } else { 30_000 },
        ..*DEFAULT
    }
}
