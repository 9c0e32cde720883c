//! What rides along with the media, between its reading and the segment that it is sent with.

use std::collections::VecDeque;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::media::data::scte35::{self, Command};
use crate::media::{DataKind, DataUnit, Ticks, Timescale};
use crate::protocol::{Event, EventKind, Segmentation, Splice};

/// Units and bytes that are held for the next segment; over it the oldest are dropped.
const MOST: usize = 1024;
const MOST_BYTES: usize = 1 << 20;
/// Splice points that are remembered: each is announced several times.
const POINTS: usize = 64;

/// What has been read since the last segment was cut.
#[derive(Debug, Default)]
pub(super) struct Held {
    units: VecDeque<DataUnit>,
    bytes: usize,
    dropped: u64,
    /// Of what the demuxer has passed over, how much has been told.
    damaged: u64,
    state: EventsState,
    /// What was sent with segments of a session that was left, and is read again.
    passed: Option<(u64, u64)>,
}

/// What another session has to know to go on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct EventsState {
    /// Where the last unit lies that has been read, and how many lie there.
    last: Option<(u64, u64)>,
    points: VecDeque<Point>,
}

/// What is sent with one segment.
#[derive(Debug, Default)]
pub(super) struct Riding {
    pub units: Vec<DataUnit>,
    /// How many were left out before the first.
    pub dropped: u64,
}

/// What tells a splice point from others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Point {
    At(Ticks),
    AtOnce(Option<u32>, Option<Ticks>),
}

impl Held {
    /// Goes on where another session was left: what had been read there was sent.
    pub fn resume(state: EventsState) -> Self {
        Self { passed: state.last, state, ..Self::default() }
    }

    pub fn state(&self) -> EventsState {
        self.state.clone()
    }

