//! Small pieces of bytes, set side by side in larger ones: sound comes in units of some hundred bytes, and an allocation
//! for each costs more than its bytes.

use bytes::{Bytes, BytesMut};

/// Bytes that pieces share, and the most that one which outlives its neighbours keeps from being freed. Neighbours are of
/// the same moment of the same input and are freed together, but at the ends of segments: what is held takes the sum of
/// its lengths, by which it is counted, and about this once more.
const SHARED: usize = 8 << 10;
/// Longer pieces are apart.
const SMALL: usize = SHARED / 8;

/// Where pieces are copied to.
#[derive(Debug, Default)]
pub struct Arena {
    room: BytesMut,
}

impl Arena {
    /// A copy of `piece`.
    pub fn copy(&mut self, piece: &[u8]) -> Bytes {
        self.join(piece.len(), std::iter::once(piece))
    }

    /// The first `length` bytes of `parts`, or all where there are fewer.
    pub fn join<'a>(&mut self, length: usize, parts: impl Iterator<Item = &'a [u8]>) -> Bytes {
        if length > SMALL {
            let mut apart = BytesMut::with_capacity(length);
            fill(&mut apart, length, parts);
            return apart.freeze();
        }
        if self.room.capacity() < length {
            self.room.reserve(SHARED);
        }
        fill(&mut self.room, length, parts);
        self.room.split().freeze()
    }
}

fn fill<'a>(room: &mut BytesMut, length: usize, parts: impl Iterator<Item = &'a [u8]>) {
    for part in parts {
        let missing = length - room.len();
        room.extend_from_slice(part.get(..missing).unwrap_or(part));
        if room.len() == length {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_what_was_copied_however_long() {
        let mut arena = Arena::default();
        let all: Vec<u8> = (0..2 * SMALL).map(|n| n as u8).collect();
        let pieces: Vec<Bytes> = (0..200).map(|n| arena.copy(&all[n..n + 9 * n])).collect();
        assert!(pieces.iter().enumerate().all(|(n, piece)| *piece == all[n..n + 9 * n]));
        let joined = arena.join(5, [&all[..2], &[], &all[2..4], &all[4..]].into_iter());
        assert_eq!(joined, all[..5]);
        assert_eq!(arena.join(5, std::iter::once(&all[..2])), all[..2]);
    }

    #[test]
    fn small_pieces_lie_side_by_side_and_long_ones_apart() {
        let mut arena = Arena::default();
        let (first, long, second) = (arena.copy(&[1; 100]), arena.copy(&[2; SMALL + 1]), arena.copy(&[3; 100]));
        assert_eq!(first.as_ptr() as usize + 100, second.as_ptr() as usize);
        assert_eq!(long.len(), SMALL + 1);
    }
}
