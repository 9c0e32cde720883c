//! The arithmetic of [`super::resize`], thirty-two samples at a time: in the vectors of AVX2, and where they serve of AVX-512,
//! where the processor has them, elsewhere in those that every processor has.

use std::array;

use pulp::bytemuck::cast;
use pulp::{NullaryFnOnce, i16x16};
use wide::{i16x8, u8x16, u16x8};

/// Samples that go through a filter together: of a line, or of a column.
pub const LANES: usize = 32;
/// Samples of 8 bits, the highest of which is turned over: as signed numbers they lie around 0.
pub type Eights = [u8; LANES];
/// Samples of 10 bits.
pub type Tens = [u16; LANES];

/// What weights that add up to one add up to.
pub const ONE: i32 = 1 << 14;
/// What turns the highest bit of a sample over.
pub const HIGHEST: u8 = 0x80;

/// Bits below the point in sums of products: samples of 8 bits fill 16, those of 10 bits 15.
const EIGHTS: i32 = 6;
const TENS: i32 = 4;
const HALF_OF_EIGHTS: i16 = 1 << (EIGHTS - 1);
const HALF_OF_TENS: i16 = 1 << (TENS - 1);
/// Bits above samples of 10 bits, but for the sign.
const ABOVE_TENS: i32 = 5;
const MOST_OF_TENS: i16 = 1023;

/// The sums, in one kind of vectors. What is not inlined into [`Self::run`] is slow.
pub trait Lanes: Copy {
    /// Calls it where it is compiled for these vectors.
    fn run(self, work: impl NullaryFnOnce<Output = ()>);

    /// The sums of `N` times as many samples, each by its weight; `taps`: how many weights there are. A product is cut off, by
    /// half a unit on average. `turn`: their highest bit is still to be turned over.
    fn eights<const N: usize>(
        self,
        samples: impl Iterator<Item = ([Eights; N], i16)>,
        taps: usize,
        turn: bool,
    ) -> [Eights; N];

    /// The same, each product rounded.
    fn tens<const N: usize>(self, samples: impl Iterator<Item = ([Tens; N], i16)>) -> [Tens; N];

    /// Lines become columns.
    fn turn_eights(self, lines: [&Eights; LANES], columns: &mut [Eights; LANES]);

    /// The same.
    #[inline(always)]
    fn turn_tens(self, lines: [&Tens; LANES], columns: &mut [Tens; LANES]) {
        for (x, columns) in columns.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            for (y, lines) in lines.as_chunks::<8>().0.iter().enumerate() {
                let part = u16x8::transpose(array::from_fn(|n| cast(lines[n].as_chunks::<8>().0[x])));
                for (column, part) in columns.iter_mut().zip(part) {
                    column.as_chunks_mut().0[y] = part.to_array();
                }
            }
        }
    }
}

/// Those of one processor.
#[derive(Debug, Clone, Copy)]
pub enum Vectors {
    Avx512(Avx512),
    Avx2(Avx2),
    Usual,
}

impl Vectors {
    /// All that this processor has, the widest first.
    pub fn all() -> Vec<Self> {
        let known = [Avx512::try_new().map(Self::Avx512), Avx2::try_new().map(Self::Avx2), Some(Self::Usual)];
        known.into_iter().flatten().collect()
    }

    pub fn widest() -> Self {
        Self::all().first().copied().unwrap_or(Self::Usual)
    }
}

/// Of AVX-512: for sums of 8 bits, two times as many samples at once, and else as [`Avx2`].
pub use pulp::x86::V4 as Avx512;

impl Lanes for Avx512 {
    #[inline(always)]
    fn run(self, work: impl NullaryFnOnce<Output = ()>) {
        self.vectorize(work);
    }

