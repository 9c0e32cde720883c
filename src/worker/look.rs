//! What the pictures are taken for, from the decoder to the encoder: the same for every segment of a session, so that
//! every encoder makes the same set-up.

use gstreamer as gst;
use gstreamer::prelude::*;

use super::pipeline::pipeline_failed;
use super::{colour, elements, tone_mapper};
use crate::job::{Failure, VideoSpec};
use crate::media::{Colour, Hdr, Video};

pub struct Look {
    frame_rate: (u32, u32),
    /// Of the upright picture.
    size: (u32, u32),
    /// As decoded, and of the upright picture.
    sample_aspect: ((u32, u32), (u32, u32)),
    rotation: u16,
    /// As it is told, and with what is left open said outright.
    colour: Colour,
    outright: Colour,
    hdr: Hdr,
    colorimetry: String,
}

impl Look {
    pub fn new(video: &Video, frame_rate: (u32, u32)) -> Self {
        let (across, down) = (video.sample_aspect.0.max(1), video.sample_aspect.1.max(1));
        let (width, height) = video.upright();
        let upright = if video.rotation % 180 == 90 { (down, across) } else { (across, down) };
        Self {
            frame_rate,
            size: (width.max(1), height.max(1)),
            sample_aspect: ((across, down), upright),
            rotation: video.rotation,
            colour: video.colour,
            outright: colour::outright(video.colour, video.height),
            hdr: video.hdr,
            colorimetry: colour::colorimetry(video.colour, video.height),
        }
    }

    /// Writes it over what the decoder says. `spoke` is called when it does.
    pub fn pin(&self, decoded: &gst::Pad, by_field: bool, spoke: impl Fn() + Send + Sync + 'static) {
        let (frames, seconds) = self.frame_rate;
        let frame_rate = fraction(if by_field { (frames.saturating_mul(2), seconds) } else { (frames, seconds) });
        let aspect = fraction(self.sample_aspect.0);
        let colorimetry = self.colorimetry.clone();
        decoded.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            let Some(gst::EventView::Caps(event)) = info.event().map(|event| event.view()) else {
                return gst::PadProbeReturn::Ok;
            };
            spoke();
            let mut caps = event.caps_owned();
            for structure in caps.make_mut().iter_mut() {
                structure.set("framerate", frame_rate);
                structure.set("pixel-aspect-ratio", aspect);
                structure.set("interlace-mode", "progressive");
                structure.remove_field("field-order");
                if !colour::is_rgb(structure) {
                    structure.set("colorimetry", &colorimetry);
                }
            }
            info.data = Some(gst::PadProbeData::Event(gst::event::Caps::new(&caps)));
            gst::PadProbeReturn::Ok
        });
    }

    /// What turns the pictures upright.
    pub fn turn(&self) -> Result<Option<gst::Element>, Failure> {
        let direction = match self.rotation {
            90 => "90r",
            180 => "180",
            270 => "90l",
            _ => return Ok(None),
        };
        let flip = elements::make("videoflip")?;
        elements::set(&flip, "video-direction", direction);
        elements::set(&flip, "qos", false);
        Ok(Some(flip))
    }

    /// What brings high dynamic range down, where there is any and 8 bits for it.
    pub fn tone(&self, depth: u8) -> Result<Vec<gst::Element>, Failure> {
        if depth > 8 || !self.colour.is_hdr() {
            return Ok(Vec::new());
        }
        let filter = elements::make("capsfilter")?;
        let caps =
            gst::Caps::builder("video/x-raw").field("format", "I420_10LE").field("colorimetry", &self.colorimetry);
        filter.set_property("caps", caps.build());
        Ok(vec![filter, tone_mapper::make(self.colour, self.hdr)?])
    }

    /// The colours of a rung.
    pub fn colour(&self, spec: &VideoSpec) -> Colour {
        if spec.tone_mapped(self.colour) { Colour::BT709 } else { self.outright }
    }

    /// What is said of a rung's light, where there still is high dynamic range.
    pub fn hdr(&self, spec: &VideoSpec) -> Hdr {
        if spec.tone_mapped(self.colour) || !self.colour.is_hdr() { Hdr::default() } else { self.hdr }
    }

    /// The caps of a rung: its samples are as wide as they must be for the picture to keep the source's shape.
    pub fn rung(&self, spec: &VideoSpec) -> Result<gst::Caps, Failure> {
        let size = |n: u32| i32::try_from(n).map_err(|_| pipeline_failed("a picture size beyond all bounds"));
        let (aspect, (width, height)) = (self.sample_aspect.1, self.size);
        let wide = u128::from(width) * u128::from(aspect.0) * u128::from(spec.height);
        let high = u128::from(height) * u128::from(aspect.1) * u128::from(spec.width.max(1));
        let colorimetry = if spec.tone_mapped(self.colour) { "bt709" } else { &self.colorimetry };
        Ok(gst::Caps::builder("video/x-raw")
            .field("format", if spec.depth > 8 { "I420_10LE" } else { "I420" })
            .field("width", size(spec.width)?)
            .field("height", size(spec.height)?)
            .field("pixel-aspect-ratio", reduced(wide, high))
            .field("interlace-mode", "progressive")
            .field("colorimetry", colorimetry)
            .build())
    }
}

pub fn fraction((numerator, denominator): (u32, u32)) -> gst::Fraction {
    reduced(u128::from(numerator), u128::from(denominator))
}

/// The fraction in its lowest terms; where those are over 16 bits (what H.264 and H.265 can say), the nearest below.
fn reduced(numerator: u128, denominator: u128) -> gst::Fraction {
    let (mut a, mut b) = (numerator.max(1), denominator.max(1));
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let (mut n, mut d) = (numerator.max(1) / a, denominator.max(1) / a);
    let bits = 128 - n.max(d).leading_zeros();
    let shift = bits.saturating_sub(16);
    n = (n >> shift).max(1);
    d = (d >> shift).max(1);
    gst::Fraction::new(n as i32, d as i32)
}
