//! The boxes as another parser (mp4-atom) reads them.

use bytes::Bytes;
use mp4_atom::{Any, Codec, DecodeMaybe, Moof, Moov};
use proptest::prelude::*;

use super::*;
use crate::media::mux::{Part, Sample};
use crate::media::{Audio, AudioCodec, Chroma, Colour, Error, Hdr, Mastering, Ticks, Timescale, Video, VideoCodec};

/// A sample as a player would see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) pts: i64,
    pub(super) dts: i64,
    pub(crate) duration: u32,
    pub(super) sync: bool,
    pub(super) data: Bytes,
}

pub(super) fn boxes(mut bytes: &[u8]) -> Vec<Any> {
    let mut all = Vec::new();
    while let Some(any) = Any::decode_maybe(&mut bytes).unwrap() {
        all.push(any);
    }
    assert!(bytes.is_empty(), "bytes after the last box");
    all
}

/// (track, tfdt, samples) of each fragment's tracks, tfhd's defaults filled in.
pub(crate) fn fragments(bytes: &[u8]) -> Vec<(u32, u64, Vec<Read>)> {
    let mut read = Vec::new();
    let mut rest = bytes;
    let mut moof: Option<(usize, Moof)> = None;
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        match Any::decode_maybe(&mut rest).unwrap().unwrap() {
            Any::Moof(found) => moof = Some((at, found)),
            Any::Mdat(_) => {
                let (start, moof) = moof.take().unwrap();
                for traf in &moof.traf {
                    let tfdt = traf.tfdt.as_ref().unwrap().base_media_decode_time;
                    assert!(traf.tfhd.default_base_is_moof);
                    let mut dts = tfdt as i64;
                    let mut samples = Vec::new();
                    for trun in &traf.trun {
                        let mut place = start + usize::try_from(trun.data_offset.unwrap()).unwrap();
                        for entry in &trun.samples {
                            let size = entry.size.or(traf.tfhd.default_sample_size).unwrap() as usize;
                            let duration = entry.duration.or(traf.tfhd.default_sample_duration).unwrap();
                            let flags = entry.flags.or(traf.tfhd.default_sample_flags).unwrap();
                            samples.push(Read {
                                pts: dts + entry.cts.unwrap_or(0),
                                dts,
                                duration,
                                sync: flags & 0x1_0000 == 0,
                                data: Bytes::copy_from_slice(&bytes[place..place + size]),
                            });
                            place += size;
                            dts += i64::from(duration);
                        }
                    }
                    read.push((traf.tfhd.track_id, tfdt, samples));
                }
            }
            _ => {}
        }
    }
    read
}

pub(super) fn video(codec: VideoCodec, config: &[u8]) -> Video {
    Video {
        codec,
        config: Bytes::copy_from_slice(config),
        codec_string: "avc1.64001f".into(),
        width: 160,
        height: 90,
        sample_aspect: (1, 1),
        rotation: 0,
        bit_depth: 8,
        chroma: Chroma::C420,
        colour: Colour::default(),
        hdr: Hdr::default(),
        interlaced: false,
        frame_rate: None,
    }
}

pub(super) fn audio(codec: AudioCodec, config: &[u8]) -> Audio {
    Audio {
        codec,
        config: Bytes::copy_from_slice(config),
        codec_string: "mp4a.40.2".into(),
        sample_rate: 48_000,
        channels: 2,
    }
}

pub(super) fn track(number: u32, timescale: u32, format: Format) -> OutTrack {
    OutTrack { number, timescale: Timescale::new(timescale).unwrap(), language: None, format }
}

const AVCC: &[u8] =
    &[1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 4, 0x67, 0x64, 0, 0x1f, 1, 0, 2, 0x68, 0xee, 0xfd, 0xf8, 0xf8, 0];
const ASC: &[u8] = &[0x11, 0x90];

fn h264() -> OutTrack {
    track(1, 90_000, Format::Video(video(VideoCodec::H264, AVCC)))
}

fn aac() -> OutTrack {
    track(2, 48_000, Format::Audio(audio(AudioCodec::Aac, ASC)))
}

fn sample(pts: i64, sync: bool, data: &'static [u8]) -> Sample {
    Sample { pts: Ticks(pts), sync, data: Bytes::from_static(data) }
}

