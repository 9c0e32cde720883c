//! A coded AAC frame (raw_data_block, ISO/IEC 14496-3 4.4.2.1) read as far as it takes to know whether SBR data rides in
//! it. Nothing is decoded: codewords are passed over.
//!
//! Read are frames of AAC-LC with 1024 samples at the low rates that SBR doubles. Coupling channels are not.

use super::codewords::{Book, SCALE_FACTORS, SPECTRUM, bands};
use crate::media::Error;
use crate::media::codec::bits::Bits;

const SINGLE: u8 = 0;
const PAIR: u8 = 1;
const LOW_FREQUENCY: u8 = 3;
const DATA: u8 = 4;
const PROGRAM: u8 = 5;
const FILL: u8 = 6;
const END: u8 = 7;

/// Elements of one frame; a legal one has fewer.
const MOST_ELEMENTS: usize = 64;

// Codebooks that stand for something else than a spectrum (table 4.151).
const ZERO: u8 = 0;
const ESCAPES: u8 = 11;
const RESERVED: u8 = 12;
const NOISE: u8 = 13;

/// Whether frames at this rate can be read.
pub(super) fn is_read(core_rate: u32) -> bool {
    bands(core_rate, false).is_some()
}

/// Whether a fill element of `frame` holds SBR data (EXT_SBR_DATA, EXT_SBR_DATA_CRC). An error where the frame is
/// damaged, or holds what is not read here.
pub(super) fn holds_sbr(core_rate: u32, frame: &[u8]) -> Result<bool, Error> {
    let mut bits = Bits::new(frame);
    for _ in 0..MOST_ELEMENTS {
        match bits.byte::<3>()? {
            SINGLE | LOW_FREQUENCY => {
                bits.skip(4)?; // element_instance_tag
                channel(&mut bits, core_rate, None)?;
            }
            PAIR => pair(&mut bits, core_rate)?,
            DATA => data(&mut bits)?,
            PROGRAM => {
                super::program_channels(&mut bits)?;
            }
            FILL => {
                let mut count = bits.read(4)? as usize;
                if count == 15 {
                    count = 14 + bits.read(8)? as usize;
                }
                let payload = 8 * count;
                let mut inside = bits.clone();
                bits.skip(payload)?;
                if count > 0 && matches!(inside.byte::<4>()?, 0b1101 | 0b1110) {
                    return Ok(true);
                }
            }
            END => return Ok(false),
            _ => return Err(Error::UnsupportedCodec("AAC with coupling channels".into())),
        }
    }
    Err(Error::bad("an AAC frame without an end"))
}

/// channel_pair_element (4.4.2.1).
fn pair(bits: &mut Bits<'_>, core_rate: u32) -> Result<(), Error> {
    bits.skip(4)?; // element_instance_tag
    let mut common = None;
    if bits.flag()? {
        let info = Info::read(bits, core_rate)?;
        if bits.read(2)? == 1 {
            bits.skip(info.groups.len() * info.bands)?; // ms_used
        }
        common = Some(info);
    }
    channel(bits, core_rate, common.clone())?;
    channel(bits, core_rate, common)
}

/// data_stream_element (4.4.2.1).
fn data(bits: &mut Bits<'_>) -> Result<(), Error> {
    bits.skip(4)?; // element_instance_tag
    let aligned = bits.flag()?;
    let mut count = bits.read(8)? as usize;
    if count == 255 {
        count += bits.read(8)? as usize;
    }
    if aligned {
        bits.align();
    }
    bits.skip(8 * count)
}

/// ics_info: how a channel's spectrum is laid out (4.4.2.1, table 4.6).
#[derive(Clone)]
struct Info {
    short: bool,
    /// max_sfb
    bands: usize,
    /// Windows in each group.
    groups: Vec<usize>,
    /// Of all bands of the rate: coefficients before each.
    offsets: Vec<usize>,
}

impl Info {
    fn read(bits: &mut Bits<'_>, core_rate: u32) -> Result<Self, Error> {
        bits.skip(1)?; // ics_reserved_bit
        let short = bits.read(2)? == 2;
        bits.skip(1)?; // window_shape
        let bands = bits.read(if short { 4 } else { 6 })? as usize;
        let mut groups = vec![1];
        if short {
            for _ in 0..7 {
                match groups.last_mut() {
                    Some(windows) if bits.flag()? => *windows += 1,
                    _ => groups.push(1),
                }
            }
        } else if bits.flag()? {
            return Err(Error::bad("prediction in AAC-LC"));
        }
        let unsaid = || Error::UnsupportedCodec(format!("the bands of AAC at {core_rate} Hz"));
        let offsets = bands_of(core_rate, short).ok_or_else(unsaid)?;
        if bands >= offsets.len() {
            return Err(Error::bad(format!("{bands} bands in an AAC frame")));
        }
        Ok(Self { short, bands, groups, offsets })
    }

    /// Coefficients of the bands `from..to` in a group of `windows`.
    fn coefficients(&self, from: usize, to: usize, windows: usize) -> usize {
        let at = |band: usize| self.offsets.get(band).copied().unwrap_or(0);
        at(to).saturating_sub(at(from)) * windows
    }
}

/// Coefficients before each band, and before none.
fn bands_of(core_rate: u32, short: bool) -> Option<Vec<usize>> {
    let mut offsets = vec![0];
    let mut at = 0;
    for &(count, width) in bands(core_rate, short)? {
        for _ in 0..count {
            at += usize::from(width);
            offsets.push(at);
        }
    }
    Some(offsets)
}

