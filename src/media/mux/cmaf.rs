//! CMAF: fragmented MP4 (ISO/IEC 14496-12, 23000-19), decode times exact.

use bytes::Bytes;

use super::{OutTrack, Part};
use crate::media::{Error, Format};

/// Whether a track can be held.
pub fn holds(format: &Format) -> bool {
    let _ = format;
    false
}

/// The CMAF header (ftyp, moov): the same bytes for the same tracks.
pub fn init(tracks: &[OutTrack]) -> Result<Bytes, Error> {
    let _ = tracks;
    Ok(Bytes::new())
}

/// One CMAF segment (styp, moof, mdat). `sequence` goes to mfhd.
pub fn segment(sequence: u32, parts: &[Part<'_>]) -> Result<Bytes, Error> {
    let _ = (sequence, parts);
    Ok(Bytes::new())
}

/// The MIME type with its RFC 6381 codecs.
pub fn mime(tracks: &[OutTrack]) -> String {
    let _ = tracks;
    String::new()
}
