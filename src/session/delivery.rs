//! The second half of a session: waits for the segments in order, muxes them, sends them, writes the receipts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use super::degrade::Level;
use super::intake::{Pending, Slot};
use super::output::{Output, OutputState, Rendered};
use super::resume::{Leaving, Progress, Survival, leaves};
use super::work::Made;
use super::{Caller, Context, Ended, Fatal, Gone, Outgoing, Outlet};
use crate::job::{Failure, FailureCode};
use crate::ladder::Plan;
use crate::media::{Hdr, Ticks, Timescale};
use crate::protocol::{
    Degraded, DegradedWhat, DegradedWhy, Done, ErrorMessage, MoveReason, Moved, Pressure, Receipt, Resume,
    SegmentError, SegmentOutcome, ServerMessage,
};
use crate::telemetry::metrics::Direction;

/// Sends until the queue's end has been told, or the client has gone.
pub(super) async fn run(
    context: Arc<Context>,
    (caller, survival): (Caller, Option<Survival>),
    mut slots: Receiver<Slot>,
    (mut notices, leaving): (Receiver<Pressure>, Leaving),
    outlet: impl Outlet,
) -> Ended {
    let mut delivery = Delivery::new(context, caller, survival, leaving, outlet);
    let mut leaving = delivery.leaving.clone();
    let ended = loop {
        let slot = tokio::select! {
            biased;
            Some(notice) = notices.recv() => match delivery.message(ServerMessage::Pressure(notice)).await {
                Ok(()) => continue,
                Err(gone) => break gone.into(),
            },
            slot = slots.recv() => slot,
            reason = leaves(&mut leaving) => break Ended::Moved(reason),
        };
        let sent = match slot {
            Some(Slot::Plan(plan, tracks)) => {
                delivery.plan(&plan);
                delivery.message(ServerMessage::Tracks(*tracks)).await.map_err(Ended::from)
            }
            Some(Slot::Segment(pending)) => delivery.segment(*pending, &mut notices).await,
            Some(Slot::Moved) => break Ended::Moved(delivery.reason()),
            Some(Slot::End(Ok(()))) => break delivery.finish().await,
            Some(Slot::End(Err(fatal))) => Err(Ended::Fatal(fatal)),
            None => Err(Ended::Fatal(Fatal::new("internal", "the session's intake ended without a word"))),
        };
        if let Err(ended) = sent {
            break ended;
        }
    };
    delivery.close(ended).await
}

struct Delivery<O> {
    context: Arc<Context>,
    caller: Caller,
    outlet: O,
    outputs: Vec<Output>,
    /// Outputs of the session that is taken up, until they are planned.
    before: Vec<OutputState>,
    done: Done,
    leaving: Leaving,
    survival: Option<Survival>,
    /// How to go on after the last receipt.
    resume: Option<Resume>,
}

impl<O: Outlet> Delivery<O> {
    fn new(context: Arc<Context>, caller: Caller, mut survival: Option<Survival>, leaving: Leaving, outlet: O) -> Self {
        let progress = survival.as_mut().and_then(|survival| survival.progress.take());
        let nothing = Done { segments: 0, frames_in: 0, frames_out: BTreeMap::new(), failed: 0, degraded: 0 };
        Self {
            done: progress.as_ref().and_then(Progress::done).unwrap_or(nothing),
            before: progress.as_ref().map(|progress| progress.outputs.clone()).unwrap_or_default(),
            resume: survival.as_ref().and_then(|survival| survival.resume(&context.tokens, progress)),
            context,
            caller,
            outlet,
            outputs: Vec::new(),
            leaving,
            survival,
        }
    }

    /// Why the session was told to leave.
    fn reason(&self) -> MoveReason {
        self.leaving.borrow().map_or(MoveReason::Drain, |leave| leave.reason)
    }

    fn plan(&mut self, plan: &Arc<Plan>) {
        let mut before = std::mem::take(&mut self.before);
        before.extend(std::mem::take(&mut self.outputs).into_iter().map(Output::into_state));
        for (index, planned) in plan.outputs.iter().enumerate() {
            let known = before.iter().position(|output| output.name() == planned.name);
            self.outputs.push(match known {
                Some(known) => Output::resume(before.swap_remove(known), plan.clone(), index),
                None => Output::new(plan.clone(), index),
            });
        }
        for output in plan.outputs.iter().filter(|output| output.video.is_some()) {
            self.done.frames_out.entry(output.name.clone()).or_default();
        }
    }

