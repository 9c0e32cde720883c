//! EBML (RFC 8794): element headers, and the values of elements that are held whole. Which elements are held, skipped
//! or entered is the demuxer's.

use bytes::Bytes;

use crate::media::Error;

/// The longest element header: an ID of 4 bytes and a size of 8 (RFC 9559 5.1: EBMLMaxIDLength, EBMLMaxSizeLength).
pub const MAX_HEADER: usize = 12;

/// The header of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// With its length marker, as the specifications write it.
    pub id: u32,
    /// Bytes of content; None where the size is unknown (RFC 8794 6.2).
    pub size: Option<u64>,
    /// Bytes that the header itself takes.
    pub length: usize,
}

impl Header {
    /// None where `head` holds only a part of a header.
    pub fn parse(head: &[u8]) -> Result<Option<Self>, Error> {
        let Some((id, id_length)) = vint(head, 4)? else { return Ok(None) };
        let Some(rest) = head.get(id_length..) else { return Ok(None) };
        let Some((size, size_length)) = vint(rest, 8)? else { return Ok(None) };
        let id = u32::try_from(id | marker(id_length)).map_err(|_| Error::bad("EBML: an element ID is too long"))?;
        let size = (size != all_ones(size_length)).then_some(size);
        Ok(Some(Self { id, size, length: id_length + size_length }))
    }
}

/// A variable-size integer without its length marker, and the bytes that it takes (RFC 8794 4); None where `data`
/// ends within it. A length over `max` is an error.
pub fn vint(data: &[u8], max: usize) -> Result<Option<(u64, usize)>, Error> {
    let Some(&first) = data.first() else { return Ok(None) };
    let length = first.leading_zeros() as usize + 1;
    if length > max {
        return Err(Error::bad(format!("EBML: 0x{first:02x} does not start an integer of at most {max} bytes")));
    }
    let Some(bytes) = data.get(..length) else { return Ok(None) };
    let value = bytes.iter().fold(0u64, |n, &b| n << 8 | u64::from(b));
    Ok(Some((value ^ marker(length), length)))
}

/// A signed variable-size integer, as EBML lacing writes differences (RFC 9559 10.3.3).
pub fn signed_vint(data: &[u8]) -> Result<Option<(i64, usize)>, Error> {
    Ok(vint(data, 8)?.map(|(value, length)| {
        // 56 bits at most, so that both fit.
        (value as i64 - (all_ones(length) >> 1) as i64, length)
    }))
}

/// `length` is 1 to 8.
fn marker(length: usize) -> u64 {
    1 << (7 * length)
}

fn all_ones(length: usize) -> u64 {
    marker(length) - 1
}

/// The children of a master element that is held whole.
pub fn children(master: &Bytes) -> impl Iterator<Item = Result<(u32, Bytes), Error>> {
    let mut rest = master.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let child = child(&rest);
        rest = match &child {
            Ok((_, content_end, _)) => rest.slice(*content_end..),
            Err(_) => Bytes::new(),
        };
        Some(child.map(|(id, _, content)| (id, content)))
    })
}

fn child(rest: &Bytes) -> Result<(u32, usize, Bytes), Error> {
    let cut = || Error::bad("EBML: an element is longer than its parent");
    let header = Header::parse(rest)?.ok_or_else(cut)?;
    let size = header.size.ok_or_else(|| Error::bad(format!("EBML: element {:X} has no size", header.id)))?;
    let end = usize::try_from(size).ok().and_then(|size| header.length.checked_add(size)).ok_or_else(cut)?;
    if end > rest.len() {
        return Err(cut());
    }
    Ok((header.id, end, rest.slice(header.length..end)))
}

/// An unsigned integer element (RFC 8794 7.2).
pub fn uint(content: &[u8]) -> Result<u64, Error> {
    if content.len() > 8 {
        return Err(Error::bad("EBML: an integer of over 8 bytes"));
    }
    Ok(content.iter().fold(0, |n, &b| n << 8 | u64::from(b)))
}

