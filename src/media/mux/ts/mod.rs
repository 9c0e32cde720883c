//! MPEG-TS (ISO/IEC 13818-1): PAT and PMT in each segment, counters and clocks that go on across segments.
//!
//! One programme. The times are those of the samples, in ticks of 90 kHz. Only where the programme begins before one
//! second are whole seconds added to everything, for the writer's life, so that no DTS and no PCR is negative: see
//! [`times::offset`]. How decode times are made is said at [`times::decode_times`].

mod data;
mod packets;
#[cfg(test)]
mod tests;
mod times;
mod units;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{OutTrack, Part, Sample};
use crate::media::timeline::TIMESCALE;
use crate::media::{AudioCodec, DataKind, DataUnit, Error, Format, Ticks, TrackId, VideoCodec};
use data::DataStreams;
use packets::{Adaptation, Pid, pes_header, set_pes_length};
use times::{LEAD, decode_times};
use units::Lead;

const PAT_PID: u16 = 0;
const PMT_PID: u16 = 0x1000;
/// The track with number n is on this PID plus n.
const FIRST_PID: u16 = 0xff;
const TRACKS_MAX: u32 = 32;
/// PCRs may be 100 ms apart (2.7.2).
const CLOCK_EVERY: i64 = 9_000;
/// Time is a jump, not a pause, from here on.
const JUMP: i64 = 90_000;
/// A pause of less than this is filled with clock packets.
const PAUSE: i64 = 900_000;

/// Whether a track can be held.
pub fn holds(format: &Format) -> bool {
    stream_type(format).is_some()
}

/// Table 2-34; ATSC A/53 for AC-3 and E-AC-3.
fn stream_type(format: &Format) -> Option<u8> {
    match format {
        Format::Video(video) => match video.codec {
            VideoCodec::H264 => Some(0x1b),
            VideoCodec::H265 => Some(0x24),
            VideoCodec::Mpeg2 => Some(0x02),
            VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Av1 => None,
        },
        Format::Audio(audio) => match audio.codec {
            AudioCodec::Aac => Some(0x0f),
            AudioCodec::Mp3 => Some(0x03),
            AudioCodec::Ac3 => Some(0x81),
            AudioCodec::Eac3 => Some(0x87),
            AudioCodec::Opus => None,
        },
        Format::Other { .. } => None,
    }
}

/// Goes on from segment to segment: continuity counters, decode times, PCR. Written down and read back, it goes on
/// where it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Writer {
    association: Pid,
    map: Pid,
    streams: Vec<Stream>,
    /// The stream whose PID carries the PCR.
    clock: usize,
    /// Added to all times; chosen in the first segment.
    offset: Option<i64>,
    last_clock: Option<i64>,
    #[serde(skip)]
    scratch: Vec<u8>,
    data: DataStreams,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stream {
    track: OutTrack,
    stream_type: u8,
    stream_id: u8,
    pid: Pid,
    /// The reorder delay; what the first segment with this track needs.
    delay: Option<i64>,
    last_dts: Option<i64>,
    /// Where the last segment ended.
    end: Option<i64>,
}

/// Samples that go into one PES.
struct Pes<'a> {
    stream: usize,
    format: &'a Format,
    pts: i64,
    dts: i64,
    samples: &'a [Sample],
    /// What comes before the first: delimiter and parameter sets.
    lead: Bytes,
}

