//! Event message boxes (ISO/IEC 23009-1 5.10.3.3): emsg → data units. They stand before the moof that they go with.

use bytes::Bytes;

use super::boxes::{self, Reader};
use super::movie::Movie;
use crate::media::data::{DataKind, DataUnit, Emsg, scte35};
use crate::media::{Error, Format, Ticks, Timescale};

/// Event messages that may wait for a moof.
const WAITING: usize = 256;
/// event_duration where it is not known.
const UNKNOWN: u32 = u32::MAX;

/// An event message whose place on the timeline is not known yet.
#[derive(Debug)]
pub struct Event {
    time: Time,
    unit: DataUnit,
}

#[derive(Debug, Clone, Copy)]
enum Time {
    /// Version 1: on the presentation timeline.
    At(u64),
    /// Version 0: after the earliest presentation time of the segment.
    After(u32),
}

/// The event messages since the last moof.
#[derive(Debug, Default)]
pub struct Events {
    waiting: Vec<Event>,
    /// Those that were damaged, too many, or before no fragment.
    pub damaged: u64,
}

impl Events {
    /// Takes the body of a box that begins at `offset`.
    pub fn take(&mut self, emsg: &Bytes, offset: u64) {
        match Event::parse(emsg, offset) {
            Ok(event) if self.waiting.len() < WAITING => self.waiting.push(event),
            _ => self.damaged += 1,
        }
    }