    /// One segment: its new inits, its media, its receipt.
    async fn segment(&mut self, mut pending: Pending, notices: &mut Receiver<Pressure>) -> Result<(), Ended> {
        let mut leaving = self.leaving.clone();
        let made = loop {
            tokio::select! {
                biased;
                Some(notice) = notices.recv() => self.message(ServerMessage::Pressure(notice)).await?,
                made = &mut pending.made => break made,
                reason = leaves(&mut leaving) => return Err(Ended::Moved(reason)),
            }
        };
        let made = made.unwrap_or_else(|error| lost(&pending, &error.to_string()));
        let delivering = Instant::now();
        let mut receipt = self.open_receipt(&pending, &made);
        let (mut failure, mut there) = (None, Vec::new());
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in &mut outputs {
            if let Some(degraded) = output.degraded(&made.level) {
                self.degraded(&mut receipt, degraded);
            }
            match output.render(&pending, &made) {
                Ok(Some(rendered)) => {
                    self.send(&mut receipt, output, rendered).await?;
                    there.extend(output.name().map(str::to_owned));
                }
                Ok(None) => {}
                Err(reason) => {
                    failure.get_or_insert((output.name().map(str::to_owned), reason));
                }
            }
        }
        self.outputs = outputs;
        self.context.metrics.events_dropped(pending.events.dropped);
        for event in pending.events.messages(pending.segment.seq) {
            self.context.metrics.event(event.kind);
            self.message(ServerMessage::Event(event)).await?;
        }
        let (latency, metrics) = (pending.complete_at.elapsed(), self.context.metrics.clone());
        receipt.latency_ms = latency.as_millis() as u64;
        if pending.deadline.is_some_and(|deadline| latency > deadline) {
            self.delivered_late(&mut receipt, &there);
        }
        let hopeless = match failure {
            Some((output, reason)) => self.failed(&mut receipt, output, reason).await?,
            None => None,
        };
        self.done.degraded += u64::from(receipt.outcome == SegmentOutcome::Degraded);
        let Caller { op, origin } = self.caller;
        metrics.segment_done(op, receipt.outcome, origin, latency);
        if made.attempts > 0 {
            metrics.segment_queued(op, made.queued);
            metrics.segment_transcoded(op, made.transcode);
        }
        metrics.segment_delivered(op, delivering.elapsed());
        metrics.frames(Direction::In, receipt.frames_in);
        metrics.odd_units(receipt.repaired, receipt.undecodable);
        metrics.frames(Direction::Out, receipt.frames_out.values().sum());
        self.done.segments += 1;
        self.done.frames_in += receipt.frames_in;
        for (name, frames) in &receipt.frames_out {
            *self.done.frames_out.entry(name.clone()).or_default() += frames;
        }
        self.progressed(&mut pending);
        receipt.resume.clone_from(&self.resume);
        self.message(ServerMessage::Receipt(receipt)).await?;
        drop((pending.place, pending.counted));
        hopeless.map_or(Ok(()), |fatal| Err(Ended::Fatal(fatal)))
    }

    /// Takes note of how to go on after a segment. Where that can't be told, it is as after the one before it.
    fn progressed(&mut self, pending: &mut Pending) {
        let (Some(survival), Some(place)) = (&self.survival, pending.place_after.take()) else { return };
        let outputs = self.outputs.iter().map(|output| output.state().clone()).collect();
        let resume = survival.resume(&self.context.tokens, Some(Progress::new(place, outputs, &self.done)));
        if resume.is_some() {
            self.resume = resume;
        }
    }

    fn open_receipt(&self, pending: &Pending, made: &Made) -> Receipt {
        let segment = &pending.segment;
        let millis = Timescale::new(1000).expect("1000 is not 0");
        let ms = |at: Ticks| at.nearest(segment.timescale, millis).0;
        let frames_in = segment.video.as_ref().map_or(0, |cut| cut.presented());
        Receipt {
            seq: segment.seq,
            start_ms: ms(segment.start),
            duration_ms: ms(segment.end) - ms(segment.start),
            frames_in,
            frames_out: BTreeMap::new(),
            frames_dropped: BTreeMap::new(),
            frames_repeated: BTreeMap::new(),
            audio_samples: BTreeMap::new(),
            audio_lost: made.audio_lost(),
            queued_ms: made.queued.as_millis() as u64,
            transcode_ms: made.transcode.as_millis() as u64,
            latency_ms: 0,
            cpu_ms: made.cpu.as_millis() as u64,
            attempts: made.attempts,
            repaired: segment.repaired.saturating_add(made.moved().min(frames_in)),
            undecodable: segment.undecodable,
            outcome: SegmentOutcome::Ok,
            degraded: Vec::new(),
            error: None,
            resume: None,
        }
    }