    #[inline(always)]
    fn eights<const N: usize>(
        self,
        samples: impl Iterator<Item = ([Eights; N], i16)>,
        taps: usize,
        turn: bool,
    ) -> [Eights; N] {
        if N != 2 {
            return Lanes::eights(*self, samples, taps, turn);
        }
        let (wide, words) = (self.avx512f, self.avx512bw);
        let none = wide._mm512_setzero_si512();
        let turned = wide._mm512_set1_epi8(if turn { HIGHEST.cast_signed() } else { 0 });
        let mut low = wide._mm512_set1_epi16(HALF_OF_EIGHTS + (taps / 2) as i16);
        let mut high = low;
        for (samples, weight) in samples {
            let weight = wide._mm512_set1_epi16(weight);
            let first = wide._mm512_castsi256_si512(cast(samples[0]));
            let both = wide._mm512_xor_si512(wide._mm512_inserti64x4::<1>(first, cast(samples[N - 1])), turned);
            let product = words._mm512_mulhi_epi16(words._mm512_unpacklo_epi8(none, both), weight);
            low = words._mm512_add_epi16(low, product);
            let product = words._mm512_mulhi_epi16(words._mm512_unpackhi_epi8(none, both), weight);
            high = words._mm512_add_epi16(high, product);
        }
        let low = words._mm512_srai_epi16::<{ EIGHTS as u32 }>(low);
        let both = words._mm512_packs_epi16(low, words._mm512_srai_epi16::<{ EIGHTS as u32 }>(high));
        let mut made = [[0; LANES]; N];
        made[0] = cast(wide._mm512_castsi512_si256(both));
        made[N - 1] = cast(wide._mm512_extracti64x4_epi64::<1>(both));
        made
    }

    #[inline(always)]
    fn tens<const N: usize>(self, samples: impl Iterator<Item = ([Tens; N], i16)>) -> [Tens; N] {
        Lanes::tens(*self, samples)
    }

    #[inline(always)]
    fn turn_eights(self, lines: [&Eights; LANES], columns: &mut [Eights; LANES]) {
        Lanes::turn_eights(*self, lines, columns);
    }
}

/// Of AVX2.
pub use pulp::x86::V3 as Avx2;

impl Lanes for Avx2 {
    #[inline(always)]
    fn run(self, work: impl NullaryFnOnce<Output = ()>) {
        self.vectorize(work);
    }

    #[inline(always)]
    fn eights<const N: usize>(
        self,
        samples: impl Iterator<Item = ([Eights; N], i16)>,
        taps: usize,
        turn: bool,
    ) -> [Eights; N] {
        let (none, turned) = (self.avx._mm256_setzero_si256(), self.splat_u8x32(if turn { HIGHEST } else { 0 }));
        let mut sums = [[self.splat_i16x16(HALF_OF_EIGHTS + (taps / 2) as i16); 2]; N];
        for (samples, weight) in samples {
            let weight = self.splat_i16x16(weight);
            for (sum, samples) in sums.iter_mut().zip(samples) {
                let samples = cast(self.xor_u8x32(cast(samples), turned));
                let low = cast(self.avx2._mm256_unpacklo_epi8(none, samples));
                let high = cast(self.avx2._mm256_unpackhi_epi8(none, samples));
                sum[0] = self.wrapping_add_i16x16(sum[0], self.widening_mul_i16x16(low, weight).1);
                sum[1] = self.wrapping_add_i16x16(sum[1], self.widening_mul_i16x16(high, weight).1);
            }
        }
        let mut made = [[0; LANES]; N];
        for (made, [low, high]) in made.iter_mut().zip(sums) {
            let (low, high) = (self.shr_const_i16x16::<EIGHTS>(low), self.shr_const_i16x16::<EIGHTS>(high));
            *made = cast(self.pack_with_signed_saturation_i16x16(low, high));
        }
        made
    }

    /// The upper sixteen lines and the lower ones, each in their half of a vector.
    #[inline(always)]
    fn turn_eights(self, lines: [&Eights; LANES], columns: &mut [Eights; LANES]) {
        let (upper, lower) = lines.split_at(LANES / 2);
        for (x, columns) in columns.as_chunks_mut::<{ LANES / 2 }>().0.iter_mut().enumerate() {
            let mut rows = [self.avx._mm256_setzero_si256(); LANES / 2];
            for ((row, upper), lower) in rows.iter_mut().zip(upper).zip(lower) {
                let upper = self.avx._mm256_castsi128_si256(cast(upper.as_chunks::<{ LANES / 2 }>().0[x]));
                *row = self.avx2._mm256_inserti128_si256::<1>(upper, cast(lower.as_chunks::<{ LANES / 2 }>().0[x]));
            }
            for _ in 0..4 {
                let mut dealt = rows;
                for n in 0..8 {
                    dealt[2 * n] = self.avx2._mm256_unpacklo_epi8(rows[n], rows[n + 8]);
                    dealt[2 * n + 1] = self.avx2._mm256_unpackhi_epi8(rows[n], rows[n + 8]);
                }
                rows = dealt;
            }
            for (column, row) in columns.iter_mut().zip(rows) {
                *column = cast(row);
            }
        }
    }

