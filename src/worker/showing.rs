//! Which pictures an encoder is handed, and how: as they are scheduled, and x264's lent, with the last one once more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;

use super::lent::Lender;
use super::look;
use super::pipeline::{lock, pipeline_failed};
use super::times::Times;
use crate::job::{Failure, Schedule, VideoSpec};
use crate::media::{Ticks, Video};

/// Which of the pictures that come down the pipeline are shown, and when.
pub struct Showing {
    /// Frames a second.
    rate: (u32, u32),
    pub times: Arc<Times>,
    /// The PTS of the first.
    pub first: Option<Ticks>,
    /// How many, where that is known.
    count: Option<u64>,
    /// The number of each picture in the pipeline and its PTS, in order; None: each as it comes.
    chosen: Option<Vec<(u64, Ticks)>>,
}

impl Showing {
    /// `by_field`: two pictures come for each of the source. `each`: the source's pictures and the pipeline's times.
    pub fn new(
        spec: &VideoSpec,
        video: &Video,
        rate: (u32, u32),
        schedule: Option<&Schedule>,
        by_field: bool,
        (each, times): (&[Ticks], &Arc<Times>),
    ) -> Self {
        let own_fields = spec.by_field(video);
        let step = if by_field && !own_fields { 2 } else { 1 };
        let Some(schedule) = schedule else {
            let chosen = by_field.then(|| (0..).step_by(step).zip(each.iter().copied()).collect());
            return Self {
                rate,
                times: times.clone(),
                first: each.first().copied(),
                count: Some(each.len() as u64),
                chosen,
            };
        };
        let rate = spec.fps.unwrap_or((rate.0.saturating_mul(if own_fields { 2 } else { 1 }), rate.1));
        let shown = schedule.shown.iter();
        let chosen: Vec<_> = shown.map(|shown| (u64::from(shown.picture) * step as u64, shown.pts)).collect();
        Self {
            rate,
            times: Arc::new(Times::new(chosen.iter().map(|&(_, pts)| pts), rate)),
            first: chosen.first().map(|&(_, pts)| pts),
            count: Some(chosen.len() as u64),
            chosen: Some(chosen),
        }
    }

    /// Each as it comes, the first at `first`; how many is not known.
    pub fn as_they_come(rate: (u32, u32), times: &Arc<Times>, first: Ticks) -> Self {
        Self { rate, times: times.clone(), first: Some(first), count: None, chosen: None }
    }

    /// Pictures that are to be encoded, where that is known.
    pub fn len(&self) -> Option<u64> {
        self.count
    }

    /// Hands `encoder` what leaves `pad`, which is linked to it, and is shown, as often as it is. Gives where it is told how many
    /// that were, once x264 has all of them.
    pub fn feed(&self, pad: &gst::Pad, encoder: &gst::Element) -> Result<Arc<AtomicU64>, Failure> {
        let all = Arc::new(AtomicU64::new(u64::MAX));
        let (input, lender) = (encoder.static_pad("sink"), Lender::to(encoder));
        let encoder = input.ok_or_else(|| pipeline_failed("an encoder without an input"))?;
        if self.chosen.is_some() {
            set_rate(pad, look::fraction(self.rate));
        } else if lender.is_none() {
            return Ok(all);
        }
        if lender.is_some() {
            ask_for_few(pad);
        }
        let (times, chosen) = (self.times.clone(), self.chosen.clone());
        let feed = Feed { encoder, lender, times, chosen, came: 0, next: 0, lent: 0, last: None };
        let feed = Arc::new(Mutex::new(feed));
        let ended = feed.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(gst::PadProbeData::Buffer(picture)) = info.data.take() {
                info.flow_res = lock(&feed).take(picture);
            }
            gst::PadProbeReturn::Handled
        });
        let told = all.clone();
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            if info.event().is_some_and(|event| event.type_() == gst::EventType::Eos) {
                lock(&ended).end(&told);
            }
            gst::PadProbeReturn::Ok
        });
        Ok(all)
    }
}

