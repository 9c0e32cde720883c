//! What is said of containers and tracks.

use crate::media::demux::Container;
use crate::media::{Format, Track};
use crate::protocol::{InputContainer, TrackInfo};

/// None where it is told by the first bytes.
pub(super) fn container(requested: InputContainer) -> Option<Container> {
    match requested {
        InputContainer::Auto => None,
        InputContainer::Mp4 => Some(Container::Mp4),
        InputContainer::Webm => Some(Container::Webm),
        InputContainer::Ts => Some(Container::Ts),
    }
}

pub(super) fn container_name(container: Container) -> &'static str {
    match container {
        Container::Mp4 => "mp4",
        Container::Webm => "webm",
        Container::Ts => "ts",
    }
}

pub(super) fn describe(track: &Track, used: bool) -> TrackInfo {
    let mut info = TrackInfo {
        id: track.id.0,
        kind: String::new(),
        codec: String::new(),
        width: None,
        height: None,
        sample_rate: None,
        channels: None,
        language: track.language.clone(),
        timescale: track.timescale.get(),
        used,
    };
    match &track.format {
        Format::Video(video) => {
            (info.kind, info.codec) = ("video".into(), video.codec_string.clone());
            (info.width, info.height) = (Some(video.width), Some(video.height));
        }
        Format::Audio(audio) => {
            (info.kind, info.codec) = ("audio".into(), audio.codec_string.clone());
            (info.sample_rate, info.channels) = (Some(audio.sample_rate), Some(audio.channels));
        }
        Format::Other { kind, codec } => (info.kind, info.codec) = (kind.clone(), codec.clone()),
    }
    info
}