    #[inline(always)]
    fn tens<const N: usize>(self, samples: impl Iterator<Item = ([Tens; N], i16)>) -> [Tens; N] {
        let mut sums = [[self.splat_i16x16(HALF_OF_TENS); 2]; N];
        for (samples, weight) in samples {
            let weight = cast(self.splat_i16x16(weight));
            for (sum, samples) in sums.iter_mut().zip(samples) {
                for (sum, samples) in sum.iter_mut().zip(cast::<_, [i16x16; 2]>(samples)) {
                    let samples = cast(self.shl_const_i16x16::<ABOVE_TENS>(samples));
                    *sum = self.wrapping_add_i16x16(*sum, cast(self.avx2._mm256_mulhrs_epi16(samples, weight)));
                }
            }
        }
        let (least, most) = (self.splat_i16x16(0), self.splat_i16x16(MOST_OF_TENS));
        let mut made = [[0; LANES]; N];
        for (made, mut sum) in made.iter_mut().zip(sums) {
            for sum in &mut sum {
                *sum = self.min_i16x16(self.max_i16x16(self.shr_const_i16x16::<TENS>(*sum), least), most);
            }
            *made = cast(sum);
        }
        made
    }
}

/// Of every processor.
#[derive(Clone, Copy)]
pub struct Usual;

impl Lanes for Usual {
    #[inline(always)]
    fn run(self, work: impl NullaryFnOnce<Output = ()>) {
        work.call();
    }

    #[inline(always)]
    fn eights<const N: usize>(
        self,
        samples: impl Iterator<Item = ([Eights; N], i16)>,
        taps: usize,
        turn: bool,
    ) -> [Eights; N] {
        let turned = u8x16::splat(if turn { HIGHEST } else { 0 });
        let mut sums = [[i16x8::splat(HALF_OF_EIGHTS + (taps / 2) as i16); 4]; N];
        for (samples, weight) in samples {
            let weight = i16x8::splat(weight);
            for (sum, samples) in sums.iter_mut().zip(samples) {
                let [a, b]: [u8x16; 2] = cast(samples);
                let (a, b) = (a ^ turned, b ^ turned);
                let above = [
                    u8x16::unpack_low(u8x16::ZERO, a),
                    u8x16::unpack_high(u8x16::ZERO, a),
                    u8x16::unpack_low(u8x16::ZERO, b),
                    u8x16::unpack_high(u8x16::ZERO, b),
                ];
                for (sum, samples) in sum.iter_mut().zip(above) {
                    *sum += cast::<_, i16x8>(samples).mul_keep_high(weight);
                }
            }
        }
        let mut made = [[0; LANES]; N];
        for (made, sum) in made.iter_mut().zip(sums) {
            // There is no packing of signed samples.
            let [a, b, c, d] = sum.map(|sum| (sum >> EIGHTS) + i16x8::splat(i16::from(HIGHEST)));
            let (low, high) = (u8x16::narrow_i16x8(a, b), u8x16::narrow_i16x8(c, d));
            *made = cast([low ^ u8x16::splat(HIGHEST), high ^ u8x16::splat(HIGHEST)]);
        }
        made
    }

    #[inline(always)]
    fn turn_eights(self, lines: [&Eights; LANES], columns: &mut [Eights; LANES]) {
        for (x, columns) in columns.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            for (y, lines) in lines.as_chunks::<16>().0.iter().enumerate() {
                let part = turn(array::from_fn(|n| cast(lines[n].as_chunks::<16>().0[x])));
                for (column, part) in columns.iter_mut().zip(part) {
                    column.as_chunks_mut().0[y] = part.to_array();
                }
            }
        }
    }

    #[inline(always)]
    fn tens<const N: usize>(self, samples: impl Iterator<Item = ([Tens; N], i16)>) -> [Tens; N] {
        let mut sums = [[i16x8::splat(HALF_OF_TENS); 4]; N];
        for (samples, weight) in samples {
            let weight = i16x8::splat(weight);
            for (sum, samples) in sums.iter_mut().zip(samples) {
                for (sum, samples) in sum.iter_mut().zip(cast::<_, [i16x8; 4]>(samples)) {
                    *sum += (samples << ABOVE_TENS).mul_scale_round(weight);
                }
            }
        }
        let mut made = [[0; LANES]; N];
        for (made, sum) in made.iter_mut().zip(sums) {
            *made = cast(sum.map(|sum| (sum >> TENS).max(i16x8::ZERO).min(i16x8::splat(MOST_OF_TENS))));
        }
        made
    }
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
