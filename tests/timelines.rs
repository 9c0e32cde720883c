//! Open GOPs, clocks that jump, and streams that begin in the middle, through the real binary.

use crate::support;
use crate::support::client::{self, Output, Session};
use crate::support::media::{self, Clip, Picture, Shape, Sound};
use crate::support::service::Service;
use crate::support::verify;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

fn stream(service: &Service, outputs: &[&str], bytes: Vec<u8>) -> Session {
    let start = json!({"segment_ms": 500, "outputs": verify::outputs(outputs)});
    let runtime = Runtime::new().expect("a runtime");
    let session = runtime.block_on(client::stream(service.listen, start, bytes, 20_000));
    assert_eq!(session.errors, Vec::<Value>::new());
    session
}

fn clip(shape: Shape, video: Picture) -> Clip {
    Clip { shape, video: Some(video), audio: Some(Sound::Aac), gop: 15, b_frames: 2, ..Clip::default() }
}

fn sum(session: &Session, key: &str) -> u64 {
    session.receipts.iter().filter_map(|receipt| receipt[key].as_u64()).sum()
}

/// The numbers of the pictures of these segments, in the order in which they are shown.
fn numbers(init: &[u8], segments: &[(Value, Vec<u8>)]) -> Vec<u16> {
    let media: Vec<u8> = segments.iter().flat_map(|(_, media)| media).copied().collect();
    media::decode_barcodes(&[init, &media].concat()).iter().map(|picture| picture.1).collect()
}

/// The segments of each init.
fn timelines(output: &Output) -> Vec<Vec<(Value, Vec<u8>)>> {
    let of = |id: usize| output.segments.iter().filter(|segment| segment.0["init"] == id).cloned().collect();
    (1..=output.inits.len()).map(of).collect()
}

#[test]
fn open_gops_are_cut_at_and_each_picture_is_in_one_segment_of_a_rendition_and_of_a_copy() {
    let service = Service::start(&["--workers", "2"]);
    for (shape, video) in
        [(Shape::Ts, Picture::H264), (Shape::FragmentedMp4, Picture::H265), (Shape::Ts, Picture::Mpeg2)]
    {
        let clip = Clip { open_gop: true, ..clip(shape, video) };
        let session = stream(&service, &["h264@90+aac", "copy+copy"], clip.bytes());
        assert!(session.receipts.len() > 2, "{video:?}: cut into {}", session.receipts.len());
        assert_eq!(sum(&session, "frames_in"), 60, "{video:?}");
        assert_eq!((sum(&session, "repaired"), sum(&session, "undecodable")), (0, 0), "{video:?}");
        for n in 0..2 {
            let output = &session.outputs[&verify::name(n)];
            assert_eq!(numbers(&output.inits[0].1, &output.segments), (0..60).collect::<Vec<_>>(), "{video:?} {n}");
            for pair in output.segments.windows(2) {
                let at = |key: &str, n: usize| pair[n].0[key].as_i64().expect("a number");
                assert_eq!(at("start", 0) + at("duration", 0), at("start", 1), "{video:?} {n}");
            }
        }
        let independent = |n: usize, at: usize| session.outputs[&verify::name(n)].segments[at].0["independent"] == true;
        assert!(independent(0, 1), "{video:?}: what is made can be entered anywhere");
        assert!(!independent(1, 1), "{video:?}: a copy from an open point can't");
    }
}

/// Pictures that are renewed piece by piece: one that is entered too late lacks the pieces that came before.
#[test]
fn intra_refresh_is_cut_at_and_each_picture_is_whole() {
    const PLAIN: &str = "-refs 1 -x264-params intra-refresh=1:bframes=0";
    // It says that it takes longer than from one recovery point to the next.
    const LONG: &str = "-refs 1 -x264-params intra-refresh=1:bframes=2:b-adapt=0";
    let service = Service::start(&["--workers", "2"]);
    for more in [PLAIN, LONG] {
        let clip = Clip { frames: 150, audio: None, more, ..clip(Shape::Ts, Picture::H264) };
        let whole = clip.bytes();
        let session = stream(&service, &["h264@180"], whole.clone());
        assert!(session.receipts.len() > 2, "{more}: cut into {}", session.receipts.len());
        assert_eq!((sum(&session, "frames_in"), sum(&session, "undecodable")), (150, 0), "{more}");
        assert_eq!(whole_pictures(&clip, &session), (0..150).collect::<Vec<_>>(), "{more}");

        // The tables come first, as in a stream that is tuned in to, which is never entered at an IDR picture.
        let from = whole.len() / 188 / 5 * 188;
        let session = stream(&service, &["h264@180"], [&whole[..3 * 188], &whole[from..]].concat());
        let seen = whole_pictures(&clip, &session);
        let first = 150 - seen.len() as u16;
        assert!(first < 100, "{more}: from {first} on");
        assert_eq!(seen, (first..150).collect::<Vec<_>>(), "{more}");
        assert!(sum(&session, "undecodable") >= 14, "{more}: {:?}", session.receipts);
    }
}

