use std::process::Command;
use std::sync::OnceLock;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::media::{Format, Sync, VideoCodec};

/// Two seconds of H.264 with B frames and AAC, muxed with these options.
fn media(name: &str, options: &[&str]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let source = "testsrc2=size=160x120:rate=25:duration=2,setsar=2/1";
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", source, "-f", "lavfi", "-i", "sine=sample_rate=44100:duration=2"])
        .args(["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "20", "-pix_fmt", "yuv420p"])
        .args(["-c:a", "aac", "-ac", "2", "-metadata:s:a:0", "language=deu"])
        .args(options)
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    (folder, path)
}

fn bytes_of(options: &[&str]) -> Bytes {
    let (_folder, path) = media("clip.mp4", options);
    std::fs::read(path).unwrap().into()
}

fn fragmented() -> &'static Bytes {
    static CLIP: OnceLock<Bytes> = OnceLock::new();
    CLIP.get_or_init(|| bytes_of(&["-movflags", "frag_keyframe+empty_moov+default_base_moof"]))
}

fn index_last() -> &'static Bytes {
    static CLIP: OnceLock<Bytes> = OnceLock::new();
    CLIP.get_or_init(|| bytes_of(&[]))
}

fn index_first() -> &'static Bytes {
    static CLIP: OnceLock<Bytes> = OnceLock::new();
    CLIP.get_or_init(|| bytes_of(&["-movflags", "faststart"]))
}

/// Track, PTS, DTS, size of each packet, sorted by track.
type Packets = Vec<(u32, i64, i64, usize)>;

fn probe(path: &std::path::Path) -> Packets {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-show_entries", "packet=stream_index,pts,dts,size"])
        .arg(path)
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packets = json["packets"].as_array().unwrap().iter().map(|p| {
        let size: usize = p["size"].as_str().unwrap().parse().unwrap();
        (p["stream_index"].as_u64().unwrap() as u32 + 1, p["pts"].as_i64().unwrap(), p["dts"].as_i64().unwrap(), size)
    });
    by_track(packets.collect())
}

fn by_track(mut packets: Packets) -> Packets {
    packets.sort_by_key(|p| p.0);
    packets
}

#[test]
fn ffprobe_tells_the_same_packets() {
    let shapes: [&[&str]; 8] = [
        &[],
        &["-movflags", "faststart"],
        &["-movflags", "frag_keyframe+empty_moov+default_base_moof"],
        &["-movflags", "frag_keyframe+empty_moov"],
        &["-movflags", "frag_keyframe+empty_moov+omit_tfhd_offset"],
        &["-movflags", "frag_keyframe+separate_moof+delay_moov"],
        &["-movflags", "frag_keyframe"],
        &["-movflags", "empty_moov+frag_every_frame+dash"],
    ];
    for options in shapes {
        let (_folder, path) = media("clip.mp4", options);
        let (events, result) = demux(&std::fs::read(&path).unwrap());
        assert_eq!(result, Ok(()), "{options:?}");
        let found = units(&events).iter().map(|u| (u.track.0, u.pts.0, u.dts.0, u.data.len())).collect();
        assert_eq!(by_track(found), probe(&path), "{options:?}");
    }
}

#[test]
fn set_up_and_sync_samples() {
    for clip in [fragmented(), index_last(), index_first()] {
        let (events, result) = demux(clip);
        assert_eq!(result, Ok(()));
        let [tracks] = tracks(&events)[..] else { panic!("told once") };
        let Format::Video(video) = &tracks[0].format else { panic!("{tracks:?}") };
        assert_eq!((video.codec, video.width, video.height), (VideoCodec::H264, 160, 120));
        assert_eq!(video.sample_aspect, (2, 1));
        let Format::Audio(audio) = &tracks[1].format else { panic!("{tracks:?}") };
        assert_eq!((audio.sample_rate, audio.channels), (44_100, 2));
        assert_eq!(tracks[1].language.as_deref(), Some("deu"));
        let video = units(&events).into_iter().filter(|u| u.track.0 == 1).map(|u| u.sync);
        let keys: Vec<_> = video.enumerate().filter(|(_, sync)| *sync != Sync::No).collect();
        assert_eq!(keys, [(0, Sync::Idr), (20, Sync::Idr), (40, Sync::Idr)]);
    }
}

#[test]
fn byte_by_byte_gives_the_same_events() {
    for clip in [fragmented(), index_last(), index_first()] {
        assert!(demux_pieces(clip.chunks(1)) == demux(clip));
    }
}

