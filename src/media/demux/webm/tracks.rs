//! The Tracks element (RFC 9559 5.1.4): what the container says of each track. What the codec says of itself is
//! [`super::stream`]'s.

use bytes::Bytes;

use super::ebml::{self, id};
use crate::media::demux::Limits;
use crate::media::{Error, Hdr, Mastering, TrackId, Video};

/// One TrackEntry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub number: u64,
    pub id: TrackId,
    /// As [`crate::media::Format::Other`] names it.
    pub kind: &'static str,
    pub codec_id: String,
    pub language: Option<String>,
    pub private: Bytes,
    /// Nanoseconds that the codec's delay puts between a block's timestamp and its presentation (5.1.4.1.26).
    pub codec_delay: u64,
    /// Nanoseconds of each frame.
    pub default_duration: Option<u64>,
    /// Bytes that were taken off the front of each frame (5.1.4.1.31.9, algorithm 3).
    pub stripped: Bytes,
    /// How the frames are encoded, where that is a way that is not read here.
    pub encoded: Option<&'static str>,
    pub picture: Picture,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            number: 0,
            id: TrackId(0),
            kind: "data",
            codec_id: String::new(),
            language: None,
            private: Bytes::new(),
            codec_delay: 0,
            default_duration: None,
            stripped: Bytes::new(),
            encoded: None,
            picture: Picture::default(),
        }
    }
}

/// Bytes of header stripping that are believed; the longest that is written in practice is a few.
const MAX_STRIPPED: usize = 256;

/// From the content of Tracks.
pub fn parse(content: &Bytes, limits: &Limits) -> Result<Vec<Entry>, Error> {
    let mut entries: Vec<Entry> = Vec::new();
    for child in ebml::children(content) {
        let (id, value) = child?;
        if id != id::TRACK_ENTRY {
            continue;
        }
        if entries.len() == limits.tracks {
            return Err(Error::OverLimit(format!("more than {} tracks", limits.tracks)));
        }
        let entry = entry(&value)?;
        if entries.iter().any(|other| other.number == entry.number) {
            return Err(Error::bad(format!("Matroska: two tracks with the number {}", entry.number)));
        }
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(Error::bad("Matroska: Tracks without a track"));
    }
    Ok(entries)
}

fn entry(content: &Bytes) -> Result<Entry, Error> {
    let mut entry = Entry::default();
    let mut bcp47 = None;
    let mut encodings = None;
    for child in ebml::children(content) {
        let (id, value) = child?;
        match id {
            id::TRACK_NUMBER => entry.number = ebml::uint(&value)?,
            id::TRACK_TYPE => {
                entry.kind = match ebml::uint(&value)? {
                    1 => "video",
                    2 => "audio",
                    17 => "text",
                    _ => "data",
                }
            }
            id::CODEC_ID => entry.codec_id = ebml::string(&value),
            id::CODEC_PRIVATE => entry.private = value,
            id::CODEC_DELAY => entry.codec_delay = ebml::uint(&value)?,
            id::DEFAULT_DURATION => entry.default_duration = Some(ebml::uint(&value)?).filter(|&n| n > 0),
            id::LANGUAGE => entry.language = Some(ebml::string(&value)),
            id::LANGUAGE_BCP47 => bcp47 = Some(ebml::string(&value)),
            id::VIDEO => entry.picture = Picture::parse(&value)?,
            id::CONTENT_ENCODINGS => encodings = Some(value),
            _ => {}
        }
    }
    entry.id = match u32::try_from(entry.number) {
        Ok(number) if number > 0 => TrackId(number),
        _ => return Err(Error::bad(format!("Matroska: {} is no track number", entry.number))),
    };
    // Not the specification's default, "eng": the container doesn't say it.
    entry.language = bcp47.or(entry.language.take()).filter(|tag| !tag.is_empty() && tag != "und");
    if let Some(encodings) = encodings {
        content_encodings(&encodings, &mut entry)?;
    }
    Ok(entry)
}