/// A float element (RFC 8794 7.3).
pub fn float(content: &[u8]) -> Result<f64, Error> {
    if content.is_empty() {
        return Ok(0.0);
    }
    if let Ok(four) = content.try_into() {
        return Ok(f64::from(f32::from_be_bytes(four)));
    }
    let eight = content.try_into().map_err(|_| Error::bad("EBML: a float of neither 4 nor 8 bytes"))?;
    Ok(f64::from_be_bytes(eight))
}

/// The printable ASCII of a string element (RFC 8794 7.4), up to its terminator and to 128 bytes.
pub fn string(content: &[u8]) -> String {
    let text = content.iter().take(128).take_while(|&&b| b != 0);
    text.map(|&b| if b.is_ascii_graphic() || b == b' ' { char::from(b) } else { '?' }).collect()
}

/// Element IDs (RFC 8794 11, RFC 9559 5.1).
pub mod id {
    pub const EBML: u32 = 0x1A45_DFA3;
    pub const EBML_READ_VERSION: u32 = 0x42F7;
    pub const EBML_MAX_ID_LENGTH: u32 = 0x42F2;
    pub const EBML_MAX_SIZE_LENGTH: u32 = 0x42F3;
    pub const DOC_TYPE: u32 = 0x4282;
    pub const DOC_TYPE_READ_VERSION: u32 = 0x4285;

    pub const SEGMENT: u32 = 0x1853_8067;
    pub const INFO: u32 = 0x1549_A966;
    pub const TIMESTAMP_SCALE: u32 = 0x002A_D7B1;

    pub const TRACKS: u32 = 0x1654_AE6B;
    pub const TRACK_ENTRY: u32 = 0xAE;
    pub const TRACK_NUMBER: u32 = 0xD7;
    pub const TRACK_TYPE: u32 = 0x83;
    pub const CODEC_ID: u32 = 0x86;
    pub const CODEC_PRIVATE: u32 = 0x63A2;
    pub const CODEC_DELAY: u32 = 0x56AA;
    pub const DEFAULT_DURATION: u32 = 0x0023_E383;
    pub const LANGUAGE: u32 = 0x0022_B59C;
    pub const LANGUAGE_BCP47: u32 = 0x0022_B59D;
    pub const VIDEO: u32 = 0xE0;
    pub const PIXEL_WIDTH: u32 = 0xB0;
    pub const PIXEL_HEIGHT: u32 = 0xBA;
    pub const PIXEL_CROP_BOTTOM: u32 = 0x54AA;
    pub const PIXEL_CROP_TOP: u32 = 0x54BB;
    pub const PIXEL_CROP_LEFT: u32 = 0x54CC;
    pub const PIXEL_CROP_RIGHT: u32 = 0x54DD;
    pub const DISPLAY_WIDTH: u32 = 0x54B0;
    pub const DISPLAY_HEIGHT: u32 = 0x54BA;
    pub const DISPLAY_UNIT: u32 = 0x54B2;
    pub const COLOUR: u32 = 0x55B0;
    pub const MATRIX_COEFFICIENTS: u32 = 0x55B1;
    pub const RANGE: u32 = 0x55B9;
    pub const TRANSFER_CHARACTERISTICS: u32 = 0x55BA;
    pub const PRIMARIES: u32 = 0x55BB;
    pub const MAX_CLL: u32 = 0x55BC;
    pub const MAX_FALL: u32 = 0x55BD;
    pub const MASTERING_METADATA: u32 = 0x55D0;
    /// Of ten in a row: x and y of red, green, blue and white, the brightest and the darkest light.
    pub const PRIMARY_R_CHROMATICITY_X: u32 = 0x55D1;
    pub const PROJECTION: u32 = 0x7670;
    pub const PROJECTION_TYPE: u32 = 0x7671;
    pub const PROJECTION_POSE_ROLL: u32 = 0x7675;
    pub const CONTENT_ENCODINGS: u32 = 0x6D80;
    pub const CONTENT_ENCODING: u32 = 0x6240;
    pub const CONTENT_ENCODING_SCOPE: u32 = 0x5032;
    pub const CONTENT_ENCODING_TYPE: u32 = 0x5033;
    pub const CONTENT_COMPRESSION: u32 = 0x5034;
    pub const CONTENT_COMP_ALGO: u32 = 0x4254;
    pub const CONTENT_COMP_SETTINGS: u32 = 0x4255;

