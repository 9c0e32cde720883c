//! Resizing of planes, of 8 or 10 bits a sample, with a cubic that is stretched as far as the plane shrinks.
//!
//! Lines are filtered down, thirty-two of them turned over, filtered again and turned back. That way each step works on
//! neighbours in memory, whatever the ratio; what is between the steps stays in the caches. The sums are [`super::lanes`]'. Which
//! plane lies where is told by [`super::scaler`].

use std::array;

use pulp::NullaryFnOnce;
use pulp::bytemuck::cast;
use wide::u8x16;

use super::lanes::{Eights, HIGHEST, LANES, Lanes, ONE, Tens, Usual, Vectors};

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

/// How samples lie in memory, and on their way through the filters.
pub trait Depth {
    /// Bytes of a sample.
    const BYTES: usize;
    /// On its way.
    type Sample: Copy + Default;

    /// From as many bytes as [`LANES`] samples have; with fewer, none is read.
    fn read(bytes: &[u8]) -> [Self::Sample; LANES];
    /// To as many bytes; to fewer, none is written.
    fn write(samples: &[Self::Sample; LANES], bytes: &mut [u8]);
    /// The sums of as many times `N` samples as there are `taps`, each by its weight. `read`: they are as they were read.
    fn weigh<const N: usize>(
        lanes: impl Lanes,
        samples: impl Iterator<Item = ([[Self::Sample; LANES]; N], i16)>,
        taps: usize,
        read: bool,
    ) -> [[Self::Sample; LANES]; N];
    /// Lines become columns, and columns lines.
    fn turn(lanes: impl Lanes, lines: [&[Self::Sample; LANES]; LANES], columns: &mut [[Self::Sample; LANES]; LANES]);
}

/// 8 bits, in a byte.
pub enum Eight {}

/// 10 bits, in two bytes, the lower one first.
pub enum Ten {}

/// Resizes planes of one size to another; keeps what it needs for that.
pub struct Resizer<D: Depth> {
    across: Axis,
    down: Axis,
    /// [`LANES`] lines of the target's height and the source's width.
    lines: Vec<[D::Sample; LANES]>,
    /// Their columns.
    columns: Vec<[D::Sample; LANES]>,
    /// The target's columns, of the same lines.
    made: Vec<[D::Sample; LANES]>,
    vectors: Vectors,
}

impl<D: Depth> Resizer<D> {
    pub fn new(across: Axis, down: Axis) -> Self {
        Self::with(across, down, Vectors::widest())
    }

    /// By those vectors.
    pub fn with(across: Axis, down: Axis, vectors: Vectors) -> Self {
        let none = [D::Sample::default(); LANES];
        let blocks = across.source.div_ceil(LANES);
        Self {
            lines: vec![none; LANES * apart(blocks)],
            columns: vec![none; blocks * LANES],
            made: vec![none; across.target().next_multiple_of(LANES)],
            across,
            down,
            vectors,
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
            let target = &mut target[y * target_stride..];
            let count = LANES.min(height - y);
            let (source, target) = ((source, stride), (target, target_stride));
            match self.vectors {
                Vectors::Avx512(lanes) => self.filter(lanes, source, target, y, count),
                Vectors::Avx2(lanes) => self.filter(lanes, source, target, y, count),
                Vectors::Usual => self.filter(Usual, source, target, y, count),
            }
        }
        true
    }

    /// Makes `count` of the target's lines.
    fn filter(
        &mut self,
        lanes: impl Lanes,
        (source, stride): (&[u8], usize),
        (target, target_stride): (&mut [u8], usize),
        y: usize,
        count: usize,
    ) {
        let blocks = self.across.source.div_ceil(LANES);
        for (line, y) in self.lines.chunks_exact_mut(apart(blocks)).zip(y..y + count) {
            let source = &source[self.down.starts[y] * stride..];
            let (weights, width) = (self.down.weights(y), self.across.source * D::BYTES);
            lanes.run(Down::<D, _> { lanes, source, stride, width, weights, line: &mut line[..blocks] });
        }
        lanes.run(Turned::<D, _> { lanes, lines: &self.lines, columns: self.columns.as_chunks_mut().0 });
        lanes.run(Across::<D, _> { lanes, columns: &self.columns, axis: &self.across, made: &mut self.made });
        let (made, width) = (self.made.as_chunks().0, self.across.target());
        lanes.run(Written::<D, _> { lanes, made, width, count, target, stride: target_stride });
    }
}

/// How many blocks apart lines of so many lie: at an odd distance, so that the caches hold parts of all lines.
fn apart(blocks: usize) -> usize {
    blocks | 1
}

fn fits(len: usize, stride: usize, width: usize, height: usize) -> bool {
    stride >= width && height.checked_sub(1).is_some_and(|above| above * stride + width <= len)
}

/// A line of lines of the source.
struct Down<'a, D: Depth, L> {
    lanes: L,
    source: &'a [u8],
    stride: usize,
    /// Bytes of a line.
    width: usize,
    weights: &'a [i16],
    line: &'a mut [[D::Sample; LANES]],
}

impl<D: Depth, L: Lanes> NullaryFnOnce for Down<'_, D, L> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { lanes, source, stride, width, weights, line } = self;
        let bytes = LANES * D::BYTES;
        let taps = weights.len();
        // Two at a time: what the loops cost is as much as what the sums do.
        let (pairs, rest) = line.as_chunks_mut::<2>();
        let (whole, mut at) = (width / bytes, 0);
        for pair in pairs.iter_mut().take(whole / 2) {
            let lines = source[at..].chunks(stride).zip(weights);
            let read = |(line, &weight): (&[u8], _)| ([D::read(line), D::read(&line[bytes..])], weight);
            *pair = D::weigh(lanes, lines.map(read), taps, true);
            at += 2 * bytes;
        }
        for made in pairs.iter_mut().skip(whole / 2).flatten().chain(rest) {
            let lines = source[at..].chunks(stride).zip(weights);
            let part = bytes.min(width - at);
            let read = |(line, &weight): (&[u8], _)| ([read_part::<D>(&line[..part])], weight);
            [*made] = D::weigh(lanes, lines.map(read), taps, true);
            at += part;
        }
    }
}