fn moov(tracks: &[OutTrack]) -> Moov {
    let header = init(tracks).unwrap();
    let mut found = boxes(&header);
    assert!(matches!(found.first(), Some(Any::Ftyp(_))));
    match found.remove(1) {
        Any::Moov(moov) => moov,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_header_holds_the_tracks_as_they_are() {
    let mut first = h264();
    first.language = Some("deu".into());
    let moov = moov(&[first, aac()]);
    assert_eq!(moov.mvhd.next_track_id, 3);
    assert_eq!(moov.mvex.unwrap().trex.len(), 2);
    let [picture, sound] = &moov.trak[..] else { panic!("two tracks") };
    assert_eq!((picture.tkhd.track_id, sound.tkhd.track_id), (1, 2));
    assert_eq!((picture.mdia.mdhd.timescale, sound.mdia.mdhd.timescale), (90_000, 48_000));
    assert_eq!((picture.mdia.mdhd.language.as_str(), sound.mdia.mdhd.language.as_str()), ("deu", "und"));
    assert!(picture.edts.is_none() && sound.edts.is_none());
    let Codec::Avc1(avc1) = &picture.mdia.minf.stbl.stsd.codecs[0] else { panic!("avc1") };
    assert_eq!((avc1.visual.width, avc1.visual.height), (160, 90));
    assert_eq!((&avc1.pasp, &avc1.colr), (&None, &None));
    let Codec::Mp4a(mp4a) = &sound.mdia.minf.stbl.stsd.codecs[0] else { panic!("mp4a") };
    assert_eq!((mp4a.audio.channel_count, mp4a.audio.sample_rate.integer()), (2, 48_000));
    assert_eq!(mp4a.esds.es_desc.dec_config.object_type_indication, 0x40);
}

#[test]
fn the_same_tracks_give_the_same_bytes() {
    assert_eq!(init(&[h264(), aac()]).unwrap(), init(&[h264(), aac()]).unwrap());
}

#[test]
fn set_up_bytes_are_carried_to_the_byte() {
    for (codec, kind) in [
        (VideoCodec::H264, b"avcC"),
        (VideoCodec::H265, b"hvcC"),
        (VideoCodec::Vp9, b"vpcC"),
        (VideoCodec::Av1, b"av1C"),
    ] {
        let config: Vec<u8> = (0..200).collect();
        let header = init(&[track(1, 1000, Format::Video(video(codec, &config)))]).unwrap();
        assert_eq!(payload(&header, kind), config, "{codec:?}");
    }
    for (codec, kind) in [(AudioCodec::Opus, b"dOps"), (AudioCodec::Ac3, b"dac3"), (AudioCodec::Eac3, b"dec3")] {
        let header = init(&[track(1, 1000, Format::Audio(audio(codec, &[9, 8, 7, 6])))]).unwrap();
        assert_eq!(payload(&header, kind), [9, 8, 7, 6], "{codec:?}");
    }
}

/// What the only box of this kind holds.
pub(super) fn payload(bytes: &[u8], kind: &[u8; 4]) -> Vec<u8> {
    let at = bytes.windows(4).position(|w| w == kind).unwrap();
    let size = u32::from_be_bytes(bytes[at - 4..at].try_into().unwrap()) as usize;
    bytes[at + 4..at - 4 + size].to_vec()
}

#[test]
fn shape_colour_and_rotation_are_carried() {
    let mut v = video(VideoCodec::H264, AVCC);
    v.sample_aspect = (2, 1);
    v.rotation = 90;
    v.colour = Colour { primaries: 9, transfer: 16, matrix: 9, full_range: true };
    let mastering =
        Mastering { primaries: [(1, 2), (3, 4), (5, 6)], white: (7, 8), brightest: 0x0102_0304, darkest: 9 };
    v.hdr = Hdr { mastering: Some(mastering), light: Some((1000, 400)) };
    let tracks = [track(1, 90_000, Format::Video(v))];
    let header = init(&tracks).unwrap();
    assert_eq!(payload(&header, b"pasp"), [0, 0, 0, 2, 0, 0, 0, 1]);
    assert_eq!(payload(&header, b"colr"), [&b"nclx"[..], &[0, 9, 0, 16, 0, 9, 0x80]].concat());
    assert_eq!(payload(&header, b"mdcv"), [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 1, 2, 3, 4, 0, 0, 0, 9]);
    assert_eq!(payload(&header, b"clli"), [3, 0xe8, 1, 0x90]);
    let moov = moov(&tracks);
    let tkhd = &moov.trak[0].tkhd;
    assert_eq!((tkhd.width.integer(), tkhd.height.integer()), (320, 90));
    assert_eq!((tkhd.matrix.a, tkhd.matrix.b, tkhd.matrix.c, tkhd.matrix.d), (0, 0x1_0000, -0x1_0000, 0));
}

#[test]
fn languages_without_three_letters_are_extended_ones() {
    let language = |tag: &str| {
        let mut track = aac();
        track.language = Some(tag.into());
        let header = init(&[track]).unwrap();
        let extended = header.windows(4).any(|w| w == b"elng").then(|| payload(&header, b"elng"));
        let packed = u16::from_be_bytes(payload(&header, b"mdhd")[20..22].try_into().unwrap());
        let code: String = [10, 5, 0].map(|shift| char::from((packed >> shift & 0x1f) as u8 + 0x60)).iter().collect();
        (code, extended)
    };
    assert_eq!(language("eng"), ("eng".into(), None));
    assert_eq!(language("en-US"), ("und".into(), Some(b"\0\0\0\0en-US\0".to_vec())));
    assert_eq!(language("gsw-CH"), ("gsw".into(), Some(b"\0\0\0\0gsw-CH\0".to_vec())));
    assert_eq!(language("a\0b"), ("und".into(), None));
}

#[test]
fn a_track_that_can_not_be_written_is_refused_by_name() {
    let wide = |width, aspect| {
        let mut v = video(VideoCodec::H264, AVCC);
        (v.width, v.sample_aspect) = (width, aspect);
        init(&[track(1, 1, Format::Video(v))])
    };
    assert!(matches!(wide(65_536, (1, 1)), Err(Error::OverLimit(_))));
    assert!(matches!(wide(1920, (u32::MAX, 1)), Err(Error::OverLimit(_))));
    assert!(matches!(init(&[h264(), h264()]), Err(Error::BadMedia(_))));
    assert!(matches!(init(&[track(0, 1, aac().format)]), Err(Error::BadMedia(_))));
    let empty = Format::Video(video(VideoCodec::H264, &[]));
    assert!(matches!(init(&[track(1, 1, empty)]), Err(Error::BadMedia(_))));
    let text = Format::Other { kind: "text".into(), codec: "wvtt".into() };
    assert!(!holds(&text));
    assert_eq!(init(&[track(1, 1, text)]), Err(Error::UnsupportedCodec("wvtt".into())));
}

#[test]
fn decode_times_follow_from_presentation_times() {
    let track = h264();
    // I P B B, VFR: presented at 100, 400, 200, 250.
    let samples =
        [sample(100, true, b"i"), sample(400, false, b"pp"), sample(200, false, b"b"), sample(250, false, b"bbb")];
    let bytes = segment(7, &[Part { track: &track, samples: &samples, end: Ticks(450) }]).unwrap();
    let moof = boxes(&bytes).into_iter().find_map(|b| if let Any::Moof(m) = b { Some(m) } else { None }).unwrap();
    assert_eq!(moof.mfhd.sequence_number, 7);
    let (number, tfdt, read) = fragments(&bytes).remove(0);
    assert_eq!((number, tfdt), (1, 100));
    let times: Vec<_> = read.iter().map(|s| (s.dts, s.pts, s.duration, s.sync)).collect();
    assert_eq!(times, [(100, 100, 50, true), (150, 400, 50, false), (200, 200, 50, false), (250, 250, 200, false)]);
    assert_eq!(read.iter().map(|s| &s.data[..]).collect::<Vec<_>>(), [&b"i"[..], b"pp", b"b", b"bbb"]);
}

#[test]
fn what_is_the_same_for_all_samples_is_said_once() {
    let (picture, sound) = (h264(), aac());
    let pictures = [sample(0, true, b"ii"), sample(3600, false, b"p"), sample(7200, false, b"p")];
    let sounds: Vec<_> = (0..94).map(|i| sample(i * 1024, true, b"aaaa")).collect();
    let bytes = segment(
        1,
        &[
            Part { track: &picture, samples: &pictures, end: Ticks(10_800) },
            Part { track: &sound, samples: &sounds, end: Ticks(94 * 1024) },
        ],
    )
    .unwrap();
    // styp 24, moof and mfhd 24, two traf of 8 with tfdt 20; tfhd with duration and flags, trun with first flags and sizes;
    // tfhd with all three, trun with nothing; mdat.
    let picture_traf = 8 + 20 + (16 + 8) + (16 + 8 + 3 * 4);
    let sound_traf = 8 + 20 + (16 + 12) + (16 + 4);
    assert_eq!(bytes.len(), 24 + 24 + picture_traf + sound_traf + 8 + 4 + 94 * 4);
    let read = fragments(&bytes);
    assert_eq!(read[0].2.iter().map(|s| s.sync).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(read[1].2.len(), 94);
    assert!(read[1].2.iter().all(|s| s.sync && s.duration == 1024 && &s.data[..] == b"aaaa"));
}

#[test]
fn a_track_without_samples_is_left_out() {
    let (picture, sound) = (h264(), aac());
    let samples = [sample(0, true, b"i")];
    let parts = [
        Part { track: &sound, samples: &[], end: Ticks(0) },
        Part { track: &picture, samples: &samples, end: Ticks(1) },
    ];
    let read = fragments(&segment(1, &parts).unwrap());
    assert_eq!(read.iter().map(|r| r.0).collect::<Vec<_>>(), [1]);
}

#[test]
fn times_that_can_not_be_written_are_refused() {
    let track = h264();
    let write = |times: &[i64], end| {
        let samples: Vec<_> = times.iter().map(|t| sample(*t, true, b"x")).collect();
        segment(1, &[Part { track: &track, samples: &samples, end: Ticks(end) }])
    };
    assert_eq!(write(&[5, 9, 5], 20), Err(Error::bad("two pictures at one time, 5")));
    assert!(matches!(write(&[-1, 3], 20), Err(Error::BadMedia(_))));
    assert!(matches!(write(&[0, 20], 20), Err(Error::BadMedia(_))));
    assert!(matches!(write(&[0, 20], 3), Err(Error::BadMedia(_))));
    let longest = i64::from(u32::MAX);
    assert!(write(&[0], longest).is_ok());
    assert!(matches!(write(&[0], longest + 1), Err(Error::OverLimit(_))));
    assert!(matches!(write(&[0, i64::MAX - 1], i64::MAX), Err(Error::OverLimit(_))));
    // Offsets: 2³¹ ticks ahead of its decode time.
    let far = 1_i64 << 31;
    assert!(write(&[far - 1, 0], far).is_ok());
    assert!(matches!(write(&[far, 0], far + 1), Err(Error::OverLimit(_))));
    assert!(write(&[i64::MAX - 1], i64::MAX).is_ok());
}

#[test]
fn the_mime_type_tells_the_codecs() {
    assert_eq!(mime(&[h264(), aac()]), "video/mp4; codecs=\"avc1.64001f,mp4a.40.2\"");
    assert_eq!(mime(&[aac()]), "audio/mp4; codecs=\"mp4a.40.2\"");
}

proptest! {
    /// Whatever the order and the gaps: each sample keeps its PTS and its bytes, and each segment's decode times end
    /// where the next one's begin.
    #[test]
    fn segments_join_exactly(
        start in 0..1_i64 << 40,
        segments in prop::collection::vec(
            prop::collection::vec((1..100_000_i64, any::<u32>(), any::<bool>(), 0..5_usize), 1..30),
            1..6,
        ),
    ) {
        let track = h264();
        let mut time = start;
        let mut joined = None;
        for (i, spec) in segments.iter().enumerate() {
            let mut samples: Vec<(u32, Sample)> = Vec::new();
            for (gap, order, sync, size) in spec {
                let data = Bytes::from(vec![*order as u8; *size]);
                samples.push((*order, Sample { pts: Ticks(time), sync: *sync, data }));
                time += gap;
            }
            samples.sort_by_key(|(order, _)| *order);
            let samples: Vec<Sample> = samples.into_iter().map(|(_, s)| s).collect();
            let bytes =
                segment(i as u32 + 1, &[Part { track: &track, samples: &samples, end: Ticks(time) }]).unwrap();
            let (_, tfdt, read) = fragments(&bytes).remove(0);
            prop_assert!(joined.is_none_or(|end| end == tfdt));
            prop_assert_eq!(Some(tfdt as i64), samples.iter().map(|s| s.pts.0).min());
            prop_assert!(read.iter().all(|s| s.duration > 0));
            if samples.iter().min_by_key(|s| s.pts) == samples.first() && spec.iter().all(|s| s.0 > 30) {
                prop_assert!(read.iter().all(|s| s.dts <= s.pts));
            }
            joined = Some(tfdt + read.iter().map(|s| u64::from(s.duration)).sum::<u64>());
            let got: Vec<_> = read.into_iter().map(|s| Sample { pts: Ticks(s.pts), sync: s.sync, data: s.data }).collect();
            prop_assert_eq!(got, samples);
        }
        prop_assert_eq!(joined, Some(time as u64));
    }

    /// Any times at all: written, or refused; never a panic, never a wrapped number.
    #[test]
    fn any_times_are_written_exactly_or_refused(times in prop::collection::vec(any::<i64>(), 1..8), end in any::<i64>()) {
        let track = h264();
        let samples: Vec<_> = times.iter().map(|t| sample(*t, true, b"x")).collect();
        if let Ok(bytes) = segment(1, &[Part { track: &track, samples: &samples, end: Ticks(end) }]) {
            let (_, _, read) = fragments(&bytes).remove(0);
            prop_assert_eq!(read.iter().map(|s| s.pts).collect::<Vec<_>>(), times);
        }
    }
}