impl Writer {
    /// `Error::UnsupportedCodec` for a track that [`holds`] refuses, `Error::BadMedia` for track numbers that are not
    /// different or not 1 to 32.
    pub fn new(tracks: Vec<OutTrack>) -> Result<Self, Error> {
        let mut streams: Vec<Stream> = Vec::with_capacity(tracks.len());
        let mut audio = 0;
        for track in tracks {
            let refused = || {
                let codec = match &track.format {
                    Format::Video(video) => &video.codec_string,
                    Format::Audio(audio) => &audio.codec_string,
                    Format::Other { codec, .. } => codec,
                };
                Error::UnsupportedCodec(format!("{codec} in MPEG-TS"))
            };
            let stream_type = stream_type(&track.format).ok_or_else(refused)?;
            let used = streams.iter().any(|stream| stream.track.number == track.number);
            if used || !(1..=TRACKS_MAX).contains(&track.number) {
                return Err(Error::bad(format!("no PID for track {}", track.number)));
            }
            let stream_id = match stream_type {
                0x0f | 0x03 => {
                    audio += 1;
                    0xc0 + (audio - 1) % 32
                }
                0x81 | 0x87 => 0xbd,
                _ => 0xe0,
            };
            let pid = Pid::new(FIRST_PID + track.number as u16);
            streams.push(Stream { track, stream_type, stream_id, pid, delay: None, last_dts: None, end: None });
        }
        let video = |stream: &Stream| matches!(stream.track.format, Format::Video(_));
        let clock = streams.iter().position(video).unwrap_or(0);
        Ok(Self {
            association: Pid::new(PAT_PID),
            map: Pid::new(PMT_PID),
            streams,
            clock,
            offset: None,
            last_clock: None,
            scratch: Vec::new(),
            data: DataStreams::default(),
        })
    }

    /// Goes on with other tracks in the place of those before, on the same timeline: counters and the clock go on, and a
    /// track keeps its PID by its number.
    ///
    /// `Error` as of [`Writer::new`]; then nothing has changed.
    pub fn change(&mut self, tracks: Vec<OutTrack>) -> Result<(), Error> {
        let mut next = Self::new(tracks)?;
        let types = |streams: &[Stream]| streams.iter().map(|it| (it.pid.pid(), it.stream_type)).collect::<Vec<_>>();
        for stream in &mut next.streams {
            let Some(before) = self.streams.iter().find(|it| it.track.number == stream.track.number) else { continue };
            stream.pid = before.pid.clone();
            (stream.last_dts, stream.end) = (before.last_dts, before.end);
            // Other pictures may be in another order, and need another delay.
            stream.delay = before.delay.filter(|_| before.track == stream.track);
        }
        if types(&next.streams) != types(&self.streams) {
            self.data.map_changes();
        }
        (self.streams, self.clock) = (next.streams, next.clock);
        Ok(())
    }

    /// Has the programme say from its next segment on that it carries such data, of this track of the source; without
    /// it, that is said from the first unit on. What [`DataKind::Emsg`] holds can't be carried.
    pub fn announce(&mut self, kind: DataKind, track: Option<TrackId>) {
        self.data.announce(kind, track);
    }

