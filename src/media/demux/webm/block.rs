//! SimpleBlock and BlockGroup (RFC 9559 10): a block's header, flags and lacing. Whose frames they are, and what time
//! they have, is [`super`]'s.

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

use super::ebml::{self, id};
use crate::media::Error;

/// One block, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub track: u64,
    /// Timestamp relative to the Cluster's, in units of TimestampScale.
    pub relative: i16,
    /// Marked as decodable without another block: the key frame flag, or a group without ReferenceBlock.
    pub key: bool,
    /// Of the whole block, in units of TimestampScale.
    pub duration: Option<u64>,
    /// More than one where the block is laced.
    pub frames: SmallVec<[Bytes; 1]>,
}

impl Block {
    /// From the content of a SimpleBlock.
    pub fn simple(content: Bytes) -> Result<Self, Error> {
        let (mut block, flags) = Self::parse(content)?;
        block.key = flags & 0x80 != 0;
        Ok(block)
    }

    /// From the content of a BlockGroup; None where it holds no Block.
    pub fn group(content: &Bytes) -> Result<Option<Self>, Error> {
        let (mut block, mut duration, mut references) = (None, None, false);
        for child in ebml::children(content) {
            let (id, value) = child?;
            match id {
                id::BLOCK => block = Some(Self::parse(value)?.0),
                id::BLOCK_DURATION => duration = Some(ebml::uint(&value)?),
                id::REFERENCE_BLOCK => references = true,
                _ => {}
            }
        }
        Ok(block.map(|block| Self { key: !references, duration, ..block }))
    }

    fn parse(content: Bytes) -> Result<(Self, u8), Error> {
        let short = || Error::bad("Matroska: a block ends within its header");
        let (track, length) = ebml::vint(&content, 8)?.ok_or_else(short)?;
        let &[high, low, flags] = content.get(length..).and_then(|rest| rest.first_chunk::<3>()).ok_or_else(short)?;
        let frames = unlace(content.slice(length + 3..), flags)?;
        Ok((Self { track, relative: i16::from_be_bytes([high, low]), key: false, duration: None, frames }, flags))
    }
}

/// RFC 9559 10.3.
fn unlace(data: Bytes, flags: u8) -> Result<SmallVec<[Bytes; 1]>, Error> {
    let lacing = flags >> 1 & 3;
    if lacing == 0 {
        return Ok(smallvec![data]);
    }
    let mut rest = Cursor { data: &data, at: 0 };
    let count = usize::from(rest.byte()?) + 1;
    let mut sizes = Vec::with_capacity(count);
    match lacing {
        1 => {
            for _ in 1..count {
                sizes.push(rest.xiph()?);
            }
        }
        3 if count > 1 => {
            let mut size = i64::try_from(rest.vint()?).map_err(|_| bad_lacing())?;
            sizes.push(size as usize);
            for _ in 2..count {
                size = size.checked_add(rest.signed_vint()?).filter(|&size| size >= 0).ok_or_else(bad_lacing)?;
                sizes.push(size as usize);
            }
        }
        3 => {}
        _ => {
            let all = data.len().saturating_sub(rest.at);
            if !all.is_multiple_of(count) {
                return Err(bad_lacing());
            }
            sizes.resize(count - 1, all / count);
        }
    }
    let mut at = rest.at;
    let mut frames = SmallVec::with_capacity(count);
    for size in sizes {
        let end = at.checked_add(size).filter(|&end| end <= data.len()).ok_or_else(bad_lacing)?;
        frames.push(data.slice(at..end));
        at = end;
    }
    frames.push(data.slice(at..));
    Ok(frames)
}

fn bad_lacing() -> Error {
    Error::bad("Matroska: the lacing does not fit its block")
}