/// RFC 9559 5.1.4.1.31.
fn content_encodings(content: &Bytes, entry: &mut Entry) -> Result<(), Error> {
    let mut count = 0;
    for child in ebml::children(content) {
        let (id, encoding) = child?;
        if id != id::CONTENT_ENCODING {
            continue;
        }
        count += 1;
        let (mut scope, mut kind, mut algorithm, mut settings) = (1, 0, 0, Bytes::new());
        for child in ebml::children(&encoding) {
            let (id, value) = child?;
            match id {
                id::CONTENT_ENCODING_SCOPE => scope = ebml::uint(&value)?,
                id::CONTENT_ENCODING_TYPE => kind = ebml::uint(&value)?,
                id::CONTENT_COMPRESSION => {
                    for child in ebml::children(&value) {
                        let (id, value) = child?;
                        match id {
                            id::CONTENT_COMP_ALGO => algorithm = ebml::uint(&value)?,
                            id::CONTENT_COMP_SETTINGS => settings = value,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if kind != 0 || algorithm != 3 || scope & !3 != 0 || count > 1 {
            entry.encoded = Some(if kind == 1 { "encrypted" } else { "compressed" });
            continue;
        }
        if settings.len() > MAX_STRIPPED {
            return Err(Error::OverLimit(format!("{} bytes of stripped header", settings.len())));
        }
        if scope & 2 != 0 {
            entry.private = [settings.as_ref(), entry.private.as_ref()].concat().into();
        }
        if scope & 1 != 0 {
            entry.stripped = settings;
        }
    }
    Ok(())
}

/// What the Video element says of how a picture is to be shown (RFC 9559 5.1.4.1.28). The codec's own word wins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picture {
    /// After cropping.
    width: u64,
    height: u64,
    /// In whatever unit: only their ratio is used.
    display: Option<(u64, u64)>,
    primaries: Option<u8>,
    transfer: Option<u8>,
    matrix: Option<u8>,
    full_range: bool,
    mastering: Option<Mastering>,
    max_cll: u16,
    max_fall: u16,
    /// Clockwise, a multiple of 90.
    rotation: u16,
}

impl Picture {
    fn parse(content: &Bytes) -> Result<Self, Error> {
        let mut picture = Self::default();
        let (mut cropped_width, mut cropped_height) = (0u64, 0u64);
        let (mut display_width, mut display_height, mut unit) = (None, None, 0);
        for child in ebml::children(content) {
            let (id, value) = child?;
            match id {
                id::PIXEL_WIDTH => picture.width = ebml::uint(&value)?,
                id::PIXEL_HEIGHT => picture.height = ebml::uint(&value)?,
                id::PIXEL_CROP_LEFT | id::PIXEL_CROP_RIGHT => {
                    cropped_width = cropped_width.saturating_add(ebml::uint(&value)?)
                }
                id::PIXEL_CROP_TOP | id::PIXEL_CROP_BOTTOM => {
                    cropped_height = cropped_height.saturating_add(ebml::uint(&value)?)
                }
                id::DISPLAY_WIDTH => display_width = Some(ebml::uint(&value)?),
                id::DISPLAY_HEIGHT => display_height = Some(ebml::uint(&value)?),
                id::DISPLAY_UNIT => unit = ebml::uint(&value)?,
                id::COLOUR => picture.colour(&value)?,
                id::PROJECTION => picture.rotation = rotation(&value)?,
                _ => {}
            }
        }
        picture.width = picture.width.saturating_sub(cropped_width);
        picture.height = picture.height.saturating_sub(cropped_height);
        // Pixels, centimetres, inches and a bare ratio all give a ratio; 4 is "unknown". Where one side is left out,
        // its default is the side in pixels, which only goes with the unit "pixels".
        picture.display = match (display_width, display_height) {
            (Some(width), Some(height)) if unit < 4 => Some((width, height)),
            (Some(width), None) if unit == 0 => Some((width, picture.height)),
            (None, Some(height)) if unit == 0 => Some((picture.width, height)),
            _ => None,
        };
        Ok(picture)
    }

    fn colour(&mut self, content: &Bytes) -> Result<(), Error> {
        for child in ebml::children(content) {
            let (id, value) = child?;
            let code_point = || ebml::uint(&value).map(|n| u8::try_from(n).ok());
            match id {
                id::MATRIX_COEFFICIENTS => self.matrix = code_point()?,
                id::TRANSFER_CHARACTERISTICS => self.transfer = code_point()?,
                id::PRIMARIES => self.primaries = code_point()?,
                id::MAX_CLL => self.max_cll = u16::try_from(ebml::uint(&value)?).unwrap_or(u16::MAX),
                id::MAX_FALL => self.max_fall = u16::try_from(ebml::uint(&value)?).unwrap_or(u16::MAX),
                id::MASTERING_METADATA => self.mastering = mastering(&value)?,
                id::RANGE => self.full_range = ebml::uint(&value)? == 2,
                _ => {}
            }
        }
        Ok(())
    }

    /// Fills in what the codec left open.
    pub fn complete(&self, video: &mut Video) {
        let colour = &mut video.colour;
        if (colour.primaries, colour.transfer, colour.matrix) == (2, 2, 2) {
            colour.full_range |= self.full_range;
        }
        for (open, said) in [
            (&mut colour.primaries, self.primaries),
            (&mut colour.transfer, self.transfer),
            (&mut colour.matrix, self.matrix),
        ] {
            if *open == 2 {
                *open = said.unwrap_or(2);
            }
        }
        let light = Some((self.max_cll, self.max_fall)).filter(|light| *light != (0, 0));
        video.hdr = Hdr { mastering: video.hdr.mastering.or(self.mastering), light: video.hdr.light.or(light) };
        if video.sample_aspect == (1, 1) {
            video.sample_aspect = self.sample_aspect().unwrap_or((1, 1));
        }
        if video.rotation == 0 {
            video.rotation = self.rotation;
        }
    }

    fn sample_aspect(&self) -> Option<(u32, u32)> {
        let (display_width, display_height) = self.display?;
        let width = u128::from(display_width) * u128::from(self.height);
        let height = u128::from(display_height) * u128::from(self.width);
        let (mut a, mut b) = (width, height);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let ratio = (u32::try_from(width.checked_div(a)?).ok()?, u32::try_from(height.checked_div(a)?).ok()?);
        (ratio.0 > 0 && ratio.1 > 0).then_some(ratio)
    }
}

/// RFC 9559 5.1.4.1.28.30; none where a number is left out or makes no sense.
fn mastering(content: &Bytes) -> Result<Option<Mastering>, Error> {
    let mut told = [None; 10];
    for child in ebml::children(content) {
        let (id, value) = child?;
        let place = id.checked_sub(id::PRIMARY_R_CHROMATICITY_X).and_then(|place| told.get_mut(place as usize));
        if let Some(place) = place {
            *place = Some(ebml::float(&value)?);
        }
    }
    let [Some(rx), Some(ry), Some(gx), Some(gy), Some(bx), Some(by), Some(wx), Some(wy), Some(most), Some(least)] =
        told
    else {
        return Ok(None);
    };
    Ok(Mastering::from_fractions([(rx, ry), (gx, gy), (bx, by)], (wx, wy), most, least))
}

/// From Projection: the roll of a flat picture, which Matroska counts counter-clockwise, turned clockwise.
fn rotation(content: &Bytes) -> Result<u16, Error> {
    let (mut flat, mut roll) = (true, 0.0);
    for child in ebml::children(content) {
        let (id, value) = child?;
        match id {
            id::PROJECTION_TYPE => flat = ebml::uint(&value)? == 0,
            id::PROJECTION_POSE_ROLL => roll = ebml::float(&value)?,
            _ => {}
        }
    }
    Ok(match roll {
        90.0 | -270.0 if flat => 270,
        180.0 | -180.0 if flat => 180,
        -90.0 | 270.0 if flat => 90,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{element, float, uint};
    use super::*;
    use crate::media::{Chroma, Colour, VideoCodec};

    fn one(children: &[Vec<u8>]) -> Entry {
        let mut all = vec![uint(id::TRACK_NUMBER, 1)];
        all.extend_from_slice(children);
        let tracks = Bytes::from(element(id::TRACK_ENTRY, &all.concat()));
        parse(&tracks, &Limits::default()).unwrap().remove(0)
    }

    fn shown(children: &[Vec<u8>]) -> Video {
        let mut video = Video {
            codec: VideoCodec::Vp8,
            config: Bytes::new(),
            codec_string: "vp8".into(),
            width: 640,
            height: 480,
            sample_aspect: (1, 1),
            rotation: 0,
            bit_depth: 8,
            chroma: Chroma::C420,
            colour: Colour { matrix: 6, ..Colour::default() },
            hdr: Hdr::default(),
            interlaced: false,
            frame_rate: None,
        };
        let size = [uint(id::PIXEL_WIDTH, 640), uint(id::PIXEL_HEIGHT, 480)];
        let picture = element(id::VIDEO, &[&size, children].concat().concat());
        one(&[picture]).picture.complete(&mut video);
        video
    }

    #[test]
    fn language_only_where_the_container_says_it() {
        let language = |children: &[Vec<u8>]| one(children).language;
        assert_eq!(language(&[]), None);
        assert_eq!(language(&[element(id::LANGUAGE, b"und")]), None);
        assert_eq!(language(&[element(id::LANGUAGE, b"ger")]).as_deref(), Some("ger"));
        let both = [element(id::LANGUAGE_BCP47, b"pt-BR"), element(id::LANGUAGE, b"por")];
        assert_eq!(language(&both).as_deref(), Some("pt-BR"));
    }

    #[test]
    fn display_size_gives_the_sample_aspect() {
        let aspect = |width, height, unit| {
            let display =
                [uint(id::DISPLAY_WIDTH, width), uint(id::DISPLAY_HEIGHT, height), uint(id::DISPLAY_UNIT, unit)];
            shown(&display).sample_aspect
        };
        assert_eq!(aspect(640, 480, 0), (1, 1));
        assert_eq!(aspect(853, 480, 0), (853, 640));
        assert_eq!(aspect(16, 9, 3), (4, 3));
        assert_eq!(aspect(16, 9, 4), (1, 1));
        assert_eq!(aspect(0, 9, 0), (1, 1));
        assert_eq!(shown(&[uint(id::DISPLAY_WIDTH, 1280)]).sample_aspect, (2, 1));
        let cropped = [uint(id::PIXEL_CROP_TOP, 60), uint(id::PIXEL_CROP_BOTTOM, 60)];
        let display = [uint(id::DISPLAY_WIDTH, 640), uint(id::DISPLAY_HEIGHT, 360)];
        assert_eq!(shown(&[cropped, display].concat()).sample_aspect, (1, 1));
    }

    #[test]
    fn colour_only_where_the_codec_is_silent() {
        let all = [uint(id::MATRIX_COEFFICIENTS, 1), uint(id::TRANSFER_CHARACTERISTICS, 1), uint(id::PRIMARIES, 9)];
        let colour = shown(&[element(id::COLOUR, &all.concat())]).colour;
        assert_eq!(colour, Colour { primaries: 9, transfer: 1, matrix: 6, full_range: false });
    }

    #[test]
    fn metadata_of_high_dynamic_range_is_read_where_it_is_whole() {
        let numbers = [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 1000.0, 0.005];
        let all = (id::PRIMARY_R_CHROMATICITY_X..).zip(numbers).map(|(id, number)| float(id, number));
        let all: Vec<Vec<u8>> = all.collect();
        let with = |elements: &[Vec<u8>]| {
            let mastering = element(id::MASTERING_METADATA, &elements.concat());
            let light = [uint(id::MAX_CLL, 1000), uint(id::MAX_FALL, 400)].concat();
            shown(&[element(id::COLOUR, &[mastering, light].concat())]).hdr
        };
        let mastering = Mastering {
            primaries: [(13_250, 34_500), (7_500, 3_000), (34_000, 16_000)],
            white: (15_635, 16_450),
            brightest: 10_000_000,
            darkest: 50,
        };
        assert_eq!(with(&all), Hdr { mastering: Some(mastering), light: Some((1000, 400)) });
        assert_eq!(with(&all[1..]).mastering, None);
    }

    #[test]
    fn roll_is_counter_clockwise() {
        let turned = |roll: f64| shown(&[element(id::PROJECTION, &float(id::PROJECTION_POSE_ROLL, roll))]).rotation;
        assert_eq!([90.0, -90.0, 180.0, -180.0, 0.0, 45.0, f64::NAN].map(turned), [270, 90, 180, 180, 0, 0, 0]);
    }

    #[test]
    fn only_header_stripping_is_undone() {
        let encoding = |children: &[Vec<u8>]| {
            let encoding = element(id::CONTENT_ENCODING, &children.concat());
            one(&[element(id::CODEC_PRIVATE, b"private"), element(id::CONTENT_ENCODINGS, &encoding)])
        };
        let compression = |algorithm| {
            let parts = [uint(id::CONTENT_COMP_ALGO, algorithm), element(id::CONTENT_COMP_SETTINGS, b"\x0b\x77")];
            element(id::CONTENT_COMPRESSION, &parts.concat())
        };
        let stripped = encoding(&[compression(3)]);
        assert_eq!((stripped.stripped.as_ref(), stripped.private.as_ref()), (&b"\x0b\x77"[..], &b"private"[..]));
        assert_eq!(stripped.encoded, None);
        let both = encoding(&[uint(id::CONTENT_ENCODING_SCOPE, 3), compression(3)]);
        assert_eq!(both.private.as_ref(), b"\x0b\x77private");
        assert_eq!(encoding(&[compression(0)]).encoded, Some("compressed"));
        assert_eq!(encoding(&[]).encoded, Some("compressed"), "zlib is the default");
        assert_eq!(encoding(&[uint(id::CONTENT_ENCODING_TYPE, 1), compression(3)]).encoded, Some("encrypted"));
    }

    #[test]
    fn numbers_and_counts_are_bounded() {
        let limits = Limits { tracks: 2, ..Limits::default() };
        let tracks = |numbers: &[u64]| {
            let entries = numbers.iter().map(|&n| element(id::TRACK_ENTRY, &uint(id::TRACK_NUMBER, n)));
            parse(&Bytes::from(entries.collect::<Vec<_>>().concat()), &limits).map(|tracks| tracks.len())
        };
        assert_eq!(tracks(&[1, 7]), Ok(2));
        assert!(matches!(tracks(&[1, 2, 3]), Err(Error::OverLimit(_))));
        for bad in [&[][..], &[0], &[1, 1], &[1 << 32]] {
            assert!(matches!(tracks(bad), Err(Error::BadMedia(_))), "{bad:?}");
        }
    }
}
