//! What rides along with pictures and sound, to be handed on and never decoded: splice messages, ID3 tags, KLV metadata,
//! event messages.

pub mod scte35;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Ticks, Timescale, TrackId};

/// Most bytes of one unit: a splice section has 4096 at most, a PES of bounded length 64 KiB.
pub const MOST_BYTES: usize = 64 << 10;

/// `scheme_id_uri` of splice sections in event messages (SCTE 214-3).
pub const SCTE35_SCHEME: &str = "urn:scte:scte35:2013:bin";
/// `scheme_id_uri` of ID3 tags in event messages (AOM, "Carriage of ID3 Timed Metadata in CMAF").
pub const ID3_SCHEME: &str = "https://aomedia.org/emsg/ID3";
/// `scheme_id_uri` of KLV metadata in event messages (MISB ST 1910).
pub const KLV_SCHEME: &str = "urn:misb:KLV:bin:1910.1";

/// What a unit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DataKind {
    /// A `splice_info_section` (SCTE 35).
    Scte35,
    /// An ID3 tag, version 2.
    Id3,
    /// The message of an event message box (ISO/IEC 23009-1 5.10.3.3) of another scheme than the others here.
    Emsg,
    /// Key-length-value metadata (SMPTE ST 336).
    Klv,
}

impl DataKind {
    /// The protocol's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scte35 => "scte35",
            Self::Id3 => "id3",
            Self::Emsg => "emsg",
            Self::Klv => "klv",
        }
    }

    /// What an event message of this scheme holds.
    pub fn of_scheme(scheme: &str) -> Self {
        match scheme {
            SCTE35_SCHEME => Self::Scte35,
            ID3_SCHEME => Self::Id3,
            KLV_SCHEME => Self::Klv,
            _ => Self::Emsg,
        }
    }

    /// The scheme of event messages that hold it; None where any may.
    pub fn scheme(self) -> Option<&'static str> {
        match self {
            Self::Scte35 => Some(SCTE35_SCHEME),
            Self::Id3 => Some(ID3_SCHEME),
            Self::Klv => Some(KLV_SCHEME),
            Self::Emsg => None,
        }
    }
}

/// One message, tag or packet of metadata, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataUnit {
    /// None for an event message box, which belongs to no track.
    pub track: Option<TrackId>,
    pub kind: DataKind,
    /// When it is to take effect, on the presentation timeline: the splice time of a splice message that has one, the
    /// PTS of a PES; where there is neither, the newest time stamp of the stream where it stands.
    pub pts: Ticks,
    pub timescale: Timescale,
    pub duration: Option<Ticks>,
    /// What an event message box says of itself.
    pub emsg: Option<Emsg>,
    /// The byte of the input where it begins.
    pub offset: u64,
    /// A section with its checksum, a tag, a packet or a message.
    pub data: Bytes,
}

/// The head of an event message box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emsg {
    pub scheme: String,
    pub value: String,
    pub id: u32,
}