/// individual_channel_stream (4.4.2.1, table 4.50).
fn channel(bits: &mut Bits<'_>, core_rate: u32, common: Option<Info>) -> Result<(), Error> {
    bits.skip(8)?; // global_gain
    let info = match common {
        Some(info) => info,
        None => Info::read(bits, core_rate)?,
    };
    let sections = sections(bits, &info)?;
    scale_factors(bits, &sections)?;
    if bits.flag()? {
        if info.short {
            return Err(Error::bad("pulses in short windows of AAC"));
        }
        let pulses = bits.read(2)? as usize + 1;
        bits.skip(6 + pulses * (5 + 4))?;
    }
    if bits.flag()? {
        noise_shaping(bits, info.short)?;
    }
    if bits.flag()? {
        return Err(Error::bad("gain control in AAC-LC"));
    }
    for section in sections.iter().filter(|section| (1..=ESCAPES).contains(&section.codebook)) {
        let count = info.coefficients(section.from, section.to, section.windows);
        spectrum(bits, section.codebook, count)?;
    }
    Ok(())
}

/// Bands of a group that share a codebook.
struct Section {
    codebook: u8,
    from: usize,
    to: usize,
    /// In its group.
    windows: usize,
}

/// section_data (table 4.52).
fn sections(bits: &mut Bits<'_>, info: &Info) -> Result<Vec<Section>, Error> {
    let (width, escape) = if info.short { (3, 7) } else { (5, 31) };
    let mut sections = Vec::new();
    for &windows in &info.groups {
        let mut from = 0;
        while from < info.bands {
            let codebook = bits.byte::<4>()?;
            let mut to = from;
            loop {
                let more = bits.read(width)? as usize;
                to += more;
                if more != escape || to > info.bands {
                    break;
                }
            }
            if codebook == RESERVED || to > info.bands || to == from {
                return Err(Error::bad("a section of an AAC frame over its bands"));
            }
            sections.push(Section { codebook, from, to, windows });
            from = to;
        }
    }
    Ok(sections)
}

/// scale_factor_data (table 4.53).
fn scale_factors(bits: &mut Bits<'_>, sections: &[Section]) -> Result<(), Error> {
    let mut noisy = false;
    for section in sections.iter().filter(|section| section.codebook != ZERO) {
        for _ in section.from..section.to {
            if section.codebook == NOISE && !std::mem::replace(&mut noisy, true) {
                bits.skip(9)?; // dpcm_noise_nrg of the first
            } else {
                codeword(bits, &SCALE_FACTORS)?;
            }
        }
    }
    Ok(())
}

/// tns_data (table 4.54).
fn noise_shaping(bits: &mut Bits<'_>, short: bool) -> Result<(), Error> {
    let (windows, filters, length, order) = if short { (8, 1, 4, 3) } else { (1, 2, 6, 5) };
    for _ in 0..windows {
        let filters = bits.read(filters)?;
        let resolution = if filters > 0 { bits.read(1)? + 3 } else { 0 };
        for _ in 0..filters {
            bits.skip(length)?;
            let order = bits.read(order)?;
            if order > 0 {
                bits.skip(1)?; // direction
                let width = resolution - bits.read(1)?;
                bits.skip((order * width) as usize)?;
            }
        }
    }
    Ok(())
}

/// `count` coefficients of spectral_data (table 4.56).
fn spectrum(bits: &mut Bits<'_>, codebook: u8, count: usize) -> Result<(), Error> {
    let book = SPECTRUM.get(usize::from(codebook) - 1).ok_or_else(|| Error::bad("an AAC codebook"))?;
    let at_once = if codebook < 5 { 4 } else { 2 };
    for _ in 0..count / at_once {
        let place = codeword(bits, book)?;
        let (signs, escapes) = match book.behind.get(place) {
            Some(b'a') => (1, 1),
            Some(b'b') => (2, 1),
            Some(b'c') => (2, 2),
            Some(digit) => (usize::from(digit - b'0'), 0),
            None => (0, 0),
        };
        bits.skip(signs)?;
        for _ in 0..escapes {
            let mut ones = 0;
            while bits.flag()? {
                ones += 1;
            }
            bits.skip(ones + 4)?;
        }
    }
    Ok(())
}

/// The place of the next codeword among its book's, in their numeric order.
fn codeword(bits: &mut Bits<'_>, book: &Book) -> Result<usize, Error> {
    let (mut code, mut first, mut place) = (0u32, 0u32, 0u32);
    for &count in book.lengths {
        code = code << 1 | bits.read(1)?;
        first <<= 1;
        // Codewords of a length are consecutive numbers, and longer ones are greater.
        if code - first < u32::from(count) {
            return Ok((place + code - first) as usize);
        }
        first += u32::from(count);
        place += u32::from(count);
    }
    Err(Error::bad("no codeword of AAC"))
}

#[cfg(test)]
mod tests {
    use super::super::codewords::Book;
    use super::*;

    /// Each codebook is a whole tree: no bits are no codeword, and as many as the standard has.
    #[test]
    fn codebooks_are_complete() {
        let check = |book: &Book, entries: usize| {
            let taken: f64 = (1..).zip(book.lengths).map(|(length, count)| f64::from(*count) / 2f64.powi(length)).sum();
            assert_eq!((taken, book.lengths.iter().map(|n| usize::from(*n)).sum()), (1.0, entries));
            assert!(book.behind.is_empty() || book.behind.len() == entries);
        };
        check(&SCALE_FACTORS, 121);
        let entries = [81, 81, 81, 81, 81, 81, 64, 64, 169, 169, 289];
        SPECTRUM.iter().zip(entries).for_each(|(book, entries)| check(book, entries));
        for rate in [8_000, 16_000, 24_000] {
            assert_eq!(bands_of(rate, false).unwrap().last(), Some(&1024));
            assert_eq!(bands_of(rate, true).unwrap().last(), Some(&128));
        }
    }
}