/// The numbers of the pictures, each of which is what was filmed.
fn whole_pictures(clip: &Clip, session: &Session) -> Vec<u16> {
    let output = &session.outputs[&verify::name(0)];
    let numbers = numbers(&output.inits[0].1, &output.segments);
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::io::Write::write_all(&mut file, &output.whole()).expect("a temporary file");
    let luma = media::ffmpeg(file.path(), "-i IN -fps_mode passthrough -vf extractplanes=y -f rawvideo pipe:1");
    let size = clip.width * clip.height;
    for (number, made) in numbers.iter().zip(luma.chunks_exact(size)) {
        let filmed = &support::barcode::picture(*number, clip.width, clip.height)[..size];
        let differs = filmed.iter().zip(made).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>() / size as u64;
        assert!(differs < 8, "picture {number} differs by {differs} a pixel");
    }
    numbers
}

#[test]
fn a_clock_that_jumps_begins_a_new_timeline_and_nothing_of_either_side_is_lost() {
    let service = Service::start(&["--workers", "2"]);
    let first = clip(Shape::Ts, Picture::H264);
    let second = Clip { first: 60, ..first.clone() };
    // The second file's clock begins where the first one's began.
    let joined = [first.bytes(), second.bytes()].concat();
    let session = stream(&service, &["h264@90+aac", "copy+copy", "ts:copy+copy"], joined);
    assert_eq!(sum(&session, "frames_in"), 120);
    for n in 0..2 {
        let output = &session.outputs[&verify::name(n)];
        let [before, after] = timelines(output).try_into().expect("two timelines");
        assert_eq!(output.inits[0].1, output.inits[1].1, "the same set-up, sent again");
        assert_eq!(numbers(&output.inits[0].1, &before), (0..60).collect::<Vec<_>>());
        assert_eq!(numbers(&output.inits[1].1, &after), (60..120).collect::<Vec<_>>());
        let marked = |segments: &[(Value, Vec<u8>)]| {
            segments.iter().map(|(header, _)| header["discontinuity"] == true).collect::<Vec<_>>()
        };
        assert!(marked(&before).iter().chain(&marked(&after)[1..]).all(|marked| !marked));
        assert!(marked(&after)[0]);
        assert_eq!(before[0].0["start"], after[0].0["start"], "each on its own clock");
    }
    let ts = &session.outputs[&verify::name(2)];
    let pictures: u64 = ts.segments.iter().filter_map(|(header, _)| header["frames"].as_u64()).sum();
    assert_eq!(pictures, 120);
}

#[test]
fn pictures_before_the_first_sync_sample_are_counted_and_said() {
    let service = Service::start(&["--workers", "1"]);
    let whole = Clip { audio: None, ..clip(Shape::Ts, Picture::H264) };
    let bytes = whole.bytes();
    let from = bytes.len() / 188 / 3 * 188;
    // The tables come first, as in a stream that is tuned in to.
    let tuned = [&bytes[..3 * 188], &bytes[from..]].concat();
    let session = stream(&service, &["h264@90"], tuned);
    let output = &session.outputs[&verify::name(0)];
    let seen = numbers(&output.inits[0].1, &output.segments);
    assert!(sum(&session, "undecodable") > 0, "{:?}", session.receipts);
    assert_eq!(sum(&session, "frames_in"), seen.len() as u64);
    let first = 60 - seen.len() as u16;
    assert!(first > 15 && first.is_multiple_of(15), "from a sync sample on: {first}");
    assert_eq!(seen, (first..60).collect::<Vec<_>>());
}
