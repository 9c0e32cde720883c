//! Annex B byte streams (ISO/IEC 14496-10 Annex B, 23008-2 Annex B) and length-prefixed NAL units.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memmem::Finder;

/// The NAL units of a byte stream, without start codes and trailing zeros. What precedes the first start code is
/// skipped; none is empty.
pub fn nal_units(stream: &[u8]) -> NalUnits<'_> {
    NalUnits { parts: start_coded(stream) }
}

/// See [`nal_units`].
#[derive(Debug, Clone)]
pub struct NalUnits<'a> {
    parts: StartCoded<'a>,
}

impl<'a> Iterator for NalUnits<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.parts.by_ref().map(trim_zeros).find(|nal| !nal.is_empty())
    }
}

/// What lies between start codes, zeros and all: MPEG-2's units may end in zeros that count.
pub(super) fn start_coded(stream: &[u8]) -> StartCoded<'_> {
    let start_code = Finder::new(&[0, 0, 1]);
    let rest = start_code.find(stream).and_then(|at| stream.get(at + 3..));
    StartCoded { start_code, rest }
}

/// See [`start_coded`].
#[derive(Debug, Clone)]
pub(super) struct StartCoded<'a> {
    start_code: Finder<'static>,
    /// What follows the last start code that was found.
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for StartCoded<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let end = self.start_code.find(rest);
        self.rest = end.and_then(|at| rest.get(at + 3..));
        rest.get(..end.unwrap_or(rest.len()))
    }
}

pub(super) fn trim_zeros(nal: &[u8]) -> &[u8] {
    let end = nal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    nal.get(..end).unwrap_or_default()
}

/// The NAL units of a unit with 4-byte lengths; ends at the first length that does not fit. None is empty.
pub fn length_prefixed(unit: &[u8]) -> LengthPrefixed<'_> {
    LengthPrefixed { rest: unit }
}

/// See [`length_prefixed`].
#[derive(Debug, Clone)]
pub struct LengthPrefixed<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for LengthPrefixed<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let (length, rest) = self.rest.split_first_chunk()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (nal, rest) = rest.split_at_checked(length)?;
            self.rest = rest;
            if !nal.is_empty() {
                return Some(nal);
            }
        }
    }
}

/// NAL units with 4-byte lengths before them. One of 4 GiB or more, which no limit lets through, is left out.
pub fn to_length_prefixed<'a>(nals: impl Iterator<Item = &'a [u8]> + Clone) -> Bytes {
    let mut unit = BytesMut::with_capacity(nals.clone().map(|nal| nal.len() + 4).sum());
    for nal in nals {
        if let Ok(length) = u32::try_from(nal.len()) {
            unit.put_u32(length);
            unit.put_slice(nal);
        }
    }
    unit.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(stream: &[u8]) -> Vec<&[u8]> {
        nal_units(stream).collect()
    }

    #[test]
    fn takes_three_and_four_byte_start_codes_and_trailing_zeros() {
        assert_eq!(
            split(&[0, 0, 0, 1, 9, 16, 0, 0, 1, 6, 5, 0, 0, 0, 0, 1, 5, 7, 0, 0]),
            [&[9u8, 16][..], &[6, 5], &[5, 7]]
        );
    }

    #[test]
    fn skips_what_is_not_a_nal_unit() {
        assert_eq!(split(&[7, 7, 0, 0, 1, 0, 0, 0, 1, 5]), [&[5u8][..]]);
        assert!(split(&[1, 2, 3]).is_empty());
        assert!(split(&[0, 0, 1]).is_empty());
        assert!(split(&[0; 64]).is_empty());
    }

    #[test]
    fn ends_at_a_length_that_does_not_fit() {
        let unit = [0, 0, 0, 2, 6, 5, 0, 0, 0, 0, 0, 0, 0, 1, 9, 0, 0, 0, 3, 1, 2];
        assert_eq!(length_prefixed(&unit).collect::<Vec<_>>(), [&[6u8, 5][..], &[9]]);
        assert_eq!(length_prefixed(&[0xff; 9]).count(), 0);
    }

    proptest! {
        #[test]
        fn both_forms_hold_the_same_units(
            nals in prop::collection::vec(prop::collection::vec(1u8.., 1..20), 0..8),
            padding in 0usize..3,
        ) {
            let mut stream = Vec::new();
            for nal in &nals {
                stream.extend(std::iter::repeat_n(0, padding));
                stream.extend([0, 0, 1]);
                stream.extend(nal);
            }
            let unit = to_length_prefixed(nal_units(&stream));
            prop_assert_eq!(length_prefixed(&unit).collect::<Vec<_>>(), nals);
        }

        #[test]
        fn any_bytes_are_split_or_left(stream in prop::collection::vec(0u8..4, 0..200)) {
            for nal in nal_units(&stream).chain(length_prefixed(&stream)) {
                prop_assert!(!nal.is_empty());
            }
        }
    }
}
