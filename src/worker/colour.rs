//! A track's colour description in GStreamer's terms.

use gstreamer as gst;
use gstreamer_video::{
    VideoColorMatrix, VideoColorPrimaries, VideoColorRange, VideoColorimetry, VideoFormat, VideoFormatInfo,
    VideoTransferFunction,
};

use crate::media::Colour;

/// With what the source leaves open said outright, as players guess it from the source's height: a smaller rung must
/// not be guessed differently.
pub fn outright(colour: Colour, source_height: u32) -> Colour {
    // ISO/IEC 23091-2: 1 is BT.709, 6 is BT.601.
    let guess = if source_height > 576 { 1 } else { 6 };
    let or_guess = |unknown: bool, told: u8| if unknown { guess } else { told };
    let matrix = VideoColorMatrix::from_iso(colour.matrix.into());
    let transfer = VideoTransferFunction::from_iso(colour.transfer.into());
    let primaries = VideoColorPrimaries::from_iso(colour.primaries.into());
    Colour {
        primaries: or_guess(primaries == VideoColorPrimaries::Unknown, colour.primaries),
        transfer: or_guess(transfer == VideoTransferFunction::Unknown, colour.transfer),
        matrix: or_guess(matches!(matrix, VideoColorMatrix::Unknown | VideoColorMatrix::Rgb), colour.matrix),
        full_range: colour.full_range,
    }
}

/// The value of the caps field.
pub fn colorimetry(colour: Colour, source_height: u32) -> String {
    let colour = outright(colour, source_height);
    let matrix = VideoColorMatrix::from_iso(colour.matrix.into());
    let transfer = VideoTransferFunction::from_iso(colour.transfer.into());
    let primaries = VideoColorPrimaries::from_iso(colour.primaries.into());
    let range = if colour.full_range { VideoColorRange::Range0_255 } else { VideoColorRange::Range16_235 };
    VideoColorimetry::new(range, matrix, transfer, primaries).to_string()
}

/// Whether caps are of pictures whose colour description is about RGB.
pub fn is_rgb(caps: &gst::StructureRef) -> bool {
    let format = caps.get::<&str>("format").ok().and_then(|name| name.parse::<VideoFormat>().ok());
    format.is_some_and(|format| VideoFormatInfo::from_format(format).is_rgb())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_kept_and_what_is_not_is_guessed_from_the_height() {
        gst::init().unwrap();
        let colour = |primaries, transfer, matrix, full_range| Colour { primaries, transfer, matrix, full_range };
        assert_eq!(colorimetry(Colour::default(), 1080), "bt709");
        assert_eq!(colorimetry(Colour::default(), 480), "bt601");
        assert_eq!(colorimetry(colour(1, 1, 1, false), 480), "bt709");
        assert_eq!(colorimetry(colour(9, 16, 9, false), 2160), "bt2100-pq");
        assert_eq!(colorimetry(colour(1, 1, 1, true), 720), "1:3:5:1");
        assert_eq!(colorimetry(colour(250, 250, 250, false), 720), "bt709");
    }
}
