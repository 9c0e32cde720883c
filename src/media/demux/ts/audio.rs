//! AAC in ADTS and LATM, MPEG audio, AC-3, E-AC-3: PES payload → one access unit for each frame, and the set-up.

use std::collections::VecDeque;

use bytes::Bytes;

use super::elementary::{Found, Marks, Unit};
use crate::media::arena::Arena;
use crate::media::codec::{aac, ac3, latm, mp3};
use crate::media::{self, AudioCodec, Error, Format, Sync, Ticks};

/// Bytes that the longest of the frame headers needs.
const HEADER: usize = 9;
/// Frames of one E-AC-3 unit: eight programmes of an independent and eight dependent substreams.
const SUBSTREAMS: usize = 72;
/// Changes of the multiplex of LATM that are remembered.
const MULTIPLEXES: usize = 16;

/// One audio stream.
#[derive(Debug)]
pub struct Audio {
    codec: AudioCodec,
    /// Where the frames are those of LATM.
    latm: Option<Latm>,
    name: String,
    buffer: Vec<u8>,
    /// Of the units.
    arena: Arena,
    /// Stamps, and where their PES begin in the input.
    marks: Marks<(Ticks, u64)>,
    /// Since the last loss, a PES with stamps has begun.
    live: bool,
    /// The frame before ended where this one begins.
    locked: bool,
    clock: Option<Clock>,
    set_up: Option<SetUp>,
}

/// The multiplex in force, and those that were, latest first, each with where the PES begins in which it was told.
#[derive(Debug, Default)]
struct Latm {
    multiplex: latm::Multiplex,
    told: VecDeque<(u64, latm::Multiplex)>,
}

/// Counts samples from a PES's PTS on, so that no rounding adds up.
#[derive(Debug, Clone, Copy)]
struct Clock {
    pts: Ticks,
    samples: i64,
    rate: u32,
    /// Where the PES begins in the input.
    offset: u64,
}

/// What tells one set-up from another without reading all of it, and whether it is read here.
#[derive(Debug, PartialEq, Eq)]
struct SetUp {
    key: (u32, u16, Bytes),
    readable: bool,
}

/// A frame's header, whatever the codec.
struct Frame {
    header: usize,
    length: usize,
    samples: u32,
    rate: u32,
    key: (u32, u16, Bytes),
}

impl Audio {
    pub fn new(codec: AudioCodec, name: &str) -> Self {
        Self {
            codec,
            latm: None,
            name: name.to_owned(),
            buffer: Vec::new(),
            arena: Arena::default(),
            marks: Marks::default(),
            live: false,
            locked: false,
            clock: None,
            set_up: None,
        }
    }

    /// AAC in LATM, with its sync words (ISO/IEC 13818-1 2.11.2.2).
    pub fn latm(name: &str) -> Self {
        Self { latm: Some(Latm::default()), ..Self::new(AudioCodec::Aac, name) }
    }

    /// The multiplex of LATM that was in force where a PES begins at `offset` of the input; None where it is not LATM.
    pub fn multiplex(&self, offset: u64) -> Option<latm::Multiplex> {
        let told = &self.latm.as_ref()?.told;
        let before = told.iter().find(|(at, _)| *at < offset);
        Some(before.map(|(_, multiplex)| multiplex.clone()).unwrap_or_default())
    }

    /// Goes on with a multiplex that was told before.
    pub fn know(&mut self, multiplex: &latm::Multiplex) {
        if let Some(latm) = &mut self.latm {
            latm.multiplex = multiplex.clone();
            latm.told = VecDeque::from([(0, multiplex.clone())]);
        }
    }

    pub fn begin(&mut self, pts: Option<Ticks>, offset: u64) {
        if let Some(pts) = pts {
            self.live = true;
            self.marks.put(self.buffer.len(), (pts, offset));
        }
    }

    /// What stays in memory is less than a frame: lengths are bounded by their fields.
    pub fn data(&mut self, data: &[u8], found: &mut Vec<Found>) {
        if self.live {
            self.buffer.extend_from_slice(data);
            self.frames(false, found);
        }
    }

    /// A PES is whole: its last frame needs no confirmation by the next.
    pub fn end(&mut self, found: &mut Vec<Found>) {
        self.frames(true, found);
    }

    pub fn reset(&mut self) {
        self.buffer.clear();
        self.marks.clear();
        self.live = false;
        self.locked = false;
        self.clock = None;
    }

