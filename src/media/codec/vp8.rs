//! VP8 (RFC 6386).

use crate::media::{Error, Video};

/// Whether a frame is a key frame (RFC 6386 9.1).
pub fn is_key_frame(frame: &[u8]) -> bool {
    let _ = frame;
    false
}

/// All that a key frame says of the stream.
pub fn video(key_frame: &[u8]) -> Result<Video, Error> {
    let _ = key_frame;
    Err(Error::UnsupportedCodec("not read yet".into()))
}
