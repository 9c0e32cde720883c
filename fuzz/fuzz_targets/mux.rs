//! Units with any times and any bytes to CMAF and MPEG-TS: refused by name, or the sums hold.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mp4_atom::{Any, DecodeMaybe};
use segmill::media::mux::{OutTrack, Part, Sample, cmaf, ts};
use segmill::media::{Audio, AudioCodec, Chroma, Colour, Format, Ticks, Timescale, Video, VideoCodec};

#[derive(Debug, Arbitrary)]
struct Input {
    tracks: Vec<TrackInput>,
    segments: Vec<Vec<PartInput>>,
}

#[derive(Debug, Arbitrary)]
struct TrackInput {
    number: u8,
    timescale: u32,
    codec: u8,
    config: Vec<u8>,
    size: (u32, u32),
    sample_rate: u32,
    channels: u16,
    language: Option<String>,
}

#[derive(Debug, Arbitrary)]
struct PartInput {
    track: u8,
    /// From the one before, but for the first.
    samples: Vec<(Step, bool, Vec<u8>)>,
    first: i64,
    end: Step,
}

#[derive(Debug, Arbitrary, Clone, Copy)]
enum Step {
    Small(i16),
    Any(i64),
}

impl Step {
    fn after(self, time: i64) -> i64 {
        match self {
            Self::Small(step) => time.saturating_add(step.into()),
            Self::Any(time) => time,
        }
    }
}

fuzz_target!(|input: Input| {
    let tracks: Vec<OutTrack> = input.tracks.iter().take(4).filter_map(track).collect();
    let _ = (cmaf::init(&tracks), cmaf::mime(&tracks));
    let mut writer = ts::Writer::new(tracks.clone()).ok();
    for (sequence, segment) in input.segments.iter().take(4).enumerate() {
        let samples: Vec<(usize, Vec<Sample>, Ticks)> =
            segment.iter().take(4).filter_map(|part| samples(part, tracks.len())).collect();
        let parts: Vec<Part<'_>> =
            samples.iter().map(|(n, samples, end)| Part { track: &tracks[*n], samples, end: *end }).collect();
        if let Ok(bytes) = cmaf::segment(sequence as u32, &parts) {
            sums_hold(&parts, &bytes);
        }
        if let Some(Ok(bytes)) = writer.as_mut().map(|writer| writer.segment(&parts)) {
            assert!(bytes.len() % 188 == 0 && bytes.chunks(188).all(|packet| packet[0] == 0x47));
        }
    }
});

/// Each run starts at its earliest picture and lasts until its end, and every picture has its own time.
fn sums_hold(parts: &[Part<'_>], bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(any) = Any::decode_maybe(&mut rest).expect("another parser reads it") {
        let Any::Moof(moof) = any else { continue };
        let written: Vec<&Part<'_>> = parts.iter().filter(|part| !part.samples.is_empty()).collect();
        assert_eq!(moof.traf.len(), written.len());
        for (traf, part) in moof.traf.iter().zip(written) {
            let start = traf.tfdt.as_ref().expect("a decode time").base_media_decode_time;
            let mut time = i128::from(start);
            let mut times = Vec::new();
            for entry in traf.trun.iter().flat_map(|run| &run.samples) {
                times.push(time + i128::from(entry.cts.unwrap_or(0)));
                time += i128::from(entry.duration.or(traf.tfhd.default_sample_duration).expect("a duration"));
            }
            let asked: Vec<i128> = part.samples.iter().map(|sample| i128::from(sample.pts.0)).collect();
            assert_eq!(times, asked);
            assert_eq!(Some(i128::from(start)), asked.iter().min().copied());
            assert_eq!(time, i128::from(part.end.0));
        }
    }
}

fn samples(part: &PartInput, tracks: usize) -> Option<(usize, Vec<Sample>, Ticks)> {
    let track = usize::from(part.track).checked_rem(tracks)?;
    let mut time = part.first;
    let mut samples = Vec::new();
    for (step, sync, data) in part.samples.iter().take(64) {
        samples.push(Sample { pts: Ticks(time), sync: *sync, data: Bytes::copy_from_slice(data) });
        time = step.after(time);
    }
    Some((track, samples, Ticks(part.end.after(time))))
}

fn track(input: &TrackInput) -> Option<OutTrack> {
    use {AudioCodec::*, VideoCodec::*};
    let videos = [H264, H265, Vp8, Vp9, Av1, Mpeg2];
    let audios = [Aac, Opus, Mp3, Ac3, Eac3];
    let choice = usize::from(input.codec) % (videos.len() + audios.len());
    let config = Bytes::copy_from_slice(&input.config);
    let format = match videos.get(choice) {
        Some(&codec) => Format::Video(Video {
            codec,
            config,
            codec_string: "codec".into(),
            width: input.size.0,
            height: input.size.1,
            sample_aspect: input.size,
            rotation: 0,
            bit_depth: 8,
            chroma: Chroma::C420,
            colour: Colour::default(),
            hdr: Default::default(),
            interlaced: false,
            frame_rate: None,
        }),
        None => Format::Audio(Audio {
            codec: audios[choice - videos.len()],
            config,
            codec_string: "codec".into(),
            sample_rate: input.sample_rate,
            channels: input.channels,
        }),
    };
    let timescale = Timescale::new(input.timescale)?;
    Some(OutTrack { number: input.number.into(), timescale, language: input.language.clone(), format })
}
