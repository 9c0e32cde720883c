//! Boxes and full boxes (ISO/IEC 14496-12 4.2), read with every length checked. What a box means is told elsewhere.

use bytes::Bytes;

use crate::media::Error;

/// A box's type.
pub type FourCc = [u8; 4];

/// A box inside another, without its header.
#[derive(Debug, Clone)]
pub struct Child {
    pub kind: FourCc,
    pub body: Bytes,
}

/// The boxes inside a box. A box that reaches past its parent is an error and the last item; fewer than 8 bytes left
/// over (QuickTime ends some lists with a zero) are none.
pub fn children(parent: &Bytes) -> Children {
    Children { rest: parent.clone() }
}

pub struct Children {
    rest: Bytes,
}

impl Iterator for Children {
    type Item = Result<Child, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.len() < 8 {
            return None;
        }
        let header = Header::parse(&self.rest)?;
        let size = header.size.unwrap_or(self.rest.len() as u64);
        let size = usize::try_from(size).ok().filter(|&s| s >= header.length && s <= self.rest.len());
        let Some(size) = size else {
            self.rest.clear();
            return Some(Err(Error::bad(format!("box {} does not fit its parent", name(header.kind)))));
        };
        let body = self.rest.split_to(size).slice(header.length..);
        Some(Ok(Child { kind: header.kind, body }))
    }
}

/// The first child of a type; a malformed list counts as its end.
pub fn child(parent: &Bytes, kind: FourCc) -> Option<Bytes> {
    children(parent).map_while(Result::ok).find(|b| b.kind == kind).map(|b| b.body)
}

/// A box's size and type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: FourCc,
    /// Bytes of the header: 8, or 16 with a 64-bit size.
    pub length: usize,
    /// Bytes of the box with its header; None: to the end of what holds it.
    pub size: Option<u64>,
}

impl Header {
    /// None where more bytes are needed.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let size = reader.u32().ok()?;
        let kind = reader.four_cc().ok()?;
        Some(match size {
            0 => Self { kind, length: 8, size: None },
            1 => Self { kind, length: 16, size: Some(reader.u64().ok()?) },
            n => Self { kind, length: 8, size: Some(n.into()) },
        })
    }
}

/// A type as text for messages and [`crate::media::Format::Other`].
pub fn name(kind: FourCc) -> String {
    kind.iter().map(|&b| if b.is_ascii_graphic() { b as char } else { '_' }).collect()
}

/// The version and flags of a full box, and what follows them.
pub fn full(body: &Bytes) -> Result<(u8, u32, Bytes), Error> {
    let word = Reader::new(body).u32()?;
    Ok(((word >> 24) as u8, word & 0xff_ffff, body.slice(4..)))
}

/// A 32-bit count and that many entries of `width` bytes each.
pub fn counted(data: &Bytes, width: usize, what: &str) -> Result<Bytes, Error> {
    let count = Reader::new(data).u32()?;
    entries(&data.slice(4..), count, width, what)
}

/// The first `count` entries of `width` bytes each.
pub fn entries(data: &Bytes, count: u32, width: usize, what: &str) -> Result<Bytes, Error> {
    let length = usize::try_from(count).ok().and_then(|n| n.checked_mul(width)).filter(|&n| n <= data.len());
    match length {
        Some(length) => Ok(data.slice(..length)),
        None => Err(Error::bad(format!("{what} counts more entries than it holds"))),
    }
}

/// The big-endian word at a place in a table.
pub fn word(table: &[u8], at: usize) -> Option<u32> {
    let bytes = table.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// Reads big-endian numbers from the front of bytes.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or_else(|| Error::bad("a box ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    pub fn skip(&mut self, length: usize) -> Result<(), Error> {
        self.take(length).map(|_| ())
    }

    /// Bytes that have not been read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Error> {
        self.array().map(i32::from_be_bytes)
    }

    /// 64 bits in version 1 of a full box, 32 in version 0.
    pub fn wide(&mut self, version: u8) -> Result<u64, Error> {
        if version == 0 { self.u32().map(u64::from) } else { self.u64() }
    }

    pub fn four_cc(&mut self) -> Result<FourCc, Error> {
        self.array()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_stay_inside_their_parent() {
        let parent = Bytes::from_static(b"\0\0\0\x09abcdX\0\0\0\xffwide");
        let mut list = children(&parent);
        let first = list.next().unwrap().unwrap();
        assert_eq!((first.kind, first.body.as_ref()), (*b"abcd", b"X".as_ref()));
        assert!(list.next().unwrap().is_err());
        assert!(list.next().is_none());
    }

    #[test]
    fn a_count_is_checked_against_the_bytes() {
        assert!(counted(&Bytes::from_static(b"\xff\xff\xff\xff1234"), 4, "stco").is_err());
        assert_eq!(counted(&Bytes::from_static(b"\0\0\0\x011234rest"), 4, "stco").unwrap().as_ref(), b"1234");
    }
}
