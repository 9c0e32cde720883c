//! Where each codec keeps a T.35 payload, how it is found there and how it is put in.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};

use super::is_captions;
use crate::media::VideoCodec;
use crate::media::codec::bits::unescape;
use crate::media::codec::{annexb, av1, h264};

/// payloadType of `user_data_registered_itu_t_t35` (ISO/IEC 14496-10 D.1.1, 23008-2 D.2.1).
const T35: u32 = 4;
/// user_data_start_code (ISO/IEC 13818-2 6.2.2.2.2).
const MPEG2_USER_DATA: u8 = 0xb2;
/// metadata_type of METADATA_TYPE_ITUT_T35 (AV1 6.7.1).
const AV1_T35: u8 = 4;
/// Bytes of an SEI NAL unit that are looked at; captions take some hundred.
const SEI_MOST: usize = 16 << 10;

/// Calls `found` with each T.35 payload, from its country code on.
pub fn visit(codec: VideoCodec, unit: &[u8], mut found: impl FnMut(&[u8])) {
    match codec {
        VideoCodec::H264 | VideoCodec::H265 => {
            for nal in annexb::length_prefixed(unit) {
                if let Some(rbsp) = sei(codec, nal) {
                    messages(&rbsp).filter(|message| message.kind == T35).for_each(|message| found(message.payload));
                }
            }
        }
        VideoCodec::Mpeg2 => {
            for part in annexb::start_coded(unit) {
                if let Some(user_data) = part.strip_prefix(&[MPEG2_USER_DATA]) {
                    // There the T.35 head is not written.
                    found(&[&[0xb5, 0x00, 0x31], user_data.get(..1024).unwrap_or(user_data)].concat());
                }
            }
        }
        VideoCodec::Av1 => {
            for obu in av1::obus(unit) {
                if let Some(payload) = av1_t35(&obu) {
                    found(payload);
                }
            }
        }
        VideoCodec::Vp8 | VideoCodec::Vp9 => {}
    }
}

/// The unit without the captions that it carries, and with `payloads` where they belong.
pub fn replace(codec: VideoCodec, unit: &Bytes, payloads: &[Vec<u8>]) -> Bytes {
    match codec {
        VideoCodec::H264 | VideoCodec::H265 => replace_sei(codec, unit, payloads),
        VideoCodec::Av1 => replace_obus(unit, payloads),
        VideoCodec::Mpeg2 | VideoCodec::Vp8 | VideoCodec::Vp9 => unit.clone(),
    }
}

/// New SEI NAL units stand right before the first slice: behind parameter sets and all other SEI, of which a buffering
/// period must stay the first (ISO/IEC 14496-10 7.4.1.2.3, 23008-2 7.4.2.4.4).
fn replace_sei(codec: VideoCodec, unit: &Bytes, payloads: &[Vec<u8>]) -> Bytes {
    let added: usize = payloads.iter().map(|payload| payload.len() * 3 / 2 + 16).sum();
    let mut out = BytesMut::with_capacity(unit.len() + added);
    let mut pending = Some(payloads);
    for nal in annexb::length_prefixed(unit) {
        if let Some(payloads) = pending.take_if(|_| is_slice(codec, nal)) {
            payloads.iter().for_each(|payload| put_nal(&mut out, &sei_nal(codec, nal, payload)));
        }
        match without_captions(codec, nal) {
            Some(nal) if nal.is_empty() => {}
            Some(nal) => put_nal(&mut out, &nal),
            None => put_nal(&mut out, nal),
        }
    }
    out.freeze()
}

/// NAL units that begin the coded picture: slices, and the prefix NAL unit of Annex G that may stand before one.
fn is_slice(codec: VideoCodec, nal: &[u8]) -> bool {
    match codec {
        VideoCodec::H264 => matches!(h264::nal_type(nal), Some(1..=5 | 14 | 20)),
        _ => nal.first().is_some_and(|header| header >> 1 & 0x3f < 32),
    }
}

/// An SEI NAL unit with one message. In H.265 it is a prefix SEI of the temporal sub-layer of the `slice` behind it.
fn sei_nal(codec: VideoCodec, slice: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut rbsp = Vec::with_capacity(payload.len() + 8);
    put_message(&mut rbsp, T35, payload);
    rbsp.push(0x80);
    let header: &[u8] = match codec {
        VideoCodec::H264 => &[0x06],
        _ => &[39 << 1, slice.get(1).map_or(1, |byte| byte & 0x07)],
    };
    escaped(header, &rbsp)
}

fn put_nal(out: &mut BytesMut, nal: &[u8]) {
    // A NAL unit that does not fit came of no unit within the limits.
    if let Ok(length) = u32::try_from(nal.len()) {
        out.put_u32(length);
        out.put_slice(nal);
    }
}

