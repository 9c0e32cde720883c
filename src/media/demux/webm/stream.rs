//! One track's codec: its set-up, from CodecPrivate or from the first frame that tells it, and frames to access units.
//! Times are [`super`]'s.

use bytes::Bytes;

use super::nal::{self, Framing};
use super::tracks::Entry;
use crate::media::codec::sets::InForce;
use crate::media::codec::{aac, ac3, av1, h264, h265, mp3, mpeg2, opus, vp8, vp9};
use crate::media::{Audio, AudioCodec, Error, Format, Sync, Video, VideoCodec};

/// A track, and what is known of its codec so far.
pub struct Stream {
    pub entry: Entry,
    coding: Coding,
    /// None until a frame tells it.
    format: Option<Format>,
    /// H.264 and H.265.
    sets: Option<InForce>,
}

/// What the Codec ID says (RFC 9559 5.1.4.1.22 and the Matroska codec mappings).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    H264(Framing),
    H265(Framing),
    Vp8,
    Vp9,
    Av1,
    Mpeg2,
    Audio(AudioCodec),
    Unread,
}

impl Stream {
    pub fn new(entry: Entry) -> Result<Self, Error> {
        let mut stream = Self { entry, coding: Coding::Unread, format: None, sets: None };
        if stream.entry.encoded.is_none() {
            match stream.read_private() {
                Err(Error::UnsupportedCodec(_)) => stream.coding = Coding::Unread,
                other => other?,
            }
        }
        Ok(stream)
    }

    /// Takes over the format that was told last before the place where one goes on.
    pub fn know(&mut self, format: &Format) {
        let Format::Video(video) = format else {
            if let Format::Audio(_) = format {
                self.format = Some(format.clone());
            }
            return;
        };
        if let Coding::H264(_) | Coding::H265(_) = self.coding {
            self.sets = InForce::of(video.codec, &video.config).ok();
        }
        self.format = Some(format.clone());
    }

    /// Whether [`Self::format`] is final, as far as can be told before the set-up changes.
    pub fn is_known(&self) -> bool {
        self.format.is_some() || self.coding == Coding::Unread
    }

    /// Whether units can be made of this track's blocks.
    pub fn is_read(&self) -> bool {
        self.coding != Coding::Unread
    }

    /// Whether its set-up is read, so that units mean something.
    pub fn is_described(&self) -> bool {
        self.format.is_some()
    }

    pub fn audio(&self) -> Option<&Audio> {
        match &self.format {
            Some(Format::Audio(audio)) => Some(audio),
            _ => None,
        }
    }

    /// `Format::Other` while the set-up is not known.
    pub fn format(&self) -> Format {
        let codec = || match self.entry.encoded {
            Some(how) => format!("{} ({how})", self.entry.codec_id),
            None => self.entry.codec_id.clone(),
        };
        self.format.clone().unwrap_or_else(|| Format::Other { kind: self.entry.kind.into(), codec: codec() })
    }

    fn read_private(&mut self) -> Result<(), Error> {
        let private = self.entry.private.clone();
        // Some writers put the parameter sets here as a byte stream, and the same into the first key frame.
        let in_band = private.is_empty() || private.starts_with(&[0, 0, 1]) || private.starts_with(&[0, 0, 0, 1]);
        match self.entry.codec_id.as_str() {
            "V_MPEG4/ISO/AVC" if in_band => self.coding = Coding::H264(Framing::AnnexB),
            "V_MPEG4/ISO/AVC" => {
                let (sets, length) = h264::ParameterSets::from_avcc(&private)?;
                self.coding = Coding::H264(Framing::Lengths(length));
                // An encoder may leave the record's lists empty and send the sets in the stream (avc3, hev1).
                if !sets.sps.is_empty() {
                    let video = sets.video()?;
                    self.sets = Some(InForce::of(VideoCodec::H264, &video.config)?);
                    self.set_video(video);
                }
            }
            "V_MPEGH/ISO/HEVC" if in_band => self.coding = Coding::H265(Framing::AnnexB),
            "V_MPEGH/ISO/HEVC" => {
                let (sets, length) = h265::ParameterSets::from_hvcc(&private)?;
                self.coding = Coding::H265(Framing::Lengths(length));
                if !sets.sps.is_empty() {
                    let video = sets.video()?;
                    self.sets = Some(InForce::of(VideoCodec::H265, &video.config)?);
                    self.set_video(video);
                }
            }
            "V_VP8" => self.coding = Coding::Vp8,
            "V_VP9" => self.coding = Coding::Vp9,
            "V_AV1" => {
                self.coding = Coding::Av1;
                // av1C need not hold the sequence header; the first key frame does.
                if let Ok(video) = av1::video_from_av1c(&private) {
                    self.set_video(video);
                }
            }
            "V_MPEG2" => {
                self.coding = Coding::Mpeg2;
                if let Ok(video) = mpeg2::video(&private) {
                    self.set_video(video);
                }
            }
            "A_AAC" => {
                self.format = Some(Format::Audio(aac::audio(&private)?));
                self.coding = Coding::Audio(AudioCodec::Aac);
            }
            "A_OPUS" => {
                self.format = Some(Format::Audio(opus::audio_from_opus_head(&private)?));
                self.coding = Coding::Audio(AudioCodec::Opus);
            }
            "A_MPEG/L3" => self.coding = Coding::Audio(AudioCodec::Mp3),
            "A_AC3" => self.coding = Coding::Audio(AudioCodec::Ac3),
            "A_EAC3" => self.coding = Coding::Audio(AudioCodec::Eac3),
            _ => {}
        }
        Ok(())
    }

