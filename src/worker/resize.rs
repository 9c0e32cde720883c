//! Resizing of planes, of 8 or 10 bits a sample, with a cubic that is stretched as far as the plane shrinks.
//!
//! Both passes run along columns: thirty-two lines are filtered, turned over, filtered again and turned back. That way
//! each step works on neighbours in memory, whatever the ratio. The steps are kept out of line: in one function, the
//! compiler takes their vectors to pieces. Which plane lies where is told by [`super::scaler`].

use std::array;

use wide::{i16x8, u8x16, u16x8};

/// Samples that go through a filter together: lines of the plane, or columns.
const LANES: usize = 32;
/// As numbers of 16 bits, each sample shifted up so far that the largest fills 15 bits.
type Wide = [i16x8; 4];

/// What weights that add up to one add up to.
const ONE: i32 = 1 << 14;
/// Of the family of cubics; swscale's choice. Catmull and Rom's is -0.5.
const SHARPNESS: f64 = -0.6;

/// One axis of a plane: from which samples, with which weights, each sample is made.
pub struct Axis {
    source: usize,
    taps: usize,
    /// The first sample that each is made from.
    starts: Vec<usize>,
    /// [`Self::taps`] for each.
    weights: Vec<i16>,
}

impl Axis {
    /// Sample `n` of the target lies at `n * ratio + offset` of the source. Neither size may be 0.
    pub fn new(source: usize, target: usize, ratio: f64, offset: f64) -> Self {
        let stretch = ratio.max(1.0);
        let support = 2.0 * stretch;
        let window = (2.0 * support).ceil() as usize;
        let taps = window.min(source);
        let mut axis = Self { source, taps, starts: Vec::with_capacity(target), weights: Vec::new() };
        let mut weights = vec![0.0; taps];
        for n in 0..target {
            let centre = n as f64 * ratio + offset;
            let first = (centre - support).floor() as i64 + 1;
            let start = first.clamp(0, (source - taps) as i64);
            weights.fill(0.0);
            // Beyond an edge lies what is at the edge.
            for at in first..=first + window as i64 {
                let tap = (at - start).clamp(0, taps as i64 - 1) as usize;
                weights[tap] += cubic((at as f64 - centre) / stretch);
            }
            axis.starts.push(start as usize);
            axis.push_weights(&weights);
        }
        axis
    }

    /// Rounds the weights so that they add up to [`ONE`]: a flat plane stays as it is.
    fn push_weights(&mut self, weights: &[f64]) {
        let sum: f64 = weights.iter().sum();
        let at = self.weights.len();
        self.weights.extend(weights.iter().map(|weight| (weight / sum * f64::from(ONE)).round() as i16));
        let rounded = &mut self.weights[at..];
        let off = ONE - rounded.iter().copied().map(i32::from).sum::<i32>();
        if let Some(largest) = rounded.iter_mut().max() {
            *largest += off as i16;
        }
    }

    fn target(&self) -> usize {
        self.starts.len()
    }

    /// The samples that `count` samples from the `n`th on are made from: where they start, and how many they are.
    fn reach(&self, n: usize, count: usize) -> (usize, usize) {
        let (first, last) = (self.starts[n], self.starts[n + count - 1]);
        (first, last + self.taps - first)
    }

    fn weights(&self, n: usize) -> &[i16] {
        &self.weights[n * self.taps..][..self.taps]
    }
}

