//! VP9 (the bitstream specification, and "VP Codec ISO Media File Format Binding" for vpcC).

use crate::media::{Error, Video};

/// Whether a frame or superframe starts with a key frame.
pub fn is_key_frame(frame: &[u8]) -> bool {
    let _ = frame;
    false
}

/// All that a key frame says of the stream; `Video::config` is vpcC made from it.
pub fn video(key_frame: &[u8]) -> Result<Video, Error> {
    let _ = key_frame;
    Err(Error::UnsupportedCodec("not read yet".into()))
}

/// From a vpcC payload (with version and flags) and the size that the sample entry tells.
pub fn video_from_vpcc(vpcc: &[u8], width: u32, height: u32) -> Result<Video, Error> {
    let _ = (vpcc, width, height);
    Err(Error::UnsupportedCodec("not read yet".into()))
}
