//! Pictures of other kinds through the real binary: at another rate, turned, of fields, of high dynamic range.

use crate::support::client::{self, Session};
use crate::support::media::{self, Clip, Fraction, Picture, Shape};
use crate::support::service::Service;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

fn stream(service: &Service, clip: &Clip, outputs: Value) -> Session {
    stream_bytes(service, clip.bytes(), outputs)
}

fn stream_bytes(service: &Service, bytes: Vec<u8>, outputs: Value) -> Session {
    let start = json!({"segment_ms": 500, "outputs": outputs});
    let session = Runtime::new().expect("a runtime").block_on(client::stream(service.listen, start, bytes, 20_000));
    assert_eq!(session.errors, Vec::<Value>::new());
    assert_eq!(session.close_code(), 1000, "{:?}", session.close);
    assert!(session.receipts.len() > 1, "one segment joins nothing");
    session
}

fn integer(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is an integer"))
}

/// Of all receipts, added up.
fn total(session: &Session, field: &str, output: &str) -> i64 {
    session.receipts.iter().map(|receipt| receipt[field].get(output).map_or(0, integer)).sum()
}

/// Each segment starts where the one before it ends.
fn contiguous(session: &Session, output: &str) {
    let headers: Vec<&Value> = session.outputs[output].segments.iter().map(|segment| &segment.0).collect();
    for pair in headers.windows(2) {
        assert_eq!(integer(&pair[0]["start"]) + integer(&pair[0]["duration"]), integer(&pair[1]["start"]), "{output}");
    }
}

#[test]
fn a_frame_rate_shows_at_each_of_its_times_the_nearest_picture() {
    let service = Service::start(&["--workers", "2"]);
    let rates =
        [("half", json!(15), (15, 1)), ("up", json!(50), (50, 1)), ("ntsc", json!("24000/1001"), (24_000, 1001))];
    let clips = [
        Clip { audio: None, gop: 15, b_frames: 2, ..Clip::default() },
        Clip { audio: None, gop: 15, shape: Shape::Webm, video: Some(Picture::Vp8), ..Clip::default() },
    ];
    for clip in clips {
        let output = |(name, fps, _): &(&str, Value, (i64, i64))| json!({"name": name, "video": {"codec": "h264", "height": 180, "preset": "ultrafast", "fps": fps}});
        let plain = json!({"name": "plain", "video": {"codec": "h264", "preset": "ultrafast"}});
        let outputs: Vec<Value> = rates.iter().map(output).chain([plain]).collect();
        let session = stream(&service, &clip, json!(outputs));
        let source = media::decode_barcodes(&session.outputs["plain"].whole());
        assert_eq!(source.len(), 60);
        let end =
            session.receipts.iter().map(|receipt| integer(&receipt["start_ms"]) + integer(&receipt["duration_ms"]));
        let end = end.max().expect("there are receipts");
        for (name, _, (frames, seconds)) in &rates {
            let shown = media::decode_barcodes(&session.outputs[*name].whole());
            let first = source[0].0;
            let at = |n: i64| Fraction::new(n * seconds, *frames);
            let start = (0..).find(|&n| at(n) >= first).expect("the grid has no end");
            for (n, (time, number)) in (start..).zip(&shown) {
                assert_eq!(*time, at(n), "{name}");
                let off =
                    |other: Fraction| (other.num * time.den - time.num * other.den).abs() as f64 / other.den as f64;
                let nearest = source.iter().map(|&(other, _)| off(other)).fold(f64::MAX, f64::min);
                let first_nearest =
                    source.iter().find(|&&(other, _)| off(other) <= nearest + 1e-9).expect("there is one");
                assert_eq!(*number, first_nearest.1, "{name} at {time:?}");
            }
            let last = at(start + shown.len() as i64 - 1).seconds() * 1000.0;
            assert!(
                (last - end as f64).abs() <= 1000.0 / *frames as f64 * *seconds as f64 + 1.0,
                "{name} ends at {last}"
            );
            contiguous(&session, name);
            let (dropped, repeated) =
                (total(&session, "frames_dropped", name), total(&session, "frames_repeated", name));
            assert_eq!(60 - dropped + repeated, shown.len() as i64, "{name}");
            assert_eq!(total(&session, "frames_out", name), shown.len() as i64, "{name}");
        }
        assert!(session.receipts.iter().all(|receipt| receipt["frames_dropped"].get("plain").is_none()));
    }
}

/// A quarter clockwise, in the track header of an MP4 (ISO/IEC 14496-12 8.3.2).
fn turn(mp4: &mut [u8]) {
    const MATRIX: usize = 4 + 40;
    let at = mp4.windows(4).position(|name| name == b"tkhd").expect("a track header") + MATRIX;
    let matrix = [0, 0x1_0000, 0, -0x1_0000, 0, 0, 180 << 16, 0, 0x4000_0000i32];
    mp4[at..at + 36].copy_from_slice(&matrix.map(i32::to_be_bytes).concat());
}

