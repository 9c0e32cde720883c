//! Reads the bits of set-up bytes, most significant first; every read past the end is an error.

use std::borrow::Cow;

use memchr::memmem;

use crate::media::Error;

/// A place in a string of bits.
#[derive(Debug, Clone)]
pub struct Bits<'a> {
    data: &'a [u8],
    /// In bits; never past the end of `data`.
    position: usize,
}

impl<'a> Bits<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, position: 0 }
    }

    /// Bits not read yet.
    pub fn remaining(&self) -> usize {
        self.data.len().saturating_mul(8).saturating_sub(self.position)
    }

    /// Bits that have been read.
    pub fn position(&self) -> usize {
        self.position
    }

    pub fn skip(&mut self, count: usize) -> Result<(), Error> {
        if count > self.remaining() {
            return Err(Error::bad("the set-up bytes end too early"));
        }
        self.position += count;
        Ok(())
    }

    /// An unsigned number of `count` bits, at most 32.
    pub fn read(&mut self, count: u32) -> Result<u32, Error> {
        let start = self.position;
        self.skip(count as usize)?;
        let bytes = self.data.get(start / 8..self.position.div_ceil(8)).unwrap_or_default();
        let value = bytes.iter().take(5).fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let unused = self.position.div_ceil(8) * 8 - self.position;
        let mask = (1u64 << count.min(32)) - 1;
        Ok((value >> unused & mask) as u32)
    }

    /// An unsigned number of `COUNT` bits, at most 8.
    pub fn byte<const COUNT: u32>(&mut self) -> Result<u8, Error> {
        const { assert!(COUNT <= 8) };
        Ok(self.read(COUNT)? as u8)
    }

    pub fn flag(&mut self) -> Result<bool, Error> {
        Ok(self.read(1)? == 1)
    }

    /// `ue(v)` (ISO/IEC 14496-10 9.1).
    pub fn unsigned(&mut self) -> Result<u32, Error> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return Err(Error::bad("an Exp-Golomb code is longer than 32 bits"));
            }
        }
        Ok(((1u64 << zeros) - 1) as u32 + self.read(zeros)?)
    }

    /// `ue(v)` that the standard bounds.
    pub fn unsigned_up_to(&mut self, most: u32, name: &str) -> Result<u32, Error> {
        let value = self.unsigned()?;
        if value > most {
            return Err(Error::bad(format!("{name} is {value}, over {most}")));
        }
        Ok(value)
    }

    /// `se(v)` (ISO/IEC 14496-10 9.1.1).
    pub fn signed(&mut self) -> Result<i32, Error> {
        let code = i64::from(self.unsigned()?);
        let magnitude = (code + 1) / 2;
        Ok(if code % 2 == 1 { magnitude } else { -magnitude } as i32)
    }

    /// Goes on to the next byte's first bit.
    pub fn align(&mut self) {
        self.position = self.position.div_ceil(8) * 8;
    }
}

/// The bytes of a NAL unit without emulation prevention (ISO/IEC 14496-10 7.4.1): each 0 0 3 becomes 0 0.
pub fn unescape(nal: &[u8]) -> Cow<'_, [u8]> {
    let mut escapes = memmem::find_iter(nal, &[0, 0, 3]);
    let Some(first) = escapes.next() else { return Cow::Borrowed(nal) };
    let mut plain = Vec::with_capacity(nal.len());
    let mut from = 0;
    for at in std::iter::once(first).chain(escapes) {
        plain.extend_from_slice(nal.get(from..at + 2).unwrap_or_default());
        from = at + 3;
    }
    plain.extend_from_slice(nal.get(from..).unwrap_or_default());
    Cow::Owned(plain)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Bytes from hexadecimal digits; blanks are skipped.
    pub fn hex(digits: &str) -> Vec<u8> {
        let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn reads_across_bytes_and_up_to_32_bits() {
        let mut bits = Bits::new(&[0b1010_0000, 0xff, 0xff, 0xff, 0b1110_0001]);
        assert_eq!(bits.read(3), Ok(0b101));
        assert_eq!(bits.read(0), Ok(0));
        assert_eq!(bits.read(32), Ok(0x07ff_ffff));
        assert_eq!(bits.remaining(), 5);
        assert!(bits.read(6).is_err());
        assert_eq!(bits.read(5), Ok(1));
        assert!(bits.flag().is_err());
    }

    #[test]
    fn reads_exp_golomb() {
        // 1 · 010 · 011 · 00100 · 00101, ISO/IEC 14496-10 table 9-2.
        let data = [0b1010_0110, 0b0100_0010, 0b1000_0000];
        let mut bits = Bits::new(&data);
        assert_eq!((0..5).map(|_| bits.unsigned().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let mut bits = Bits::new(&data);
        assert_eq!((0..5).map(|_| bits.signed().unwrap()).collect::<Vec<_>>(), [0, 1, -1, 2, -2]);
    }

    #[test]
    fn the_longest_exp_golomb_code_fits() {
        let mut bits = Bits::new(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(bits.unsigned(), Ok(u32::MAX - 1));
        assert!(Bits::new(&[0; 16]).unsigned().is_err());
    }

    #[test]
    fn takes_emulation_prevention_out() {
        assert_eq!(*unescape(&[1, 0, 0, 3, 0, 0, 3, 1, 0, 0, 3]), [1, 0, 0, 0, 0, 1, 0, 0]);
        assert!(matches!(unescape(&[0, 0, 2, 3]), Cow::Borrowed(_)));
    }
}