    /// Whether the unit was sent by the session that was left; each is asked for once, in their order.
    pub fn passes(&mut self, unit: &DataUnit) -> bool {
        match &mut self.passed {
            Some((offset, _)) if unit.offset < *offset => true,
            Some((offset, count)) if unit.offset == *offset && *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }

    pub fn push(&mut self, unit: DataUnit) {
        self.state.last = match self.state.last {
            Some((offset, count)) if offset == unit.offset => Some((offset, count + 1)),
            _ => Some((unit.offset, 1)),
        };
        self.bytes += unit.data.len();
        self.units.push_back(unit);
        while self.units.len() > MOST || self.bytes > MOST_BYTES {
            let Some(oldest) = self.units.pop_front() else { return };
            self.bytes -= oldest.data.len();
            self.dropped += 1;
        }
    }

    /// What goes with the segment that has just been cut. `damaged`: what the demuxer has passed over so far.
    pub fn take(&mut self, damaged: u64) -> Riding {
        self.dropped += damaged.saturating_sub(std::mem::replace(&mut self.damaged, damaged));
        self.bytes = 0;
        let units: Vec<DataUnit> = self.units.drain(..).collect();
        // Said with the first that goes; where none goes, with a later one.
        let dropped = if units.is_empty() { 0 } else { std::mem::take(&mut self.dropped) };
        Riding { units, dropped }
    }

    /// Where a splice message wants the stream to be cut; None where it doesn't, and where that has been said before.
    pub fn splice_point(&mut self, unit: &DataUnit) -> Option<Ticks> {
        if unit.kind != DataKind::Scte35 {
            return None;
        }
        let splice = scte35::Splice::parse(&unit.data)?;
        if splice.cancel || !matches!(splice.command, Command::Insert | Command::TimeSignal) {
            return None;
        }
        let point = match splice.pts {
            Some(_) => Point::At(unit.pts),
            None => Point::AtOnce(splice.event_id, splice.event_id.is_none().then_some(unit.pts)),
        };
        if self.state.points.contains(&point) {
            return None;
        }
        self.state.points.truncate(POINTS - 1);
        self.state.points.push_front(point);
        Some(unit.pts)
    }
}

impl Riding {
    /// The messages of segment `seq`.
    pub fn messages(&self, seq: u64) -> impl Iterator<Item = Event> {
        let dropped = |n| if n == 0 { self.dropped } else { 0 };
        self.units.iter().enumerate().map(move |(n, unit)| Event { dropped: dropped(n), ..message(seq, unit) })
    }
}

fn message(seq: u64, unit: &DataUnit) -> Event {
    let emsg = unit.emsg.as_ref();
    Event {
        seq,
        kind: kind(unit.kind),
        track: unit.track.map(|track| track.0),
        time_ms: unit.pts.nearest(unit.timescale, millis()).0,
        start: unit.pts.0,
        timescale: unit.timescale.get(),
        duration: unit.duration.map(|duration| duration.0),
        scheme: emsg.map(|emsg| emsg.scheme.clone()),
        value: emsg.map(|emsg| emsg.value.clone()),
        id: emsg.map(|emsg| emsg.id),
        splice: scte35::Splice::parse(&unit.data).filter(|_| unit.kind == DataKind::Scte35).map(|it| splice(unit, it)),
        data: STANDARD.encode(&unit.data),
        dropped: 0,
    }
}

fn kind(kind: DataKind) -> EventKind {
    match kind {
        DataKind::Scte35 => EventKind::Scte35,
        DataKind::Id3 => EventKind::Id3,
        DataKind::Emsg => EventKind::Emsg,
        DataKind::Klv => EventKind::Klv,
    }
}

fn splice(unit: &DataUnit, splice: scte35::Splice) -> Splice {
    let segmentation = |it: &scte35::Segmentation| Segmentation {
        event_id: it.event_id,
        cancel: it.cancel,
        type_id: it.type_id,
        duration_ms: it.duration.map(clock_ms),
    };
    Splice {
        command: splice.command.name().to_owned(),
        event_id: splice.event_id,
        cancel: splice.cancel,
        immediate: splice.immediate,
        out_of_network: splice.out_of_network,
        splice_time: splice.pts.map(|_| unit.pts.0),
        duration_ms: splice.duration.map(clock_ms),
        segmentations: splice.segmentations.iter().map(segmentation).collect(),
    }
}

/// Ticks of 90 kHz, 40 bits of them, in milliseconds.
fn clock_ms(ticks: u64) -> i64 {
    let clock = Timescale::new(90_000).expect("90000 is not 0");
    Ticks(i64::try_from(ticks).unwrap_or(i64::MAX)).nearest(clock, millis()).0
}

fn millis() -> Timescale {
    Timescale::new(1000).expect("1000 is not 0")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media::data::scte35::tests::{section, time};

    fn unit(kind: DataKind, pts: i64, data: Vec<u8>) -> DataUnit {
        let timescale = Timescale::new(90_000).expect("not 0");
        let (pts, data) = (Ticks(pts), Bytes::from(data));
        DataUnit { track: None, kind, pts, timescale, duration: None, emsg: None, offset: 0, data }
    }

    #[test]
    fn over_the_bounds_the_oldest_are_dropped_and_said_with_the_first_that_goes() {
        let mut held = Held::default();
        (0..MOST + 2).for_each(|n| held.push(unit(DataKind::Klv, n as i64, vec![0])));
        let riding = held.take(1);
        assert_eq!((riding.units.len(), riding.units[0].pts, riding.dropped), (MOST, Ticks(2), 3));
        let messages: Vec<u64> = riding.messages(1).map(|event| event.dropped).take(2).collect();
        assert_eq!(messages, [3, 0]);
        (0..3).for_each(|n| held.push(unit(DataKind::Klv, n, vec![0; MOST_BYTES / 2])));
        assert_eq!((held.take(1).units.len(), held.bytes), (2, 0));
        assert_eq!(held.take(5).dropped, 0);
        held.push(unit(DataKind::Klv, 0, vec![0]));
        assert_eq!(held.take(5).dropped, 4, "there was none to say it with before");
    }

    #[test]
    fn a_splice_point_counts_once_and_one_that_is_called_off_not_at_all() {
        let mut held = Held::default();
        let mut point =
            |pts, kind, command: &[u8]| held.splice_point(&unit(DataKind::Scte35, pts, section(0, kind, command, &[])));
        assert_eq!(point(900, 6, &time(900)), Some(Ticks(900)));
        assert_eq!(point(900, 6, &time(900)), None, "the same again");
        assert_eq!(point(1800, 6, &time(1800)), Some(Ticks(1800)));
        let at_once = [0, 0, 0, 7, 0x7f, 0xdf, 0, 1, 0, 0];
        assert_eq!(point(2000, 5, &at_once), Some(Ticks(2000)));
        assert_eq!(point(2500, 5, &at_once), None, "the same event, said again later");
        assert_eq!(point(3000, 5, &[0, 0, 0, 8, 0xff]), None, "called off");
        assert_eq!(point(3000, 0, &[]), None, "splice_null");
    }
}
