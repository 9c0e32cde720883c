//! Data units → event message boxes (ISO/IEC 23009-1 5.10.3.3, 23000-19 7.4.5).

use super::boxes::Boxes;
use crate::media::data::{DataUnit, ID3_SCHEME, KLV_SCHEME, SCTE35_SCHEME};
use crate::media::{DataKind, Timescale};

/// event_duration where it is not known.
const UNKNOWN: u32 = u32::MAX;

/// An emsg of version 1. What was no event message before gets the scheme of its kind, and an id by its place in the
/// input, so that it is the same in every output.
pub(super) fn write(unit: &DataUnit, timescale: Timescale, out: &mut Boxes) {
    let (scheme, value, id) = match (&unit.emsg, unit.kind) {
        (Some(emsg), _) => (emsg.scheme.as_str(), emsg.value.as_str(), emsg.id),
        (None, DataKind::Scte35) => (SCTE35_SCHEME, "", unit.offset as u32),
        (None, DataKind::Id3) => (ID3_SCHEME, "", unit.offset as u32),
        (None, DataKind::Klv) => (KLV_SCHEME, "", unit.offset as u32),
        (None, DataKind::Emsg) => return,
    };
    let duration = unit.duration.map(|duration| duration.nearest(unit.timescale, timescale).0);
    out.full(b"emsg", 1, 0, |b| {
        b.u32(timescale.get());
        b.u64(unit.pts.nearest(unit.timescale, timescale).0.max(0).unsigned_abs());
        b.u32(duration.and_then(|duration| u32::try_from(duration).ok()).unwrap_or(UNKNOWN));
        b.u32(id);
        for text in [scheme, value] {
            b.bytes(text.as_bytes());
            b.u8(0);
        }
        b.bytes(&unit.data);
    });
}