#[test]
fn a_cut_anywhere_gives_what_is_complete() {
    for (clip, index_first) in [(fragmented(), true), (index_first(), true), (index_last(), false)] {
        let (whole, _) = demux(clip);
        for percent in 0..100 {
            let (events, result) = demux(&clip[..clip.len() * percent / 100]);
            assert!(matches!(result, Ok(()) | Err(Error::Truncated(_))), "{percent} %: {result:?}");
            assert!(whole.starts_with(&events), "{percent} %");
            if index_first && percent == 99 {
                assert!(events.len() + 10 > whole.len());
            }
        }
    }
}

/// What ffmpeg makes of raw H.264, one stream after the other, as avc3.
fn avc3(sizes: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let ffmpeg = |args: &[&str], out: &std::path::Path| {
        assert!(Command::new("ffmpeg").args(["-v", "error", "-f"]).args(args).arg(out).status().unwrap().success());
        std::fs::read(out).unwrap()
    };
    let streams = sizes.iter().enumerate().map(|(i, size)| {
        let source = format!("testsrc2=size={size}:rate=25:duration=1");
        let encode = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-x264-params", "aud=1"];
        ffmpeg(&[&["lavfi", "-i", &source], &encode[..]].concat(), &folder.path().join(format!("{i}.264")))
    });
    let raw = streams.collect::<Vec<_>>().concat();
    let joined = folder.path().join("joined.264");
    std::fs::write(&joined, raw).unwrap();
    let copy = ["-c", "copy", "-tag:v", "avc3", "-movflags", "frag_keyframe+empty_moov+default_base_moof"];
    ffmpeg(&[&["h264", "-r", "25", "-i", joined.to_str().unwrap()], &copy[..]].concat(), &folder.path().join("a.mp4"))
}

fn picture_sizes(events: &[Event]) -> Vec<(u32, u32)> {
    let of = |tracks: &&Vec<Track>| match &tracks[0].format {
        Format::Video(video) => (video.width, video.height),
        other => panic!("{other:?}"),
    };
    tracks(events).iter().map(of).collect()
}

#[test]
fn parameter_sets_in_the_samples_are_a_new_set_up() {
    let (events, result) = demux(&avc3(&["160x120", "96x64"]));
    assert_eq!(result, Ok(()));
    assert_eq!(picture_sizes(&events), [(160, 120), (96, 64)]);
    let units = units(&events);
    assert_eq!(units.len(), 50);
    assert_eq!(units[25].sync, Sync::Idr);
    assert!(units.iter().all(|u| u.data[4] & 31 != 9), "no access unit delimiters");
    let place = events.iter().rposition(|e| matches!(e, Event::Tracks { .. })).unwrap();
    assert_eq!(place, 26, "before the first unit that needs it");
}

#[test]
fn an_empty_configuration_is_made_up_for_by_the_first_sample() {
    let mut clip = avc3(&["160x120"]);
    let avcc = clip.windows(4).position(|w| w == b"avcC").unwrap() + 4;
    clip[avcc + 1] = 66;
    clip[avcc + 5] = 0xe0;
    clip[avcc + 6] = 0;
    let (events, result) = demux(&clip);
    assert_eq!(result, Ok(()));
    assert_eq!(picture_sizes(&events), [(160, 120)]);
    assert_eq!(units(&events).len(), 25);
}

#[test]
fn a_recorder_that_starts_anew() {
    for clip in [fragmented(), index_last(), index_first()] {
        let (once, _) = demux(clip);
        let (twice, result) = demux(&[&clip[..], &clip[..]].concat());
        assert_eq!(result, Ok(()));
        let mut again = once.clone();
        for event in &mut again {
            match event {
                Event::Unit(unit) => unit.offset += clip.len() as u64,
                Event::Data(unit) => unit.offset += clip.len() as u64,
                Event::Tracks { offset, .. } => *offset += clip.len() as u64,
            }
        }
        assert!(twice == [once, again].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_chunking_gives_the_same_events(which in 0..3usize, sizes in prop::collection::vec(1..9000usize, 1..40)) {
        let clip = [fragmented(), index_last(), index_first()][which];
        let mut rest = &clip[..];
        let mut sizes = sizes.into_iter().cycle();
        let pieces = std::iter::from_fn(|| {
            let (piece, after) = rest.split_at(sizes.next()?.min(rest.len()));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        });
        prop_assert!(demux_pieces(pieces) == demux(clip));
    }

    #[test]
    fn spoilt_bytes_end_in_an_error_or_in_units(
        which in 0..3usize,
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..12),
    ) {
        let clip = [fragmented(), index_last(), index_first()][which];
        let mut clip = clip.to_vec();
        let index = clip.windows(4).position(|w| w == b"moov").unwrap_or(0);
        for (place, value, anywhere) in spoilt {
            let place = if anywhere { place.index(clip.len()) } else { index + place.index(1200.min(clip.len() - index)) };
            clip[place] = value;
        }
        let (events, _) = demux(&clip);
        prop_assert!(events.len() < 20 * clip.len());
    }
}
