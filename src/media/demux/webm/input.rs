//! The bytes that have come and are not used yet: a queue of chunks that hands out slices, copied only where they span
//! chunks.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Chunks under this size are gathered, so that a client that sends single bytes costs no more than the bytes.
const SMALL: usize = 4096;

/// A queue of bytes.
#[derive(Default)]
pub struct Input {
    chunks: VecDeque<Bytes>,
    /// Comes after `chunks`.
    gathered: BytesMut,
    length: usize,
}

impl Input {
    pub fn push(&mut self, data: Bytes) {
        self.length += data.len();
        if data.len() < SMALL {
            self.gathered.extend_from_slice(&data);
            return;
        }
        if !self.gathered.is_empty() {
            self.chunks.push_back(self.gathered.split().freeze());
        }
        self.chunks.push_back(data);
    }

    pub fn len(&self) -> usize {
        self.length
    }

    /// Copies the first bytes into `head` as far as there are any, and tells how many.
    pub fn peek(&self, head: &mut [u8]) -> usize {
        let mut filled = 0;
        for chunk in self.chunks.iter().map(|c| c.as_ref()).chain([self.gathered.as_ref()]) {
            let Some(room) = head.get_mut(filled..).filter(|room| !room.is_empty()) else { break };
            let n = room.len().min(chunk.len());
            room[..n].copy_from_slice(&chunk[..n]);
            filled += n;
        }
        filled
    }

    /// The first `length` bytes, or None where there are fewer.
    pub fn take(&mut self, length: usize) -> Option<Bytes> {
        if length > self.length {
            return None;
        }
        self.length -= length;
        if let Some(first) = self.chunks.front_mut().filter(|first| first.len() >= length) {
            let taken = first.split_to(length);
            if first.is_empty() {
                self.chunks.pop_front();
            }
            return Some(taken);
        }
        if self.chunks.is_empty() {
            return Some(self.gathered.split_to(length).freeze());
        }
        let mut joined = BytesMut::with_capacity(length);
        while joined.len() < length {
            let missing = length - joined.len();
            let part = match self.chunks.front_mut() {
                Some(first) => first.split_to(missing.min(first.len())),
                None => self.gathered.split_to(missing).freeze(),
            };
            joined.extend_from_slice(&part);
            self.chunks.pop_front_if(|first| first.is_empty());
        }
        Some(joined.freeze())
    }

    /// Drops up to `length` bytes from the front, and tells how many.
    pub fn skip(&mut self, length: u64) -> u64 {
        let all = usize::try_from(length).unwrap_or(usize::MAX).min(self.length);
        let mut left = all;
        while let Some(first) = self.chunks.front_mut().filter(|_| left > 0) {
            let n = left.min(first.len());
            first.advance(n);
            left -= n;
            self.chunks.pop_front_if(|first| first.is_empty());
        }
        self.gathered.advance(left);
        self.length -= all;
        all as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_the_same_bytes_however_they_came() {
        let all: Vec<u8> = (0..60_000u32).map(|n| n as u8).collect();
        for sizes in [&[1usize][..], &[5000], &[10, 5000, 3, 4096, 4095], &[60_000]] {
            let mut input = Input::default();
            let mut rest = &all[..];
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, after) = rest.split_at((*size).min(rest.len()));
                input.push(Bytes::copy_from_slice(chunk));
                rest = after;
            }
            assert_eq!(input.len(), all.len());
            let mut at = 0;
            for take in [0, 1, 9, 4096, 7000, 12, 30_000] {
                let mut head = [0; 12];
                assert_eq!(input.peek(&mut head), 12);
                assert_eq!(head, all[at..at + 12]);
                assert_eq!(input.take(take).unwrap(), all[at..at + take], "{sizes:?}");
                at += take;
                assert_eq!(input.skip(11), 11);
                at += 11;
            }
            assert!(input.take(all.len()).is_none());
            assert_eq!(input.take(all.len() - at).unwrap(), all[at..]);
            assert_eq!(input.skip(5), 0);
        }
    }

    #[test]
    fn a_slice_of_one_chunk_is_not_copied() {
        let chunk = Bytes::from(vec![7; 10_000]);
        let mut input = Input::default();
        input.push(chunk.clone());
        let taken = input.take(6000).unwrap();
        assert_eq!(taken.as_ptr(), chunk.as_ptr());
    }
}