/// The caps that leave `pad` are told with that rate.
fn set_rate(pad: &gst::Pad, frame_rate: gst::Fraction) {
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::EventView::Caps(event)) = info.event().map(|event| event.view()) {
            let mut caps = event.caps_owned();
            caps.make_mut().set("framerate", frame_rate);
            info.data = Some(gst::PadProbeData::Event(gst::event::Caps::new(&caps)));
        }
        gst::PadProbeReturn::Ok
    });
}

/// What hands out memory for pictures is asked for as many as are on their way, not for those that x264enc holds: its are lent.
fn ask_for_few(pad: &gst::Pad) {
    pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM | gst::PadProbeType::PULL, move |_, info| {
        if let Some(gst::QueryViewMut::Allocation(query)) = info.query_mut().map(|query| query.view_mut()) {
            let pools: Vec<_> = query.allocation_pools().map(|(pool, size, _, _)| (pool, size)).collect();
            for (n, (pool, size)) in (0..).zip(&pools) {
                query.set_nth_allocation_pool(n, pool.as_ref(), *size, 0, 0);
            }
        }
        gst::PadProbeReturn::Ok
    });
}

/// How often x264 is shown the last picture once more.
const AGAIN: usize = 3;

/// One encoder, and what it has been handed.
struct Feed {
    encoder: gst::Pad,
    /// Where it is x264.
    lender: Option<Lender>,
    times: Arc<Times>,
    /// As in [`Showing`].
    chosen: Option<Vec<(u64, Ticks)>>,
    /// Pictures that have come down the pipeline.
    came: u64,
    /// The next of those that are chosen.
    next: usize,
    /// Pictures that x264 was lent.
    lent: u64,
    /// The last of them.
    last: Option<gst::Buffer>,
}

impl Feed {
    fn take(&mut self, picture: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let number = self.came;
        self.came += 1;
        if self.chosen.is_none() {
            return self.hand(picture);
        }
        while let Some(pts) = self.shown(number) {
            let mut again = picture.copy();
            let fields = again.make_mut();
            fields.set_pts(self.times.of(pts));
            fields.set_duration(self.times.frame());
            self.hand(again)?;
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// When that picture is shown next, if it is.
    fn shown(&mut self, number: u64) -> Option<Ticks> {
        let &(_, pts) = self.chosen.as_ref()?.get(self.next).filter(|&&(shown, _)| shown == number)?;
        self.next += 1;
        Some(pts)
    }

    fn hand(&mut self, picture: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Some(lender) = &self.lender else { return self.encoder.chain(picture) };
        self.lent += 1;
        let flow = lender.lend(&picture);
        self.last = Some(picture);
        flow
    }

    /// x264 spends on a picture what those behind it that refer to it gain by that, and at its end thinks that there are none: the
    /// last pictures of each segment would be the worst. (In one long encode it looks across key frames, for that very reason.)
    /// It is shown the last one again, first as a key frame so that none that is kept refers to it; when all that is wanted has
    /// come, nothing more is made. `all`: where it is told how many are wanted.
    fn end(&mut self, all: &AtomicU64) {
        let Some(last) = self.last.take() else { return };
        all.store(self.lent, Ordering::Relaxed);
        self.encoder.send_event(gst_video::DownstreamForceKeyUnitEvent::builder().all_headers(false).build());
        for n in 0..AGAIN {
            let mut again = last.copy();
            again.make_mut().set_pts(self.times.behind(n));
            // What comes of it is nobody's concern.
            if self.encoder.chain(again).is_err() {
                break;
            }
        }
        leave_the_rest(&self.encoder);
    }
}

/// At the end of a stream x264enc has all encoded that it was shown, even where nobody takes it. Before a stream of another size it
/// lets go of what is left once nobody takes it, so it is told of one that never comes.
fn leave_the_rest(encoder: &gst::Pad) {
    let Some(mut caps) = encoder.current_caps() else { return };
    let fields = caps.make_mut();
    fields.set("width", SMALLEST);
    fields.set("height", SMALLEST);
    encoder.send_event(gst::event::Caps::new(&caps));
}

/// Samples across and down: one macroblock.
const SMALLEST: i32 = 16;
