//! CMAF: fragmented MP4 (ISO/IEC 14496-12, 23000-19), decode times exact.
//!
//! One header for all segments of an output, then one fragment a segment. Decode times are made here from the
//! presentation times alone (docs/adr/002), so there are no edit lists and each segment starts at its `tfdt`. What the
//! codecs' set-up bytes mean is `codec`'s; here they are copied.

mod boxes;
mod events;
mod header;
#[cfg(test)]
mod read_back;
mod segment;
#[cfg(test)]
pub(crate) mod tests;
mod times;

pub use header::{init, init_led};
pub use segment::{segment, segment_with};

use super::OutTrack;
use crate::media::Format;

/// Whether a track can be held: every video and audio codec that is read here has its sample entry.
pub fn holds(format: &Format) -> bool {
    match format {
        Format::Video(_) | Format::Audio(_) => true,
        Format::Other { .. } => false,
    }
}

/// The MIME type with its RFC 6381 codecs, in the order of the tracks.
pub fn mime(tracks: &[OutTrack]) -> String {
    let mut kind = "audio";
    let mut codecs = Vec::new();
    for track in tracks {
        match &track.format {
            Format::Video(video) => {
                kind = "video";
                codecs.push(video.codec_string.as_str());
            }
            Format::Audio(audio) => codecs.push(audio.codec_string.as_str()),
            Format::Other { .. } => {}
        }
    }
    format!("{kind}/mp4; codecs=\"{}\"", codecs.join(","))
}
