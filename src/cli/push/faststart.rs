//! An MP4 file whose index (moov) lies behind its media, put in the order in which it can be played as it comes.
//!
//! Only the index is held in memory; the media is named by its ranges in the file. Anything odd is left as it is: the
//! service can read it, only later.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

/// In which order a file's bytes are to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub pieces: Vec<Piece>,
    /// As the movie header says (ISO/IEC 14496-12 8.2.2); None where it is not MP4, or says 0.
    pub duration: Option<Duration>,
}

/// A part of what is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the file.
    File(Range<u64>),
    /// The rewritten index.
    Index(Bytes),
}

impl Piece {
    pub fn len(&self) -> u64 {
        match self {
            Self::File(range) => range.end - range.start,
            Self::Index(bytes) => bytes.len() as u64,
        }
    }
}

/// Largest index that is moved. A 10-hour film has about 20 MiB.
const MAX_INDEX: u64 = 128 << 20;

/// Most boxes at the top level of a file that is looked through.
const MAX_BOXES: usize = 4096;

/// Looks through the boxes of `file`, which has `length` bytes.
pub fn layout(file: &mut (impl Read + Seek), length: u64) -> io::Result<Layout> {
    let as_it_is = |duration| Layout { pieces: vec![Piece::File(0..length)], duration };
    let Some(top) = top_level(file, length)? else { return Ok(as_it_is(None)) };
    let mut indices = top.iter().filter(|found| &found.kind == b"moov");
    let (Some(moov), None) = (indices.next(), indices.next()) else { return Ok(as_it_is(None)) };
    let size = moov.range.end - moov.range.start;
    if size > MAX_INDEX {
        return Ok(as_it_is(None));
    }
    file.seek(SeekFrom::Start(moov.range.start))?;
    let mut index = vec![0; size as usize];
    file.read_exact(&mut index)?;
    let duration = movie_duration(&index);

    let media_first = top.iter().any(|found| &found.kind == b"mdat" && found.range.start < moov.range.start);
    let fragmented = top.iter().any(|found| &found.kind == b"moof");
    let target = top.first().filter(|found| &found.kind == b"ftyp").map_or(0, |found| found.range.end);
    if !media_first || fragmented || shift_offsets(&mut index, 8, target..moov.range.start, size).is_none() {
        return Ok(as_it_is(duration));
    }
    let pieces = [
        Piece::File(0..target),
        Piece::Index(index.into()),
        Piece::File(target..moov.range.start),
        Piece::File(moov.range.end..length),
    ];
    Ok(Layout { pieces: pieces.into_iter().filter(|piece| piece.len() > 0).collect(), duration })
}

struct Found {
    kind: [u8; 4],
    range: Range<u64>,
}

/// The boxes of the file; None where they don't add up to its length.
fn top_level(file: &mut (impl Read + Seek), length: u64) -> io::Result<Option<Vec<Found>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < length {
        if length - at < 8 || found.len() == MAX_BOXES {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 16];
        let head = &mut head[..(length - at).min(16) as usize];
        file.read_exact(head)?;
        let Some((kind, _, size)) = box_header(head, length - at) else { return Ok(None) };
        found.push(Found { kind, range: at..at + size });
        at += size;
    }
    Ok(Some(found))
}

/// Type, length of the header, and size with header of the box at the start of `bytes`, where it lies within
/// `available` bytes (ISO/IEC 14496-12 4.2.2).
fn box_header(bytes: &[u8], available: u64) -> Option<([u8; 4], usize, u64)> {
    let kind = *bytes.get(4..8)?.first_chunk()?;
    let (header, size) = match u32::from_be_bytes(*bytes.first_chunk()?) {
        0 => (8, available),
        1 => (16, u64::from_be_bytes(*bytes.get(8..16)?.first_chunk()?)),
        size => (8, u64::from(size)),
    };
    (size >= header as u64 && size <= available).then_some((kind, header, size))
}