/// The RBSP of an SEI NAL unit; None for another one.
fn sei(codec: VideoCodec, nal: &[u8]) -> Option<Cow<'_, [u8]>> {
    let header = match (codec, nal.first()?) {
        (VideoCodec::H264, header) if header & 0x1f == 6 => 1,
        (VideoCodec::H265, header) if matches!(header >> 1 & 0x3f, 39 | 40) => 2,
        _ => return None,
    };
    nal.get(header..SEI_MOST.min(nal.len())).map(unescape)
}

/// What is left of an SEI NAL unit that holds captions, empty where that is nothing; None where there is nothing to
/// leave out.
fn without_captions(codec: VideoCodec, nal: &[u8]) -> Option<Vec<u8>> {
    let rbsp = sei(codec, nal)?;
    let is_ours = |message: &Message<'_>| message.kind == T35 && is_captions(message.payload);
    if nal.len() > SEI_MOST || !messages(&rbsp).any(|message| is_ours(&message)) {
        return None;
    }
    let mut kept = Vec::new();
    for message in messages(&rbsp).filter(|message| !is_ours(message)) {
        put_message(&mut kept, message.kind, message.payload);
    }
    if kept.is_empty() {
        return Some(kept);
    }
    kept.push(0x80);
    let header = if codec == VideoCodec::H264 { 1 } else { 2 };
    Some(escaped(nal.get(..header)?, &kept))
}

struct Message<'a> {
    kind: u32,
    payload: &'a [u8],
}

/// The messages of an SEI RBSP, up to the first that does not fit (ISO/IEC 14496-10 7.3.2.3.1).
fn messages(rbsp: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = rbsp;
    std::iter::from_fn(move || {
        // What is left is the trailing bit.
        if rest.len() <= 1 {
            return None;
        }
        let kind = h264::sei_number(&mut rest)?;
        let size = usize::try_from(h264::sei_number(&mut rest)?).ok()?;
        let (payload, after) = rest.split_at_checked(size)?;
        rest = after;
        Some(Message { kind, payload })
    })
}

fn put_message(rbsp: &mut Vec<u8>, kind: u32, payload: &[u8]) {
    for number in [kind as usize, payload.len()] {
        rbsp.extend(std::iter::repeat_n(0xff, number / 255));
        rbsp.push((number % 255) as u8);
    }
    rbsp.extend_from_slice(payload);
}

/// A NAL unit of a header and an RBSP, with emulation prevention (ISO/IEC 14496-10 7.4.1).
fn escaped(header: &[u8], rbsp: &[u8]) -> Vec<u8> {
    let mut nal = Vec::with_capacity(header.len() + rbsp.len() + rbsp.len() / 2);
    nal.extend_from_slice(header);
    let mut zeros = 0;
    for &byte in rbsp {
        if zeros >= 2 && byte <= 3 {
            nal.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        nal.push(byte);
    }
    nal
}

/// The T.35 payload of a metadata OBU, without its trailing bits (AV1 5.8.2).
fn av1_t35<'a>(obu: &av1::Obu<'a>) -> Option<&'a [u8]> {
    if obu.kind != av1::OBU_METADATA {
        return None;
    }
    let (&AV1_T35, payload) = obu.payload.split_first()? else { return None };
    let end = payload.iter().rposition(|&byte| byte != 0)?;
    payload.get(..if payload.get(end) == Some(&0x80) { end } else { end + 1 })
}

/// New metadata OBUs stand right before the frame that is shown: a temporal unit has one (AV1 7.5).
fn replace_obus(unit: &Bytes, payloads: &[Vec<u8>]) -> Bytes {
    let added: usize = payloads.iter().map(|payload| payload.len() + 16).sum();
    let mut out = BytesMut::with_capacity(unit.len() + added);
    let mut pending = Some(payloads);
    let mut at = 0;
    for obu in av1::obus(unit) {
        let bytes = unit.get(at..at + obu.length).unwrap_or_default();
        at += obu.length;
        if av1_t35(&obu).is_some_and(is_captions) {
            continue;
        }
        if let Some(payloads) = pending.take_if(|_| obu.shows_a_frame()) {
            payloads.iter().for_each(|payload| put_metadata(&mut out, payload));
        }
        out.put_slice(bytes);
    }
    // What can't be read is left as it is.
    out.put_slice(unit.get(at..).unwrap_or_default());
    out.freeze()
}

fn put_metadata(out: &mut BytesMut, payload: &[u8]) {
    const HAS_SIZE: u8 = 0x02;
    out.put_u8(av1::OBU_METADATA << 3 | HAS_SIZE);
    let mut size = payload.len() + 2;
    while size >= 0x80 {
        out.put_u8(size as u8 & 0x7f | 0x80);
        size >>= 7;
    }
    out.put_u8(size as u8);
    out.put_u8(AV1_T35);
    out.put_slice(payload);
    out.put_u8(0x80);
}
