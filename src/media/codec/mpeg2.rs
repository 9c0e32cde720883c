//! MPEG-2 video (ISO/IEC 13818-2).

use crate::media::{Error, Sync, Video};

/// From the sequence header and its extensions, start codes included (more may follow).
pub fn video(headers: &[u8]) -> Result<Video, Error> {
    let _ = headers;
    Err(Error::UnsupportedCodec("not read yet".into()))
}

/// What kind of entry point a coded picture, start codes included, is: an I picture after a closed GOP header, one after an open GOP header, or none.
pub fn sync(unit: &[u8]) -> Sync {
    let _ = unit;
    Sync::No
}
