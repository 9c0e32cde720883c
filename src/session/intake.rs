//! The first half of a session: bytes → units → segments → jobs, and a reserved place in the order of delivery.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::captions::Captions;
use super::events::{Held as HeldEvents, Riding};
use super::scratch::ScratchFile;
use super::work::{Made, Planner};
use super::{Caller, Context, Fatal, Incoming, Wanted};
use crate::ladder::{self, Plan};
use crate::media::demux::{Container, Demuxer, Event};
use crate::media::{self, DataUnit, Format, Track};
use crate::protocol::{InputContainer, Mode, Pressure, PressureLevel, ServerMessage, TrackInfo, Tracks};
use crate::segment::{self, Segment, Segmenter};
use crate::telemetry::metrics::{Held, Operation};

/// How long a lagging track is waited for, milliseconds: in `live` mode latency counts for more.
const MAX_SKEW_MS: (u32, u32) = (3_000, 30_000);

/// Where intake hands things on.
pub(super) struct Ways {
    /// In order: the plan, the segments, and how it ended.
    pub queue: Sender<Slot>,
    /// Ahead of the order: pressure.
    pub notices: Sender<ServerMessage>,
}

/// A place in the order of delivery.
pub(super) enum Slot {
    /// What is made from here on.
    Plan(Arc<Plan>, Box<Tracks>),
    Segment(Box<Pending>),
    /// Nothing follows.
    End(Result<(), Fatal>),
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
    /// The place; free again when the segment has been delivered.
    pub place: OwnedSemaphorePermit,
    pub counted: Held,
}

/// Reads until the stream ends; the last thing in the queue is how it did.
pub(super) async fn run(
    context: Arc<Context>,
    caller: Caller,
    wanted: Wanted,
    incoming: impl Stream<Item = Result<Incoming, Fatal>> + Send,
    places: Arc<Semaphore>,
    ways: Ways,
) {
    let mut settings = context.settings.segment;
    settings.target_ms = wanted.segment_ms.unwrap_or(settings.target_ms);
    settings.max_skew_ms = if wanted.mode == Mode::Live { MAX_SKEW_MS.0 } else { MAX_SKEW_MS.1 };
    let spool = Box::new(ScratchFile::new(context.scratch.clone(), context.metrics.scratch()));
    let intake = Intake {
        demuxer: Demuxer::new(container(wanted.container), context.settings.demux, spool),
        context,
        caller,
        wanted,
        settings,
        source: None,
        planner: Planner::default(),
        events: HeldEvents::default(),
        next_seq: 1,
        places,
        ways,
        pressed: PressureLevel::None,
        bytes: 0,
    };
    let queue = intake.ways.queue.clone();
    let result = intake.read(incoming).await;
    // A closed queue means that delivery has ended: there is no one left to tell.
    let _ = queue.send(Slot::End(result)).await;
}

struct Intake {
    context: Arc<Context>,
    caller: Caller,
    wanted: Wanted,
    settings: segment::Settings,
    demuxer: Demuxer,
    source: Option<Source>,
    planner: Planner,
    /// What rides along, for the next segment.
    events: HeldEvents,
    next_seq: u64,
    places: Arc<Semaphore>,
    ways: Ways,
    pressed: PressureLevel,
    bytes: u64,
}

/// What is made of the input, by the set-up that holds now.
struct Source {
    plan: Arc<Plan>,
    segmenter: Segmenter,
}

impl Intake {
    async fn read(mut self, incoming: impl Stream<Item = Result<Incoming, Fatal>> + Send) -> Result<(), Fatal> {
        tokio::pin!(incoming);
        while let Some(next) = incoming.next().await {
            match next? {
                Incoming::Media(bytes) => self.media(bytes).await?,
                Incoming::Finish => break,
            }
        }
        self.demuxer.finish();
        let ended = self.events().await;
        // What is complete is delivered also when the end is missing.
        if !matches!(&ended, Err(fatal) if fatal.code != "truncated_input") {
            self.flush().await?;
        }
        ended?;
        if self.next_seq == 1 {
            return Err(Fatal::new("no_media", "the input held no media to make anything of"));
        }
        Ok(())
    }

    async fn media(&mut self, bytes: Bytes) -> Result<(), Fatal> {
        self.bytes += bytes.len() as u64;
        self.demuxer.push(bytes)?;
        self.events().await
    }

