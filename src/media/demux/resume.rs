//! Where a demuxer can go on in the middle of its input, and what it has to know for that.
//!
//! The input is then given again as two pieces: its first [`State::set_up_bytes`] bytes, and all from
//! [`State::offset`] on. Where the second begins is told by the structure (the first moof, Cluster, PES, or the media of
//! a progressive file), so that neither piece has to end where the other did.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::implicit::{Implicit, Told};
use super::{Container, Demuxer, Inner, Limits, Spool, Stage, mp4, ts, webm};
use crate::media::{Error, Track};

/// Most bytes of set-up that a [`State`] carries; a larger one is read again from the input.
pub(super) const CARRIED: usize = 16 << 10;

/// Where the set-up that is in force comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetUp {
    /// The input's first: it is sent before anything else.
    First,
    /// The bytes of a later one.
    Carried(Bytes),
    /// It stands right at the offset.
    Again,
}

/// All that has to be known to go on in the middle of an input. Whoever holds it can make a [`Demuxer`] that gives the
/// same units as one that has read everything before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    container: Container,
    offset: u64,
    set_up_bytes: u64,
    tracks: Vec<Track>,
    set_up: SetUp,
    own: Own,
    implicit: Vec<Told>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Own {
    Mp4(mp4::Remembered),
    Webm,
    Ts(ts::State),
}

impl State {
    /// The byte of the input from which it is to be sent again.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes from the beginning of the input are to be sent before that.
    pub fn set_up_bytes(&self) -> u64 {
        self.set_up_bytes
    }

    /// The tracks as they were told last.
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }
}

impl Demuxer {
    /// How to go on at `offset`, which is a unit's or that of an event that told `tracks`, the last one that was
    /// taken. The state's own offset may lie before it. None while the set-up is not known.
    pub fn state(&self, offset: u64, tracks: Vec<Track>) -> Option<State> {
        let Stage::Known(inner) = &self.stage else { return None };
        let offset = self.implicit.offset().map_or(offset, |held| held.min(offset));
        let (offset, set_up, own) = match inner {
            Inner::Mp4(inner) => {
                let (offset, set_up, state) = inner.state(offset)?;
                (offset, set_up, Own::Mp4(state))
            }
            Inner::Webm(inner) => {
                let (offset, set_up) = inner.state(offset);
                (offset, set_up, Own::Webm)
            }
            Inner::Ts(inner) => {
                let (offset, state) = inner.state(offset)?;
                (offset, SetUp::First, Own::Ts(state))
            }
        };
        let set_up_bytes = match (&set_up, inner) {
            (SetUp::First, Inner::Mp4(inner)) => inner.set_up_bytes(),
            (SetUp::First, Inner::Webm(inner)) => inner.set_up_bytes(),
            (SetUp::First, Inner::Ts(inner)) => inner.set_up_bytes(),
            _ => 0,
        };
        Some(State {
            container: inner.container(),
            offset,
            set_up_bytes: set_up_bytes.min(offset),
            implicit: self.implicit.found(&tracks),
            tracks,
            set_up,
            own,
        })
    }

    /// A demuxer that goes on where `state` was taken.
    pub fn resume(state: &State, limits: Limits, spool: Box<dyn Spool>) -> Result<Self, Error> {
        let State { offset, set_up_bytes, set_up, .. } = state;
        let tracks = &Implicit::as_read(&state.implicit, &state.tracks);
        let inner = match &state.own {
            Own::Mp4(own) => Inner::Mp4(Box::new(mp4::Demuxer::resume(limits, spool, (*offset, set_up), tracks, own)?)),
            Own::Webm => Inner::Webm(Box::new(webm::Demuxer::resume(limits, *offset, set_up, tracks))),
            Own::Ts(own) => Inner::Ts(Box::new(ts::Demuxer::resume(limits, (*offset, *set_up_bytes), tracks, own))),
        };
        let implicit = Implicit::resume(state.implicit.clone());
        Ok(Self { limits, stage: Stage::Known(inner), implicit, finished: false })
    }
}
