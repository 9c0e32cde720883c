//! Jobs for the tests of both sides.

use bytes::Bytes;

use crate::job::{Deinterlace, Job, Preset, VideoSpec, Work};
use crate::media::{
    AccessUnit, Chroma, Colour, Format, Hdr, Sync, Ticks, Timescale, Track, TrackId, Video, VideoCodec, Window,
};

/// A second of video at these ticks of 1/1000 s, in this decode order.
pub(crate) fn video_job(pts: &[i64], renditions: usize) -> Job {
    let unit = |(index, pts): (usize, &i64)| AccessUnit {
        track: TrackId(1),
        pts: Ticks(*pts),
        dts: Ticks(index as i64),
        duration: None,
        sync: if index == 0 { Sync::Idr } else { Sync::No },
        offset: 0,
        data: Bytes::from(vec![index as u8; 10]),
    };
    let video = Video {
        codec: VideoCodec::H264,
        config: Bytes::from_static(&[1, 2, 3]),
        codec_string: "avc1.64001f".into(),
        width: 1280,
        height: 720,
        sample_aspect: (1, 1),
        rotation: 0,
        bit_depth: 8,
        chroma: Chroma::C420,
        colour: Colour::default(),
        hdr: Hdr::default(),
        interlaced: false,
        frame_rate: None,
    };
    let spec = VideoSpec {
        codec: VideoCodec::H264,
        width: 640,
        height: 360,
        crf: 23,
        max_kbps: None,
        preset: Preset::Veryfast,
        depth: 8,
        deinterlace: Deinterlace::Frame,
        fps: None,
    };
    Job {
        id: 1,
        seq: 1,
        track: Track {
            id: TrackId(1),
            timescale: Timescale::new(1000).expect("not 0"),
            language: None,
            format: Format::Video(video),
        },
        units: pts.iter().enumerate().map(unit).collect(),
        window: Window { start: Ticks(0), end: Ticks(1000) },
        work: Work::Video { frame_rate: (30, 1), renditions: vec![spec; renditions], schedules: Vec::new() },
        threads: 0,
    }
}