#[test]
fn turned_sources_are_made_upright_and_copied_with_their_turn() {
    let service = Service::start(&["--workers", "1"]);
    let clip =
        Clip { audio: None, gop: 15, shape: Shape::FaststartMp4, more: "-metadata:s:v:0 rotate=90", ..Clip::default() };
    let mut bytes = clip.bytes();
    turn(&mut bytes);
    let session = stream_bytes(
        &service,
        bytes,
        json!([{"name": "made", "video": {"codec": "h264", "width": 90, "preset": "ultrafast"}},
               {"name": "copied", "video": {"codec": "copy"}}]),
    );
    let outputs = &session.tracks[0]["outputs"];
    assert_eq!((integer(&outputs[0]["video"]["width"]), integer(&outputs[0]["video"]["height"])), (90, 160));
    let folder = tempfile::tempdir().expect("a folder");
    let shape = |name: &str| {
        let path = session.outputs[name].save(folder.path(), name);
        media::probe(
            &path,
            &["-select_streams", "v:0", "-show_entries", "stream=width,height:stream_side_data=rotation"],
        )
    };
    assert_eq!(shape("made"), [["90", "160"]]);
    assert_eq!(shape("copied").concat(), ["320", "180", "-90"]);
}

#[test]
fn each_field_is_a_picture_half_way_between_frames() {
    let service = Service::start(&["--workers", "1"]);
    let clip =
        Clip { audio: None, gop: 15, more: "-flags +ilme+ildct -x264-params tff=1:open-gop=0", ..Clip::default() };
    let session = stream(
        &service,
        &clip,
        json!([{"name": "fields", "video": {"codec": "h264", "preset": "ultrafast", "deinterlace": "field"}},
               {"name": "frames", "video": {"codec": "h264", "preset": "ultrafast"}}]),
    );
    let fields = media::decode_barcodes(&session.outputs["fields"].whole());
    let start = fields[0].0;
    let offset = |time: Fraction| Fraction::new(time.num * start.den - start.num * time.den, time.den * start.den);
    for (n, (time, number)) in fields.iter().enumerate() {
        assert_eq!((offset(*time), usize::from(*number)), (Fraction::new(n as i64, 60), n / 2));
    }
    assert_eq!(fields.len(), 120);
    let frames = media::decode_barcodes(&session.outputs["frames"].whole());
    assert_eq!(frames.iter().map(|&(_, number)| number).collect::<Vec<_>>(), (0..60).collect::<Vec<_>>());
    contiguous(&session, "fields");
    assert_eq!((total(&session, "frames_out", "fields"), total(&session, "frames_out", "frames")), (120, 60));
}

#[test]
fn high_dynamic_range_is_carried_to_h265_and_vp9_and_brought_down_for_h264() {
    let service = Service::start(&["--workers", "2"]);
    for shape in [Shape::FragmentedMp4, Shape::Ts] {
        let clip = Clip {
            shape,
            video: Some(Picture::H265),
            audio: None,
            gop: 15,
            more: "-pix_fmt yuv420p10le -color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc -x265-params \
                   log-level=none:keyint=15:min-keyint=15:scenecut=0:bframes=0:open-gop=0:max-cll=1000,400:\
                   master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)",
            ..Clip::default()
        };
        let made = |name: &str| json!({"name": name, "video": {"codec": name, "preset": "ultrafast"}});
        let session = stream(&service, &clip, json!([made("h265"), made("vp9"), made("h264")]));
        let folder = tempfile::tempdir().expect("a folder");
        let told = |name: &str| {
            let path = session.outputs[name].save(folder.path(), name);
            let entries = "stream=pix_fmt,color_space,color_transfer,color_primaries:\
                           stream_side_data=max_content,max_average";
            media::probe(&path, &["-select_streams", "v:0", "-show_entries", entries]).concat()
        };
        let hdr = ["yuv420p10le", "bt2020nc", "smpte2084", "bt2020", "1000", "400"];
        assert_eq!(told("h265"), hdr, "{shape:?}");
        assert_eq!(told("vp9"), hdr, "{shape:?}");
        assert_eq!(told("h264"), ["yuv420p", "bt709", "bt709", "bt709"], "{shape:?}");
        for name in ["h265", "vp9", "h264"] {
            let init = &session.outputs[name].inits[0].1;
            let has = |kind: &[u8]| init.windows(4).any(|bytes| bytes == kind);
            assert_eq!((has(b"mdcv"), has(b"clli")), (name != "h264", name != "h264"), "{name}");
            assert_eq!(session.outputs[name].inits.len(), 1, "{name}");
            let pictures = media::decode_barcodes(&session.outputs[name].whole());
            assert_eq!(pictures.iter().map(|&(_, number)| number).collect::<Vec<_>>(), (0..60).collect::<Vec<_>>());
        }
    }
}
