//! The first half of a session: bytes → units → segments → jobs, and a reserved place in the order of delivery.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::ahead::Ahead;
use super::captions::Captions;
use super::events::{Held as HeldEvents, Riding};
use super::live::Live;
use super::resume::{Given, InputPlace, Leaving, Place, stops_reading};
use super::scratch::ScratchFile;
use super::tracks::{container, container_name, describe};
use super::work::{Made, Planner, PlannerState};
use super::{Caller, Context, Fatal, Incoming, Wanted};
use crate::ladder::{self, Plan};
use crate::media::demux::{self, Demuxer, Event};
use crate::media::{self, DataUnit, Track};
use crate::pool::Reservation;
use crate::protocol::{Mode, Pressure, PressureLevel, Tracks};
use crate::segment::{self, Point, Segment, Segmenter};
use crate::telemetry::metrics::{Held, Operation};

/// How long a lagging track is waited for, milliseconds: in `live` mode latency counts for more.
const MAX_SKEW_MS: (u32, u32) = (3_000, 30_000);

/// Where intake hands things on.
pub(super) struct Ways<'a> {
    /// In order: the plan, the segments, and how it ended.
    pub queue: Sender<Slot>,
    /// Ahead of the order: pressure.
    pub notices: Sender<Pressure>,
    pub leaving: Leaving,
    /// Where what the session needs is taken note of.
    pub reservation: &'a Reservation,
}

/// A place in the order of delivery.
pub(super) enum Slot {
    /// What is made from here on.
    Plan(Arc<Plan>, Box<Tracks>),
    Segment(Box<Pending>),
    /// Nothing follows.
    End(Result<(), Fatal>),
    /// Nothing follows here: the session goes on elsewhere.
    Moved,
}

/// A segment on its way through the pool. Dropped, its jobs are dropped with it.
pub(super) struct Pending {
    pub segment: Segment,
    /// What the renditions of its video are to carry.
    pub captions: Captions,
    /// What was read until it was cut.
    pub events: Riding,
    pub made: AbortOnDropHandle<Made>,
    /// When its last byte had come.
    pub complete_at: Instant,
    /// How long after that it is wanted, in `live` mode.
    pub deadline: Option<Duration>,
    /// The place; free again when the segment has been delivered.
    pub place: OwnedSemaphorePermit,
    pub counted: Held,
    /// Where the input goes on after it, where that can be told.
    pub place_after: Option<Place>,
}

/// Reads until the stream ends; the last thing in the queue is how it did.
pub(super) async fn run(
    context: Arc<Context>,
    caller: Caller,
    wanted: Wanted,
    incoming: impl Stream<Item = Result<Incoming, Fatal>> + Send,
    places: Arc<Semaphore>,
    ways: Ways<'_>,
) {
    let mut settings = context.settings.segment;
    settings.target_ms = wanted.segment_ms.unwrap_or(settings.target_ms);
    settings.max_skew_ms = if wanted.mode == Mode::Live { MAX_SKEW_MS.0 } else { MAX_SKEW_MS.1 };
    let spool = Box::new(ScratchFile::new(context.scratch.clone(), context.metrics.scratch()));
    let usual = 2 * Duration::from_millis(u64::from(settings.target_ms));
    let deadline = wanted.deadline.unwrap_or(usual);
    let mut intake = Intake {
        live: Live::new(context.pool.clone(), ways.reservation, wanted.mode, deadline),
        demuxer: Demuxer::new(container(wanted.container), context.settings.demux, spool),
        context,
        caller,
        wanted,
        settings,
        source: None,
        tracks: Vec::new(),
        planner: Planner::default(),
        ahead: Ahead::default(),
        events: HeldEvents::default(),
        next_seq: 1,
        places,
        ways,
        pressed: PressureLevel::None,
        bytes: 0,
        given: Given::default(),
        passed: None,
        boundary: None,
        all_cut: false,
    };
    let queue = intake.ways.queue.clone();
    let place = intake.wanted.survival.as_mut().and_then(|survival| survival.progress.take());
    let resumed = match place {
        Some(progress) => intake.resume(progress.place).await,
        None => Ok(()),
    };
    let slot = match resumed {
        Ok(()) => intake.read(incoming).await.unwrap_or_else(|fatal| Slot::End(Err(fatal))),
        Err(fatal) => Slot::End(Err(fatal)),
    };
    // A closed queue means that delivery has ended: there is no one left to tell.
    let _ = queue.send(slot).await;
}

