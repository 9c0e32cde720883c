//! Whole jobs, on media made by ffmpeg as the tests run and read back by ffmpeg.

mod audio;
mod pictures;
mod scaler;
mod support;
mod video;

use crate::worker::transcode::inventory;

#[test]
fn every_codec_that_is_read_or_made_is_served() {
    let inventory = inventory().unwrap();
    assert_eq!(inventory.video_decoders.len(), 6);
    assert_eq!(inventory.video_encoders.len(), 4);
    assert_eq!(inventory.audio_decoders.len(), 5);
    assert_eq!(inventory.audio_encoders.len(), 2);
    assert!(!inventory.missing.iter().any(|name| name == "tee"));
}
