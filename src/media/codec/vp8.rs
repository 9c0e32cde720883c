//! VP8 (RFC 6386).

use bytes::Bytes;

use crate::media::{Chroma, Colour, Error, Hdr, Video, VideoCodec};

/// Whether a frame is a key frame (RFC 6386 9.1).
pub fn is_key_frame(frame: &[u8]) -> bool {
    key_frame_size(frame).is_some()
}

/// All that a key frame says of the stream. The scaling that it may ask of the player is not followed.
pub fn video(key_frame: &[u8]) -> Result<Video, Error> {
    let (width, height) = key_frame_size(key_frame).ok_or_else(|| Error::bad("not a VP8 key frame"))?;
    if width == 0 || height == 0 {
        return Err(Error::bad(format!("a VP8 picture of {width}x{height}")));
    }
    Ok(Video {
        codec: VideoCodec::Vp8,
        config: Bytes::new(),
        codec_string: "vp08.00.10.08".into(),
        width: width.into(),
        height: height.into(),
        sample_aspect: (1, 1),
        rotation: 0,
        bit_depth: 8,
        chroma: Chroma::C420,
        colour: Colour::default(),
        hdr: Hdr::default(),
        interlaced: false,
        frame_rate: None,
    })
}

fn key_frame_size(frame: &[u8]) -> Option<(u16, u16)> {
    let [tag, _, _, 0x9d, 0x01, 0x2a, width_low, width_high, height_low, height_high, ..] = *frame else {
        return None;
    };
    // The upper two bits of each are the scaling.
    let size = |low, high| u16::from_le_bytes([low, high]) & 0x3fff;
    (tag & 1 == 0).then(|| (size(width_low, width_high), size(height_low, height_high)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The start of a 1920x1080 stream by libvpx.
    const KEY_FRAME: &[u8] = &[0x10, 0x88, 0x0f, 0x9d, 0x01, 0x2a, 0x80, 0x07, 0x38, 0x04, 0x00, 0x07];

    #[test]
    fn reads_key_frames() {
        assert!(is_key_frame(KEY_FRAME));
        let video = video(KEY_FRAME).unwrap();
        assert_eq!((video.width, video.height), (1920, 1080));
        assert!(video.config.is_empty());
    }

    #[test]
    fn leaves_scaling_out_of_the_size() {
        let mut scaled = KEY_FRAME.to_vec();
        scaled[7] |= 0x40;
        scaled[9] |= 0xc0;
        assert_eq!(video(&scaled).unwrap().width, 1920);
        assert_eq!(video(&scaled).unwrap().height, 1080);
    }

    #[test]
    fn other_frames_are_none() {
        let mut inter = KEY_FRAME.to_vec();
        inter[0] |= 1;
        let mut unmarked = KEY_FRAME.to_vec();
        unmarked[4] = 2;
        let mut empty = KEY_FRAME.to_vec();
        empty[6..8].fill(0);
        for frame in [&inter, &unmarked, &KEY_FRAME[..9], &[]] {
            assert!(!is_key_frame(frame));
            assert_eq!(video(frame).unwrap_err().code(), "bad_media");
        }
        assert_eq!(video(&empty).unwrap_err().code(), "bad_media");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            prop_assert!(is_key_frame(&bytes) || video(&bytes).is_err());
        }
    }
}
