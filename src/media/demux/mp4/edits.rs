//! Edit lists (ISO/IEC 14496-12 8.6.6): when a track's media is presented, and which of it.
//!
//! Read here is what muxers write and what one timeline can hold: empty edits that delay the track, then one piece of
//! its media, which may be cut into edits that join. What is before the piece is decoded as far as the piece needs it and
//! has negative times; what is after it is left out.

use bytes::Bytes;

use super::boxes::{self, Reader};
use crate::media::{Error, Ticks, Timescale};

/// A track's edit list. Without one, all of the media from time 0 on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Edits {
    /// Added to all times of the track.
    pub shift: i64,
    /// The composition time from which on nothing is presented.
    pub end: Option<i64>,
}

/// The normal speed, as 16.16 bits.
const NORMAL: u32 = 1 << 16;

impl Edits {
    /// Reads elst. `scale`: the track's; durations are in `movie_scale`.
    pub fn parse(elst: &Bytes, movie_scale: Option<Timescale>, scale: Timescale) -> Result<Self, Error> {
        let (version, _, body) = boxes::full(elst)?;
        let width = if version == 0 { 12 } else { 20 };
        let table = boxes::counted(&body, width, "elst")?;
        let in_track = |time: u64| {
            let time = Ticks(i64::try_from(time).unwrap_or(i64::MAX));
            time.nearest(movie_scale.unwrap_or(scale), scale)
        };
        // Durations are rounded to a tick of the movie.
        let tolerance = Ticks(1).ceil(movie_scale.unwrap_or(scale), scale).0 + 1;
        let (mut delay, mut piece): (u64, Option<Piece>) = (0, None);
        for edit in table.chunks_exact(width) {
            let mut reader = Reader::new(edit);
            let duration = reader.wide(version)?;
            let start = if version == 0 { reader.i32()?.into() } else { reader.u64()? as i64 };
            let rate = reader.u32()?;
            match &mut piece {
                _ if start < -1 => return Err(Error::bad("elst: a negative media time")),
                None if start == -1 => delay = delay.saturating_add(duration),
                // An empty edit after the media presents nothing.
                Some(piece) if start == -1 => piece.closed = true,
                _ if rate != NORMAL => return Err(unsupported("changes the speed")),
                None => piece = Some(Piece { start, duration, closed: duration == 0 }),
                Some(piece) => {
                    let joins = (Ticks(piece.start) + in_track(piece.duration) - Ticks(start)).0.abs() <= tolerance;
                    if piece.closed || !joins {
                        return Err(unsupported("has several pieces of the media"));
                    }
                    piece.duration = piece.duration.saturating_add(duration);
                    piece.closed = duration == 0;
                }
            }
        }
        let Some(piece) = piece else { return Ok(Self::default()) };
        let end = (piece.duration > 0).then(|| Ticks(piece.start) + in_track(piece.duration));
        Ok(Self { shift: (in_track(delay) - Ticks(piece.start)).0, end: end.map(|end| end.0) })
    }
}

/// What is presented of the media: so far, from `start` for `duration` of the movie's ticks.
struct Piece {
    start: i64,
    duration: u64,
    /// Nothing can follow.
    closed: bool,
}

fn unsupported(what: &str) -> Error {
    Error::UnsupportedEditList(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(edits: &[(u32, i32, u32)]) -> Result<(i64, Option<i64>), &'static str> {
        let mut body = vec![0; 4];
        body.extend((edits.len() as u32).to_be_bytes());
        for (duration, start, rate) in edits {
            body.extend(duration.to_be_bytes());
            body.extend(start.to_be_bytes());
            body.extend(rate.to_be_bytes());
        }
        let edits = Edits::parse(&body.into(), Timescale::new(600), Timescale::new(48_000).unwrap());
        edits.map(|edits| (edits.shift, edits.end)).map_err(|error| error.code())
    }

    const ONE: u32 = NORMAL;

    #[test]
    fn one_piece_of_the_media_after_a_delay() {
        assert_eq!(parse(&[]), Ok((0, None)));
        assert_eq!(parse(&[(600, 1024, ONE)]), Ok((-1024, Some(1024 + 48_000))));
        assert_eq!(parse(&[(0, 1024, ONE)]), Ok((-1024, None)), "to the end, as in fragmented files");
        assert_eq!(parse(&[(300, -1, ONE), (600, 0, ONE)]), Ok((24_000, Some(48_000))));
        assert_eq!(parse(&[(300, -1, ONE), (300, -1, ONE), (0, 960, ONE)]), Ok((48_000 - 960, None)));
        assert_eq!(parse(&[(300, -1, 0)]), Ok((0, None)), "nothing but a delay");
    }

    #[test]
    fn edits_that_join_are_one_piece() {
        assert_eq!(parse(&[(600, 100, ONE), (300, 48_100, ONE)]), Ok((-100, Some(100 + 72_000))));
        assert_eq!(parse(&[(600, 100, ONE), (300, 48_150, ONE), (5, -1, ONE)]), Ok((-100, Some(100 + 72_000))));
    }

    #[test]
    fn several_pieces_and_other_speeds_are_refused_by_name() {
        let refused = Err("unsupported_edit_list");
        assert_eq!(parse(&[(600, 0, ONE), (600, 0, ONE)]), refused);
        assert_eq!(parse(&[(600, 0, ONE), (600, 96_000, ONE)]), refused);
        assert_eq!(parse(&[(600, 0, ONE), (60, -1, ONE), (600, 48_000, ONE)]), refused);
        assert_eq!(parse(&[(600, 0, ONE / 2)]), refused);
        assert_eq!(parse(&[(600, 0, 0)]), refused, "a dwell");
    }

    #[test]
    fn malformed_lists_are_refused() {
        assert_eq!(parse(&[(600, -2, ONE)]), Err("bad_media"));
        assert_eq!(parse(&[(u32::MAX, i32::MAX, ONE), (u32::MAX, i32::MAX, ONE)]), Err("unsupported_edit_list"));
        let short = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert!(Edits::parse(&short, None, Timescale::new(1).unwrap()).is_err());
        let mut far = vec![1, 0, 0, 0, 0, 0, 0, 1];
        far.extend([0x7f; 16]);
        far.extend(ONE.to_be_bytes());
        let edits = Edits::parse(&far.into(), Timescale::new(1), Timescale::new(u32::MAX).unwrap()).unwrap();
        assert_eq!(edits.end, Some(i64::MAX), "no overflow");
    }
}
