//! Writes boxes: sizes are filled in when the box is complete.

use crate::media::Error;

/// Bytes of a box's size and type.
pub(super) const HEADER: u64 = 8;

/// Boxes in the making. All numbers are big-endian (ISO/IEC 14496-12 4.2).
pub(super) struct Boxes(Vec<u8>);

impl Boxes {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// The bytes; `Error::OverLimit` where a box may have outgrown its 32-bit size.
    pub(super) fn finish(self) -> Result<Vec<u8>, Error> {
        u32::try_from(self.0.len()).map_err(|_| Error::OverLimit("more than 4 GiB of boxes".into()))?;
        Ok(self.0)
    }

    /// A box of `kind` around what `body` writes.
    pub(super) fn atom(&mut self, kind: &[u8; 4], body: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.u32(0);
        self.bytes(kind);
        body(self);
        // A size that does not fit is refused by `finish`, since no box is larger than the whole.
        let size = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        if let Some(place) = self.0.get_mut(start..start + 4) {
            place.copy_from_slice(&size.to_be_bytes());
        }
    }

    /// A box with version and flags (ISO/IEC 14496-12 4.2.2).
    pub(super) fn full(&mut self, kind: &[u8; 4], version: u8, flags: u32, body: impl FnOnce(&mut Self)) {
        self.atom(kind, |b| {
            b.u32(u32::from(version) << 24 | flags);
            body(b);
        });
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn zeros(&mut self, count: usize) {
        self.0.resize(self.0.len() + count, 0);
    }

    pub(super) fn u8(&mut self, n: u8) {
        self.0.push(n);
    }

    pub(super) fn u16(&mut self, n: u16) {
        self.bytes(&n.to_be_bytes());
    }

    pub(super) fn u32(&mut self, n: u32) {
        self.bytes(&n.to_be_bytes());
    }

    pub(super) fn u64(&mut self, n: u64) {
        self.bytes(&n.to_be_bytes());
    }

    pub(super) fn i32(&mut self, n: i32) {
        self.bytes(&n.to_be_bytes());
    }
}