struct Intake<'a> {
    live: Live<'a>,
    context: Arc<Context>,
    caller: Caller,
    wanted: Wanted,
    settings: segment::Settings,
    demuxer: Demuxer,
    source: Option<Source>,
    /// As they were told last.
    tracks: Vec<Track>,
    planner: Planner,
    ahead: Ahead,
    /// What rides along, for the next segment.
    events: HeldEvents,
    next_seq: u64,
    places: Arc<Semaphore>,
    ways: Ways<'a>,
    pressed: PressureLevel,
    /// Of the input, as far as it has come.
    bytes: u64,
    /// Units that have come since the beginning.
    given: Given,
    /// Units that had come before the set-up in which a resumed session begins.
    passed: Option<Given>,
    /// Why the segmenter is being emptied, while it is.
    boundary: Option<InputPlace>,
    /// The session was left when all of the input had been cut.
    all_cut: bool,
}

/// What is taken of the caller's quotas.
enum Due {
    Bytes(u64),
    Pixels(u64),
}

/// How a segmenter begins.
enum Begin<'a> {
    Beginning,
    /// Another set-up was in force before.
    Break,
    Point(&'a Point),
}

/// What is made of the input, by the set-up that holds now.
struct Source {
    plan: Arc<Plan>,
    segmenter: Segmenter,
}

impl Source {
    /// Whether pictures are made.
    fn is_transcoded(&self) -> bool {
        self.plan.video.as_ref().is_some_and(|video| !video.renditions.is_empty())
    }
}