    /// Those that wait, as units of a segment that starts at `earliest`.
    pub fn give(&mut self, earliest: Option<(Ticks, Timescale)>) -> Vec<DataUnit> {
        let waiting = std::mem::take(&mut self.waiting);
        let count = waiting.len();
        let units: Vec<DataUnit> = waiting.into_iter().filter_map(|event| event.placed(earliest)).collect();
        self.damaged += (count - units.len()) as u64;
        units
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Event {
    fn parse(emsg: &Bytes, offset: u64) -> Result<Self, Error> {
        let (version, _, body) = boxes::full(emsg)?;
        let mut rest = &body[..];
        let numbers = |rest: &mut &[u8]| {
            let mut reader = Reader::new(rest);
            let timescale = reader.u32()?;
            let time = if version == 0 { Time::After(reader.u32()?) } else { Time::At(reader.u64()?) };
            let (duration, id) = (reader.u32()?, reader.u32()?);
            *rest = reader.take(reader.remaining())?;
            Ok::<_, Error>((timescale, time, duration, id))
        };
        let ((timescale, time, duration, id), scheme, value) = match version {
            0 => {
                let (scheme, value) = (string(&mut rest)?, string(&mut rest)?);
                (numbers(&mut rest)?, scheme, value)
            }
            1 => {
                let numbers = numbers(&mut rest)?;
                (numbers, string(&mut rest)?, string(&mut rest)?)
            }
            other => return Err(Error::bad(format!("emsg of version {other}"))),
        };
        let kind = DataKind::of_scheme(&scheme);
        if kind == DataKind::Scte35 && scte35::Splice::parse(rest).is_none() {
            return Err(Error::bad("a splice section with a wrong checksum"));
        }
        let unit = DataUnit {
            track: None,
            kind,
            pts: Ticks::default(),
            timescale: Timescale::new(timescale).ok_or_else(|| Error::bad("emsg with a timescale of 0"))?,
            duration: (duration != UNKNOWN).then_some(Ticks(duration.into())),
            emsg: Some(Emsg { scheme, value, id }),
            offset,
            // A copy, so that what waits does not hold on to a larger piece.
            data: Bytes::copy_from_slice(rest),
        };
        Ok(Self { time, unit })
    }

    fn placed(mut self, earliest: Option<(Ticks, Timescale)>) -> Option<DataUnit> {
        self.unit.pts = match self.time {
            Time::At(time) => Ticks(i64::try_from(time).ok()?),
            Time::After(delta) => {
                let (start, timescale) = earliest?;
                start.nearest(timescale, self.unit.timescale) + Ticks(delta.into())
            }
        };
        Some(self.unit)
    }
}

/// How many runs each track had before a moof was read.
pub fn runs(movie: &Movie) -> Vec<usize> {
    movie.tracks.iter().map(|track| track.runs.len()).collect()
}

/// The earliest presentation time of what a moof added: of the video where there is some, else of the first track.
pub fn earliest(movie: &Movie, before: &[usize]) -> Option<(Ticks, Timescale)> {
    let added = |index: usize| {
        let track = movie.tracks.get(index)?;
        let first = track.runs.iter().skip(*before.get(index)?).filter_map(|run| run.earliest()).min()?;
        Some((Ticks(first) + Ticks(track.edits.shift), track.track.timescale))
    };
    let is_video =
        |index: &usize| movie.tracks.get(*index).is_some_and(|track| matches!(track.track.format, Format::Video(_)));
    let all = 0..movie.tracks.len();
    all.clone().filter(is_video).find_map(added).or_else(|| all.clone().find_map(added))
}

/// Text up to a zero byte.
fn string(rest: &mut &[u8]) -> Result<String, Error> {
    let end = memchr::memchr(0, rest).ok_or_else(|| Error::bad("a text of emsg without an end"))?;
    let (text, after) = rest.split_at(end);
    *rest = after.get(1..).unwrap_or_default();
    String::from_utf8(text.to_vec()).map_err(|_| Error::bad("a text of emsg that is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version_1(time: u64, duration: u32, message: &[u8]) -> Bytes {
        let mut body = vec![1, 0, 0, 0];
        body.extend(1000u32.to_be_bytes());
        body.extend(time.to_be_bytes());
        body.extend(duration.to_be_bytes());
        body.extend(7u32.to_be_bytes());
        body.extend(b"urn:x\0v\0");
        body.extend(message);
        body.into()
    }

    fn version_0(delta: u32) -> Bytes {
        let mut body = b"\0\0\0\0https://aomedia.org/emsg/ID3\0\0".to_vec();
        for number in [1000, delta, 5, 7] {
            body.extend(u32::to_be_bytes(number));
        }
        body.extend(b"ID3");
        body.into()
    }

    #[test]
    fn both_versions_tell_the_same_things() {
        let mut events = Events::default();
        events.take(&version_1(1 << 40, UNKNOWN, b"message"), 11);
        events.take(&version_0(250), 99);
        let start = (Ticks(180_000), Timescale::new(90_000).expect("not 0"));
        let units = events.give(Some(start));
        let told: Vec<_> =
            units.iter().map(|u| (u.kind, u.pts.0, u.duration, u.offset, &u.data[..], u.emsg.clone())).collect();
        let emsg = |scheme: &str, value: &str| Some(Emsg { scheme: scheme.into(), value: value.into(), id: 7 });
        let expect = [
            (DataKind::Emsg, 1 << 40, None, 11, &b"message"[..], emsg("urn:x", "v")),
            (DataKind::Id3, 2250, Some(Ticks(5)), 99, &b"ID3"[..], emsg("https://aomedia.org/emsg/ID3", "")),
        ];
        assert_eq!(told, expect);
        assert!(events.is_empty() && events.damaged == 0);
    }

    #[test]
    fn what_can_not_be_believed_is_counted() {
        let mut events = Events::default();
        let good = version_1(1, 1, b"");
        for cut in 0..good.len() - 1 {
            events.take(&good.slice(..cut), 0);
        }
        assert_eq!((events.is_empty(), events.damaged), (true, good.len() as u64 - 1), "each is cut short");
        let mut events = Events::default();
        events.take(&version_1(u64::MAX, 1, b""), 0);
        events.take(&version_0(1), 0);
        assert_eq!((events.give(None), events.damaged), (vec![], 2), "a time out of range; no segment to count from");
        (0..=WAITING).for_each(|_| events.take(&good, 0));
        assert_eq!((events.give(None).len(), events.damaged), (WAITING, 3));
    }
}
