//! What rides along with pictures and sound through the real binary: captions in every rendition that can carry them,
//! splice messages, tags and metadata as events and in what is copied. Read back with ffmpeg and by hand.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::support::client::{self, Session};
use crate::support::data::{self, Stream};
use crate::support::media::{Clip, Picture, Shape, ffmpeg, probe};
use crate::support::service::Service;
use crate::support::verify;
use bytes::Bytes;
use segmill::media::demux::{self, Demuxer, Event};
use segmill::media::mux::{OutTrack, Part, Sample, cmaf, ts};
use segmill::media::{self, AccessUnit, Sync, Ticks, Track, VideoCodec};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CUEI: &[u8] = b"\x05\x04CUEI";
const ID3: &[u8] = b"\x26\x0d\xff\xffID3 \xffID3 \x00\x0f";
const KLVA: &[u8] = b"\x05\x04KLVA";
const KLV: &[u8] = b"\x06\x0e\x2b\x34\x02\x0b\x01\x01\x0e\x01\x03\x01\x01\0\0\0\x02\x01\x02";

fn stream(service: &Service, start: Value, media: Vec<u8>, chunk: usize) -> Session {
    Runtime::new().expect("a runtime").block_on(client::stream(service.listen, start, media, chunk))
}

fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.path().join(name);
    std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes)).expect("the folder can be written");
    path
}

