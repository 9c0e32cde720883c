//! What a client says: text messages to a checked plan, and the header of a binary message.
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use segmill::config::Config;
use segmill::job::Inventory;
use segmill::ladder::{self, Plan, Request};
use segmill::media::{Audio, AudioCodec, Chroma, Colour, Format, Timescale, Track, TrackId, Video, VideoCodec};
use segmill::protocol::{self, ClientMessage};
use segmill::session::{Settings, Tokens, Wanted};

fuzz_target!(|data: &[u8]| {
    segmill_fuzz::bounded(data.len(), || {
        text(data);
        binary(data);
    });
});

fn text(data: &[u8]) {
    let Ok(message) = serde_json::from_slice::<ClientMessage>(data) else { return };
    let written = serde_json::to_string(&message).expect("messages are strings and numbers");
    assert_eq!(serde_json::from_str::<ClientMessage>(&written).ok(), Some(message.clone()));
    let ClientMessage::Start(start) = message else { return };
    let config = Config::embedded(&[]).expect("the defaults are good");
    let tokens = Tokens::new(vec![b"key".to_vec()], Duration::from_secs(60));
    let _ = Wanted::stream(start.clone(), "session", &Settings::new(&config), &tokens);
    let limits = ladder::Limits { max_pixels: 1 << 23, max_outputs: 16 };
    let outputs = start.outputs.unwrap_or_default();
    if ladder::check_request(&outputs, limits).is_err() {
        return;
    }
    for request in [Request::Outputs(outputs), Request::Auto] {
        if let Ok(plan) = Plan::resolve(&request, &tracks(), &inventory(), limits) {
            assert_eq!(plan.describe().len(), plan.outputs.len());
        }
    }
}

fn binary(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    let Some((header, payload)) = protocol::decode_binary(message) else { return };
    let again = protocol::encode_binary(&header, &payload);
    assert_eq!(protocol::decode_binary(again), Some((header, payload)));
}

fn tracks() -> Vec<Track> {
    let track = |id, rate: u32, format| Track {
        id: TrackId(id),
        timescale: Timescale::new(rate).expect("not 0"),
        language: None,
        format,
    };
    let video = Video {
        codec: VideoCodec::H264,
        config: Bytes::new(),
        codec_string: "avc1.64001f".into(),
        width: 1282,
        height: 719,
        sample_aspect: (4, 3),
        rotation: 90,
        bit_depth: 8,
        chroma: Chroma::C420,
        colour: Colour::default(),
        hdr: Default::default(),
        interlaced: false,
        frame_rate: None,
    };
    let audio = Audio {
        codec: AudioCodec::Aac,
        config: Bytes::from_static(&[0x11, 0x90]),
        codec_string: "mp4a.40.2".into(),
        sample_rate: 48_000,
        channels: 6,
    };
    vec![track(1, 90_000, Format::Video(video)), track(2, 48_000, Format::Audio(audio))]
}

fn inventory() -> Inventory {
    let name = |codec| (codec, "element".to_owned());
    Inventory {
        video_decoders: vec![name(VideoCodec::H264)],
        video_encoders: [VideoCodec::H264, VideoCodec::H265, VideoCodec::Vp9, VideoCodec::Av1].map(name).into(),
        audio_decoders: vec![(AudioCodec::Aac, "element".to_owned())],
        audio_encoders: [AudioCodec::Aac, AudioCodec::Opus].map(|codec| (codec, "element".to_owned())).into(),
        ..Inventory::default()
    }
}