    async fn events(&mut self) -> Result<(), Fatal> {
        while let Some(event) = self.demuxer.poll()? {
            match event {
                Event::Tracks { tracks, .. } => self.set_up(tracks).await?,
                Event::Data(unit) => self.data(unit),
                Event::Unit(unit) => {
                    let Some(source) = &mut self.source else { continue };
                    source.segmenter.push(unit).map_err(|error| Fatal::new(error.code(), error.to_string()))?;
                    self.segments().await?;
                }
            }
        }
        Ok(())
    }

    /// Held for the segment that is cut next.
    fn data(&mut self, unit: DataUnit) {
        self.events.push(unit);
    }

    /// The set-up is known, or has changed: from here on, segments are made by a new plan.
    async fn set_up(&mut self, tracks: Vec<Track>) -> Result<(), Fatal> {
        let limits = self.context.settings.ladder;
        let plan = Plan::resolve(&self.wanted.request, &tracks, self.context.pool.inventory(), limits);
        let again = match &self.source {
            // What changed is none of what is used.
            Some(source) if plan.as_ref().is_ok_and(|plan| plan.makes_the_same(&source.plan)) => return Ok(()),
            Some(_) => true,
            None => false,
        };
        self.flush().await?;
        let plan = plan?;
        let used = segment::Tracks {
            video: plan.video.as_ref().map(|video| &video.track),
            audio: plan.audio.iter().map(|audio| &audio.track).collect(),
        };
        let segmenter = Segmenter::new(self.settings, &used, self.next_seq, again);
        let message = Tracks {
            container: self.demuxer.container().map(container_name).unwrap_or_default().to_owned(),
            tracks: tracks.iter().map(|track| describe(track, plan.uses(track.id))).collect(),
            outputs: plan.describe(),
        };
        let plan = Arc::new(plan);
        self.planner = Planner::default();
        self.source = Some(Source { plan: plan.clone(), segmenter });
        self.hand_on(Slot::Plan(plan, Box::new(message))).await
    }

    /// What the segmenter still holds becomes the last segments of this set-up.
    async fn flush(&mut self) -> Result<(), Fatal> {
        if let Some(source) = &mut self.source {
            source.segmenter.finish();
        }
        self.segments().await
    }

    async fn segments(&mut self) -> Result<(), Fatal> {
        while let Some(segment) = self.source.as_mut().and_then(|source| source.segmenter.poll()) {
            self.submit(segment).await?;
        }
        Ok(())
    }

    /// Reserves a place, which may take until another segment is delivered, and starts the work.
    async fn submit(&mut self, segment: Segment) -> Result<(), Fatal> {
        let Some(source) = &self.source else { return Ok(()) };
        let complete_at = Instant::now();
        let captions = captions(&source.plan, &segment);
        let events = self.events.take(self.demuxer.damaged_data());
        let jobs = self.planner.jobs(&source.plan, &segment);
        self.next_seq = segment.seq + 1;
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
        let context = self.context.clone();
        let made = tokio::spawn(async move { jobs.run(&context.pool).await });
        let pending =
            Pending { segment, captions, events, made: AbortOnDropHandle::new(made), complete_at, place, counted };
        self.hand_on(Slot::Segment(Box::new(pending))).await?;
        let waiting = self.context.pool.snapshot().queued > 0;
        self.press(if waiting { PressureLevel::Some } else { PressureLevel::None }, complete_at.elapsed());
        Ok(())
    }

    /// Tells the client when the level changes; a notice that finds no room is not worth waiting for.
    fn press(&mut self, level: PressureLevel, queued: Duration) {
        if self.pressed == level || self.caller.op != Operation::Stream {
            return;
        }
        let pressure = Pressure { level, queued_ms: queued.as_millis() as u64 };
        if self.ways.notices.try_send(ServerMessage::Pressure(pressure)).is_ok() {
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

fn container(requested: InputContainer) -> Option<Container> {
    match requested {
        InputContainer::Auto => None,
        InputContainer::Mp4 => Some(Container::Mp4),
        InputContainer::Webm => Some(Container::Webm),
        InputContainer::Ts => Some(Container::Ts),
    }
}

fn container_name(container: Container) -> &'static str {
    match container {
        Container::Mp4 => "mp4",
        Container::Webm => "webm",
        Container::Ts => "ts",
    }
}

fn describe(track: &Track, used: bool) -> TrackInfo {
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
