//! Streams that ffmpeg writes, against what libavformat reads in them.

use std::path::Path;
use std::process::Command;

use super::*;

#[test]
fn an_annex_b_stream_without_codec_private_is_converted() {
    let file = ffmpeg("-f lavfi -i testsrc2=s=160x120:r=25 -t 1 -c:v libx264 -g 10 -bf 0 -x264-params aud=1", "h264");
    // Access units start at their delimiters.
    let starts: Vec<usize> =
        file.windows(6).enumerate().filter(|(_, w)| w[..5] == [0, 0, 0, 1, 9]).map(|(n, _)| n).collect();
    let mut stream = [head(&[track(1, 1, "V_MPEG4/ISO/AVC", &[])]), cluster(0)].concat();
    for (n, &start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).copied().unwrap_or(file.len());
        let flags = if n % 10 == 0 { 0x80 } else { 0 };
        let relative = i16::try_from(n * 40).unwrap();
        stream.extend(element(id::SIMPLE_BLOCK, &block(1, relative, flags, &file[start..end])));
    }
    let events = whole(&stream);
    assert_eq!(order(&events), format!("T{}", "1".repeat(25)));
    let Format::Video(video) = &told(&events)[0][0].format else { panic!("{:?}", told(&events)) };
    assert_eq!((video.codec, video.width, video.height), (VideoCodec::H264, 160, 120));
    for (n, unit) in units(&events).iter().enumerate() {
        assert_eq!(unit.sync, if n % 10 == 0 { Sync::Idr } else { Sync::No });
        let nals: Vec<u8> = crate::media::codec::annexb::length_prefixed(&unit.data).map(|nal| nal[0] & 31).collect();
        assert!(!nals.contains(&9) && nals.iter().any(|nal| matches!(nal, 1 | 5)), "{nals:?}");
    }
}

/// What ffmpeg writes with these arguments in this format.
fn ffmpeg(arguments: &str, format: &str) -> Vec<u8> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin"])
        .args(arguments.split_whitespace())
        .args(["-threads", "1", "-f", format, "pipe:1"])
        .output()
        .expect("ffmpeg is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Stream index (from 1), PTS, size and key flag of each packet, as libavformat reads them.
fn probe(path: &Path) -> Vec<(u32, i64, usize, bool)> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "packet=stream_index,pts,size,flags", "-of", "csv=p=0"])
        .arg(path)
        .output()
        .expect("ffprobe is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let mut fields = line.split(',');
        let mut next = || fields.next().unwrap();
        (next().parse::<u32>().unwrap() + 1, next().parse().unwrap(), next().parse().unwrap(), next().starts_with('K'))
    };
    text.lines().filter(|text| !text.is_empty()).map(line).collect()
}

fn as_libavformat_reads_it(stream: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), stream).unwrap();
    let mut expected = probe(file.path());
    let events = whole(stream);
    let mut read: Vec<_> =
        units(&events).iter().map(|unit| (unit.track.0, unit.pts.0, unit.data.len(), unit.sync != Sync::No)).collect();
    // Its parsers hold some packets back, so that only the order within a track is the file's.
    read.sort_by_key(|packet| packet.0);
    expected.sort_by_key(|packet| packet.0);
    assert!(expected.len() > 10);
    assert_eq!(read, expected);
    for sizes in [&[1000][..], &[1, 5000, 17, 70_000]] {
        assert_eq!(demux(stream, sizes, Limits::default()), (events.clone(), Ok(())));
    }
}

const SOURCES: &str = "-f lavfi -i testsrc2=s=160x120:r=30000/1001 -f lavfi -i sine=440:r=48000 -t 2";

#[test]
fn what_ffmpeg_writes_is_read_as_libavformat_reads_it() {
    let makes = [
        ("-c:v libvpx -deadline realtime -cpu-used 8 -g 20 -c:a libopus", "webm"),
        ("-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 20 -c:a libopus -live 1", "webm"),
        ("-c:v libx264 -preset ultrafast -bf 2 -g 20 -c:a aac -live 1", "matroska"),
        ("-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=20 -c:a ac3", "matroska"),
        ("-c:v mpeg2video -bf 2 -g 15 -c:a libmp3lame", "matroska"),
        ("-c:v libsvtav1 -preset 12 -g 20 -c:a eac3", "matroska"),
    ];
    for (codecs, format) in makes {
        as_libavformat_reads_it(&ffmpeg(&format!("{SOURCES} {codecs}"), format));
    }
}

#[test]
fn changed_bytes_and_cuts_in_real_streams_end_in_events_or_an_error() {
    for codecs in ["-c:v libx264 -preset ultrafast -g 20 -c:a aac", "-c:v libvpx -deadline realtime -c:a libmp3lame"] {
        let stream = ffmpeg(&format!("{SOURCES} {codecs}"), "matroska");
        let clean = whole(&stream);
        // The headers are where most can go wrong.
        let places = (0..800).chain((800..stream.len()).step_by(997));
        for at in places {
            let mut changed = stream.clone();
            changed[at] ^= 1 << (at % 8);
            let _ = demux(&changed, &[usize::MAX], Limits::default());
        }
        for length in (0..stream.len()).step_by(499) {
            let (events, end) = demux(&stream[..length], &[usize::MAX], Limits::default());
            assert!(matches!(end, Ok(()) | Err(Error::Truncated(_))), "{length}: {end:?}");
            assert!(units(&clean).starts_with(&units(&events)), "{length}");
        }
    }
}