    pub fn offset(&self) -> Option<u64> {
        let in_force = self.clock.map(|clock| clock.offset).filter(|_| !self.buffer.is_empty());
        in_force.or(self.marks.first().map(|mark| mark.1))
    }

    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    fn frames(&mut self, whole: bool, found: &mut Vec<Found>) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut at = 0;
        while let Some(length) = self.frame(&buffer, at, whole, found) {
            at += length;
        }
        self.buffer = buffer;
        self.buffer.drain(..at);
        self.marks.shift(at);
    }

    /// Reads what begins at `at`, and says how many bytes of it are done with; None when more are needed.
    fn frame(&mut self, buffer: &[u8], at: usize, whole: bool, found: &mut Vec<Found>) -> Option<usize> {
        let rest = buffer.get(at..).filter(|rest| rest.len() >= HEADER)?;
        let Some(frame) = self.header(rest) else {
            self.locked = false;
            return Some(1);
        };
        let length = self.unit_length(rest, &frame, whole)?;
        let data = rest.get(..length)?;
        // Out of step, a frame is believed where a PES begins with it or where another one follows.
        if !self.locked && !self.marks.is_at(at) {
            match rest.get(length..length + HEADER) {
                Some(next) if self.header(next).is_some_and(|next| next.key == frame.key) => {}
                None if whole => {}
                None => return None,
                Some(_) => return Some(1),
            }
        }
        self.locked = true;
        let pts = self.marks.take(at);
        match &mut self.latm {
            Some(latm) => {
                let offset = pts.map(|(_, offset)| offset).or(self.clock.map(|clock| clock.offset));
                let units = latm.read(data.get(frame.header..)?, offset.unwrap_or(u64::MAX));
                self.element(units, pts, found);
            }
            None => self.whole_frame(&frame, data, pts, found),
        }
        Some(length)
    }

    /// The units of an element of LATM. A damaged one costs its units; the next PES tells the time anew.
    fn element(
        &mut self,
        units: Result<(Bytes, Vec<Bytes>), Error>,
        mut pts: Option<(Ticks, u64)>,
        found: &mut Vec<Found>,
    ) {
        match units {
            Ok((config, units)) => {
                let Some(rate) = self.aac_rate(&config) else { return };
                let samples = aac::decoded_samples(&config);
                for unit in units {
                    let key = (rate, 0, config.clone());
                    let frame = Frame { header: 0, length: unit.len(), samples, rate, key };
                    self.whole_frame(&frame, &unit, pts.take(), found);
                }
            }
            Err(Error::UnsupportedCodec(_)) if self.set_up.is_none() => {
                self.set_up = Some(SetUp { key: (0, 0, Bytes::new()), readable: false });
                let other = Format::Other { kind: "audio".into(), codec: self.name.clone() };
                found.push(Found::Format(other, pts.map_or(u64::MAX, |(_, offset)| offset)));
            }
            Err(_) => {}
        }
    }

    /// A frame that begins with the PES told `pts`, or follows the one before it.
    fn whole_frame(&mut self, frame: &Frame, data: &[u8], pts: Option<(Ticks, u64)>, found: &mut Vec<Found>) {
        if let Some((pts, offset)) = pts {
            self.clock = Some(Clock { pts, samples: 0, rate: frame.rate, offset });
        }
        let offset = self.clock.map_or(u64::MAX, |clock| clock.offset);
        let pts = self.tick(frame);
        let readable = self.read_set_up(frame, data, offset, found);
        if let (Some(pts), true, Some(data)) = (pts, readable, data.get(frame.header..)) {
            let unit = Unit { pts, dts: pts, sync: Sync::Idr, offset, data: self.arena.copy(data) };
            found.push(Found::Unit(unit));
        }
    }

    /// This frame's PTS, floor(samples since the PES's PTS × 90,000 / rate) later than that; moves on to the next.
    fn tick(&mut self, frame: &Frame) -> Option<Ticks> {
        let clock = self.clock.as_mut()?;
        let passed = Ticks(clock.samples.saturating_mul(90_000) / i64::from(clock.rate.max(1)));
        let pts = clock.pts + passed;
        if frame.rate != clock.rate {
            *clock = Clock { pts, samples: 0, rate: frame.rate, offset: clock.offset };
        }
        clock.samples = clock.samples.saturating_add(i64::from(frame.samples));
        Some(pts)
    }

    /// Whether units can be given; a changed set-up is told before them.
    fn read_set_up(&mut self, frame: &Frame, data: &[u8], offset: u64, found: &mut Vec<Found>) -> bool {
        if let Some(known) = self.set_up.as_ref().filter(|known| known.key == frame.key) {
            return known.readable;
        }
        let audio: Result<media::Audio, Error> = match self.codec {
            AudioCodec::Aac => aac::audio(&frame.key.2),
            AudioCodec::Mp3 => mp3::audio(data),
            _ => ac3::audio(data),
        };
        let format = match audio {
            Ok(audio) => Format::Audio(audio),
            Err(Error::BadMedia(_) | Error::Truncated(_)) => return false,
            Err(_) => Format::Other { kind: "audio".into(), codec: self.name.clone() },
        };
        let readable = matches!(format, Format::Audio(_));
        self.set_up = Some(SetUp { key: frame.key.clone(), readable });
        found.push(Found::Format(format, offset));
        readable
    }

    /// Bytes of the unit that begins with `frame`: in E-AC-3 the frames of dependent and further substreams belong to it
    /// (ETSI TS 102 366 E.1.3.1). None where more bytes are needed.
    fn unit_length(&self, rest: &[u8], frame: &Frame, whole: bool) -> Option<usize> {
        let mut length = frame.length;
        if self.codec != AudioCodec::Eac3 {
            return Some(length);
        }
        for _ in 0..SUBSTREAMS {
            match rest.get(length..length + HEADER) {
                Some(next) if further_substream(next) => match self.header(next) {
                    Some(next) => length += next.length,
                    None => break,
                },
                None if !whole => return None,
                _ => break,
            }
        }
        Some(length)
    }

    /// The rate of an AAC stream, from the set-up in force where it is that.
    fn aac_rate(&self, config: &Bytes) -> Option<u32> {
        if let Some(known) = self.set_up.as_ref().filter(|known| known.key.2 == *config) {
            return Some(known.key.0);
        }
        match aac::audio(config) {
            Ok(audio) => Some(audio.sample_rate),
            // Its frames are told apart, though no unit is made of them.
            Err(Error::UnsupportedCodec(_)) => Some(48_000),
            Err(_) => None,
        }
    }

    fn header(&self, data: &[u8]) -> Option<Frame> {
        let frame = match self.codec {
            AudioCodec::Aac if self.latm.is_some() => Frame {
                header: latm::SYNC_LENGTH,
                length: latm::SYNC_LENGTH + latm::element_length(data)?,
                samples: 0,
                // Told by the element itself.
                rate: 1,
                key: (0, 0, Bytes::new()),
            },
            AudioCodec::Aac => {
                let adts = aac::Adts::parse(data)?;
                let known = self.set_up.as_ref().map(|known| &known.key.2).filter(|known| **known == adts.config[..]);
                let config = known.cloned().unwrap_or_else(|| Bytes::copy_from_slice(&adts.config));
                let rate = self.aac_rate(&config)?;
                Frame {
                    header: adts.header_length,
                    length: adts.frame_length,
                    samples: aac::frame_samples(&config),
                    rate,
                    key: (rate, 0, config),
                }
            }
            AudioCodec::Mp3 => {
                let header = mp3::Header::parse(data)?;
                Frame {
                    header: 0,
                    length: header.frame_length,
                    samples: header.samples,
                    rate: header.sample_rate,
                    key: (header.sample_rate, header.channels, Bytes::new()),
                }
            }
            AudioCodec::Ac3 | AudioCodec::Eac3 => {
                let header = ac3::Header::parse(data)?;
                Frame {
                    header: 0,
                    length: header.frame_length,
                    samples: header.samples,
                    rate: header.sample_rate,
                    key: (header.sample_rate, header.channels, Bytes::new()),
                }
            }
            AudioCodec::Opus => return None,
        };
        (frame.length > frame.header && frame.rate > 0).then_some(frame)
    }
}

impl Latm {
    /// See [`latm::Multiplex::read`]. The element goes by the stamps of the PES that begins at `offset`.
    fn read(&mut self, element: &[u8], offset: u64) -> Result<(Bytes, Vec<Bytes>), Error> {
        let units = self.multiplex.read(element);
        if self.told.front().is_none_or(|(_, last)| *last != self.multiplex) {
            self.told.truncate(MULTIPLEXES - 1);
            self.told.push_front((offset, self.multiplex.clone()));
        }
        units
    }
}

/// strmtyp and substreamid of an E-AC-3 frame (ETSI TS 102 366 E.1.3.1.1, E.1.3.1.2).
fn further_substream(frame: &[u8]) -> bool {
    match frame.first_chunk() {
        Some([0x0b, 0x77, kind, _, _, bsid]) => bsid >> 3 > 10 && (kind >> 6 == 1 || kind >> 3 & 7 != 0),
        _ => false,
    }
}
