//! Video encoders: how each is set up from a [`VideoSpec`], and how what it gives becomes samples and set-up bytes.
//!
//! The set-up must come out the same for every segment of a session, so nothing here depends on how many frames a
//! segment has: the only key frame is the first, and the distance to the next is "never".

use bytes::Bytes;
use gstreamer as gst;

use super::{elements, pipeline};
use crate::job::{Failure, FailureCode, Preset, VideoSpec};
use crate::media::codec::{annexb, av1, h264, h265, vp9};
use crate::media::{Colour, Error, Hdr, Mastering, VideoCodec};

/// VBV buffer, milliseconds at the highest rate.
const VBV_MS: u32 = 1000;
/// A distance between key frames that no segment reaches; x264 takes this very number for "never".
const NEVER: u32 = 1 << 30;
/// Rate where no cap is asked for and the encoder can't go without one, kilobits a second.
const UNCAPPED_KBPS: u32 = 400_000;

/// An encoder for `spec`, and the caps that its output has.
pub fn build(spec: &VideoSpec, hdr: Hdr, threads: u32) -> Result<(gst::Element, gst::Caps), Failure> {
    let name = elements::choose(elements::video_encoders(spec.codec), &format!("{:?} encoder", spec.codec))?;
    let encoder = elements::make(name)?;
    match spec.codec {
        VideoCodec::H264 => x264(&encoder, spec, threads),
        VideoCodec::H265 => x265(&encoder, spec, hdr, threads),
        VideoCodec::Vp9 => vp9(&encoder, spec, threads),
        VideoCodec::Av1 => av1(&encoder, spec, threads),
        VideoCodec::Vp8 | VideoCodec::Mpeg2 => {}
    }
    let caps = match spec.codec {
        VideoCodec::H264 => gst::Caps::builder("video/x-h264")
            .field("stream-format", "avc")
            .field("alignment", "au")
            .field("profile", "high")
            .build(),
        VideoCodec::H265 => {
            gst::Caps::builder("video/x-h265").field("stream-format", "byte-stream").field("alignment", "au").build()
        }
        VideoCodec::Vp9 => gst::Caps::builder("video/x-vp9").build(),
        VideoCodec::Av1 => gst::Caps::builder("video/x-av1").build(),
        VideoCodec::Vp8 | VideoCodec::Mpeg2 => gst::Caps::new_any(),
    };
    Ok((encoder, caps))
}

/// Capped constant quality. Rate control takes its cap from `bitrate` × `vbv-buf-capacity` only, and a buffer of 0 is
/// no cap; without `stitchable` the PPS follows the content.
fn x264(encoder: &gst::Element, spec: &VideoSpec, threads: u32) {
    elements::set(encoder, "speed-preset", spec.preset.name());
    elements::set(encoder, "pass", "qual");
    elements::set(encoder, "quantizer", spec.crf.min(50));
    elements::set(encoder, "bitrate", spec.max_kbps.unwrap_or(UNCAPPED_KBPS).clamp(1, 2_048_000));
    elements::set(encoder, "vbv-buf-capacity", if spec.max_kbps.is_some() { VBV_MS } else { 0 });
    elements::set(encoder, "key-int-max", NEVER);
    elements::set(encoder, "threads", threads);
    elements::set(encoder, "sliced-threads", false);
    elements::set(encoder, "aud", false);
    elements::set(encoder, "option-string", "scenecut=0:stitchable=1:open-gop=0");
}

fn x265(encoder: &gst::Element, spec: &VideoSpec, hdr: Hdr, threads: u32) {
    let mut options = format!(
        "crf={}:keyint=-1:scenecut=0:open-gop=0:info=0:pools={threads}:frame-threads={}",
        spec.crf.min(51),
        threads.min(4)
    );
    if let Some(kbps) = spec.max_kbps {
        options += &format!(":vbv-maxrate={kbps}:vbv-bufsize={}", u64::from(kbps) * u64::from(VBV_MS) / 1000);
    }
    if let Some(Mastering { primaries: [g, b, r], white, brightest, darkest }) = hdr.mastering {
        let point = |(x, y): (u16, u16)| format!("({x},{y})");
        let [g, b, r, white] = [g, b, r, white].map(point);
        options += &format!(":master-display=G{g}B{b}R{r}WP{white}L({brightest},{darkest})");
    }
    if let Some((most, average)) = hdr.light {
        options += &format!(":max-cll={most},{average}");
    }
    elements::set(encoder, "speed-preset", spec.preset.name());
    elements::set(encoder, "tune", 0);
    elements::set(encoder, "log-level", "none");
    elements::set(encoder, "option-string", options);
}

/// Its defaults spend up to a second on a frame.
fn vp9(encoder: &gst::Element, spec: &VideoSpec, threads: u32) {
    let bits = u64::from(spec.max_kbps.unwrap_or(UNCAPPED_KBPS)) * 1000;
    elements::set(encoder, "deadline", 1);
    elements::set(encoder, "cpu-used", realtime_speed(spec.preset));
    // In real-time mode its own capped quality goes to twice the cap.
    elements::set(encoder, "end-usage", if spec.max_kbps.is_some() { "cbr" } else { "cq" });
    elements::set(encoder, "cq-level", spec.crf.min(63));
    elements::set(encoder, "min-quantizer", spec.crf.min(63));
    elements::set(encoder, "target-bitrate", bits.min(i32::MAX as u64));
    // The defaults let a segment spend four seconds' worth of bits before the cap bites.
    elements::set(encoder, "buffer-size", VBV_MS);
    elements::set(encoder, "buffer-initial-size", VBV_MS / 2);
    elements::set(encoder, "buffer-optimal-size", VBV_MS / 2);
    elements::set(encoder, "keyframe-mode", "disabled");
    elements::set(encoder, "keyframe-max-dist", NEVER);
    elements::set(encoder, "lag-in-frames", 0);
    elements::set(encoder, "auto-alt-ref", false);
    elements::set(encoder, "row-mt", true);
    elements::set(encoder, "threads", threads.min(64));
}

