//! Hand-made boxes for what no muxer writes, and files made by ffmpeg, read by ffprobe for comparison.

mod files;
mod handmade;

use bytes::Bytes;

use crate::media::demux::{Container, Demuxer, Event, Limits, Spool};
use crate::media::{AccessUnit, Error, Track};

#[derive(Default)]
struct Memory(Vec<u8>);

impl Spool for Memory {
    fn append(&mut self, data: &[u8]) -> Result<(), Error> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, Error> {
        let end = offset as usize + length;
        self.0.get(offset as usize..end).map(Bytes::copy_from_slice).ok_or(Error::ScratchFailed("past the end".into()))
    }
}

/// All events of an input that comes in pieces, and how it ends.
fn demux_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, Result<(), Error>) {
    demux_limited(pieces, Limits::default())
}

fn demux_limited<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: Limits) -> (Vec<Event>, Result<(), Error>) {
    let mut events = Vec::new();
    let mut demuxer = Demuxer::new(Some(Container::Mp4), limits, Box::new(Memory::default()));
    let mut drain = |demuxer: &mut Demuxer| {
        while let Some(event) = demuxer.poll()? {
            events.push(event);
        }
        Ok(())
    };
    let mut result = Ok(());
    for piece in pieces {
        result = demuxer.push(Bytes::copy_from_slice(piece)).and_then(|()| drain(&mut demuxer));
        if result.is_err() {
            return (events, result);
        }
    }
    demuxer.finish();
    result = result.and_then(|()| drain(&mut demuxer));
    (events, result)
}

fn demux(input: &[u8]) -> (Vec<Event>, Result<(), Error>) {
    demux_pieces(input.chunks(1000))
}

fn units(events: &[Event]) -> Vec<&AccessUnit> {
    events.iter().filter_map(|e| if let Event::Unit(unit) = e { Some(unit) } else { None }).collect()
}

fn tracks(events: &[Event]) -> Vec<&Vec<Track>> {
    events.iter().filter_map(|e| if let Event::Tracks { tracks, .. } = e { Some(tracks) } else { None }).collect()
}