fn cubic(x: f64) -> f64 {
    let (x, a) = (x.abs(), SHARPNESS);
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// How samples lie in memory.
pub trait Depth {
    /// Bytes of a sample.
    const BYTES: usize;
    /// Bits below the point after [`Self::multiply`].
    const FRACTION: i32;
    /// Whether products are cut off, by half a unit on average, and not rounded.
    const CUTS_OFF: bool;
    const NONE: Self::Line;
    /// [`LANES`] samples.
    type Line: Copy;

    /// From as many bytes as a line has.
    fn read(bytes: &[u8]) -> Self::Line;
    fn widen(line: Self::Line) -> Wide;
    fn multiply(samples: i16x8, weight: i16x8) -> i16x8;
    fn narrow(samples: Wide) -> Self::Line;
    /// [`LANES`] lines to as many columns.
    fn turn_into_columns(lines: &[Self::Line; LANES], columns: &mut [Wide]);
    /// `count` lines, `width` samples of each, of columns that are as many as [`LANES`] divides.
    fn write_lines(made: &[Self::Line], target: &mut [u8], stride: usize, width: usize, count: usize);
}

/// 8 bits, in a byte.
pub enum Eight {}

/// 10 bits, in two bytes, the lower one first.
pub enum Ten {}

/// Resizes planes of one size to another; keeps what it needs for that.
pub struct Resizer<D: Depth> {
    across: Axis,
    down: Axis,
    /// A stretch of [`LANES`] columns of the source, line by line.
    tile: Vec<Wide>,
    /// The source's columns, of [`LANES`] lines of the target's height.
    columns: Vec<Wide>,
    /// The target's columns, of the same lines.
    made: Vec<D::Line>,
}

impl<D: Depth> Resizer<D> {
    pub fn new(across: Axis, down: Axis) -> Self {
        let strips = (0..down.target()).step_by(LANES);
        let tallest = strips.map(|y| down.reach(y, LANES.min(down.target() - y)).1).max().unwrap_or_default();
        Self {
            tile: vec![[i16x8::ZERO; 4]; tallest],
            columns: vec![[i16x8::ZERO; 4]; across.source.next_multiple_of(LANES)],
            made: vec![D::NONE; across.target().next_multiple_of(LANES)],
            across,
            down,
        }
    }

    /// Fills `target` from `source`, whose lines start `stride` bytes apart; false where either is too small for its
    /// size.
    pub fn resize(&mut self, source: &[u8], stride: usize, target: &mut [u8], target_stride: usize) -> bool {
        let (width, height) = (self.across.target(), self.down.target());
        if !fits(source.len(), stride, self.across.source * D::BYTES, self.down.source)
            || !fits(target.len(), target_stride, width * D::BYTES, height)
        {
            return false;
        }
        for y in (0..height).step_by(LANES) {
            let count = LANES.min(height - y);
            let (first, reach) = self.down.reach(y, count);
            for x in (0..self.across.source).step_by(LANES) {
                let tile = &mut self.tile[..reach];
                let width = LANES.min(self.across.source - x);
                read_tile::<D>(tile, &source[first * stride + x * D::BYTES..], stride, width);
                let lines = filter_down::<D>(tile, &self.down, y, count);
                D::turn_into_columns(&lines, &mut self.columns[x..x + LANES]);
            }
            filter_across::<D>(&mut self.made, &self.columns, &self.across);
            D::write_lines(&self.made, &mut target[y * target_stride..], target_stride, width, count);
        }
        true
    }
}

fn fits(len: usize, stride: usize, width: usize, height: usize) -> bool {
    stride >= width && height.checked_sub(1).is_some_and(|above| above * stride + width <= len)
}

#[inline(never)]
fn read_tile<D: Depth>(tile: &mut [Wide], source: &[u8], stride: usize, width: usize) {
    const MOST: usize = 2 * LANES;
    let mut part = [0; MOST];
    for (y, samples) in tile.iter_mut().enumerate() {
        let line = &source[y * stride..][..width * D::BYTES];
        *samples = D::widen(if width == LANES {
            D::read(line)
        } else {
            part[..line.len()].copy_from_slice(line);
            D::read(&part[..LANES * D::BYTES])
        });
    }
}

#[inline(never)]
fn filter_down<D: Depth>(tile: &[Wide], down: &Axis, y: usize, count: usize) -> [D::Line; LANES] {
    let mut lines = [D::NONE; LANES];
    let first = down.starts[y];
    for (n, line) in lines[..count].iter_mut().enumerate() {
        *line = weigh::<D>(&tile[down.starts[y + n] - first..], down.weights(y + n));
    }
    lines
}

#[inline(never)]
fn filter_across<D: Depth>(made: &mut [D::Line], columns: &[Wide], across: &Axis) {
    for ((column, &start), weights) in made.iter_mut().zip(&across.starts).zip(across.weights.chunks_exact(across.taps))
    {
        *column = weigh::<D>(&columns[start..], weights);
    }
}

/// The sum of the samples, each by its weight.
#[inline(always)]
fn weigh<D: Depth>(samples: &[Wide], weights: &[i16]) -> D::Line {
    let half = 1 << (D::FRACTION - 1);
    let lost = if D::CUTS_OFF { (weights.len() / 2) as i16 } else { 0 };
    let mut sum = [i16x8::splat(half + lost); 4];
    for (sample, &weight) in samples.iter().zip(weights) {
        let weight = i16x8::splat(weight);
        for lane in 0..4 {
            sum[lane] += D::multiply(sample[lane], weight);
        }
    }
    D::narrow(sum.map(|sum| sum >> D::FRACTION))
}

impl Depth for Eight {
    const BYTES: usize = 1;
    const FRACTION: i32 = 5;
    const CUTS_OFF: bool = true;
    const NONE: Self::Line = [u8x16::ZERO; 2];
    type Line = [u8x16; 2];

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self::Line {
        match bytes.as_chunks().0 {
            [a, b] => [u8x16::new(*a), u8x16::new(*b)],
            _ => Self::NONE,
        }
    }

    #[inline(always)]
    fn widen([a, b]: Self::Line) -> Wide {
        let parts = [i16x8::from_u8x16_low(a), i16x8::from_u8x16_high(a)];
        let more = [i16x8::from_u8x16_low(b), i16x8::from_u8x16_high(b)];
        [parts[0] << 7, parts[1] << 7, more[0] << 7, more[1] << 7]
    }

    #[inline(always)]
    fn multiply(samples: i16x8, weight: i16x8) -> i16x8 {
        samples.mul_keep_high(weight)
    }

    #[inline(always)]
    fn narrow([a, b, c, d]: Wide) -> Self::Line {
        [u8x16::narrow_i16x8(a, b), u8x16::narrow_i16x8(c, d)]
    }

    #[inline(never)]
    fn turn_into_columns(lines: &[Self::Line; LANES], columns: &mut [Wide]) {
        for (half, columns) in columns.chunks_exact_mut(16).enumerate() {
            let above = turn(array::from_fn(|n| lines[n][half]));
            let below = turn(array::from_fn(|n| lines[n + 16][half]));
            for (column, halves) in columns.iter_mut().zip(above.into_iter().zip(below)) {
                *column = Self::widen(halves.into());
            }
        }
    }

    #[inline(never)]
    fn write_lines(made: &[Self::Line], target: &mut [u8], stride: usize, width: usize, count: usize) {
        for (x, columns) in (0..width).step_by(16).zip(made.chunks_exact(16)) {
            let width = 16.min(width - x);
            for half in 0..2 {
                let lines = turn(array::from_fn(|n| columns[n][half]));
                for (n, line) in lines.iter().enumerate().take(count.saturating_sub(16 * half)) {
                    let to = &mut target[(16 * half + n) * stride + x..][..width];
                    match to.first_chunk_mut() {
                        Some(to) => *to = line.to_array(),
                        None => to.copy_from_slice(&line.as_array()[..width]),
                    }
                }
            }
        }
    }
}

impl Depth for Ten {
    const BYTES: usize = 2;
    const FRACTION: i32 = 4;
    const CUTS_OFF: bool = false;
    const NONE: Self::Line = [i16x8::ZERO; 4];
    type Line = [i16x8; 4];

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self::Line {
        let part = |bytes: &[[u8; 2]; 8]| i16x8::new(bytes.map(i16::from_le_bytes));
        match bytes.as_chunks().0.as_chunks().0 {
            [a, b, c, d] => [part(a), part(b), part(c), part(d)],
            _ => Self::NONE,
        }
    }

    #[inline(always)]
    fn widen(line: Self::Line) -> Wide {
        line.map(|part| part << 5)
    }

    #[inline(always)]
    fn multiply(samples: i16x8, weight: i16x8) -> i16x8 {
        samples.mul_scale_round(weight)
    }

    #[inline(always)]
    fn narrow(samples: Wide) -> Self::Line {
        samples.map(|part| part.max(i16x8::ZERO).min(i16x8::splat(1023)))
    }

    #[inline(never)]
    fn turn_into_columns(lines: &[Self::Line; LANES], columns: &mut [Wide]) {
        for (part, columns) in columns.chunks_exact_mut(8).enumerate() {
            for (to, lines) in lines.chunks_exact(8).enumerate() {
                let turned = transpose(array::from_fn(|n| lines[n][part]));
                for (column, samples) in columns.iter_mut().zip(turned) {
                    column[to] = samples << 5;
                }
            }
        }
    }

    #[inline(never)]
    fn write_lines(made: &[Self::Line], target: &mut [u8], stride: usize, width: usize, count: usize) {
        for (x, columns) in (0..width).step_by(8).zip(made.chunks_exact(8)) {
            let width = 8.min(width - x);
            for part in 0..4 {
                let lines = transpose(array::from_fn(|n| columns[n][part]));
                for (n, line) in lines.iter().enumerate().take(count.saturating_sub(8 * part)) {
                    let to = &mut target[(8 * part + n) * stride + 2 * x..][..2 * width];
                    for (to, sample) in to.as_chunks_mut().0.iter_mut().zip(line.as_array()) {
                        *to = sample.to_le_bytes();
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn transpose(rows: [i16x8; 8]) -> [i16x8; 8] {
    let rows = rows.map(|row| u16x8::new(row.to_array().map(|sample| sample as u16)));
    u16x8::transpose(rows).map(|row| i16x8::new(row.to_array().map(|sample| sample as i16)))
}

/// Rows become columns: the first half dealt with the second like cards, four times.
#[inline(always)]
fn turn(mut rows: [u8x16; 16]) -> [u8x16; 16] {
    for _ in 0..4 {
        let mut dealt = rows;
        for n in 0..8 {
            dealt[2 * n] = u8x16::unpack_low(rows[n], rows[n + 8]);
            dealt[2 * n + 1] = u8x16::unpack_high(rows[n], rows[n + 8]);
        }
        rows = dealt;
    }
    rows
}