/// The captions of a file as ffmpeg decodes them, with their times.
fn subtitles(path: &Path) -> String {
    let movie = format!("movie={}[out+subcc]", path.display());
    let arguments = ["-v", "error", "-f", "lavfi", "-i", &movie, "-map", "0:s", "-f", "srt", "-"];
    let output = Command::new("ffmpeg").args(arguments).output().expect("ffmpeg is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The pictures of a clip and their track, by our own reader: what is made of them is read back by another.
fn pictures(clip: &Clip) -> (Track, Vec<AccessUnit>) {
    struct NoSpool;
    impl demux::Spool for NoSpool {
        fn append(&mut self, _: &[u8]) -> Result<(), media::Error> {
            Err(media::Error::ScratchFull("none".into()))
        }
        fn read(&mut self, _: u64, _: usize) -> Result<Bytes, media::Error> {
            Err(media::Error::ScratchFull("none".into()))
        }
    }
    let mut demuxer = Demuxer::new(None, demux::Limits::default(), Box::new(NoSpool));
    demuxer.push(clip.bytes().into()).expect("a clip is media");
    demuxer.finish();
    let (mut track, mut units) = (None, Vec::new());
    while let Some(event) = demuxer.poll().expect("a clip is media") {
        match event {
            Event::Tracks { tracks, .. } => track = tracks.into_iter().next(),
            Event::Unit(unit) => units.push(unit),
            Event::Data(_) => {}
        }
    }
    (track.expect("a clip has pictures"), units)
}

/// A picture with `cc_data`, which stands before its first slice: an SEI NAL unit, or user data.
fn with_captions(codec: VideoCodec, picture: &[u8], pair: [u8; 2]) -> Vec<u8> {
    let payload = data::cc_data(pair);
    if codec == VideoCodec::Mpeg2 {
        let slice = picture.windows(4).position(|four| matches!(four, [0, 0, 1, 1])).expect("a picture has a slice");
        return [&picture[..slice], b"\0\0\x01\xb2", &payload, &picture[slice..]].concat();
    }
    let mut sei = vec![6, 4, payload.len() as u8 + 3, 0xb5, 0, 0x31];
    sei.extend(payload);
    sei.push(0x80);
    let mut made = Vec::new();
    let (mut rest, mut pending) = (picture, Some(sei));
    while let [a, b, c, d, after @ ..] = rest {
        let (nal, after) = after.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        if let Some(sei) = pending.take_if(|_| matches!(nal[0] & 0x1f, 1 | 5)) {
            made.extend((sei.len() as u32).to_be_bytes());
            made.extend(sei);
        }
        made.extend(&rest[..4 + nal.len()]);
        rest = after;
    }
    made
}

/// A clip with captions, one pair for each picture in the order in which they are shown.
fn captioned(clip: &Clip, lines: &[&str]) -> Vec<u8> {
    let (track, units) = pictures(clip);
    let media::Format::Video(video) = &track.format else { panic!("the first track is video") };
    let pairs = data::captions(lines);
    let mut shown: Vec<Ticks> = units.iter().map(|unit| unit.pts).collect();
    shown.sort_unstable();
    assert!(pairs.len() <= shown.len(), "{} pairs", pairs.len());
    let sample = |unit: &AccessUnit| {
        let place = shown.iter().position(|pts| *pts == unit.pts).expect("it is one of them");
        let pair = pairs.get(place).copied().unwrap_or([0x80, 0x80]);
        let data = with_captions(video.codec, &unit.data, pair).into();
        Sample { pts: unit.pts, sync: unit.sync != Sync::No, data }
    };
    let samples: Vec<Sample> = units.iter().map(sample).collect();
    let frame = shown[1] - shown[0];
    let end = shown[shown.len() - 1] + frame;
    let out = OutTrack { number: 1, timescale: track.timescale, language: None, format: track.format.clone() };
    let part = [Part { track: &out, samples: &samples, end }];
    match clip.shape {
        Shape::Ts => {
            ts::Writer::new(vec![out.clone()]).and_then(|mut writer| writer.segment(&part)).expect("held").into()
        }
        _ => {
            let init = cmaf::init(std::slice::from_ref(&out)).expect("it can be held");
            [init, cmaf::segment(1, &part).expect("it can be held")].concat()
        }
    }
}

#[test]
fn captions_read_the_same_in_every_rendition_that_can_carry_them() {
    let service = Service::start(&["--workers", "2"]);
    let clip = Clip { frames: 150, audio: None, gop: 25, b_frames: 3, rate: (25, 1), ..Clip::default() };
    let sources = [
        Clip { shape: Shape::FragmentedMp4, ..clip.clone() },
        Clip { shape: Shape::Ts, video: Some(Picture::Mpeg2), more: "-flags +cgop", ..clip },
    ];
    let outputs = ["h264@90", "ts:h264", "h265@90", "ts:h265", "av1@90", "copy", "ts:copy", "vp9@90"];
    let folder = TempDir::new().expect("a folder");
    for clip in sources {
        let input = captioned(&clip, &["EXACTLY ONCE", "AT ITS OWN TIME", "THE LAST LINE"]);
        let expect = subtitles(&file(&folder, "input", &input));
        for line in ["EXACTLY ONCE", "AT ITS OWN TIME", "THE LAST LINE"] {
            assert_eq!(expect.matches(line).count(), 1, "{expect}");
        }
        let start = json!({"segment_ms": 1000, "outputs": verify::outputs(&outputs)});
        let session = stream(&service, start, input, 20_000);
        assert_eq!(session.close_code(), 1000, "{:?}", session.errors);
        assert_eq!(session.receipts.len(), 6);
        for (n, output) in outputs.iter().enumerate().take(7) {
            let path = session.outputs[&verify::name(n)].save(folder.path(), &verify::name(n));
            assert_eq!(subtitles(&path), expect, "{:?} to {output}", clip.video);
        }
        let degraded: Vec<&Value> = session.receipts.iter().flat_map(|it| it["degraded"].as_array().unwrap()).collect();
        let refused =
            json!({"output": "o7", "what": "captions", "why": "codec", "detail": "vp9 carries no closed captions"});
        assert_eq!(degraded, [&refused], "said once");
        assert_eq!(session.receipts[0]["outcome"], "degraded");
        assert_eq!(session.done.as_ref().expect("it is done")["degraded"], 1);
    }
}

/// 90 pictures, a sync sample every 15; the first one's time stamp.
fn clip() -> (Clip, u64) {
    let clip = Clip { shape: Shape::Ts, frames: 90, gop: 15, ..Clip::default() };
    let times = probe(&clip.path(), &["-select_streams", "v:0", "-show_entries", "packet=pts"]);
    let first = times[0][0].parse().expect("a time stamp");
    (clip, first)
}

/// Of the picture with this number.
fn at(first: u64, picture: u64) -> u64 {
    first + picture * 3000
}

/// The clip with a splice at picture 40, announced twice, a tag at picture 20 and metadata at picture 70.
fn laden() -> (Vec<u8>, u64) {
    let (clip, first) = clip();
    let splice = || data::splice_insert(7, at(first, 40), 900_000);
    let streams = [
        Stream { pid: 0x500, stream_type: 0x86, descriptors: b"", units: vec![(5, splice()), (10, splice())] },
        Stream {
            pid: 0x501,
            stream_type: 0x15,
            descriptors: ID3,
            units: vec![(18, data::pes(at(first, 20), &data::id3(&"long ".repeat(20))))],
        },
        Stream { pid: 0x502, stream_type: 0x06, descriptors: KLVA, units: vec![(70, data::pes(at(first, 70), KLV))] },
    ];
    (data::with_streams(&clip.bytes(), CUEI, &streams), first)
}

const OUTPUTS: [&str; 3] = ["copy+copy", "ts:copy+copy", "h264@90"];

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let four = |three: &[u8]| {
        let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        let letter = |n: usize| match n <= three.len() {
            true => char::from(LETTERS[(word >> (18 - 6 * n) & 0x3f) as usize]),
            false => '=',
        };
        (0..4).map(letter).collect::<String>()
    };
    bytes.chunks(3).map(four).collect()
}

#[test]
fn splices_tags_and_metadata_are_told_with_their_segment_and_a_splice_cuts() {
    let service = Service::start(&["--workers", "1"]);
    let (input, first) = laden();
    let start = |cut_on: Value| json!({"segment_ms": 1000, "cut_on": cut_on, "outputs": verify::outputs(&OUTPUTS)});
    let session = stream(&service, start(json!(["scte35"])), input.clone(), 20_000);
    assert_eq!(session.close_code(), 1000, "{:?}", session.errors);
    let kinds: Vec<(&Value, &Value, &Value)> = session.tracks[0]["tracks"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|track| (&track["kind"], &track["codec"], &track["used"]))
        .collect();
    let (kind, used) = (json!("data"), json!(true));
    let named = [json!("scte35"), json!("id3"), json!("klv")];
    assert_eq!(kinds[2..], [(&kind, &named[0], &used), (&kind, &named[1], &used), (&kind, &named[2], &used)]);

    // A segment of 30 pictures, then the cut: 45 is the first sync sample at or after 40.
    let starts: Vec<i64> = session.outputs["o0"].segments.iter().map(|(it, _)| it["start"].as_i64().unwrap()).collect();
    let expect = [0, 30, 45, 75].map(|picture| at(first, picture) as i64);
    assert_eq!(starts, expect);

    let splice = data::splice_insert(7, at(first, 40), 900_000);
    let event = |seq: u64, kind: &str, track: u64, picture: u64, bytes: &[u8]| {
        let start = at(first, picture);
        let time_ms = (start + 45) / 90;
        json!({"type": "event", "seq": seq, "kind": kind, "track": track, "time_ms": time_ms, "start": start,
            "timescale": 90_000, "data": base64(bytes)})
    };
    let mut told = event(1, "scte35", 0x500, 40, &splice);
    told["duration"] = json!(900_000);
    told["splice"] = json!({"command": "splice_insert", "event_id": 7, "cancel": false, "immediate": false,
        "out_of_network": true, "splice_time": at(first, 40), "duration_ms": 10_000});
    let tag = event(1, "id3", 0x501, 20, &data::id3(&"long ".repeat(20)));
    let metadata = event(3, "klv", 0x502, 70, KLV);
    assert_eq!(session.events, [told.clone(), told, tag, metadata]);

    let uncut = stream(&service, start(json!([])), input.clone(), 20_000);
    let starts: Vec<i64> = uncut.outputs["o0"].segments.iter().map(|(it, _)| it["start"].as_i64().unwrap()).collect();
    assert_eq!(starts, [0, 30, 60].map(|picture| at(first, picture) as i64));
    for chunk in [1, 187, 5000] {
        let other = stream(&service, start(json!(["scte35"])), input.clone(), chunk);
        assert_eq!(other.events, session.events, "in chunks of {chunk}");
    }
    let refused = stream(&service, start(json!(["klv"])), input, 20_000);
    assert_eq!((refused.close_code(), refused.error_codes()), (4400, vec!["bad_message"]));
}

#[test]
fn what_is_copied_carries_what_rides_along() {
    let service = Service::start(&["--workers", "1"]);
    let (input, first) = laden();
    let folder = TempDir::new().expect("a folder");
    let session = stream(&service, json!({"segment_ms": 1000, "outputs": verify::outputs(&OUTPUTS)}), input, 20_000);
    assert_eq!(session.close_code(), 1000, "{:?}", session.errors);

    let ts = session.outputs["o1"].save(folder.path(), "copy.ts");
    let streams = probe(&ts, &["-select_streams", "d", "-show_entries", "stream=codec_name"]);
    // ffprobe lists them once by programme and once more.
    assert_eq!(streams[..3].concat(), ["scte_35", "timed_id3", "klv"]);
    let splice = data::splice_insert(7, at(first, 40), 900_000);
    let of = |n: usize| ffmpeg(&ts, &format!("-i IN -map 0:d:{n} -c copy -f data -"));
    assert_eq!(of(0), [splice.clone(), splice.clone()].concat());
    assert_eq!(of(2), KLV);
    // ffmpeg 5 takes the head of a tag for that of a metadata cell.
    let copied = std::fs::read(&ts).expect("it was just written");
    assert_eq!(data::pes_payloads(&copied, 0x1f1), [data::id3(&"long ".repeat(20))]);
    let packets = probe(&ts, &["-select_streams", "d:1", "-show_entries", "packet=pts"]);
    assert_eq!(packets[0][0], at(first, 20).to_string());
    let packets = probe(&ts, &["-select_streams", "d:2", "-show_entries", "packet=pts"]);
    assert_eq!(packets[0][0], at(first, 70).to_string());

    let whole = session.outputs["o0"].whole();
    let of_events = |(kind, body): &([u8; 4], &[u8])| (kind == b"emsg").then(|| body.to_vec());
    let events: Vec<Vec<u8>> = data::boxes(&whole).iter().filter_map(of_events).collect();
    let emsg = |scheme: &str, picture: u64, duration: u32, message: &[u8]| {
        let times = [&[0; 4], &(at(first, picture) as u32).to_be_bytes()[..], &duration.to_be_bytes()].concat();
        let head = [&[1, 0, 0, 0], &90_000u32.to_be_bytes()[..], &times].concat();
        (head, [scheme.as_bytes(), b"\0\0", message].concat())
    };
    let splice = emsg("urn:scte:scte35:2013:bin", 40, 900_000, &splice);
    let tag = emsg("https://aomedia.org/emsg/ID3", 20, u32::MAX, &data::id3(&"long ".repeat(20)));
    let metadata = emsg("urn:misb:KLV:bin:1910.1", 70, u32::MAX, KLV);
    // Between them is the id.
    let read: Vec<(Vec<u8>, Vec<u8>)> = events.iter().map(|it| (it[..20].to_vec(), it[24..].to_vec())).collect();
    assert_eq!(read, [splice.clone(), splice, tag, metadata]);
    let mut ids: Vec<&[u8]> = events.iter().map(|it| &it[20..24]).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "each its own");
    let order: Vec<[u8; 4]> = data::boxes(&session.outputs["o0"].segments[0].1).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(order, [*b"styp", *b"emsg", *b"emsg", *b"emsg", *b"moof", *b"mdat"]);

    let made = session.outputs["o2"].whole();
    assert!(data::boxes(&made).iter().all(|(kind, _)| kind != b"emsg"), "what is made carries none");
}

