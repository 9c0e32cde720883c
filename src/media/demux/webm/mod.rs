//! WebM and Matroska (RFC 8794, RFC 9559), as MediaRecorder and ffmpeg stream them and as files hold them.
//!
//! The input is read as one flat row of elements: Segment and Cluster are entered, whatever their size says, and end
//! where an element comes that can't be their child; so unknown sizes, and sizes that turned out wrong, need no case of
//! their own. Blocks are held until their last byte, set-up likewise; all else is skipped without being held.
//!
//! - Timestamps stay as they are written, less CodecDelay (5.1.4.1.26): 33, 33, 34 is not made 33⅓.
//! - Matroska has no decode times. `dts` is `pts`, also where that goes down in decode order (B-frames): the order of
//!   the units is the decode order, and nothing downstream places a frame by its `dts`.
//! - Tracks that can't be read here are listed, and give no units. A block without bytes gives none either.
//! - A track whose codec speaks only in its frames (VP8, VP9, AC-3, MP3, H.264 of MediaRecorder) holds all events back
//!   until its first key frame, within [`Limits::header_bytes`] and [`MAX_HOLD`]; past them it is listed as
//!   [`Format::Other`](crate::media::Format::Other), and the tracks are told again when it speaks.

mod block;
mod ebml;
mod input;
mod nal;
mod stream;
#[cfg(test)]
mod tests;
mod tracks;

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Event, Limits};
use crate::media::{AccessUnit, Error, Sync, Ticks, Timescale, Track, codec};
use block::Block;
use ebml::{Header, id};
use input::Input;
use stream::Stream;

/// Media time for which blocks are held while a track's set-up is not known, in seconds.
const MAX_HOLD: i64 = 10;

const NANOSECONDS: Timescale = Timescale::new(1_000_000_000).expect("not zero");

/// See [`super::Demuxer`], which this serves.
pub struct Demuxer {
    limits: Limits,
    input: Input,
    /// Bytes of the current element that are of no use.
    skip: u64,
    /// An EBML header has been read.
    started: bool,
    clock: Clock,
    /// The Segment's timescale is final: Info has come, or the first Cluster without it.
    clock_known: bool,
    /// The content of the Segment's Tracks, to tell a repetition from a change.
    tracks: Bytes,
    streams: Vec<Stream>,
    /// The streams have not been told yet.
    pending: bool,
    /// Timestamp of the current Cluster.
    cluster: Option<u64>,
    held: VecDeque<Frames>,
    held_bytes: usize,
    events: VecDeque<Event>,
    finished: bool,
    failed: Option<Error>,
}

