//! The NAL units of H.264 and H.265 blocks, whatever is before each of them, to units with 4-byte lengths and without
//! access unit delimiters.

use bytes::Bytes;

use crate::media::Error;
use crate::media::codec::annexb;

/// What tells one NAL unit of a block from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A big-endian length of so many bytes, 1 to 4 (ISO/IEC 14496-15).
    Lengths(usize),
    /// Start codes. Not in the specification, but what Chrome's MediaRecorder writes, with no CodecPrivate.
    AnnexB,
}

/// NAL units in one block that are believed; the largest level of either codec allows under 10,000 slices.
const MAX_NALS: usize = 1 << 16;

/// Makes an access unit of a block. `delimiter` tells whether a NAL unit is an access unit delimiter.
pub fn access_unit(block: Bytes, framing: Framing, delimiter: fn(u8) -> bool) -> Result<Bytes, Error> {
    let kept = |nal: &&[u8]| nal.first().is_some_and(|&first| !delimiter(first));
    let too_many = || Error::OverLimit(format!("more than {MAX_NALS} NAL units in a block"));
    let size = match framing {
        Framing::AnnexB => {
            let nals = annexb::nal_units(&block);
            let few = nals.clone().nth(MAX_NALS).is_none();
            return few.then(|| annexb::to_length_prefixed(nals.filter(kept))).ok_or_else(too_many);
        }
        Framing::Lengths(size) => size,
    };
    let nals = Prefixed { rest: &block, size };
    // Where the first that is kept begins, and whether all behind it are.
    let (mut first, mut passed, mut whole) = (None, 0, true);
    for (n, nal) in nals.clone().enumerate() {
        let nal = nal?;
        if n == MAX_NALS {
            return Err(too_many());
        }
        if kept(&nal) {
            first.get_or_insert(passed);
        } else {
            whole &= first.is_none();
        }
        passed += size + nal.len();
    }
    if size == 4 && whole {
        return Ok(block.slice(first.unwrap_or(passed)..));
    }
    Ok(annexb::to_length_prefixed(nals.map_while(Result::ok).filter(kept)))
}

/// NAL units behind lengths of `size` bytes; an error, and the last item, where one does not fit.
#[derive(Clone)]
struct Prefixed<'a> {
    rest: &'a [u8],
    size: usize,
}

impl<'a> Prefixed<'a> {
    fn split(&self) -> Option<(&'a [u8], &'a [u8])> {
        let (length, after) = self.rest.split_at_checked(self.size)?;
        let length = length.iter().fold(0usize, |n, &b| n << 8 | usize::from(b));
        after.split_at_checked(length)
    }
}

impl<'a> Iterator for Prefixed<'a> {
    type Item = Result<&'a [u8], Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let found = self.split();
        self.rest = found.map_or(&[], |(_, rest)| rest);
        Some(found.map(|(nal, _)| nal).ok_or_else(|| Error::bad("Matroska: a NAL unit is longer than its block")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h264(block: &'static [u8], framing: Framing) -> Result<Bytes, Error> {
        access_unit(Bytes::from_static(block), framing, |first| first & 31 == 9)
    }

    #[test]
    fn four_byte_lengths_are_not_copied() {
        const BLOCK: &[u8] = &[0, 0, 0, 2, 9, 0xF0, 0, 0, 0, 1, 0x65, 0, 0, 0, 2, 0x65, 7];
        let unit = h264(&BLOCK[6..], Framing::Lengths(4)).unwrap();
        assert_eq!(unit, BLOCK[6..]);
        assert_eq!(unit.as_ptr(), BLOCK[6..].as_ptr());
        let without_delimiter = h264(BLOCK, Framing::Lengths(4)).unwrap();
        assert_eq!(without_delimiter.as_ptr(), BLOCK[6..].as_ptr());
        assert_eq!(without_delimiter, BLOCK[6..]);
    }

    #[test]
    fn a_delimiter_or_an_empty_unit_within_is_taken_out() {
        let unit = h264(&[0, 0, 0, 1, 0x65, 0, 0, 0, 0, 0, 0, 0, 1, 9, 0, 0, 0, 1, 0x41], Framing::Lengths(4));
        assert_eq!(unit.unwrap().as_ref(), &[0, 0, 0, 1, 0x65, 0, 0, 0, 1, 0x41]);
    }

    #[test]
    fn other_lengths_are_rewritten() {
        let expected = &[0, 0, 0, 2, 0x65, 8, 0, 0, 0, 1, 0x41];
        assert_eq!(h264(&[2, 0x65, 8, 1, 0x41], Framing::Lengths(1)).unwrap().as_ref(), expected);
        assert_eq!(h264(&[0, 2, 0x65, 8, 0, 1, 0x41], Framing::Lengths(2)).unwrap().as_ref(), expected);
        assert_eq!(h264(&[0, 0, 2, 0x65, 8, 0, 0, 1, 0x41], Framing::Lengths(3)).unwrap().as_ref(), expected);
    }

    #[test]
    fn a_length_that_does_not_fit_is_malformed() {
        for block in [&[0, 0, 0, 2, 0x65][..], &[255; 4], &[0, 0, 1]] {
            assert!(matches!(h264(block, Framing::Lengths(4)), Err(Error::BadMedia(_))), "{block:?}");
        }
        let zeros: &'static [u8] = vec![0; 4 * (MAX_NALS + 2)].leak();
        assert!(matches!(h264(zeros, Framing::Lengths(4)), Err(Error::OverLimit(_))));
    }
}
