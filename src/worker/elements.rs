//! Which element serves which codec: preference lists looked up in the registry, and the inventory of what is there.
//!
//! How an encoder is set up is in [`super::encoder`] and [`super::audio`].

use std::sync::OnceLock;

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::job::{Confinement, Failure, FailureCode, Inventory};
use crate::media::{AudioCodec, VideoCodec};

const VIDEO_CODECS: [VideoCodec; 6] =
    [VideoCodec::H264, VideoCodec::H265, VideoCodec::Vp8, VideoCodec::Vp9, VideoCodec::Av1, VideoCodec::Mpeg2];
const AUDIO_CODECS: [AudioCodec; 5] =
    [AudioCodec::Aac, AudioCodec::Opus, AudioCodec::Mp3, AudioCodec::Ac3, AudioCodec::Eac3];

/// Elements that every job needs, whatever its codecs.
const PLUMBING: [&str; 8] =
    ["appsrc", "appsink", "queue", "tee", "capsfilter", "videoconvert", "videoflip", "audioconvert"];

/// Initialises GStreamer; cheap after the first call.
pub fn init() -> Result<(), Failure> {
    static INIT: OnceLock<Result<(), String>> = OnceLock::new();
    INIT.get_or_init(|| gst::init().map_err(|e| e.to_string()))
        .clone()
        .map_err(|e| Failure::new(FailureCode::PipelineFailed, format!("gstreamer does not start: {e}")))
}

/// What the registry offers; each codec with the first of its list that is there.
pub fn inventory() -> Result<Inventory, Failure> {
    init()?;
    let mut missing = Vec::new();
    let inventory = Inventory {
        version: gst::version_string().to_string(),
        plugins: Vec::new(),
        video_decoders: served(&VIDEO_CODECS, video_decoders, &mut missing),
        video_encoders: served(&VIDEO_CODECS, video_encoders, &mut missing),
        audio_decoders: served(&AUDIO_CODECS, audio_decoders, &mut missing),
        audio_encoders: served(&AUDIO_CODECS, audio_encoders, &mut missing),
        deep_encoders: VIDEO_CODECS.into_iter().filter(|&codec| is_deep(codec)).collect(),
        missing: Vec::new(),
        confinement: Confinement::default(),
    };
    missing.extend(PLUMBING.iter().filter(|name| !exists(name)).map(|name| name.to_string()));
    missing.sort();
    missing.dedup();
    let plugins = plugins(&inventory);
    Ok(Inventory { missing, plugins, ..inventory })
}

/// Those that the elements of an inventory, and the plumbing, are in: names and versions.
fn plugins(inventory: &Inventory) -> Vec<(String, String)> {
    let video = inventory.video_decoders.iter().chain(&inventory.video_encoders).map(|(_, name)| name.as_str());
    let audio = inventory.audio_decoders.iter().chain(&inventory.audio_encoders).map(|(_, name)| name.as_str());
    let of = |name: &str| gst::ElementFactory::find(name)?.plugin();
    let plugins = video.chain(audio).chain(PLUMBING).filter_map(of);
    let mut told: Vec<_> =
        plugins.map(|plugin| (plugin.plugin_name().to_string(), plugin.version().to_string())).collect();
    told.sort();
    told.dedup();
    told
}

/// Loads every element that a job may need, and has its class set up: afterwards nothing has to be opened any more.
pub fn load() -> Result<(), Failure> {
    init()?;
    let video = VIDEO_CODECS.into_iter().flat_map(|codec| [video_decoders(codec), video_encoders(codec)]);
    let audio = AUDIO_CODECS.into_iter().flat_map(|codec| [audio_decoders(codec), audio_encoders(codec)]);
    let served = video.chain(audio).filter_map(|names| names.iter().find(|name| exists(name)));
    for name in served.chain(PLUMBING.iter().filter(|name| exists(name))) {
        make(name)?;
    }
    super::scaler::make().map(drop)
}