impl Demuxer {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            input: Input::default(),
            skip: 0,
            started: false,
            clock: Clock::default(),
            clock_known: false,
            tracks: Bytes::new(),
            streams: Vec::new(),
            pending: false,
            cluster: None,
            held: VecDeque::new(),
            held_bytes: 0,
            events: VecDeque::new(),
            finished: false,
            failed: None,
        }
    }

    pub fn push(&mut self, data: Bytes) -> Result<(), Error> {
        self.input.push(data);
        Ok(())
    }

    pub fn finish(&mut self) {
        self.finished = true;
    }

    pub fn poll(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            let more = self.step().and_then(|more| if !more && self.finished { self.end() } else { Ok(more) });
            match more {
                Ok(true) => {}
                Ok(false) if self.events.is_empty() => return Ok(None),
                Ok(false) => {}
                Err(error) => self.failed = Some(error),
            }
        }
    }

    /// Reads one element; false where more bytes are needed.
    fn step(&mut self) -> Result<bool, Error> {
        self.skip -= self.input.skip(self.skip);
        let mut head = [0; ebml::MAX_HEADER];
        let filled = self.input.peek(&mut head);
        let header = match Header::parse(&head[..filled]) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(false),
            Err(_) if !self.started => return Err(Error::UnsupportedContainer),
            Err(error) => return Err(error),
        };
        if !self.started && header.id != id::EBML {
            return Err(Error::UnsupportedContainer);
        }
        let most = match header.id {
            id::SEGMENT => {
                self.input.skip(header.length as u64);
                self.begin_segment()?;
                return Ok(true);
            }
            id::CLUSTER => {
                self.input.skip(header.length as u64);
                self.cluster = None;
                self.clock_known = true;
                self.tell_tracks_if_known()?;
                return Ok(true);
            }
            id::EBML | id::INFO | id::TRACKS => self.limits.header_bytes,
            id::SIMPLE_BLOCK | id::BLOCK_GROUP => self.limits.unit_bytes,
            id::TIMESTAMP => 8,
            _ => {
                self.skip = size(&header)?;
                self.input.skip(header.length as u64);
                return Ok(true);
            }
        };
        let size = size(&header)?;
        let size = usize::try_from(size).ok().filter(|&size| size <= most).ok_or_else(|| {
            Error::OverLimit(format!("Matroska: element {:X} of {size} bytes, at most {most} are read", header.id))
        })?;
        if self.input.len() - header.length < size {
            return Ok(false);
        }
        self.input.skip(header.length as u64);
        let Some(content) = self.input.take(size) else { return Ok(false) };
        match header.id {
            id::EBML => self.read_ebml(&content)?,
            id::INFO => self.read_info(&content)?,
            id::TRACKS => self.read_tracks(content)?,
            id::TIMESTAMP => self.cluster = Some(ebml::uint(&content)?),
            id::SIMPLE_BLOCK => self.read_block(Block::simple(content)?)?,
            _ => {
                if let Some(block) = Block::group(&content)? {
                    self.read_block(block)?;
                }
            }
        }
        Ok(true)
    }

    /// A live stream may end after any block, and a file within what is skipped anyway.
    fn end(&mut self) -> Result<bool, Error> {
        self.tell_tracks()?;
        let left = self.input.len();
        if left > 0 {
            self.failed = Some(Error::Truncated(format!("Matroska: {left} bytes into an element")));
        } else if self.streams.is_empty() {
            self.failed = Some(Error::Truncated("Matroska: before its tracks".into()));
        }
        Ok(self.failed.is_some())
    }

    /// RFC 8794 11.2, RFC 9559 4.
    fn read_ebml(&mut self, content: &Bytes) -> Result<(), Error> {
        let mut doc_type = String::new();
        for child in ebml::children(content) {
            let (id, value) = child?;
            let most = match id {
                id::DOC_TYPE => {
                    doc_type = ebml::string(&value);
                    continue;
                }
                id::EBML_READ_VERSION => 1,
                id::EBML_MAX_ID_LENGTH | id::DOC_TYPE_READ_VERSION => 4,
                id::EBML_MAX_SIZE_LENGTH => 8,
                _ => continue,
            };
            if ebml::uint(&value)? > most {
                return Err(Error::UnsupportedContainer);
            }
        }
        if !matches!(doc_type.as_str(), "webm" | "matroska") {
            return Err(Error::UnsupportedContainer);
        }
        self.started = true;
        Ok(())
    }

    /// What a Segment says holds for that Segment only.
    fn begin_segment(&mut self) -> Result<(), Error> {
        self.tell_tracks()?;
        self.streams.clear();
        self.tracks = Bytes::new();
        self.clock = Clock::default();
        self.clock_known = false;
        self.cluster = None;
        Ok(())
    }

    fn read_info(&mut self, content: &Bytes) -> Result<(), Error> {
        if self.clock_known {
            return Ok(());
        }
        for child in ebml::children(content) {
            let (id, value) = child?;
            if id == id::TIMESTAMP_SCALE {
                self.clock = Clock::new(ebml::uint(&value)?)?;
            }
        }
        self.clock_known = true;
        self.tell_tracks_if_known()
    }

    fn read_tracks(&mut self, content: Bytes) -> Result<(), Error> {
        if content == self.tracks {
            return Ok(());
        }
        self.tell_tracks()?;
        let entries = tracks::parse(&content, &self.limits)?;
        self.streams = entries.into_iter().map(Stream::new).collect::<Result<_, _>>()?;
        self.tracks = content;
        self.pending = true;
        self.tell_tracks_if_known()
    }

    fn read_block(&mut self, block: Block) -> Result<(), Error> {
        if self.streams.is_empty() {
            return Err(Error::bad("Matroska: a block before the tracks"));
        }
        let cluster = self.cluster.ok_or_else(|| Error::bad("Matroska: a block before its Cluster's Timestamp"))?;
        let Some(index) = self.streams.iter().position(|stream| stream.entry.number == block.track) else {
            return Ok(());
        };
        let stream = &mut self.streams[index];
        if !stream.is_read() {
            return Ok(());
        }
        let frames = Frames {
            stream: index,
            pts: self.clock.pts(cluster, block.relative, stream.entry.codec_delay)?,
            duration: block.duration.map(|duration| self.clock.ticks(i128::from(duration))).transpose()?,
            frames: block
                .frames
                .into_iter()
                .map(|frame| stream.access_unit(frame, block.key))
                .collect::<Result<_, _>>()?,
        };
        if !self.pending {
            return self.give(frames);
        }
        for (data, sync) in &frames.frames {
            if !stream.is_known() {
                stream.learn(data, *sync)?;
            }
        }
        self.hold(frames)
    }

    fn hold(&mut self, frames: Frames) -> Result<(), Error> {
        // What a held frame costs besides its bytes.
        const OVERHEAD: usize = 128;
        self.held_bytes += frames.frames.iter().map(|(data, _)| data.len() + OVERHEAD).sum::<usize>();
        let first = self.held.front().map_or(frames.pts, |first| first.pts);
        let span = (frames.pts - first).0.saturating_abs();
        self.held.push_back(frames);
        if self.held_bytes > self.limits.header_bytes || span > MAX_HOLD * i64::from(self.clock.timescale.get()) {
            return self.tell_tracks();
        }
        self.tell_tracks_if_known()
    }

    fn tell_tracks_if_known(&mut self) -> Result<(), Error> {
        if self.clock_known && self.streams.iter().all(Stream::is_known) { self.tell_tracks() } else { Ok(()) }
    }

    fn tell_tracks(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.pending) {
            return Ok(());
        }
        self.push_tracks();
        self.held_bytes = 0;
        std::mem::take(&mut self.held).into_iter().try_for_each(|frames| self.give(frames))
    }

    fn push_tracks(&mut self) {
        let timescale = self.clock.timescale;
        let track = |stream: &Stream| Track {
            id: stream.entry.id,
            timescale,
            language: stream.entry.language.clone(),
            format: stream.format(),
        };
        self.events.push_back(Event::Tracks(self.streams.iter().map(track).collect()));
    }

    fn give(&mut self, frames: Frames) -> Result<(), Error> {
        let times = match self.streams.get(frames.stream) {
            Some(stream) => frames.times(stream, self.clock.timescale),
            None => return Ok(()),
        };
        for ((data, sync), (offset, duration)) in frames.frames.into_iter().zip(times) {
            if data.is_empty() {
                continue;
            }
            let stream = &mut self.streams[frames.stream];
            let track = stream.entry.id;
            let changed = stream.learn(&data, sync)?;
            let described = stream.is_described();
            let data = stream.dress(data, sync);
            if changed {
                self.push_tracks();
            }
            if described && !data.is_empty() {
                let pts = frames.pts + offset;
                self.events.push_back(Event::Unit(AccessUnit {
                    track,
                    pts,
                    dts: pts,
                    duration,
                    sync,
                    offset: 0,
                    data,
                }));
            }
        }
        Ok(())
    }
}

