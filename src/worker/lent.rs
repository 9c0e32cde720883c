//! Pictures that are lent to x264 rather than given.
//!
//! x264enc holds each picture that it is given until it is encoded, some sixteen pictures later, though libx264 has copied it long
//! before. What is lent goes back to whoever made it as soon as it is copied: the next picture is written where the caches still
//! have this one, and a rung takes two pictures of memory rather than eighteen.

use std::ptr;

use gstreamer as gst;
use gstreamer::glib::translate::from_glib_full;
use gstreamer::prelude::*;

/// Lends pictures to one x264enc.
pub struct Lender(gst::Pad);

impl Lender {
    /// Of that encoder, where it is an x264enc.
    pub fn to(encoder: &gst::Element) -> Option<Self> {
        if encoder.factory()?.name() != "x264enc" {
            return None;
        }
        encoder.static_pad("sink").map(Self)
    }

    /// Has `picture` encoded; it may be written over as soon as that returns.
    pub fn lend(&self, picture: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        // In one piece it is mapped where it lies.
        let (1, Ok(bytes)) = (picture.n_memory(), picture.map_readable()) else { return self.0.chain(picture.clone()) };
        let mut lent = picture.copy();
        lent.make_mut().replace_all_memory(around(&bytes));
        self.0.chain(lent)
    }
}

/// For a [`Lender`] alone.
#[allow(unsafe_code)]
fn around(bytes: &[u8]) -> gst::Memory {
    let at = bytes.as_ptr().cast_mut().cast();
    // SAFETY: the memory is read-only, so none writes to `bytes` through it, and with neither data nor a function to free it
    // nothing is done with the pointer when it is let go of. It is read while `bytes` is mapped, and no later: [`Lender::lend`]
    // keeps the map until the chain function of x264enc has returned, which reads the picture within `x264_encoder_encode` alone,
    // and that copies it into a frame of its own before anything else (`x264_frame_copy_picture`). Afterwards x264enc unmaps the
    // buffer and lets go of it, and neither looks at what it holds. Held by `what_x264_is_lent_it_has_read`.
    unsafe {
        let memory = gst::ffi::gst_memory_new_wrapped(
            gst::ffi::GST_MEMORY_FLAG_READONLY,
            at,
            bytes.len(),
            0,
            bytes.len(),
            ptr::null_mut(),
            None,
        );
        from_glib_full(memory)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;

    use super::*;
    use crate::worker::{elements, pipeline};

    const SIDE: usize = 64;
    const PICTURES: u64 = 60;

    /// Whoever made a picture may write over it as soon as it was handed on.
    #[test]
    fn what_x264_is_lent_it_has_read() {
        for threads in [1, 4] {
            let given = encode(threads, |encoder, picture| {
                encoder.static_pad("sink").unwrap().chain(picture.copy_deep().unwrap())
            });
            let lent = encode(threads, |encoder, picture| Lender::to(encoder).unwrap().lend(picture));
            assert_eq!(given.len() as u64, PICTURES);
            assert!(given == lent, "{threads} threads");
        }
    }

    /// What x264enc makes of pictures in one and the same memory.
    fn encode(
        threads: u32,
        hand: impl Fn(&gst::Element, &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError>,
    ) -> Vec<Bytes> {
        elements::init().unwrap();
        let line = gst::Pipeline::new();
        let encoder = elements::make("x264enc").unwrap();
        elements::set(&encoder, "speed-preset", "veryfast");
        elements::set(&encoder, "threads", threads);
        let made = Arc::new(Mutex::new(Vec::new()));
        let taken = made.clone();
        let sink = pipeline::sink(&gst::Caps::new_any(), &pipeline::Fault::default(), move |sample| {
            taken.lock().unwrap().push(pipeline::bytes(sample)?);
            Ok(pipeline::Taken::More)
        });
        pipeline::chain(&line, &[&encoder, sink.upcast_ref()]).unwrap();
        line.set_state(gst::State::Playing).unwrap();
        let input = encoder.static_pad("sink").unwrap();
        let side = SIDE as i32;
        let caps = gst::Caps::builder("video/x-raw").field("format", "I420").field("width", side).field("height", side);
        let caps = caps.field("framerate", gst::Fraction::new(25, 1)).build();
        input.send_event(gst::event::StreamStart::new("pictures"));
        input.send_event(gst::event::Caps::new(&caps));
        input.send_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
        let mut picture = gst::Buffer::with_size(SIDE * SIDE * 3 / 2).unwrap();
        for n in 0..PICTURES {
            let fields = picture.get_mut().expect("nobody else has what was lent");
            fields.set_pts(n * gst::ClockTime::from_mseconds(40));
            let mut bytes = fields.map_writable().unwrap();
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte = (((at % SIDE + n as usize * 3) ^ (at / SIDE)) as u8).wrapping_mul(4);
            }
            drop(bytes);
            hand(&encoder, &picture).unwrap();
            picture.get_mut().unwrap().map_writable().unwrap().fill(255 - n as u8);
        }
        input.send_event(gst::event::Eos::new());
        line.set_state(gst::State::Null).unwrap();
        std::mem::take(&mut *made.lock().unwrap())
    }
}