    /// One segment; `parts` in the order of the tracks, a track without media in it left out.
    pub fn segment(&mut self, parts: &[Part<'_>]) -> Result<Bytes, Error> {
        self.segment_with(parts, &[])
    }

    /// A segment that carries data too: splice sections at its beginning, adjusted to the programme's times; tags and
    /// packets at theirs.
    pub fn segment_with(&mut self, parts: &[Part<'_>], data: &[DataUnit]) -> Result<Bytes, Error> {
        let timed = parts.iter().map(|part| self.timed(part)).collect::<Result<Vec<_>, _>>()?;
        let jump = timed.iter().any(|part| part.jump);
        if self.offset.is_none() {
            let first = timed.iter().filter_map(|part| part.pts.iter().min()).min();
            let delay = timed.iter().filter_map(|part| self.streams.get(part.stream)?.delay).max();
            self.offset = first.map(|first| times::offset(*first, delay.unwrap_or(0)));
        }
        let mut queue = Vec::new();
        for (timed, part) in timed.iter().zip(parts) {
            self.arrange(timed, part, jump, &mut queue)?;
        }
        queue.sort_by_key(|pes| pes.dts);

        let tables = 8 * packets::size(0);
        let mut out = Vec::with_capacity(queue.iter().map(Pes::size).sum::<usize>() + tables);
        let mut carried = self.data.arrange(data, self.offset.unwrap_or(0));
        self.tables(&mut out);
        self.data.write_until(&mut carried, None, &mut out);
        if jump {
            self.last_clock = None;
        }
        for (n, pes) in queue.iter().enumerate() {
            self.keep_time(pes.dts, &mut out);
            let first = n == 0;
            if !first {
                self.data.write_until(&mut carried, Some(pes.dts), &mut out);
            }
            let clock = (first || pes.stream == self.clock).then(|| self.tick(pes.dts - LEAD));
            self.write(pes, Adaptation { discontinuity: first && jump, random_access: false, clock }, &mut out)?;
        }
        self.data.write_until(&mut carried, Some(i64::MAX), &mut out);
        Ok(out.into())
    }

    /// The times of a part, checked against what the writer was made for.
    fn timed(&mut self, part: &Part<'_>) -> Result<Timed, Error> {
        let of = |stream: &Stream| stream.track.number == part.track.number;
        let unknown = || Error::bad(format!("no track {} in this programme", part.track.number));
        let index = self.streams.iter().position(of).ok_or_else(unknown)?;
        let stream = self.streams.get_mut(index).ok_or_else(unknown)?;
        if stream_type(&part.track.format) != Some(stream.stream_type) {
            return Err(Error::bad(format!("track {} has changed its codec", part.track.number)));
        }
        let to_90k = |time: Ticks| time.nearest(part.track.timescale, TIMESCALE).0;
        let pts: Vec<i64> = part.samples.iter().map(|sample| to_90k(sample.pts)).collect();
        // Far beyond any clock; it keeps all sums below from overflowing.
        if pts.iter().any(|pts| pts.unsigned_abs() > 1 << 60) {
            return Err(Error::bad("a time stamp beyond all reason"));
        }
        if !pts.is_empty() && stream.delay.is_none() {
            let video = matches!(part.track.format, Format::Video(_));
            stream.delay = Some(if video { times::delay(&pts) } else { 0 });
        }
        let first = pts.iter().min().copied();
        let back = stream.last_dts.zip(first).is_some_and(|(last, first)| first <= last);
        let gone = stream.end.zip(first).is_some_and(|(end, first)| first.abs_diff(end) > JUMP.unsigned_abs());
        if !pts.is_empty() {
            stream.end = Some(to_90k(part.end));
        }
        Ok(Timed { stream: index, pts, jump: back || gone })
    }

    /// Makes the PES packets of a part.
    fn arrange<'a>(
        &mut self,
        timed: &Timed,
        part: &Part<'a>,
        jump: bool,
        queue: &mut Vec<Pes<'a>>,
    ) -> Result<(), Error> {
        let offset = self.offset.unwrap_or(0);
        let Some(stream) = self.streams.get_mut(timed.stream) else { return Ok(()) };
        let after = if jump { None } else { stream.last_dts };
        let format = &part.track.format;
        match format {
            Format::Video(_) => {
                let lead = Lead::of(format)?;
                let times = decode_times(&timed.pts, stream.delay.unwrap_or(0), after);
                for ((samples, pts), dts) in part.samples.chunks(1).zip(&timed.pts).zip(&times) {
                    let sync = samples.first().is_some_and(|sample| sample.sync);
                    let lead = if sync { lead.sync.clone() } else { lead.other.clone() };
                    let (pts, dts) = (pts + offset, dts + offset);
                    queue.push(Pes { stream: timed.stream, format, pts, dts, samples, lead });
                }
                stream.last_dts = times.last().copied().or(stream.last_dts);
            }
            Format::Audio(audio) => {
                let mut from = 0;
                while let (Some(samples), Some(pts @ [first, ..])) = (part.samples.get(from..), timed.pts.get(from..)) {
                    let samples = units::pack(audio, samples, pts);
                    from += samples.len();
                    let pts = first + offset;
                    queue.push(Pes { stream: timed.stream, format, pts, dts: pts, samples, lead: Bytes::new() });
                }
                stream.last_dts = timed.pts.last().copied().or(stream.last_dts);
            }
            Format::Other { .. } => {}
        }
        Ok(())
    }

    fn tables(&mut self, out: &mut Vec<u8>) {
        let [high, low] = PMT_PID.to_be_bytes();
        self.association.section((0, 0), 1, &[0, 1, 0xe0 | high, low], out);
        let clock = self.streams.get(self.clock).map_or(0x1fff, |stream| stream.pid.pid());
        let [high, low] = clock.to_be_bytes();
        let programme = self.data.programme_descriptors();
        let mut body = vec![0xe0 | high, low, 0xf0, programme.len() as u8];
        body.extend(programme);
        for stream in &self.streams {
            let descriptors = stream.descriptors();
            let [high, low] = stream.pid.pid().to_be_bytes();
            body.extend([stream.stream_type, 0xe0 | high, low, 0xf0, descriptors.len() as u8]);
            body.extend(descriptors);
        }
        self.data.map_entries(&mut body);
        self.map.section((2, self.data.version()), 1, &body, out);
    }

    /// Puts in clock packets where none would come for too long until `time`.
    fn keep_time(&mut self, time: i64, out: &mut Vec<u8>) {
        while let Some(last) = self.last_clock
            && (CLOCK_EVERY..PAUSE).contains(&(time - LEAD - last))
        {
            let clock = Some(self.tick(last + CLOCK_EVERY * 9 / 10));
            if let Some(stream) = self.streams.get_mut(self.clock) {
                stream.pid.clock(Adaptation { clock, ..Adaptation::default() }, out);
            }
        }
    }

    /// A PCR: `time`, but always later than the one before.
    fn tick(&mut self, time: i64) -> i64 {
        let time = self.last_clock.map_or(time, |last| time.max(last + 1));
        self.last_clock = Some(time);
        time
    }

    fn write(&mut self, pes: &Pes<'_>, mut adaptation: Adaptation, out: &mut Vec<u8>) -> Result<(), Error> {
        if pes.stream == self.clock {
            adaptation.random_access = pes.samples.first().is_some_and(|sample| sample.sync);
        } else if adaptation.clock.is_some() {
            if let Some(stream) = self.streams.get_mut(self.clock) {
                stream.pid.clock(adaptation, out);
            }
            adaptation = Adaptation::default();
        }
        let Some(stream) = self.streams.get_mut(pes.stream) else { return Ok(()) };
        self.scratch.clear();
        pes_header(stream.stream_id, pes.pts, pes.dts, &mut self.scratch);
        self.scratch.extend_from_slice(&pes.lead);
        for sample in pes.samples {
            units::write(pes.format, sample, &mut self.scratch)?;
        }
        set_pes_length(&mut self.scratch);
        stream.pid.pes(&self.scratch, adaptation, out);
        Ok(())
    }
}

impl Pes<'_> {
    /// An upper bound on its bytes in packets.
    fn size(&self) -> usize {
        let samples = self.samples.iter().map(|sample| units::size(self.format, sample));
        packets::size(self.lead.len() + samples.sum::<usize>())
    }
}

/// One part's times.
struct Timed {
    stream: usize,
    /// In ticks of 90 kHz, in decode order.
    pts: Vec<i64>,
    /// It does not go on where the track's last segment ended.
    jump: bool,
}

impl Stream {
    /// Registration where the stream type alone is not understood everywhere, and the language (2.6.8, 2.6.18).
    fn descriptors(&self) -> Vec<u8> {
        let mut descriptors = Vec::new();
        let registration: Option<&[u8; 4]> = match self.stream_type {
            0x24 => Some(b"HEVC"),
            0x81 => Some(b"AC-3"),
            0x87 => Some(b"EAC3"),
            _ => None,
        };
        if let Some(id) = registration {
            descriptors.extend([0x05, 4]);
            descriptors.extend(id);
        }
        let language = self.track.language.as_deref().map(str::as_bytes);
        if let Some(&[a, b, c]) = language
            && [a, b, c].iter().all(u8::is_ascii_alphabetic)
        {
            descriptors.extend([0x0a, 4, a, b, c, 0]);
        }
        descriptors
    }
}
