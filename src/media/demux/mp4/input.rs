//! The bytes that have come and are still needed, addressed by their place in the input.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::media::arena::Arena;

/// Pushes under this many bytes are gathered, so that single bytes don't cost an allocation each.
const SMALL: usize = 4096;
/// Gathered bytes are set apart at this many.
const GATHERED: usize = 64 << 10;

/// A slice is copied where it would keep a piece this many times its size from being freed.
const PINNED: usize = 64;

/// A queue of bytes from [`Input::start`] to [`Input::end`].
#[derive(Debug, Default)]
pub struct Input {
    chunks: VecDeque<Chunk>,
    tail: BytesMut,
    arena: Arena,
    start: u64,
    end: u64,
    /// Bytes before this are not wanted, whether they have come or not.
    wanted_from: u64,
}

/// What is left of a piece.
#[derive(Debug)]
struct Chunk {
    rest: Bytes,
    /// Its length as it came.
    whole: usize,
}

impl From<Bytes> for Chunk {
    fn from(rest: Bytes) -> Self {
        Self { whole: rest.len(), rest }
    }
}

impl Input {
    pub fn push(&mut self, data: Bytes) {
        self.end += data.len() as u64;
        if data.len() < SMALL {
            self.tail.extend_from_slice(&data);
            if self.tail.len() >= GATHERED {
                self.set_tail_apart();
            }
        } else {
            self.set_tail_apart();
            self.chunks.push_back(data.into());
        }
        self.release(self.wanted_from);
    }

    /// Says where the byte at `from` lies: the input goes on elsewhere than where it was left. None where that is
    /// before the start of any input.
    pub fn move_to(&mut self, from: u64, to: u64) -> Option<()> {
        let moved = |at: u64| (i128::from(at) + i128::from(to) - i128::from(from)).try_into().ok();
        (self.start, self.end) = (moved(self.start)?, moved(self.end)?);
        self.wanted_from = self.start;
        Some(())
    }

    /// Where the next pushed byte lies.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where the first byte lies that is still held.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Copies the bytes from `offset` on into `head` as far as they have come and not been released, and tells how many.
    pub fn peek(&self, offset: u64, head: &mut [u8]) -> usize {
        let Some(mut skip) = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok()) else {
            return 0;
        };
        let mut filled = 0;
        for piece in self.chunks.iter().map(|chunk| &chunk.rest[..]).chain([&self.tail[..]]) {
            let Some(room) = head.get_mut(filled..).filter(|room| !room.is_empty()) else { break };
            let passed = skip.min(piece.len());
            skip -= passed;
            let piece = &piece[passed..];
            let n = room.len().min(piece.len());
            room[..n].copy_from_slice(&piece[..n]);
            filled += n;
        }
        filled
    }

    /// Bytes that have come and not been released; without a copy where they are a good part of one piece.
    pub fn slice(&mut self, offset: u64, length: usize) -> Option<Bytes> {
        if offset < self.start || self.end.checked_sub(offset)? < length as u64 {
            return None;
        }
        self.set_tail_apart();
        let mut skip = (offset - self.start) as usize;
        let mut chunks = self.chunks.iter();
        let first = chunks.find(|chunk| {
            let left = skip.checked_sub(chunk.rest.len());
            skip = left.unwrap_or(skip);
            left.is_none()
        });
        let Some(first) = first else { return Some(Bytes::new()) };
        if first.rest.len() - skip >= length && first.whole / PINNED <= length {
            return Some(first.rest.slice(skip..skip + length));
        }
        let rest = chunks.map(|chunk| &chunk.rest[..]);
        Some(self.arena.join(length, std::iter::once(&first.rest[skip..]).chain(rest)))
    }

    /// Drops what lies before `offset`, also what is still to come.
    pub fn release(&mut self, offset: u64) {
        while self.take_until(offset).is_some() {}
        self.wanted_from = self.wanted_from.max(offset);
    }

    /// Takes a piece of what has come from before `offset`, in order.
    pub fn take_until(&mut self, offset: u64) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.set_tail_apart();
        }
        let wanted = offset.checked_sub(self.start).filter(|&n| n > 0)?;
        let front = self.chunks.front_mut()?;
        let length = usize::try_from(wanted).unwrap_or(usize::MAX).min(front.rest.len());
        let taken = front.rest.split_to(length);
        if front.rest.is_empty() {
            self.chunks.pop_front();
        }
        self.start += length as u64;
        Some(taken)
    }

    fn set_tail_apart(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze().into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_slices_do_not_pin_large_pieces() {
        let piece = Bytes::from(vec![7; 64 << 10]);
        let mut input = Input::default();
        input.push(piece.clone());
        assert_eq!(input.slice(0, 1024).unwrap().as_ptr(), piece.as_ptr());
        assert_ne!(input.slice(0, 1023).unwrap().as_ptr(), piece.as_ptr());
        assert_eq!(input.slice(0, 1023).unwrap(), piece[..1023]);
    }

    #[test]
    fn slices_across_pieces() {
        let mut input = Input::default();
        input.push(Bytes::from(vec![7; SMALL]));
        for byte in 0..10 {
            input.push(Bytes::copy_from_slice(&[byte]));
        }
        let start = SMALL as u64;
        assert_eq!(input.slice(start - 1, 4).unwrap().as_ref(), [7, 0, 1, 2]);
        input.release(start + 2);
        assert_eq!(input.slice(start + 2, 8).unwrap().as_ref(), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(input.slice(start + 1, 2), None, "released");
        assert_eq!(input.slice(start + 9, 2), None, "not here yet");
        input.release(start + 12);
        input.push(Bytes::from_static(b"abc"));
        assert_eq!((input.start(), input.end()), (start + 12, start + 13));
        assert_eq!(input.slice(start + 12, 1).unwrap().as_ref(), b"c");
    }
}
