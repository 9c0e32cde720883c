//! HE-AAC whose set-up says nothing of SBR (ISO/IEC 14496-3 1.6.5, "implicit signalling"): a track that may hold it is not
//! told before one of its frames has been looked at, and is then told as what comes out of a decoder.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Event;
use crate::media::codec::aac;
use crate::media::{Audio, AudioCodec, Error, Format, Track, TrackId};

/// Frames of a track that are looked at: an encoder may begin with one that holds no SBR.
const FRAMES: usize = 3;
/// Events after the tracks that are held at most, however long a track's frames don't come, and bytes of units.
const MOST_EVENTS: usize = 256;
const MOST_BYTES: usize = 4 << 20;

/// Between a container's demuxer and those who take its events.
#[derive(Debug, Default)]
pub(super) struct Implicit {
    /// In order; the first is the tracks, while they are held.
    held: VecDeque<Event>,
    held_bytes: usize,
    open: Vec<Question>,
    /// Of each set-up that was made another one: the track, what is told, and what the container says.
    found: Vec<Told>,
    /// What came after what is held.
    then: Option<Error>,
}

#[derive(Debug)]
struct Question {
    track: TrackId,
    config: Bytes,
    looked_at: usize,
}

/// A set-up with its SBR told.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Told {
    track: TrackId,
    /// As the container says it.
    read: Bytes,
    told: Bytes,
}

impl Implicit {
    /// Where `found` had been found before.
    pub fn resume(found: Vec<Told>) -> Self {
        Self { found, ..Self::default() }
    }

    /// What was found, of these tracks.
    pub fn found(&self, tracks: &[Track]) -> Vec<Told> {
        let of = |told: &&Told| tracks.iter().any(|track| aac_of(track).is_some_and(|audio| audio.config == told.told));
        self.found.iter().filter(of).cloned().collect()
    }

    /// The tracks as the container's demuxer told them.
    pub fn as_read(found: &[Told], tracks: &[Track]) -> Vec<Track> {
        let read = |track: &Track| {
            let told = aac_of(track)
                .and_then(|audio| found.iter().find(|told| told.track == track.id && told.told == audio.config));
            told.map_or_else(|| track.clone(), |told| with_config(track, &told.read))
        };
        tracks.iter().map(read).collect()
    }

    /// The first byte of the input that something held is made of.
    pub fn offset(&self) -> Option<u64> {
        let offset = |event: &Event| match event {
            Event::Tracks { offset, .. } => Some(*offset),
            Event::Unit(unit) => Some(unit.offset),
            Event::Data(_) => None,
        };
        self.held.iter().filter_map(offset).min()
    }

    /// Takes what a demuxer's `poll` gave.
    pub fn push(&mut self, polled: Result<Event, Error>) {
        match polled {
            Ok(Event::Tracks { tracks, offset }) => {
                self.settle();
                let tracks: Vec<Track> = tracks.into_iter().map(|track| self.known(track)).collect();
                let open = tracks.iter().filter_map(|track| {
                    let config = aac_of(track).filter(|audio| aac::may_hold_sbr(&audio.config))?.config.clone();
                    Some(Question { track: track.id, config, looked_at: 0 })
                });
                self.open = open.collect();
                self.held.push_back(Event::Tracks { tracks, offset });
            }
            Ok(event) => {
                if let Event::Unit(unit) = &event {
                    self.look(unit.track, &unit.data);
                    self.held_bytes += unit.data.len();
                }
                self.held.push_back(event);
                if self.held.len() > MOST_EVENTS || self.held_bytes > MOST_BYTES {
                    self.settle();
                }
            }
            Err(error) => {
                self.settle();
                self.then = Some(error);
            }
        }
    }

    /// No more will come: what is open stays as it was told.
    pub fn settle(&mut self) {
        self.open.clear();
    }

    /// The next event, unless it hangs on one that has not come.
    pub fn next(&mut self) -> Result<Option<Event>, Error> {
        if !self.open.is_empty() {
            return Ok(None);
        }
        self.held_bytes = 0;
        match (self.held.pop_front(), &self.then) {
            (None, Some(error)) => Err(error.clone()),
            (event, _) => Ok(event),
        }
    }

    /// Whether anything waits to be given.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.then.is_none()
    }

    /// A frame of a track: it may be one that is waited for.
    fn look(&mut self, track: TrackId, frame: &[u8]) {
        let Some(at) = self.open.iter().position(|question| question.track == track) else { return };
        let Some(question) = self.open.get_mut(at) else { return };
        question.looked_at += 1;
        let holds = aac::holds_sbr(&question.config, frame) == Some(true);
        if !holds && question.looked_at < FRAMES {
            return;
        }
        let read = self.open.swap_remove(at).config;
        if let Some(told) = aac::with_sbr(&read).ok().filter(|_| holds) {
            self.found.retain(|known| known.track != track);
            self.found.push(Told { track, read, told });
            let found = self.found.clone();
            for event in &mut self.held {
                if let Event::Tracks { tracks, .. } = event {
                    tracks.iter_mut().for_each(|track| *track = known(&found, track));
                }
            }
        }
    }

    /// A track that was found out before is told at once.
    fn known(&self, track: Track) -> Track {
        known(&self.found, &track)
    }
}

fn known(found: &[Told], track: &Track) -> Track {
    let own = |audio: &Audio| found.iter().find(|told| told.track == track.id && told.read == audio.config);
    aac_of(track).and_then(own).map_or_else(|| track.clone(), |told| with_config(track, &told.told))
}

fn aac_of(track: &Track) -> Option<&Audio> {
    match &track.format {
        Format::Audio(audio) if audio.codec == AudioCodec::Aac => Some(audio),
        _ => None,
    }
}

fn with_config(track: &Track, config: &[u8]) -> Track {
    match aac::audio(config) {
        Ok(audio) => Track { format: Format::Audio(audio), ..track.clone() },
        Err(_) => track.clone(),
    }
}