#[test]
fn event_message_boxes_are_told_and_carried_on_also_into_transport_streams() {
    let service = Service::start(&["--workers", "1"]);
    let clip = Clip { frames: 90, gop: 15, audio: None, ..Clip::default() };
    // Fragments of half a second. The splice message holds a time of its own, and the box has the word.
    let splice = data::splice_insert(9, 5, 90_000);
    let boxes = [
        data::emsg(1, "urn:scte:scte35:2013:bin", (1000, 1500), 1, &splice),
        data::emsg(0, "https://aomedia.org/emsg/ID3", (1000, 250), 2, &data::id3("tag")),
        data::emsg(0, "urn:example:2020", (48_000, 24_000), 3, b"message"),
    ];
    let mut broken = data::emsg(1, "urn:scte:scte35:2013:bin", (1000, 1), 4, &splice);
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let boxes = [&[broken], &boxes[..]].concat();
    let input = data::before_fragment(&clip.bytes(), 1, &boxes);
    let outputs = verify::outputs(&["copy", "ts:copy"]);
    let start = json!({"segment_ms": 1000, "cut_on": ["scte35"], "outputs": outputs});
    let session = stream(&service, start, input, 20_000);
    assert_eq!(session.close_code(), 1000, "{:?}", session.errors);
    let told: Vec<Value> =
        session.events.iter().map(|it| json!([it["seq"], it["kind"], it["time_ms"], it["scheme"], it["id"]])).collect();
    let expect = [
        json!([1, "scte35", 1500, "urn:scte:scte35:2013:bin", 1]),
        json!([1, "id3", 750, "https://aomedia.org/emsg/ID3", 2]),
        json!([1, "emsg", 1000, "urn:example:2020", 3]),
    ];
    assert_eq!(told, expect, "version 0 counts from the fragment's start at 500 ms");
    assert_eq!(session.events[0]["dropped"], 1, "the one with a wrong checksum");
    assert_eq!(session.events[2]["data"], base64(b"message"));
    let starts: Vec<&Value> = session.receipts.iter().map(|receipt| &receipt["start_ms"]).collect();
    assert_eq!(starts, [0, 1000, 1500, 2500]);

    let whole = session.outputs["o0"].whole();
    let schemes = data::boxes(&whole).into_iter().filter(|(kind, _)| kind == b"emsg").count();
    assert_eq!(schemes, 3);
    let folder = TempDir::new().expect("a folder");
    let ts = session.outputs["o1"].save(folder.path(), "copy.ts");
    // A programme that begins at 0 is a second later in a transport stream.
    let section = ffmpeg(&ts, "-i IN -map 0:d:0 -c copy -f data -");
    assert_eq!(data::splice_time(&section), 90_000 + 135_000);
    let tags = probe(&ts, &["-select_streams", "d:1", "-show_entries", "packet=pts"]);
    assert_eq!(tags[0][0], (90_000 + 67_500).to_string());
}