    async fn send(&mut self, receipt: &mut Receipt, output: &Output, rendered: Rendered) -> Result<(), Gone> {
        if let Some((header, payload)) = rendered.init {
            self.outlet.send(Outgoing::Binary(header, payload)).await?;
        }
        self.outlet.send(Outgoing::Binary(rendered.header, rendered.media)).await?;
        if let Some(degraded) = rendered.degraded {
            self.degraded(receipt, degraded);
        }
        let name = output.name().unwrap_or_default().to_owned();
        if let Some(frames) = rendered.frames {
            receipt.frames_out.insert(name.clone(), frames);
        }
        if let Some((dropped, repeated)) = rendered.dropped_and_repeated {
            receipt.frames_dropped.insert(name.clone(), dropped);
            receipt.frames_repeated.insert(name.clone(), repeated);
        }
        if let Some(samples) = rendered.audio_samples {
            receipt.audio_samples.insert(name, samples);
        }
        Ok(())
    }

    fn degraded(&self, receipt: &mut Receipt, degraded: Degraded) {
        self.context.metrics.degraded(degraded.what);
        receipt.outcome = SegmentOutcome::Degraded;
        receipt.degraded.push(degraded);
    }

    /// Some of the segment was handed on after its deadline: so it is said of each output that is there.
    fn delivered_late(&self, receipt: &mut Receipt, there: &[String]) {
        for output in there {
            let (what, why) = (DegradedWhat::DeliveredLate, DegradedWhy::Late);
            self.degraded(receipt, Degraded { output: output.clone(), what, why, detail: None });
        }
    }

    /// Says the failure in the receipt and in an error. Where nothing has gone well so far and the media is at fault,
    /// the session is to end with what is returned: the rest of it would fare no better.
    async fn failed(
        &mut self,
        receipt: &mut Receipt,
        output: Option<String>,
        reason: Failure,
    ) -> Result<Option<Fatal>, Ended> {
        let code = reason.code.code();
        receipt.outcome = SegmentOutcome::Failed;
        receipt.error = Some(SegmentError { code: code.to_owned(), message: reason.message.clone() });
        self.done.failed += 1;
        tracing::warn!(seq = receipt.seq, code, reason = %reason.message, "segment failed");
        let at_fault =
            matches!(reason.code, FailureCode::BadMedia | FailureCode::UnsupportedCodec | FailureCode::Poison);
        if at_fault && self.done.failed == self.done.segments + 1 {
            return Ok(Some(Fatal { code, message: reason.message, output }));
        }
        self.context.metrics.error(code);
        let error = ErrorMessage {
            code: code.to_owned(),
            message: reason.message,
            fatal: false,
            retryable: reason.code.retryable(),
            seq: Some(receipt.seq),
            output,
        };
        self.message(ServerMessage::Error(error)).await?;
        Ok(None)
    }

    async fn finish(&mut self) -> Ended {
        let done = self.done.clone();
        match self.message(ServerMessage::Done(done.clone())).await {
            Ok(()) => Ended::Done(done),
            Err(gone) => gone.into(),
        }
    }

    /// The last word, where it is not `done`.
    async fn close(mut self, ended: Ended) -> Ended {
        match &ended {
            Ended::Done(_) => {}
            Ended::Moved(reason) => {
                if let Some(resume) = self.resume.take() {
                    let moved = Moved { reason: *reason, resume, close_in_ms: 0 };
                    // A client that has gone meanwhile goes on from its last receipt.
                    let _ = self.message(ServerMessage::Moved(moved)).await;
                }
            }
            Ended::Gone(gone) => self.context.metrics.error(gone.code()),
            Ended::Fatal(fatal) => {
                self.context.metrics.error(fatal.code);
                let error = ErrorMessage {
                    code: fatal.code.to_owned(),
                    message: fatal.message.clone(),
                    fatal: true,
                    retryable: fatal.retryable(),
                    seq: None,
                    output: fatal.output.clone(),
                };
                // The client may have gone meanwhile; the error is in the metrics and logs all the same.
                let _ = self.message(ServerMessage::Error(error)).await;
            }
        }
        ended
    }

    async fn message(&mut self, message: ServerMessage) -> Result<(), Gone> {
        self.outlet.send(Outgoing::Message(message)).await
    }
}

/// A segment whose work ended without an answer: said, never silent.
fn lost(pending: &Pending, reason: &str) -> Made {
    let failure = || Failure::new(FailureCode::PipelineFailed, format!("the segment's work was lost: {reason}"));
    Made {
        schedules: Arc::default(),
        hdr: Hdr::default(),
        level: Level::default(),
        video: pending.segment.video.as_ref().map(|_| Err(failure())),
        audio: pending.segment.audio.iter().map(|_| Some(Err(failure()))).collect(),
        queued: Duration::ZERO,
        transcode: Duration::ZERO,
        cpu: Duration::ZERO,
        attempts: 1,
    }
}
