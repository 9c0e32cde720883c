//! A track's colour description in GStreamer's terms.

use gstreamer as gst;
use gstreamer_video as gst_video;

use crate::media::Colour;

/// "Unspecified" among the code points of ISO/IEC 23091-2.
const UNSPECIFIED: u8 = 2;
/// Matrix code point of pictures that are not YUV.
const IDENTITY: u8 = 0;

/// The value of the caps field. What the source leaves open is said outright, as players guess it from the source's
/// height: a smaller rung must not be guessed differently.
pub fn colorimetry(colour: Colour, source_height: u32) -> String {
    // ISO/IEC 23091-2: 1 is BT.709, 6 is BT.601.
    let guess = if source_height > 576 { 1 } else { 6 };
    let told = |value: u8| u32::from(if value == UNSPECIFIED || value == IDENTITY { guess } else { value });
    let or = |known: bool, value: u32| if known { value } else { u32::from(guess) };

    let matrix = told(colour.matrix);
    let matrix = gst_video::VideoColorMatrix::from_iso(or(
        gst_video::VideoColorMatrix::from_iso(matrix) != gst_video::VideoColorMatrix::Unknown,
        matrix,
    ));
    let transfer = told(colour.transfer);
    let transfer = gst_video::VideoTransferFunction::from_iso(or(
        gst_video::VideoTransferFunction::from_iso(transfer) != gst_video::VideoTransferFunction::Unknown,
        transfer,
    ));
    let primaries = told(colour.primaries);
    let primaries = gst_video::VideoColorPrimaries::from_iso(or(
        gst_video::VideoColorPrimaries::from_iso(primaries) != gst_video::VideoColorPrimaries::Unknown,
        primaries,
    ));
    let range = if colour.full_range {
        gst_video::VideoColorRange::Range0_255
    } else {
        gst_video::VideoColorRange::Range16_235
    };
    gst_video::VideoColorimetry::new(range, matrix, transfer, primaries).to_string()
}

/// Whether caps are of pictures whose colour description is about RGB.
pub fn is_rgb(caps: &gst::StructureRef) -> bool {
    let format = caps.get::<&str>("format").ok().and_then(|name| name.parse::<gst_video::VideoFormat>().ok());
    format.is_some_and(|format| gst_video::VideoFormatInfo::from_format(format).is_rgb())
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