/// Of the largest depth, those of [`LANES`] samples.
const MOST_BYTES: usize = 2 * LANES;

#[inline(never)]
fn write_part<D: Depth>(samples: &[D::Sample; LANES], bytes: &mut [u8]) {
    let mut part = [0; MOST_BYTES];
    D::write(samples, &mut part);
    bytes.copy_from_slice(&part[..bytes.len()]);
}

#[inline(never)]
fn read_part<D: Depth>(bytes: &[u8]) -> [D::Sample; LANES] {
    let mut part = [0; MOST_BYTES];
    part[..bytes.len()].copy_from_slice(bytes);
    D::read(&part[..LANES * D::BYTES])
}

/// Lines of blocks become the columns of each block.
struct Turned<'a, D: Depth, L> {
    lanes: L,
    lines: &'a [[D::Sample; LANES]],
    columns: &'a mut [[[D::Sample; LANES]; LANES]],
}

impl<D: Depth, L: Lanes> NullaryFnOnce for Turned<'_, D, L> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { lanes, lines, columns } = self;
        let apart = apart(columns.len());
        for (block, columns) in columns.iter_mut().enumerate() {
            D::turn(lanes, array::from_fn(|n| &lines[n * apart + block]), columns);
        }
    }
}

/// The target's columns of the source's.
struct Across<'a, D: Depth, L> {
    lanes: L,
    columns: &'a [[D::Sample; LANES]],
    axis: &'a Axis,
    made: &'a mut [[D::Sample; LANES]],
}

impl<D: Depth, L: Lanes> NullaryFnOnce for Across<'_, D, L> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { lanes, columns, axis, made } = self;
        for ((made, &start), weights) in made.iter_mut().zip(&axis.starts).zip(axis.weights.chunks_exact(axis.taps)) {
            let samples = columns[start..start + axis.taps].iter().zip(weights);
            [*made] = D::weigh(lanes, samples.map(|(samples, &weight)| ([*samples], weight)), axis.taps, false);
        }
    }
}

/// The target's columns become lines of its own.
struct Written<'a, D: Depth, L> {
    lanes: L,
    made: &'a [[[D::Sample; LANES]; LANES]],
    /// Of the target, in samples.
    width: usize,
    /// Lines that are wanted.
    count: usize,
    target: &'a mut [u8],
    stride: usize,
}

impl<D: Depth, L: Lanes> NullaryFnOnce for Written<'_, D, L> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { lanes, made, width, count, target, stride } = self;
        let mut lines = [[D::Sample::default(); LANES]; LANES];
        for (x, columns) in (0..width).step_by(LANES).zip(made) {
            let bytes = D::BYTES * LANES.min(width - x);
            D::turn(lanes, columns.each_ref(), &mut lines);
            for (n, line) in lines.iter().enumerate().take(count) {
                let target = &mut target[n * stride + x * D::BYTES..][..bytes];
                if bytes == LANES * D::BYTES {
                    D::write(line, target);
                } else {
                    write_part::<D>(line, target);
                }
            }
        }
    }
}

impl Depth for Eight {
    const BYTES: usize = 1;
    type Sample = u8;

    #[inline(always)]
    fn read(bytes: &[u8]) -> Eights {
        bytes.first_chunk().copied().unwrap_or_default()
    }

    #[inline(always)]
    fn write(samples: &Eights, bytes: &mut [u8]) {
        if let Some(bytes) = bytes.first_chunk_mut::<LANES>() {
            let [a, b]: [u8x16; 2] = cast(*samples);
            *bytes = cast([a ^ u8x16::splat(HIGHEST), b ^ u8x16::splat(HIGHEST)]);
        }
    }

    #[inline(always)]
    fn weigh<const N: usize>(
        lanes: impl Lanes,
        samples: impl Iterator<Item = ([Eights; N], i16)>,
        taps: usize,
        read: bool,
    ) -> [Eights; N] {
        lanes.eights(samples, taps, read)
    }

    #[inline(always)]
    fn turn(lanes: impl Lanes, lines: [&Eights; LANES], columns: &mut [Eights; LANES]) {
        lanes.turn_eights(lines, columns);
    }
}

impl Depth for Ten {
    const BYTES: usize = 2;
    type Sample = u16;

    #[inline(always)]
    fn read(bytes: &[u8]) -> Tens {
        let mut samples: Tens = bytes.first_chunk::<{ 2 * LANES }>().map_or([0; LANES], |bytes| cast(*bytes));
        for sample in &mut samples {
            *sample = u16::from_le(*sample);
        }
        samples
    }

    #[inline(always)]
    fn write(samples: &Tens, bytes: &mut [u8]) {
        for (bytes, sample) in bytes.as_chunks_mut().0.iter_mut().zip(samples) {
            *bytes = sample.to_le_bytes();
        }
    }

    #[inline(always)]
    fn weigh<const N: usize>(
        lanes: impl Lanes,
        samples: impl Iterator<Item = ([Tens; N], i16)>,
        _: usize,
        _: bool,
    ) -> [Tens; N] {
        lanes.tens(samples)
    }

    #[inline(always)]
    fn turn(lanes: impl Lanes, lines: [&Tens; LANES], columns: &mut [Tens; LANES]) {
        lanes.turn_tens(lines, columns);
    }
}