fn size(header: &Header) -> Result<u64, Error> {
    header.size.ok_or_else(|| Error::bad(format!("Matroska: element {:X} may not be of unknown size", header.id)))
}

/// The frames of one block, as access units without their place.
struct Frames {
    stream: usize,
    /// Of the first.
    pts: Ticks,
    /// Of all together.
    duration: Option<Ticks>,
    frames: Vec<(Bytes, Sync)>,
}

impl Frames {
    /// Where each frame lies after the first, and its duration, as far as the container or the sound itself says it.
    /// Each place is rounded on its own, so that nothing adds up.
    fn times(&self, stream: &Stream, timescale: Timescale) -> Vec<(Ticks, Option<Ticks>)> {
        let count = self.frames.len();
        let each = stream.entry.default_duration.map(|each| i64::try_from(each).unwrap_or(i64::MAX));
        let default = |n: usize| each.map(|each| Ticks(each.saturating_mul(n as i64)).nearest(NANOSECONDS, timescale));
        if count == 1 {
            return vec![(Ticks(0), self.duration.or(default(1)))];
        }
        let starts: Option<Vec<Ticks>> = match (each, self.samples(stream)) {
            (Some(_), _) => (0..=count).map(default).collect(),
            (None, Some((rate, samples))) => {
                Some(samples.into_iter().map(|samples| samples.nearest(rate, timescale)).collect())
            }
            (None, None) => self.duration.map(|whole| {
                let part = |n| i128::from(whole.0) * n as i128 / count as i128;
                (0..=count).map(|n| Ticks(part(n) as i64)).collect()
            }),
        };
        let Some(starts) = starts else { return vec![(Ticks(0), None); count] };
        starts.windows(2).map(|pair| (pair[0], Some(pair[1] - pair[0]))).collect()
    }