/// The element has no quality number of its own: the floor of the quantizer is it, and a cap on the rate may raise it.
fn av1(encoder: &gst::Element, spec: &VideoSpec, threads: u32) {
    let crf = spec.crf.min(63);
    elements::set(encoder, "usage-profile", "realtime");
    elements::set(encoder, "cpu-used", realtime_speed(spec.preset).max(6) + 1);
    elements::set(encoder, "end-usage", if spec.max_kbps.is_some() { "cbr" } else { "q" });
    elements::set(encoder, "target-bitrate", spec.max_kbps.unwrap_or(UNCAPPED_KBPS).max(1));
    elements::set(encoder, "buf-sz", VBV_MS);
    elements::set(encoder, "buf-initial-sz", VBV_MS / 2);
    elements::set(encoder, "buf-optimal-sz", VBV_MS / 2);
    elements::set(encoder, "min-quantizer", crf);
    elements::set(encoder, "max-quantizer", if spec.max_kbps.is_some() { 63 } else { crf });
    elements::set(encoder, "keyframe-mode", "disabled");
    elements::set(encoder, "keyframe-max-dist", NEVER);
    elements::set(encoder, "lag-in-frames", 0);
    elements::set(encoder, "row-mt", true);
    elements::set(encoder, "threads", threads);
}

/// libvpx's and libaom's `cpu-used` in real-time mode.
fn realtime_speed(preset: Preset) -> u32 {
    match preset {
        Preset::Ultrafast => 9,
        Preset::Superfast => 8,
        Preset::Veryfast => 7,
        Preset::Faster => 6,
        Preset::Fast | Preset::Medium | Preset::Slow => 5,
    }
}

/// Turns an encoder's output into samples in the form of `AccessUnit::data`.
pub struct Packer {
    codec: VideoCodec,
    /// What the encoders of VP9 and AV1 don't write down.
    colour: Colour,
    set_up: bool,
}

impl Packer {
    pub fn new(codec: VideoCodec, colour: Colour) -> Self {
        Self { codec, colour, set_up: false }
    }

    /// The sample's bytes; with the first one, the set-up in the form of `Video::config`.
    pub fn pack(&mut self, sample: &gst::Sample) -> Result<(Option<Bytes>, Bytes), Failure> {
        let data = pipeline::bytes(sample)?;
        let first = !std::mem::replace(&mut self.set_up, true);
        let packed = match self.codec {
            VideoCodec::H264 => {
                let config = first.then(|| avcc(sample)).transpose()?;
                Ok((config, data))
            }
            VideoCodec::H265 => from_annexb(&data, first),
            VideoCodec::Vp9 => {
                let data = vp9::with_color_space(&data, self.colour);
                let config = first.then(|| vp9::video(&data).map(|video| video.config)).transpose();
                config.map(|config| (config, data))
            }
            VideoCodec::Av1 => av1::with_colour(&data, self.colour).and_then(|data| {
                let config = first.then(|| av1::video(&data).map(|video| video.config)).transpose();
                config.map(|config| (config, av1::strip(data)))
            }),
            VideoCodec::Vp8 | VideoCodec::Mpeg2 => Ok((None, data)),
        };
        packed.map_err(not_understood)
    }
}

/// Made anew from the parameter sets: the encoder's own avcC lacks the High profiles' tail.
fn avcc(sample: &gst::Sample) -> Result<Bytes, Failure> {
    let caps = sample.caps().and_then(|caps| caps.structure(0));
    let codec_data = caps
        .and_then(|caps| caps.get::<gst::Buffer>("codec_data").ok())
        .ok_or_else(|| pipeline::pipeline_failed("the encoder gave no set-up"))?;
    let map = codec_data.map_readable().map_err(|_| pipeline::pipeline_failed("a buffer can't be read"))?;
    let (sets, length_size) = h264::ParameterSets::from_avcc(&map).map_err(not_understood)?;
    if length_size != 4 {
        return Err(pipeline::pipeline_failed(format!("the encoder gave NAL lengths of {length_size} bytes")));
    }
    sets.avcc().map_err(not_understood)
}

/// Parameter sets go to the set-up and nowhere else, so that the samples fit `hvc1`.
fn from_annexb(stream: &[u8], first: bool) -> Result<(Option<Bytes>, Bytes), Error> {
    const VPS: u8 = 32;
    const SPS: u8 = 33;
    const PPS: u8 = 34;
    const DELIMITER: u8 = 35;
    let kind = |nal: &[u8]| nal.first().map(|byte| byte >> 1 & 0x3f);
    let nals: Vec<&[u8]> = annexb::nal_units(stream).collect();
    let of = |wanted: u8| -> Vec<Bytes> {
        nals.iter().filter(|nal| kind(nal) == Some(wanted)).map(|nal| Bytes::copy_from_slice(nal)).collect()
    };
    let config = first.then(|| h265::ParameterSets { vps: of(VPS), sps: of(SPS), pps: of(PPS) }.hvcc()).transpose()?;
    let rest = nals.iter().copied().filter(|nal| !matches!(kind(nal), Some(VPS..=DELIMITER)));
    Ok((config, annexb::to_length_prefixed(rest)))
}

fn not_understood(error: Error) -> Failure {
    Failure::new(FailureCode::PipelineFailed, format!("what the encoder gave is not understood: {error}"))
}