/// Decoders of a codec, the preferred one first.
pub fn video_decoders(codec: VideoCodec) -> &'static [&'static str] {
    match codec {
        VideoCodec::H264 => &["avdec_h264"],
        VideoCodec::H265 => &["avdec_h265"],
        VideoCodec::Vp8 => &["vp8dec", "avdec_vp8"],
        VideoCodec::Vp9 => &["vp9dec", "avdec_vp9"],
        VideoCodec::Av1 => &["dav1ddec", "av1dec"],
        VideoCodec::Mpeg2 => &["avdec_mpeg2video", "mpeg2dec"],
    }
}

/// Encoders of a codec; none for those that are only read.
pub fn video_encoders(codec: VideoCodec) -> &'static [&'static str] {
    match codec {
        VideoCodec::H264 => &["x264enc"],
        VideoCodec::H265 => &["x265enc"],
        VideoCodec::Vp9 => &["vp9enc"],
        VideoCodec::Av1 => &["av1enc"],
        VideoCodec::Vp8 | VideoCodec::Mpeg2 => &[],
    }
}

/// Decoders of a codec, the preferred one first.
pub fn audio_decoders(codec: AudioCodec) -> &'static [&'static str] {
    match codec {
        AudioCodec::Aac => &["avdec_aac"],
        AudioCodec::Opus => &["opusdec"],
        AudioCodec::Mp3 => &["avdec_mp3float", "avdec_mp3"],
        AudioCodec::Ac3 => &["avdec_ac3"],
        AudioCodec::Eac3 => &["avdec_eac3"],
    }
}

/// Encoders of a codec; none for those that are only read.
pub fn audio_encoders(codec: AudioCodec) -> &'static [&'static str] {
    match codec {
        AudioCodec::Aac => &["avenc_aac"],
        AudioCodec::Opus => &["opusenc"],
        AudioCodec::Mp3 | AudioCodec::Ac3 | AudioCodec::Eac3 => &[],
    }
}

/// The first of `names` that is in the registry. `what` is for the message.
pub fn choose(names: &[&'static str], what: &str) -> Result<&'static str, Failure> {
    names.iter().copied().find(|name| exists(name)).ok_or_else(|| {
        Failure::new(FailureCode::UnsupportedCodec, format!("no {what} is installed (looked for {})", names.join(", ")))
    })
}

/// A new element of the factory `name`.
pub fn make(name: &str) -> Result<gst::Element, Failure> {
    gst::ElementFactory::make(name)
        .build()
        .map_err(|_| Failure::new(FailureCode::UnsupportedCodec, format!("the element {name} is not installed")))
}

/// Sets a property by its text where the element has it: elements that serve the same codec differ in theirs.
pub fn set(element: &gst::Element, property: &str, value: impl ToString) {
    if element.find_property(property).is_some() {
        element.set_property_from_str(property, &value.to_string());
    }
}

/// Whether the encoder that serves the codec takes 10 bits a sample.
fn is_deep(codec: VideoCodec) -> bool {
    let name = video_encoders(codec).iter().find(|name| exists(name));
    let Some(factory) = name.and_then(|name| gst::ElementFactory::find(name)) else { return false };
    factory.can_sink_any_caps(&gst::Caps::builder("video/x-raw").field("format", "I420_10LE").build())
}

fn exists(name: &str) -> bool {
    gst::ElementFactory::find(name).is_some()
}

fn served<C: Copy>(
    codecs: &[C],
    names: impl Fn(C) -> &'static [&'static str],
    missing: &mut Vec<String>,
) -> Vec<(C, String)> {
    let mut served = Vec::new();
    for &codec in codecs {
        let names = names(codec);
        match names.iter().position(|name| exists(name)) {
            Some(found) => {
                missing.extend(names.iter().take(found).map(|name| name.to_string()));
                served.extend(names.get(found).map(|name| (codec, name.to_string())));
            }
            None => missing.extend(names.iter().map(|name| name.to_string())),
        }
    }
    served
}
