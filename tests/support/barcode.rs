//! Pictures with their number burnt in, large enough to be read after scaling to 144 lines and hard compression. The
//! number proves which picture this is, without any timestamp.
//!
//! The upper half is 8 × 4 cells: two rows with the number's 16 bits, the most significant first, and two with their
//! complement. A bit is read by comparing its two cells, so that neither range nor gamma matters. The lower half moves.

const COLUMNS: usize = 8;
const ROWS: usize = 4;
const BLACK: u8 = 16;
const WHITE: u8 = 235;
/// Two cells that differ by less say nothing.
const MIN_CONTRAST: u32 = 60;

/// A picture in planar 4:2:0, limited range.
pub fn picture(number: u16, width: usize, height: usize) -> Vec<u8> {
    let (chroma_width, chroma_height) = (width.div_ceil(2), height.div_ceil(2));
    let mut planes = Vec::with_capacity(width * height + 2 * chroma_width * chroma_height);
    let shift = usize::from(number);
    for y in 0..height {
        for x in 0..width {
            planes.push(match cell(x, y, width, height) {
                Some(n) if bit(number, n) => WHITE,
                Some(_) => BLACK,
                None => BLACK + 40 + triangle(x * 2 + shift * 7) / 2 + triangle(y * 5 + shift * 3) / 4,
            });
        }
    }
    for plane in 0..2 {
        for y in 0..chroma_height {
            for x in 0..chroma_width {
                let lower = cell(2 * x, 2 * y, width, height).is_none();
                planes.push(if lower { 80 + triangle(x * 3 + y + shift * (plane + 1)) / 3 } else { 128 });
            }
        }
    }
    planes
}

/// The number in a decoded luma plane of any size; None where it can't be told.
pub fn read(luma: &[u8], width: usize, height: usize) -> Option<u16> {
    let mut sums = [(0u32, 0u32); COLUMNS * ROWS];
    for y in 0..height {
        for x in 0..width {
            let Some(n) = cell(x, y, width, height) else { continue };
            // The middle of each cell, away from what its neighbours ring into it.
            let inner = |at: usize, cells: usize, size: usize| (1..3).contains(&(at * cells * 4 / size % 4));
            if inner(x, COLUMNS, width) && inner(y, 2 * ROWS, height) {
                sums[n].0 += u32::from(*luma.get(y * width + x)?);
                sums[n].1 += 1;
            }
        }
    }
    let level = |n: usize| sums[n].0.checked_div(sums[n].1);
    let mut number = 0;
    for n in 0..16 {
        let (plain, complement) = (level(n)?, level(n + 16)?);
        if plain.abs_diff(complement) < MIN_CONTRAST {
            return None;
        }
        number = number << 1 | u16::from(plain > complement);
    }
    Some(number)
}

/// Which cell a sample lies in; None in the lower half.
fn cell(x: usize, y: usize, width: usize, height: usize) -> Option<usize> {
    let row = y * 2 * ROWS / height;
    (row < ROWS).then(|| row * COLUMNS + x * COLUMNS / width)
}

fn bit(number: u16, cell: usize) -> bool {
    let plain = number >> (15 - cell % 16) & 1 == 1;
    plain == (cell < 16)
}

/// 0 to 127 and back, every 256.
fn triangle(at: usize) -> u8 {
    let at = (at % 256) as u8;
    if at < 128 { at } else { 255 - at }
}