    pub const CLUSTER: u32 = 0x1F43_B675;
    pub const TIMESTAMP: u32 = 0xE7;
    pub const SIMPLE_BLOCK: u32 = 0xA3;
    pub const BLOCK_GROUP: u32 = 0xA0;
    pub const BLOCK: u32 = 0xA1;
    pub const BLOCK_DURATION: u32 = 0x9B;
    pub const REFERENCE_BLOCK: u32 = 0xFB;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_length_and_the_unknown_size() {
        assert_eq!(vint(&[0x81], 8).unwrap(), Some((1, 1)));
        assert_eq!(vint(&[0x40, 0x01], 8).unwrap(), Some((1, 2)));
        assert_eq!(vint(&[0x01, 0, 0, 0, 0, 0, 0, 5], 8).unwrap(), Some((5, 8)));
        assert_eq!(vint(&[0x40], 8).unwrap(), None);
        assert!(vint(&[0x00, 1], 8).is_err());
        assert!(vint(&[0x08, 0, 0, 0, 0], 4).is_err());
        let header = |bytes: &[u8]| Header::parse(bytes).unwrap();
        assert_eq!(header(&[0xA3, 0x82, 9, 9]), Some(Header { id: 0xA3, size: Some(2), length: 2 }));
        for unknown in [&[0xFF][..], &[0x7F, 0xFF], &[0x01, 255, 255, 255, 255, 255, 255, 255]] {
            let bytes = [&[0x1F, 0x43, 0xB6, 0x75][..], unknown].concat();
            assert_eq!(header(&bytes), Some(Header { id: id::CLUSTER, size: None, length: bytes.len() }));
        }
        assert_eq!(header(&[0x1F, 0x43, 0xB6]), None);
        assert_eq!(header(&[0x1F, 0x43, 0xB6, 0x75]), None);
    }

    #[test]
    fn signed_integers_are_centred_on_zero() {
        assert_eq!(signed_vint(&[0xBF]).unwrap(), Some((0, 1)));
        assert_eq!(signed_vint(&[0x80]).unwrap(), Some((-63, 1)));
        assert_eq!(signed_vint(&[0x5F, 0xFF]).unwrap(), Some((0, 2)));
        assert_eq!(signed_vint(&[0x60, 0x00]).unwrap(), Some((1, 2)));
    }

    #[test]
    fn a_child_may_not_reach_past_its_parent() {
        let all = |bytes: &'static [u8]| children(&Bytes::from_static(bytes)).collect::<Result<Vec<_>, _>>();
        let two = all(&[0xE7, 0x81, 7, 0xEC, 0x80]).unwrap();
        assert_eq!(two, [(0xE7, Bytes::from_static(&[7])), (0xEC, Bytes::new())]);
        assert!(all(&[0xE7, 0x82, 7]).is_err());
        assert!(all(&[0xE7]).is_err());
        assert!(all(&[0xE7, 0xFF, 7]).is_err());
    }

    #[test]
    fn values() {
        assert_eq!(uint(&[]).unwrap(), 0);
        assert_eq!(uint(&[1, 0]).unwrap(), 256);
        assert!(uint(&[0; 9]).is_err());
        assert_eq!(float(&1.5f32.to_be_bytes()).unwrap(), 1.5);
        assert_eq!(float(&48000f64.to_be_bytes()).unwrap(), 48000.0);
        assert!(float(&[0; 3]).is_err());
        assert_eq!(string(b"webm\0junk"), "webm");
        assert_eq!(string(b"a\xffb"), "a?b");
    }
}