struct Cursor<'a> {
    data: &'a [u8],
    /// At most the length of `data`.
    at: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Result<u8, Error> {
        let byte = *self.data.get(self.at).ok_or_else(bad_lacing)?;
        self.at += 1;
        Ok(byte)
    }

    fn xiph(&mut self) -> Result<usize, Error> {
        let mut size = 0;
        loop {
            let byte = self.byte()?;
            size += usize::from(byte);
            if byte != 255 {
                return Ok(size);
            }
        }
    }

    fn vint(&mut self) -> Result<u64, Error> {
        let (value, length) = ebml::vint(&self.data[self.at..], 8)?.ok_or_else(bad_lacing)?;
        self.at += length;
        Ok(value)
    }

    fn signed_vint(&mut self) -> Result<i64, Error> {
        let (value, length) = ebml::signed_vint(&self.data[self.at..])?.ok_or_else(bad_lacing)?;
        self.at += length;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(content: &[u8]) -> Result<Vec<usize>, Error> {
        Ok(Block::simple(Bytes::copy_from_slice(content))?.frames.iter().map(Bytes::len).collect())
    }

    fn laced(flags: u8, head: &[u8], payload: usize) -> Vec<u8> {
        [&[0x81, 0, 0, flags][..], head, &vec![9; payload]].concat()
    }

    #[test]
    fn a_plain_block() {
        let block = Block::simple(Bytes::from_static(&[0x40, 0x80, 0xFF, 0xFE, 0x80, 1, 2])).unwrap();
        assert_eq!(block.track, 128);
        assert_eq!(block.relative, -2);
        assert!(block.key);
        assert_eq!(block.frames[..], [&[1u8, 2][..]]);
        assert!(Block::simple(Bytes::from_static(&[0x81, 0, 0])).is_err());
        assert_eq!(lengths(&[0x81, 0, 0, 0]).unwrap(), [0]);
    }

    #[test]
    fn xiph_lacing() {
        assert_eq!(lengths(&laced(0x02, &[2, 255, 45, 10], 330)).unwrap(), [300, 10, 20]);
        assert_eq!(lengths(&laced(0x02, &[1, 255, 0], 255)).unwrap(), [255, 0]);
        assert_eq!(lengths(&laced(0x02, &[0], 7)).unwrap(), [7]);
        assert!(lengths(&laced(0x02, &[1, 200], 100)).is_err());
        assert!(lengths(&laced(0x02, &[1, 255, 255], 0)).is_err());
        assert!(lengths(&laced(0x02, &[], 0)).is_err());
    }

    #[test]
    fn ebml_lacing() {
        // RFC 9559 10.3.3: 800, 500 (-300), 1000 in one block.
        assert_eq!(lengths(&laced(0x06, &[2, 0x43, 0x20, 0x5E, 0xD3], 2300)).unwrap(), [800, 500, 1000]);
        assert_eq!(lengths(&laced(0x06, &[0], 7)).unwrap(), [7]);
        assert!(lengths(&laced(0x06, &[2, 0x81, 0x80], 100)).is_err());
        assert!(lengths(&laced(0x06, &[1, 0x01, 0xFF, 255, 255, 255, 255, 255, 254], 100)).is_err());
    }

    #[test]
    fn fixed_lacing() {
        assert_eq!(lengths(&laced(0x04, &[3], 400)).unwrap(), [100; 4]);
        assert_eq!(lengths(&laced(0x04, &[255], 0)).unwrap(), [0; 256]);
        assert!(lengths(&laced(0x04, &[2], 400)).is_err());
    }

    #[test]
    fn a_group_is_a_key_frame_when_it_refers_to_nothing() {
        let group = |bytes: &'static [u8]| Block::group(&Bytes::from_static(bytes)).unwrap();
        let alone = group(&[0xA1, 0x85, 0x81, 0, 5, 0, 7, 0x9B, 0x81, 20]).unwrap();
        assert_eq!((alone.key, alone.duration, alone.relative), (true, Some(20), 5));
        let referring = group(&[0xFB, 0x81, 0xFF, 0xA1, 0x85, 0x81, 0, 5, 0x80, 7]).unwrap();
        assert_eq!((referring.key, referring.duration), (false, None));
        assert_eq!(group(&[0x9B, 0x81, 20]), None);
    }
}