    /// Makes an access unit's bytes of a frame; `key` is the block's own claim. Empty where there is nothing to decode.
    pub fn access_unit(&self, frame: Bytes, key: bool) -> Result<(Bytes, Sync), Error> {
        let frame = match self.entry.stripped.as_ref() {
            [] => frame,
            stripped => [stripped, frame.as_ref()].concat().into(),
        };
        let data = match self.coding {
            Coding::H264(framing) => nal::access_unit(frame, framing, |first| first & 31 == 9)?,
            Coding::H265(framing) => nal::access_unit(frame, framing, |first| first >> 1 & 63 == 35)?,
            Coding::Av1 => av1::strip(frame),
            _ => frame,
        };
        // A container's flag alone is no proof of an entry point, nor is its absence of none; open entry points are
        // believed where both say so.
        let claimed = |sync| if key || sync == Sync::Idr { sync } else { Sync::No };
        let key_frame = |is| if is { Sync::Idr } else { Sync::No };
        let sync = match self.coding {
            Coding::H264(_) => claimed(h264::sync(&data)),
            Coding::H265(_) => claimed(h265::sync(&data)),
            Coding::Mpeg2 => claimed(mpeg2::sync(&data)),
            Coding::Vp8 => key_frame(vp8::is_key_frame(&data)),
            Coding::Vp9 => key_frame(vp9::is_key_frame(&data)),
            Coding::Av1 => key_frame(av1::is_key_frame(&data)),
            Coding::Audio(_) => Sync::Idr,
            Coding::Unread => Sync::No,
        };
        Ok((data, sync))
    }

    /// Reads the set-up that an access unit brings, if it is an entry point; true where [`Self::format`] has changed.
    pub fn learn(&mut self, data: &[u8], sync: Sync) -> Result<bool, Error> {
        match self.read_in_band(data, sync) {
            Err(Error::UnsupportedCodec(_)) => {
                self.coding = Coding::Unread;
                Ok(self.format.take().is_some())
            }
            other => other,
        }
    }

    fn read_in_band(&mut self, data: &[u8], sync: Sync) -> Result<bool, Error> {
        let known = self.format.is_some();
        match self.coding {
            Coding::Audio(AudioCodec::Mp3) if !known => self.format = Some(Format::Audio(mp3::audio(data)?)),
            Coding::Audio(AudioCodec::Ac3 | AudioCodec::Eac3) if !known => {
                self.format = Some(Format::Audio(ac3::audio(data)?));
            }
            Coding::Audio(_) | Coding::Unread => return Ok(false),
            Coding::H264(_) => return self.read_sets(VideoCodec::H264, data),
            Coding::H265(_) => return self.read_sets(VideoCodec::H265, data),
            _ if sync == Sync::No => return Ok(false),
            Coding::Vp8 => return Ok(self.set_video(vp8::video(data)?)),
            Coding::Vp9 => return Ok(self.set_video(vp9::video(data)?)),
            Coding::Av1 => return Ok(self.set_video(av1::video(data)?)),
            Coding::Mpeg2 => match mpeg2::video(data) {
                Ok(video) => return Ok(self.set_video(video)),
                Err(error @ Error::UnsupportedCodec(_)) => return Err(error),
                // The sequence header need not be repeated at each I picture.
                Err(_) => return Ok(false),
            },
        }
        Ok(true)
    }

    fn read_sets(&mut self, codec: VideoCodec, unit: &[u8]) -> Result<bool, Error> {
        let sets = self.sets.get_or_insert_with(|| InForce::new(codec));
        Ok(sets.take(unit)?.is_some_and(|video| self.set_video(video)))
    }

    /// The unit as it is to travel, once [`Self::learn`] has seen it.
    pub fn dress(&self, unit: Bytes, sync: Sync) -> Bytes {
        match &self.sets {
            Some(sets) => sets.dress(unit, sync != Sync::No),
            None => unit,
        }
    }

    /// True where it says something else than what was known.
    fn set_video(&mut self, mut video: Video) -> bool {
        self.entry.picture.complete(&mut video);
        if video.frame_rate.is_none() {
            video.frame_rate = self.entry.default_duration.and_then(frame_rate);
        }
        if let Some(Format::Video(known)) = &self.format {
            // av1C and one made from a key frame's sequence header may differ in bytes that mean nothing here.
            if self.coding == Coding::Av1 && (Video { config: known.config.clone(), ..video.clone() }) == *known {
                return false;
            }
            if video == *known {
                return false;
            }
        }
        self.format = Some(Format::Video(video));
        true
    }
}

/// Frames per second from the nanoseconds of a frame, which are rounded: the usual rates are recognised.
fn frame_rate(nanoseconds: u64) -> Option<(u32, u32)> {
    const SECOND: u64 = 1_000_000_000;
    let duration = u32::try_from(nanoseconds).ok().filter(|&n| n > 0)?;
    for per in [1u32, 1001] {
        let step = if per == 1 { 1 } else { 1000 };
        let exact = SECOND * u64::from(per);
        let rate = (exact / step + nanoseconds / 2) / nanoseconds * step;
        if rate > 0 && (exact / rate).abs_diff(nanoseconds) <= 1 {
            return Some((u32::try_from(rate).ok()?, per));
        }
    }
    let (mut a, mut b) = (SECOND as u32, duration);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    Some((SECOND as u32 / a, duration / a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_frame_rates_are_recognised_in_rounded_nanoseconds() {
        let rates = [33_366_667, 33_333_333, 41_708_333, 16_666_666, 40_000_000, 20_854_166].map(frame_rate);
        let expected = [(30000, 1001), (30, 1), (24000, 1001), (60, 1), (25, 1), (48000, 1001)];
        assert_eq!(rates, expected.map(Some));
        assert_eq!(frame_rate(0), None);
        assert_eq!(frame_rate(80_000_000), Some((25, 2)));
        assert_eq!(frame_rate(u64::MAX), None);
    }
}
