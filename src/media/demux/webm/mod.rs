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

use bytes::{Bytes, BytesMut};
use smallvec::{SmallVec, smallvec};

use super::{Event, Limits, SetUp};
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
    /// Where in the input the next byte lies.
    position: u64,
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
    /// Where the current Cluster starts.
    cluster_at: u64,
    /// Where the set-up in force starts.
    set_up_at: u64,
    /// The elements of the set-up in force, as far as they can be carried about.
    set_up: BytesMut,
    /// Where the first Cluster starts.
    set_up_bytes: Option<u64>,
    /// The set-up in force is not the input's first.
    again: bool,
    resume: Option<Resume>,
}

/// The place where one goes on, until it is reached.
struct Resume {
    offset: u64,
    tracks: Vec<Track>,
    /// Bytes of set-up that are known already; the input's own is passed over then.
    carried: Option<u64>,
}

impl Demuxer {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            input: Input::default(),
            position: 0,
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
            cluster_at: 0,
            set_up_at: 0,
            set_up: BytesMut::new(),
            set_up_bytes: None,
            again: false,
            resume: None,
        }
    }

    /// Goes on at `offset` as if all before it had been read. `tracks`: as they were told last.
    pub fn resume(limits: Limits, offset: u64, set_up: &SetUp, tracks: &[Track]) -> Self {
        let mut demuxer = Self::new(limits);
        let carried = match set_up {
            SetUp::First => None,
            SetUp::Carried(bytes) => {
                demuxer.push_bytes(bytes.clone());
                demuxer.again = true;
                Some(bytes.len() as u64)
            }
            SetUp::Again => {
                (demuxer.position, demuxer.set_up_at, demuxer.again) = (offset, offset, offset > 0);
                return demuxer;
            }
        };
        demuxer.resume = Some(Resume { offset, tracks: tracks.to_vec(), carried });
        demuxer
    }

    /// How to go on at `offset`, which is a unit's or that of tracks.
    pub fn state(&self, offset: u64) -> (u64, SetUp) {
        let large = self.set_up.len() > super::CARRIED;
        if offset <= self.set_up_at || (self.again && large) {
            return (self.set_up_at, SetUp::Again);
        }
        if self.again { (offset, SetUp::Carried(self.set_up.clone().freeze())) } else { (offset, SetUp::First) }
    }

    /// How many bytes of the input are set-up: those before the first Cluster.
    pub fn set_up_bytes(&self) -> u64 {
        self.set_up_bytes.unwrap_or(0)
    }

    fn push_bytes(&mut self, data: Bytes) {
        self.input.push(data);
    }

    pub fn push(&mut self, data: Bytes) -> Result<(), Error> {
        self.push_bytes(data);
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
        self.skip -= self.pass(self.skip);
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
        if self.passes_over(&header)? {
            return Ok(true);
        }
        let most = match header.id {
            id::SEGMENT => {
                self.begin_segment(&head[..header.length])?;
                self.pass(header.length as u64);
                return Ok(true);
            }
            id::CLUSTER => {
                self.begin_cluster();
                self.pass(header.length as u64);
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
                self.pass(header.length as u64);
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
        let at = self.position;
        self.pass(header.length as u64);
        let Some(content) = self.input.take(size) else { return Ok(false) };
        self.position += size as u64;
        match header.id {
            id::EBML => {
                self.read_ebml(&content)?;
                self.begin_set_up(at);
                self.keep_set_up(&head[..header.length], &content);
            }
            id::INFO => {
                self.keep_set_up(&head[..header.length], &content);
                self.read_info(&content)?;
            }
            id::TRACKS => {
                if content != self.tracks {
                    self.again |= self.set_up_bytes.is_some();
                    self.keep_set_up(&head[..header.length], &content);
                }
                self.read_tracks(content)?;
            }
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

    /// Drops up to `length` bytes, and tells how many.
    fn pass(&mut self, length: u64) -> u64 {
        let passed = self.input.skip(length);
        self.position += passed;
        passed
    }

    /// A set-up starts at `at`.
    fn begin_set_up(&mut self, at: u64) {
        self.again |= self.set_up_bytes.is_some();
        self.set_up_at = at;
        self.set_up.clear();
    }

    /// Keeps an element of the set-up, as long as it is not too large to be carried about.
    fn keep_set_up(&mut self, header: &[u8], content: &[u8]) {
        if self.set_up.len() <= super::CARRIED {
            self.set_up.extend_from_slice(header);
            let room = super::CARRIED + 1;
            self.set_up.extend_from_slice(content.get(..room).unwrap_or(content));
        }
    }

    /// A Cluster starts: the first of a resumed stream is the one where it goes on.
    fn begin_cluster(&mut self) {
        self.set_up_bytes.get_or_insert(self.position);
        if let Some(resume) = self.resume.take() {
            self.position = resume.offset;
        }
        self.cluster_at = self.position;
    }

    /// Passes over the input's own set-up where another one is in force.
    fn passes_over(&mut self, header: &Header) -> Result<bool, Error> {
        let carried = self.resume.as_ref().and_then(|resume| resume.carried);
        if carried.is_none_or(|carried| self.position < carried) || header.id == id::CLUSTER {
            return Ok(false);
        }
        self.skip = if header.id == id::SEGMENT { 0 } else { size(header)? };
        self.pass(header.length as u64);
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
    fn begin_segment(&mut self, header: &[u8]) -> Result<(), Error> {
        self.tell_tracks()?;
        self.again |= self.set_up_bytes.is_some();
        self.keep_set_up(header, &[]);
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
        if let Some(resume) = &self.resume {
            for stream in &mut self.streams {
                if let Some(known) = resume.tracks.iter().find(|track| track.id == stream.entry.id) {
                    stream.know(&known.format);
                }
            }
            return self.tell_tracks();
        }
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
            offset: self.cluster_at,
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
        self.push_tracks(self.set_up_at);
        self.held_bytes = 0;
        std::mem::take(&mut self.held).into_iter().try_for_each(|frames| self.give(frames))
    }

    /// `offset`: where they would be told again.
    fn push_tracks(&mut self, offset: u64) {
        let timescale = self.clock.timescale;
        let track = |stream: &Stream| Track {
            id: stream.entry.id,
            timescale,
            language: stream.entry.language.clone(),
            format: stream.format(),
        };
        let tracks = self.streams.iter().map(track).collect();
        self.events.push_back(Event::Tracks { tracks, offset });
    }

    fn give(&mut self, frames: Frames) -> Result<(), Error> {
        let times = match self.streams.get(frames.stream) {
            Some(stream) => frames.times(stream, self.clock.timescale),
            None => return Ok(()),
        };
        for ((data, sync), (later, duration)) in frames.frames.into_iter().zip(times) {
            if data.is_empty() {
                continue;
            }
            let stream = &mut self.streams[frames.stream];
            let track = stream.entry.id;
            let changed = stream.learn(&data, sync)?;
            let described = stream.is_described();
            let data = stream.dress(data, sync);
            if changed {
                self.push_tracks(frames.offset);
            }
            if described && !data.is_empty() {
                let pts = frames.pts + later;
                self.events.push_back(Event::Unit(AccessUnit {
                    track,
                    pts,
                    dts: pts,
                    duration,
                    sync,
                    offset: frames.offset,
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
    /// Where their Cluster starts.
    offset: u64,
    stream: usize,
    /// Of the first.
    pts: Ticks,
    /// Of all together.
    duration: Option<Ticks>,
    frames: SmallVec<[(Bytes, Sync); 1]>,
}

impl Frames {
    /// Where each frame lies after the first, and its duration, as far as the container or the sound itself says it.
    /// Each place is rounded on its own, so that nothing adds up.
    fn times(&self, stream: &Stream, timescale: Timescale) -> SmallVec<[(Ticks, Option<Ticks>); 1]> {
        let count = self.frames.len();
        let each = stream.entry.default_duration.map(|each| i64::try_from(each).unwrap_or(i64::MAX));
        let default = |n: usize| each.map(|each| Ticks(each.saturating_mul(n as i64)).nearest(NANOSECONDS, timescale));
        if count == 1 {
            return smallvec![(Ticks(0), self.duration.or(default(1)))];
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
        let Some(starts) = starts else { return smallvec![(Ticks(0), None); count] };
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
