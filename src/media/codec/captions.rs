//! Closed captions that ride in the coded pictures: CEA-608 and CEA-708 as the `cc_data()` of ATSC A/53 part 4, 6.2.3.
//!
//! H.264 and H.265 carry it in SEI messages `user_data_registered_itu_t_t35`, MPEG-2 in user data, AV1 in metadata OBUs.
//! What the captions say is not looked into: their bytes are taken out of the source's pictures and put into others.

mod carriers;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::media::VideoCodec;

/// One construct of `cc_data()`: marker bits, cc_valid and cc_type, then cc_data_1 and cc_data_2.
pub type Construct = [u8; 3];

/// Constructs that one `cc_data()` holds: cc_count has five bits.
pub const MOST_IN_A_MESSAGE: usize = 31;
/// Constructs that are taken out of one access unit: two fields, twice what each may hold.
const MOST_IN_A_UNIT: usize = 4 * MOST_IN_A_MESSAGE;
const CC_VALID: u8 = 0x04;

/// Whether pictures of this codec can carry captions.
pub fn holds(codec: VideoCodec) -> bool {
    matches!(codec, VideoCodec::H264 | VideoCodec::H265 | VideoCodec::Av1 | VideoCodec::Mpeg2)
}

/// The constructs that an access unit carries, in its order; what is malformed is passed over.
pub fn read(codec: VideoCodec, unit: &[u8]) -> Vec<Construct> {
    let mut found = Vec::new();
    carriers::visit(codec, unit, |payload| {
        if let Some(constructs) = cc_data(payload) {
            let room = MOST_IN_A_UNIT - found.len();
            found.extend(constructs.iter().take(room));
        }
    });
    found
}

/// The access unit with these constructs in place of all that it carried before. None are lost: more than one message
/// holds go into several, after those without content (cc_valid 0) have been left out.
///
/// A codec that can't carry captions, and MPEG-2, which is never made here, leave the unit as it is.
pub fn replace(codec: VideoCodec, unit: &Bytes, constructs: &[Construct]) -> Bytes {
    let valid: Vec<Construct>;
    let constructs = if constructs.len() > MOST_IN_A_MESSAGE {
        valid = constructs.iter().filter(|construct| construct[0] & CC_VALID != 0).copied().collect();
        &valid
    } else {
        constructs
    };
    let payloads: Vec<Vec<u8>> = constructs.chunks(MOST_IN_A_MESSAGE).map(user_data).collect();
    carriers::replace(codec, unit, &payloads)
}

/// ITU-T T.35: the United States; then the provider code of ATSC, `user_identifier`, `user_data_type_code`.
const HEAD: [u8; 8] = [0xb5, 0x00, 0x31, b'G', b'A', b'9', b'4', 0x03];

/// Whether a T.35 payload, from its country code on, holds captions.
fn is_captions(payload: &[u8]) -> bool {
    payload.starts_with(&HEAD)
}

/// The constructs of a T.35 payload that holds captions.
fn cc_data(payload: &[u8]) -> Option<&[Construct]> {
    const PROCESS_CC_DATA: u8 = 0x40;
    let (&[flags, _em_data], constructs) = payload.strip_prefix(&HEAD)?.split_first_chunk()?;
    if flags & PROCESS_CC_DATA == 0 {
        return None;
    }
    constructs.as_chunks().0.get(..usize::from(flags & 0x1f))
}

/// A T.35 payload that holds these constructs, at most [`MOST_IN_A_MESSAGE`].
fn user_data(constructs: &[Construct]) -> Vec<u8> {
    let mut payload = HEAD.to_vec();
    payload.extend([0xc0 | (constructs.len() as u8 & 0x1f), 0xff]);
    payload.extend(constructs.as_flattened());
    payload.push(0xff);
    payload
}