/// Duration of the movie header inside the index.
fn movie_duration(index: &[u8]) -> Option<Duration> {
    let (_, header, _) = box_header(index, index.len() as u64)?;
    let mut rest = index.get(header..)?;
    while let Some((kind, header, size)) = box_header(rest, rest.len() as u64) {
        let (current, next) = rest.split_at_checked(size as usize)?;
        rest = next;
        if &kind != b"mvhd" {
            continue;
        }
        let payload = current.get(header..)?;
        let (timescale, duration) = if *payload.first()? == 1 {
            (payload.get(20..24)?, u64::from_be_bytes(*payload.get(24..32)?.first_chunk()?))
        } else {
            (payload.get(12..16)?, u64::from(u32::from_be_bytes(*payload.get(16..20)?.first_chunk()?)))
        };
        let timescale = u64::from(u32::from_be_bytes(*timescale.first_chunk()?));
        let ms = u128::from(duration).checked_mul(1000)?.checked_div(u128::from(timescale))?;
        return u64::try_from(ms).ok().filter(|ms| (1..u64::from(u32::MAX)).contains(ms)).map(Duration::from_millis);
    }
    None
}

/// Adds `by` to all chunk offsets that lie in `moved`; None where that can't be done, or where there is more than chunk
/// offsets to change. `depth` bounds the nesting.
fn shift_offsets(index: &mut [u8], depth: u32, moved: Range<u64>, by: u64) -> Option<()> {
    let mut rest = index;
    while !rest.is_empty() {
        let (kind, header, size) = box_header(rest, rest.len() as u64)?;
        let (current, next) = rest.split_at_mut_checked(size as usize)?;
        rest = next;
        let payload = current.get_mut(header..)?;
        match &kind {
            b"moov" | b"trak" | b"mdia" | b"minf" | b"stbl" => {
                shift_offsets(payload, depth.checked_sub(1)?, moved.clone(), by)?;
            }
            b"stco" => shift_table::<4>(payload, &moved, by)?,
            b"co64" => shift_table::<8>(payload, &moved, by)?,
            // A compressed index; offsets of encryption's auxiliary data; fragments.
            b"cmov" | b"saio" | b"mvex" => return None,
            _ => {}
        }
    }
    Some(())
}