impl Intake<'_> {
    /// What is to be the last in the queue.
    async fn read(&mut self, incoming: impl Stream<Item = Result<Incoming, Fatal>> + Send) -> Result<Slot, Fatal> {
        tokio::pin!(incoming);
        let mut leaving = self.ways.leaving.clone();
        loop {
            let next = tokio::select! {
                biased;
                () = stops_reading(&mut leaving) => return Ok(Slot::Moved),
                next = incoming.next() => next,
            };
            match next {
                Some(Ok(Incoming::Media(bytes))) => {
                    self.pay(Due::Bytes(bytes.len() as u64)).await;
                    self.media(bytes).await?
                }
                Some(Ok(Incoming::Finish)) | None => break,
                Some(Err(fatal)) => return Err(fatal),
            }
        }
        self.finish().await.map(|()| Slot::End(Ok(())))
    }

    async fn finish(&mut self) -> Result<(), Fatal> {
        if self.all_cut {
            return Ok(());
        }
        self.demuxer.finish();
        let ended = self.events().await;
        // What is complete is delivered also when the end is missing.
        if !matches!(&ended, Err(fatal) if fatal.code != "truncated_input") {
            self.flush(Some(InputPlace::End(self.bytes))).await?;
        }
        ended?;
        if self.next_seq == 1 {
            return Err(Fatal::new("no_media", "the input held no media to make anything of"));
        }
        Ok(())
    }

    /// Goes on where another session was left.
    async fn resume(&mut self, place: Place) -> Result<(), Fatal> {
        self.next_seq = place.next_seq;
        self.settings.target_ms = place.target_ms;
        self.events = HeldEvents::resume(place.events);
        let (state, point) = match place.input {
            InputPlace::Within(state, point) => (state, Some(point)),
            InputPlace::Before(state, given) => {
                self.passed = Some(given);
                (state, None)
            }
            InputPlace::End(bytes) => {
                (self.bytes, self.all_cut) = (bytes, true);
                return Ok(());
            }
        };
        let spool = Box::new(ScratchFile::new(self.context.scratch.clone(), self.context.metrics.scratch()));
        self.demuxer = Demuxer::resume(&state, self.context.settings.demux, spool)?;
        self.bytes = state.offset().saturating_sub(state.set_up_bytes());
        let plan = self.plan(state.tracks())?;
        let from = point.as_ref().map_or(Begin::Break, Begin::Point);
        self.begin(plan, state.tracks().to_vec(), from).await?;
        self.planner = Planner::resume(place.planner);
        Ok(())
    }

    async fn media(&mut self, bytes: Bytes) -> Result<(), Fatal> {
        self.bytes += bytes.len() as u64;
        if self.all_cut {
            return Ok(());
        }
        self.demuxer.push(bytes)?;
        self.events().await
    }

    async fn events(&mut self) -> Result<(), Fatal> {
        while let Some(event) = self.demuxer.poll()? {
            match event {
                Event::Tracks { tracks, offset } => self.set_up(tracks, offset).await?,
                Event::Data(unit) => self.data(unit),
                Event::Unit(unit) => {
                    if self.passed.as_mut().is_some_and(|passed| passed.take(&unit)) {
                        continue;
                    }
                    self.given.add(&unit);
                    let Some(source) = &mut self.source else { continue };
                    source.segmenter.push(unit).map_err(|error| Fatal::new(error.code(), error.to_string()))?;
                    self.segments().await?;
                    self.look_ahead();
                }
            }
        }
        Ok(())
    }

    /// Has the live segment that is still coming worked on, where that costs nobody anything.
    fn look_ahead(&mut self) {
        let Some(source) = self.source.as_ref().filter(|source| source.is_transcoded()) else { return };
        if self.caller.op == Operation::Stream && self.live.has_all_asked_for() {
            let who = (&self.context.pool, &self.live);
            self.ahead.go_on(who, &source.plan, &mut self.planner, &source.segmenter);
        }
    }

    /// Held for the segment that is cut next.
    fn data(&mut self, unit: DataUnit) {
        if self.events.passes(&unit) {
            return;
        }
        if self.wanted.cut_on_splices
            && let Some(point) = self.events.splice_point(&unit)
            && let Some(source) = &mut self.source
        {
            source.segmenter.cut_at(point, unit.timescale);
        }
        self.events.push(unit);
    }

    /// The set-up is known, or has changed: from here on, segments are made by a new plan. `offset`: where in the input.
    async fn set_up(&mut self, tracks: Vec<Track>, offset: u64) -> Result<(), Fatal> {
        let plan = self.plan(&tracks);
        let from = match &self.source {
            // What changed is none of what is used.
            Some(source) if plan.as_ref().is_ok_and(|plan| plan.makes_the_same(&source.plan)) => {
                self.tracks = tracks;
                return Ok(());
            }
            Some(_) => Begin::Break,
            None => Begin::Beginning,
        };
        let state = self.state(offset, &tracks);
        self.flush(state.map(|state| InputPlace::Before(state, self.given.clone()))).await?;
        self.begin(plan?, tracks, from).await
    }

    fn plan(&self, tracks: &[Track]) -> Result<Plan, ladder::Refused> {
        Plan::resolve(&self.wanted.request, tracks, self.context.pool.inventory(), self.context.settings.ladder)
    }

    /// How the input can be taken up again at `offset`; None where nobody will ask.
    fn state(&self, offset: u64, tracks: &[Track]) -> Option<demux::State> {
        self.wanted.survival.as_ref()?;
        self.demuxer.state(offset, tracks.to_vec())
    }

    async fn begin(&mut self, plan: Plan, tracks: Vec<Track>, from: Begin<'_>) -> Result<(), Fatal> {
        let used = segment::Tracks {
            video: plan.video.as_ref().map(|video| &video.track),
            audio: plan.audio.iter().map(|audio| &audio.track).collect(),
        };
        let segmenter = match from {
            Begin::Beginning => Segmenter::new(self.settings, &used, self.next_seq, false),
            Begin::Break => Segmenter::new(self.settings, &used, self.next_seq, true),
            Begin::Point(point) => Segmenter::resume(self.settings, &used, point),
        };
        let message = Tracks {
            container: self.demuxer.container().map(container_name).unwrap_or_default().to_owned(),
            tracks: tracks.iter().map(|track| describe(track, plan.uses(track.id))).collect(),
            outputs: plan.describe(),
        };
        self.live.settle(&plan).map_err(|full| {
            self.context.metrics.session_rejected("capacity");
            Fatal::new("full", full.to_string())
        })?;
        let plan = Arc::new(plan);
        (self.planner, self.ahead) = (Planner::default(), Ahead::default());
        self.source = Some(Source { plan: plan.clone(), segmenter });
        self.tracks = tracks;
        self.hand_on(Slot::Plan(plan, Box::new(message))).await
    }

    /// What the segmenter still holds becomes the last segments of this set-up. `next`: where the input goes on then.
    async fn flush(&mut self, next: Option<InputPlace>) -> Result<(), Fatal> {
        if let Some(source) = &mut self.source {
            source.segmenter.finish();
        }
        self.boundary = next;
        let ended = self.segments().await;
        self.boundary = None;
        ended
    }

    /// Where the input goes on after a segment that was just cut.
    fn place_after(&self, segment: &Segment) -> Option<Place> {
        self.wanted.survival.as_ref()?;
        let (planner, input) = match &self.boundary {
            Some(next) if segment.last => (PlannerState::default(), next.clone()),
            _ => {
                let state = self.state(segment.resume.offset?, &self.tracks)?;
                (self.planner.state(), InputPlace::Within(state, segment.resume.clone()))
            }
        };
        let (next_seq, target_ms) = (segment.seq + 1, self.settings.target_ms);
        Some(Place { next_seq, target_ms, planner, input, events: self.events.state() })
    }

    async fn segments(&mut self) -> Result<(), Fatal> {
        while let Some(segment) = self.source.as_mut().and_then(|source| source.segmenter.poll()) {
            self.submit(segment).await?;
        }
        Ok(())
    }

    /// Reserves a place, which may take until another segment is delivered, and starts the work.
    async fn submit(&mut self, segment: Segment) -> Result<(), Fatal> {
        let Some(plan) = self.source.as_ref().map(|source| source.plan.clone()) else { return Ok(()) };
        let complete_at = Instant::now();
        let captions = captions(&plan, &segment);
        let events = self.events.take(self.demuxer.damaged_data());
        let jobs = self.planner.jobs(&plan, &segment);
        self.next_seq = segment.seq + 1;
        let place_after = self.place_after(&segment);
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.press(PressureLevel::Full, Duration::ZERO);
                let place = self.places.clone().acquire_owned().await;
                self.context.metrics.blocked("places", complete_at.elapsed());
                place.map_err(|_| Fatal::new("internal", "the session's places were closed"))?
            }
        };
        let counted = self.context.metrics.segment_in_flight();
        let claim = self.live.claim(complete_at.into());
        let early = self.ahead.take(&segment);
        let decision = self.live.decide(&plan, &segment, &jobs, claim, early.as_ref());
        let pixels = if decision.late { 0 } else { jobs.pixels(&decision.level) };
        let context = self.context.clone();
        let deadline = claim.deadline.map(|by| by.into_std() - complete_at);
        let made = async move { jobs.run(&context.pool, claim, decision, early).await };
        let pending = Pending {
            segment,
            captions,
            events,
            made: AbortOnDropHandle::new(tokio::spawn(made)),
            complete_at,
            deadline,
            place,
            counted,
            place_after,
        };
        self.hand_on(Slot::Segment(Box::new(pending))).await?;
        let waiting = self.context.pool.snapshot().queued > 0;
        self.press(if waiting { PressureLevel::Some } else { PressureLevel::None }, complete_at.elapsed());
        // Paid behind the work: a segment is never late for it, only the next comes later.
        self.pay(Due::Pixels(pixels)).await;
        Ok(())
    }

    /// Waits until the caller's quota allows for it; not where the session is to be left.
    async fn pay(&mut self, due: Due) {
        let begun = tokio::time::Instant::now();
        let mut leaving = self.ways.leaving.clone();
        let allowance = &mut self.wanted.allowance;
        if allowance.is_unlimited() {
            return;
        }
        tokio::select! {
            biased;
            () = async {
                match due {
                    Due::Bytes(bytes) => allowance.bytes.take(bytes).await,
                    Due::Pixels(pixels) => allowance.pixels.take(pixels).await,
                }
            } => {}
            () = stops_reading(&mut leaving) => {}
        }
        self.context.metrics.blocked("quota", begun.elapsed());
    }

    /// Tells the client when the level changes; a notice that finds no room is not worth waiting for.
    fn press(&mut self, level: PressureLevel, queued: Duration) {
        if self.pressed == level || self.caller.op != Operation::Stream {
            return;
        }
        let pressure = Pressure { level, queued_ms: queued.as_millis() as u64 };
        if self.ways.notices.try_send(pressure).is_ok() {
            self.pressed = level;
        }
    }

    async fn hand_on(&mut self, slot: Slot) -> Result<(), Fatal> {
        self.ways.queue.send(slot).await.map_err(|_| Fatal::new("client_gone", "the client has gone"))
    }
}

impl From<media::Error> for Fatal {
    fn from(error: media::Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<ladder::Refused> for Fatal {
    fn from(refused: ladder::Refused) -> Self {
        Self { code: refused.code, message: refused.message, output: refused.output }
    }
}

fn captions(plan: &Plan, segment: &Segment) -> Captions {
    let video = plan.video.as_ref().filter(|video| !video.renditions.is_empty());
    video
        .zip(segment.video.as_ref())
        .map_or_else(Captions::default, |(video, cut)| Captions::of(cut, video.source.codec))
}
