//! What has been read while the set-up of some stream is not known yet, and for how long that is waited for.

use std::collections::VecDeque;

use crate::media::{AccessUnit, Format, Ticks, TrackId};

/// A stream that sends nothing is waited for this long, in media time of the others.
const SILENT: i64 = 5 * 90_000;
/// One that sends, but has not sent its set-up, for this long.
const WITHOUT_SET_UP: i64 = 20 * 90_000;
const BYTES: usize = 8 << 20;
/// Bytes of transport, whatever is in it.
const TRANSPORT: usize = 64 << 20;
/// What a unit takes in memory besides its data.
const UNIT: usize = 128;

/// An entry of the queue.
#[derive(Debug)]
pub enum Held {
    /// Another set-up than the one before it, and the offset of its first unit.
    Format(TrackId, Format, u64),
    Unit(AccessUnit),
}

/// How patient one still can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    Waits,
    /// No longer for streams that have sent nothing.
    OnlyForHeard,
    /// There is too much in memory: units without set-up are to go, and if that is not enough, waiting ends.
    Full,
    Ended,
}

/// The queue; inactive and empty while all set-ups are known.
#[derive(Debug, Default)]
pub struct Hold {
    active: bool,
    queue: VecDeque<Held>,
    bytes: usize,
    transport: usize,
    first: Option<Ticks>,
    passed: i64,
}

impl Hold {
    /// Begins to wait, or goes on waiting with what is there.
    pub fn start(&mut self) {
        self.active = true;
        self.transport = 0;
    }

    pub fn active(&self) -> bool {
        self.active
    }

    pub fn transport(&mut self, bytes: usize) {
        self.transport += bytes;
    }

    pub fn format(&mut self, track: TrackId, format: Format, offset: u64) {
        self.queue.push_back(Held::Format(track, format, offset));
        self.bytes += UNIT;
    }

    pub fn unit(&mut self, unit: AccessUnit) {
        let first = *self.first.get_or_insert(unit.dts);
        self.passed = self.passed.max((unit.dts - first).0.saturating_abs());
        self.bytes += unit.data.len() + UNIT;
        self.queue.push_back(Held::Unit(unit));
    }

    pub fn patience(&self) -> Patience {
        if self.transport > TRANSPORT || self.passed > WITHOUT_SET_UP {
            Patience::Ended
        } else if self.bytes > BYTES {
            Patience::Full
        } else if self.passed > SILENT {
            Patience::OnlyForHeard
        } else {
            Patience::Waits
        }
    }

    /// Drops the units of all other tracks.
    pub fn keep(&mut self, tracks: impl Fn(TrackId) -> bool) {
        self.queue.retain(|held| match held {
            Held::Format(track, ..) => tracks(*track),
            Held::Unit(unit) => tracks(unit.track),
        });
        let size = |held: &Held| if let Held::Unit(unit) = held { unit.data.len() + UNIT } else { UNIT };
        self.bytes = self.queue.iter().map(size).sum();
    }

    /// Ends the wait.
    pub fn take(&mut self) -> VecDeque<Held> {
        std::mem::take(self).queue
    }
}
