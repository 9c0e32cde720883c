//! The NAL units of H.264 and H.265 blocks, whatever is before each of them, to units with 4-byte lengths and without
//! access unit delimiters.

use bytes::{BufMut, Bytes, BytesMut};

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
    let dropped = |nal: &[u8]| nal.first().is_none_or(|&first| delimiter(first));
    let nals: Vec<&[u8]> = match framing {
        Framing::AnnexB => annexb::nal_units(&block).take(MAX_NALS + 1).collect(),
        Framing::Lengths(length) => prefixed(&block, length)?,
    };
    if nals.len() > MAX_NALS {
        return Err(Error::OverLimit(format!("more than {MAX_NALS} NAL units in a block")));
    }
    if framing == Framing::Lengths(4) {
        let leading: usize = nals.iter().take_while(|nal| dropped(nal)).map(|nal| 4 + nal.len()).sum();
        if !nals.iter().skip_while(|nal| dropped(nal)).any(|nal| dropped(nal)) {
            return Ok(block.slice(leading..));
        }
    }
    let mut unit = BytesMut::with_capacity(block.len() + 4);
    for nal in nals.into_iter().filter(|nal| !dropped(nal)) {
        let length = u32::try_from(nal.len()).map_err(|_| Error::bad("a NAL unit of over 4 GiB"))?;
        unit.put_u32(length);
        unit.put_slice(nal);
    }
    Ok(unit.freeze())
}

/// At most one more than [`MAX_NALS`].
fn prefixed(block: &[u8], length_size: usize) -> Result<Vec<&[u8]>, Error> {
    let mut nals = Vec::new();
    let mut rest = block;
    while !rest.is_empty() && nals.len() <= MAX_NALS {
        let cut = || Error::bad("Matroska: a NAL unit is longer than its block");
        let (length, after) = rest.split_at_checked(length_size).ok_or_else(cut)?;
        let length = length.iter().fold(0usize, |n, &b| n << 8 | usize::from(b));
        let (nal, after) = after.split_at_checked(length).ok_or_else(cut)?;
        nals.push(nal);
        rest = after;
    }
    Ok(nals)
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