    /// Samples before each frame of sound, and after the last, with their rate.
    fn samples(&self, stream: &Stream) -> Option<(Timescale, Vec<Ticks>)> {
        let audio = stream.audio()?;
        let mut total = 0i64;
        let mut before = vec![Ticks(0)];
        for (data, _) in &self.frames {
            total += i64::from(codec::samples(audio, data)?);
            before.push(Ticks(total));
        }
        Some((Timescale::new(audio.sample_rate)?, before))
    }
}

/// TimestampScale (RFC 9559 5.1.2.9) as a timescale, exactly.
struct Clock {
    timescale: Timescale,
    /// Ticks of each step of a timestamp: 1, or what TimestampScale says where a second is no multiple of it.
    step: u64,
}

impl Default for Clock {
    fn default() -> Self {
        const MILLISECONDS: Timescale = Timescale::new(1000).expect("not zero");
        Self { timescale: MILLISECONDS, step: 1 }
    }
}

impl Clock {
    fn new(timestamp_scale: u64) -> Result<Self, Error> {
        let second = u64::from(NANOSECONDS.get());
        let whole = second.checked_rem(timestamp_scale) == Some(0);
        let per_second = if whole { (second / timestamp_scale) as u32 } else { NANOSECONDS.get() };
        match Timescale::new(per_second) {
            Some(timescale) if timestamp_scale > 0 => {
                Ok(Self { timescale, step: if whole { 1 } else { timestamp_scale } })
            }
            _ => Err(Error::bad("Matroska: a TimestampScale of 0")),
        }
    }

    fn ticks(&self, steps: i128) -> Result<Ticks, Error> {
        let ticks = steps.checked_mul(i128::from(self.step)).and_then(|ticks| i64::try_from(ticks).ok());
        ticks.map(Ticks).ok_or_else(|| Error::bad("Matroska: a timestamp out of range"))
    }

    /// `codec_delay` in nanoseconds, taken off rounded to the nearest tick, as libavformat does.
    fn pts(&self, cluster: u64, relative: i16, codec_delay: u64) -> Result<Ticks, Error> {
        let delay = Ticks(i64::try_from(codec_delay).unwrap_or(i64::MAX)).nearest(NANOSECONDS, self.timescale);
        Ok(self.ticks(i128::from(cluster) + i128::from(relative))? - delay)
    }
}