/// The entries of `stco` (4 bytes) and `co64` (8 bytes), ISO/IEC 14496-12 8.7.5.
fn shift_table<const WIDTH: usize>(payload: &mut [u8], moved: &Range<u64>, by: u64) -> Option<()> {
    let count = u32::from_be_bytes(*payload.get(4..8)?.first_chunk()?) as usize;
    let entries = payload.get_mut(8..)?.get_mut(..count.checked_mul(WIDTH)?)?;
    for entry in entries.chunks_exact_mut(WIDTH) {
        let offset = entry.iter().fold(0, |offset, byte| offset << 8 | u64::from(*byte));
        if moved.contains(&offset) {
            let offset = offset.checked_add(by)?.to_be_bytes();
            let (high, low) = offset.split_at(8 - WIDTH);
            if high.iter().any(|byte| *byte != 0) {
                return None;
            }
            entry.copy_from_slice(low);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn boxed(kind: &[u8; 4], payload: &[u8]) -> Vec<u8> {
        [&(payload.len() as u32 + 8).to_be_bytes(), kind.as_slice(), payload].concat()
    }

    fn nested(kinds: &[&[u8; 4]], inner: Vec<u8>) -> Vec<u8> {
        kinds.iter().rev().fold(inner, |inner, kind| boxed(kind, &inner))
    }

    fn stco(offsets: &[u32]) -> Vec<u8> {
        let mut payload = vec![0; 4];
        payload.extend((offsets.len() as u32).to_be_bytes());
        payload.extend(offsets.iter().flat_map(|offset| offset.to_be_bytes()));
        boxed(b"stco", &payload)
    }

    /// The bytes that are sent.
    fn sent(file: &[u8]) -> Vec<u8> {
        let layout = layout(&mut Cursor::new(file), file.len() as u64).unwrap();
        let piece = |piece: &Piece| match piece {
            Piece::File(range) => file[range.start as usize..range.end as usize].to_vec(),
            Piece::Index(bytes) => bytes.to_vec(),
        };
        layout.pieces.iter().flat_map(piece).collect()
    }

    const STBL: [&[u8; 4]; 5] = [b"moov", b"trak", b"mdia", b"minf", b"stbl"];

    #[test]
    fn the_index_moves_behind_ftyp_and_its_offsets_follow_the_media() {
        let ftyp = boxed(b"ftyp", b"isom");
        let mdat = boxed(b"mdat", &[7; 100]);
        let tail = boxed(b"mdat", &[9; 10]);
        let (first, behind) = (ftyp.len() as u32 + 8, 1000);
        let index = nested(&STBL, stco(&[first, first + 50, 3, behind]));
        let size = index.len() as u32;
        let moved = nested(&STBL, stco(&[first + size, first + 50 + size, 3, behind]));
        let file = [ftyp.clone(), mdat.clone(), index, tail.clone()].concat();
        assert_eq!(sent(&file), [ftyp, moved, mdat, tail].concat());
    }

    #[test]
    fn what_is_odd_or_in_order_already_is_sent_as_it_is() {
        let ftyp = boxed(b"ftyp", b"isom");
        let mdat = boxed(b"mdat", &[7; 100]);
        let index = nested(&STBL, stco(&[20]));
        let cases = [
            vec![],
            b"not a box at all, but longer than a header".to_vec(),
            [ftyp.clone(), index.clone(), mdat.clone()].concat(),
            [ftyp.clone(), mdat.clone()].concat(),
            [ftyp.clone(), mdat.clone(), index.clone(), index.clone()].concat(),
            [ftyp.clone(), mdat.clone(), index.clone(), boxed(b"moof", &[])].concat(),
            [ftyp.clone(), mdat.clone(), nested(&STBL, boxed(b"saio", &[0; 8]))].concat(),
            [ftyp.clone(), mdat.clone(), nested(&STBL, stco(&[30, u32::MAX - 3]))[..60].to_vec()].concat(),
            // A table that claims more entries than it has, and a box that ends behind its parent.
            [ftyp.clone(), mdat.clone(), nested(&STBL, boxed(b"stco", &[0, 0, 0, 0, 255, 255, 255, 255]))].concat(),
            [ftyp, mdat, nested(&STBL, [0, 0, 0, 99, b's', b't', b'c', b'o'].to_vec())].concat(),
        ];
        for file in cases {
            assert_eq!(sent(&file), file);
        }
    }

    #[test]
    fn an_offset_that_no_longer_fits_leaves_the_file_as_it_is() {
        let mut index = nested(&STBL, stco(&[u32::MAX - 3]));
        assert_eq!(shift_offsets(&mut index, 8, 0..u64::MAX, 100), None);
    }

    #[test]
    fn the_duration_is_the_movie_headers() {
        let short: Vec<u8> = [vec![0; 12], 600_u32.to_be_bytes().to_vec(), 1500_u32.to_be_bytes().to_vec()].concat();
        assert_eq!(movie_duration(&nested(&[b"moov"], boxed(b"mvhd", &short))), Some(Duration::from_millis(2500)));
        let mut long = vec![0; 32];
        long[0] = 1;
        long[20..24].copy_from_slice(&1000_u32.to_be_bytes());
        long[24..32].copy_from_slice(&1234_u64.to_be_bytes());
        assert_eq!(movie_duration(&nested(&[b"moov"], boxed(b"mvhd", &long))), Some(Duration::from_millis(1234)));
        assert_eq!(movie_duration(&nested(&[b"moov"], boxed(b"mvhd", &[0; 100]))), None, "timescale 0");
        assert_eq!(movie_duration(&nested(&[b"moov"], boxed(b"mvhd", &[0; 3]))), None);
    }

    #[test]
    fn a_file_of_ffmpegs_decodes_to_the_same_frames() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last.mp4");
        let made = std::process::Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=128x72:rate=25", "-f", "lavfi", "-i", "sine"])
            .args(["-t", "2", "-c:v", "mpeg4", "-c:a", "aac"])
            .arg(&path)
            .status()
            .expect("ffmpeg is there where the tests run");
        assert!(made.success());
        let file = std::fs::read(&path).unwrap();
        let moved = sent(&file);
        let place = |bytes: &[u8], kind: &[u8]| bytes.windows(4).position(|window| window == kind).unwrap();
        assert!(place(&file, b"moov") > place(&file, b"mdat") && place(&moved, b"moov") < place(&moved, b"mdat"));
        let moved_path = dir.path().join("first.mp4");
        std::fs::write(&moved_path, &moved).unwrap();
        let frames = |path: &std::path::Path| {
            let mut command = std::process::Command::new("ffmpeg");
            let output = command.args(["-v", "error", "-i"]).arg(path).args(["-f", "framemd5", "-"]).output().unwrap();
            assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(frames(&path), frames(&moved_path));
    }
}
