//! Interlaced pictures taken apart: one picture of each field, or of the first alone.
//!
//! The lines of the field are kept, those between are the mean of their neighbours. Nothing outside the picture is
//! looked at, so that a picture comes out the same wherever its segment was cut.

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use gstreamer_video::{VideoBufferFlags, VideoFrameExt};

use super::pipeline::{Fault, pipeline_failed};

/// Takes apart what is interlaced of what leaves `pad`; what isn't is shown whole, and as often. `second`: how long
/// after the first field the second is shown; None: it is not shown.
pub fn take_apart(pad: &gst::Pad, second: Option<gst::ClockTime>, fault: &Fault) {
    let fault = fault.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let Some(gst::PadProbeData::Buffer(picture)) = info.data.take() else { return gst::PadProbeReturn::Ok };
        let Some((first, other)) = told(pad).and_then(|told| apart(&picture, &told, second)) else {
            fault.set(pipeline_failed("a decoded picture can't be read"));
            info.flow_res = Err(gst::FlowError::Error);
            return gst::PadProbeReturn::Handled;
        };
        let Some(peer) = pad.peer() else {
            info.flow_res = Err(gst::FlowError::NotLinked);
            return gst::PadProbeReturn::Handled;
        };
        info.flow_res =
            std::iter::once(first).chain(other).try_fold(gst::FlowSuccess::Ok, |_, field| peer.chain(field));
        gst::PadProbeReturn::Handled
    });
}

/// What the decoder says of its pictures.
struct Told {
    info: gst_video::VideoInfo,
    /// All of them are interlaced.
    always: bool,
}

/// As it was before what is pinned was written over it.
fn told(pad: &gst::Pad) -> Option<Told> {
    let mut caps = pad.current_caps()?;
    let mode = caps.structure(0)?.get::<&str>("interlace-mode").unwrap_or("progressive").to_owned();
    let always = mode == "interleaved";
    if !always {
        return Some(Told { info: gst_video::VideoInfo::from_caps(&caps).ok()?, always });
    }
    let top_first = caps.structure(0)?.get::<&str>("field-order").ok() != Some("bottom-field-first");
    caps.make_mut().set("field-order", if top_first { "top-field-first" } else { "bottom-field-first" });
    Some(Told { info: gst_video::VideoInfo::from_caps(&caps).ok()?, always })
}

type Apart = (gst::Buffer, Option<gst::Buffer>);

fn apart(picture: &gst::Buffer, told: &Told, second: Option<gst::ClockTime>) -> Option<Apart> {
    let flags = picture.video_flags();
    let interlaced = told.always || flags.contains(VideoBufferFlags::INTERLACED);
    let top_first = flags.contains(VideoBufferFlags::TFF)
        || (told.always && told.info.field_order() == gst_video::VideoFieldOrder::TopFieldFirst);
    let kept = |top: bool| if interlaced { Kept::Field { top } } else { Kept::All };
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(picture, &told.info).ok()?;
    let first = shown(&frame, kept(top_first), picture.pts())?;
    let Some(second) = second else { return Some((first, None)) };
    let other = shown(&frame, kept(!top_first), picture.pts().map(|pts| pts + second))?;
    Some((first, Some(other)))
}

#[derive(Clone, Copy)]
enum Kept {
    All,
    Field { top: bool },
}

/// A progressive picture of the lines that are kept.
fn shown(
    frame: &gst_video::VideoFrameRef<&gst::BufferRef>,
    kept: Kept,
    pts: Option<gst::ClockTime>,
) -> Option<gst::Buffer> {
    let info = gst_video::VideoInfo::builder(frame.format(), frame.width(), frame.height()).build().ok()?;
    let mut buffer = gst::Buffer::with_size(info.size()).ok()?;
    let fields = buffer.get_mut()?;
    fields.set_pts(pts);
    let mut target = gst_video::VideoFrameRef::from_buffer_ref_writable(fields, &info).ok()?;
    let deep = info.format_info().depth().first().is_some_and(|&depth| depth > 8);
    for plane in 0..frame.n_planes() {
        let component = (0..frame.n_components()).find(|&n| frame.format_info().plane()[n as usize] == plane)?;
        let size = |n: u32| usize::try_from(n).ok();
        let bytes = size(frame.comp_width(component))? * usize::try_from(frame.comp_pstride(component)).ok()?;
        let height = size(frame.comp_height(component))?;
        let stride = |strides: &[i32]| usize::try_from(*strides.get(plane as usize)?).ok().filter(|n| *n >= bytes);
        let (from_stride, to_stride) = (stride(frame.plane_stride())?, stride(target.plane_stride())?);
        let lines = Lines { data: frame.plane_data(plane).ok()?, stride: from_stride, bytes, height };
        lines.keep(kept, deep, target.plane_data_mut(plane).ok()?, to_stride)?;
    }
    drop(target);
    Some(buffer)
}

struct Lines<'a> {
    data: &'a [u8],
    stride: usize,
    bytes: usize,
    height: usize,
}

impl Lines<'_> {
    fn line(&self, y: usize) -> Option<&[u8]> {
        self.data.get(y * self.stride..)?.get(..self.bytes)
    }

    fn keep(&self, kept: Kept, deep: bool, target: &mut [u8], stride: usize) -> Option<()> {
        for y in 0..self.height {
            let to = target.get_mut(y * stride..)?.get_mut(..self.bytes)?;
            let missing = matches!(kept, Kept::Field { top } if (y % 2 == 0) != top) && self.height > 1;
            if !missing {
                to.copy_from_slice(self.line(y)?);
                continue;
            }
            // At an edge, the only neighbour twice.
            let above = y.checked_sub(1).unwrap_or(1);
            let below = if y + 1 < self.height { y + 1 } else { above };
            mean(self.line(above)?, self.line(below)?, to, deep);
        }
        Some(())
    }
}

/// Sample by sample, halves up.
fn mean(above: &[u8], below: &[u8], to: &mut [u8], deep: bool) {
    if deep {
        let lines = above.as_chunks().0.iter().zip(below.as_chunks().0);
        for (to, (&above, &below)) in to.as_chunks_mut().0.iter_mut().zip(lines) {
            let sum = u32::from(u16::from_le_bytes(above)) + u32::from(u16::from_le_bytes(below));
            *to = (sum.div_ceil(2) as u16).to_le_bytes();
        }
    } else {
        for (to, (&above, &below)) in to.iter_mut().zip(above.iter().zip(below)) {
            *to = (u16::from(above) + u16::from(below)).div_ceil(2) as u8;
        }
    }
}
