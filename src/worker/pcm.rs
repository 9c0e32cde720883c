//! Sound as samples at absolute positions: placing, mixing channels, changing the rate.
//!
//! All of it is a pure function of the samples and their positions on the absolute timeline: two jobs whose ranges
//! overlap get the same samples there. No filter has a memory, and none has a delay.

use std::f64::consts::PI;
use std::ops::Range;

use gstreamer_audio::AudioChannelPosition as Position;

/// Interleaved samples from `start` on; position 0 is presentation time 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Pcm {
    start: i64,
    channels: usize,
    samples: Vec<f32>,
}

impl Pcm {
    /// `channels`: at least 1. The caller bounds the range.
    pub fn silence(range: Range<i64>, channels: usize) -> Self {
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        Self { start: range.start, channels, samples: vec![0.0; length * channels] }
    }

    /// The positions that are held.
    pub fn range(&self) -> Range<i64> {
        self.start..self.start + (self.samples.len() / self.channels) as i64
    }

    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Interleaved.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// Writes interleaved samples from position `at` on; what lies outside the range is left out.
    pub fn place(&mut self, at: i64, samples: &[f32]) {
        let held = self.range();
        let end = at.saturating_add((samples.len() / self.channels) as i64);
        let (from, to) = (at.max(held.start), end.min(held.end));
        if from >= to {
            return;
        }
        let part = |origin: i64| (from - origin) as usize * self.channels..(to - origin) as usize * self.channels;
        if let (Some(target), Some(source)) = (self.samples.get_mut(part(held.start)), samples.get(part(at))) {
            target.copy_from_slice(source);
        }
    }

    /// The samples at `range`, with silence where none are held.
    pub fn slice(&self, range: Range<i64>) -> Pcm {
        let mut slice = Pcm::silence(range, self.channels);
        slice.place(self.start, &self.samples);
        slice
    }

    /// The same, without a copy where that is all that is held.
    pub fn into_slice(self, range: Range<i64>) -> Pcm {
        if range == self.range() { self } else { self.slice(range) }
    }

    /// Each output channel as a sum of input channels; one row of the matrix for each output channel. Where the sum can
    /// go over full scale, it is rounded off below it.
    pub fn mix(self, matrix: &[Vec<f32>]) -> Pcm {
        if is_identity(matrix, self.channels) {
            return self;
        }
        let mut mixed = Pcm::silence(self.range(), matrix.len());
        for (to, row) in matrix.iter().enumerate() {
            let over = row.iter().sum::<f32>() > 1.0;
            let frames = self.samples.chunks_exact(self.channels);
            for (frame, out) in frames.zip(mixed.samples.iter_mut().skip(to).step_by(matrix.len())) {
                let sum = row.iter().zip(frame).map(|(gain, sample)| gain * sample).sum::<f32>();
                *out = if over { rounded_off(sum) } else { sum };
            }
        }
        mixed
    }

    /// The samples from 0 to `from` as `to` samples from 0; those around them are looked at, and the first stays as it is.
    /// None where the numbers are out of the ordinary.
    pub fn stretched(&self, from: u32, to: i64) -> Option<Pcm> {
        let resampler = Resampler::new(from, u32::try_from(to).ok()?)?;
        Some(self.resample(&resampler, 0..to))
    }

    /// These samples, taken at `resampler.from`, as those at `range` of the timeline at `resampler.to`.
    pub fn resample(&self, resampler: &Resampler, range: Range<i64>) -> Pcm {
        let mut out = Pcm::silence(range.clone(), self.channels);
        let source = self.slice(resampler.source(range.clone()));
        for channel in 0..self.channels {
            // Its samples side by side.
            let inputs: Vec<f32> = source.samples.iter().skip(channel).step_by(self.channels).copied().collect();
            let outputs = out.samples.iter_mut().skip(channel).step_by(self.channels);
            for (position, output) in range.clone().zip(outputs) {
                let (first, weights) = resampler.weights(position);
                let inputs = inputs.get((first - source.start) as usize..).unwrap_or_default();
                *output = weighted(inputs, weights);
            }
        }
        out
    }
}

impl Default for Pcm {
    fn default() -> Self {
        Self::silence(0..0, 1)
    }
}

/// The samples in this machine's order of bytes.
impl AsRef<[u8]> for Pcm {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.samples)
    }
}

/// The sum of the products, in eight sums so that a processor makes eight at once.
fn weighted(samples: &[f32], weights: &[f32]) -> f32 {
    let ((eights, rest), (weights, rest_weights)) = (samples.as_chunks::<8>(), weights.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (samples, weights) in eights.iter().zip(weights) {
        for ((sum, sample), weight) in sums.iter_mut().zip(samples).zip(weights) {
            *sum += sample * weight;
        }
    }
    let rest = eights.get(weights.len()).map_or(rest, |eight| eight);
    sums.iter().sum::<f32>() + rest.iter().zip(rest_weights).map(|(sample, weight)| sample * weight).sum::<f32>()
}

/// A windowed sinc on the absolute grid: output sample n lies at source position n·from/to, exactly.
pub struct Resampler {
    from: i64,
    to: i64,
    /// Source samples on each side of a position that count.
    reach: i64,
    /// For each place of an output sample between two source samples, the weights of its `2·reach` neighbours.
    phases: Vec<Vec<f32>>,
}

/// Zero crossings of the sinc on each side, and the Kaiser window's shape: 90 dB down past a transition of 4.5 % of the
/// sample rate.
const CROSSINGS: f64 = 64.0;
const BETA: f64 = 8.96;
const ROLLOFF: f64 = 0.955;
/// Bound on the table of weights: rates without a common divisor worth the name are refused.
const MAX_WEIGHTS: i64 = 8 << 20;

impl Resampler {
    /// Between rates in hertz. None where their ratio is out of the ordinary.
    pub fn new(from: u32, to: u32) -> Option<Self> {
        if from == 0 || to == 0 {
            return None;
        }
        let divisor = i64::from(gcd(from, to));
        let (from, to) = (i64::from(from) / divisor, i64::from(to) / divisor);
        let scale = (to as f64 / from as f64).min(1.0);
        let reach = (CROSSINGS / scale).ceil() as i64;
        if to.checked_mul(2 * reach)? > MAX_WEIGHTS {
            return None;
        }
        let phases = (0..to).map(|phase| phase_weights(phase as f64 / to as f64, scale, reach)).collect();
        Some(Self { from, to, reach, phases })
    }

    /// The source positions that the output positions are made of.
    pub fn source(&self, range: Range<i64>) -> Range<i64> {
        self.before(range.start) - self.reach + 1..self.before(range.end) + self.reach + 1
    }

    /// The first source position that counts for `position`, and the weights from there on.
    fn weights(&self, position: i64) -> (i64, &[f32]) {
        let phase = (i128::from(position) * i128::from(self.from)).rem_euclid(i128::from(self.to)) as usize;
        let weights = self.phases.get(phase).map(Vec::as_slice).unwrap_or_default();
        (self.before(position) - self.reach + 1, weights)
    }

    /// The source position at or before an output position.
    fn before(&self, position: i64) -> i64 {
        (i128::from(position) * i128::from(self.from)).div_euclid(i128::from(self.to)) as i64
    }
}

/// Weights of the source samples at distances `fraction + reach - 1` down to `fraction - reach`; their sum is 1.
fn phase_weights(fraction: f64, scale: f64, reach: i64) -> Vec<f32> {
    let width = CROSSINGS / scale;
    let weights: Vec<f64> = (1 - reach..=reach)
        .map(|k| {
            let distance = fraction - k as f64;
            let x = PI * distance * scale * ROLLOFF;
            let sinc = if x.abs() < 1e-9 { 1.0 } else { x.sin() / x };
            let place = (distance / width).clamp(-1.0, 1.0);
            sinc * bessel_i0(BETA * (1.0 - place * place).sqrt())
        })
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| (weight / sum) as f32).collect()
}

/// Modified Bessel function of the first kind, order 0.
fn bessel_i0(x: f64) -> f64 {
    let (mut sum, mut term, mut k) = (1.0, 1.0, 1.0);
    while term > 1e-12 * sum {
        term *= (x / (2.0 * k)).powi(2);
        sum += term;
        k += 1.0;
    }
    sum
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The gains from channels at `input` to 1, 2 or 6 channels: ITU-R BS.775 (centre and surrounds 3 dB down, no low-frequency
/// channel), not scaled down, as libswresample does for floating point. None for other numbers of channels.
pub fn matrix(input: &[Position], channels: u16) -> Option<Vec<Vec<f32>>> {
    let output: &[Position] = match channels {
        1 => &[Position::FrontCenter],
        2 => &[Position::FrontLeft, Position::FrontRight],
        6 => &[
            Position::FrontLeft,
            Position::FrontRight,
            Position::FrontCenter,
            Position::Lfe1,
            Position::RearLeft,
            Position::RearRight,
        ],
        _ => return None,
    };
    let mut matrix = vec![vec![0.0; input.len()]; output.len()];
    for (from, &position) in input.iter().enumerate() {
        for (to, row) in output.iter().zip(&mut matrix) {
            if let Some(gain) = row.get_mut(from) {
                *gain = gain_between(position, *to, output.len(), input);
            }
        }
    }
    Some(matrix)
}

fn is_identity(matrix: &[Vec<f32>], channels: usize) -> bool {
    let own = |(to, row): (usize, &Vec<f32>)| row.iter().enumerate().all(|(from, &gain)| gain == f32::from(from == to));
    matrix.len() == channels && matrix.iter().enumerate().all(own)
}

/// Half a decibel below full scale: what is louder is bent towards full scale, and never reaches it.
const KNEE: f32 = 0.944;

/// Without a memory, so that neighbouring jobs agree.
fn rounded_off(sample: f32) -> f32 {
    let over = sample.abs() - KNEE;
    if over <= 0.0 {
        return sample;
    }
    (KNEE + (1.0 - KNEE) * (over / (1.0 - KNEE)).tanh()).copysign(sample)
}

/// 3 dB down.
const DOWN_3: f32 = std::f32::consts::FRAC_1_SQRT_2;

fn gain_between(from: Position, to: Position, outputs: usize, input: &[Position]) -> f32 {
    use Position::*;
    let left = matches!(from, FrontLeft | FrontLeftOfCenter | RearLeft | SideLeft | WideLeft | SurroundLeft);
    let right = matches!(from, FrontRight | FrontRightOfCenter | RearRight | SideRight | WideRight | SurroundRight);
    let surround = matches!(from, RearLeft | SideLeft | SurroundLeft | RearRight | SideRight | SurroundRight);
    let same_side = (left && matches!(to, FrontLeft | RearLeft)) || (right && matches!(to, FrontRight | RearRight));
    match (from, to) {
        (Lfe1 | Lfe2, _) if to == Lfe1 => 1.0,
        (Mono | FrontCenter, FrontCenter) => 1.0,
        (Mono | FrontCenter, FrontLeft | FrontRight) if outputs == 2 => DOWN_3,
        (RearCenter, RearLeft | RearRight) => DOWN_3,
        // As libswresample: a centre behind goes to both sides, and through them to the front.
        (RearCenter, FrontLeft | FrontRight) if outputs == 2 => 0.5,
        (RearCenter, FrontCenter) if outputs == 1 => 0.5,
        (_, FrontCenter) if outputs == 1 => {
            if surround {
                0.5
            } else if left || right {
                DOWN_3
            } else {
                0.0
            }
        }
        (_, FrontLeft | FrontRight) if same_side => match (surround, outputs) {
            (false, _) => 1.0,
            (true, 2) => DOWN_3,
            (true, _) => 0.0,
        },
        (_, RearLeft | RearRight) if same_side && surround => {
            let both = input.iter().any(|p| matches!(p, SideLeft | SideRight))
                && input.iter().any(|p| matches!(p, RearLeft | RearRight));
            if both { DOWN_3 } else { 1.0 }
        }
        _ => 0.0,
    }
}

/// The usual positions where the decoder names none.
pub fn usual_positions(channels: usize) -> Vec<Position> {
    use Position::*;
    let all = [FrontLeft, FrontRight, FrontCenter, Lfe1, RearLeft, RearRight, SideLeft, SideRight];
    match channels {
        1 => vec![Mono],
        4 => vec![FrontLeft, FrontRight, RearLeft, RearRight],
        5 => vec![FrontLeft, FrontRight, FrontCenter, RearLeft, RearRight],
        n => all.into_iter().chain(std::iter::repeat(None)).take(n).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sines(rate: u32, tones: &[f64], range: Range<i64>) -> Pcm {
        let mut pcm = Pcm::silence(range.clone(), 1);
        let sample = |t: f64| tones.iter().map(|hz| (2.0 * PI * hz * t).sin() * 0.3).sum::<f64>() as f32;
        let samples: Vec<f32> = range.map(|n| sample(n as f64 / f64::from(rate))).collect();
        pcm.place(pcm.start, &samples);
        pcm
    }

    fn error_db(a: &[f32], b: &[f32]) -> f64 {
        let power = |s: &mut dyn Iterator<Item = f64>| s.map(|x| x * x).sum::<f64>();
        let noise = power(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
        10.0 * (noise / power(&mut b.iter().map(|b| f64::from(*b)))).log10()
    }

    #[test]
    fn resampled_tones_lie_where_the_tones_at_the_other_rate_do() {
        for (from, to) in [(44_100, 48_000), (48_000, 44_100), (32_000, 48_000), (96_000, 48_000), (22_050, 48_000)] {
            let resampler = Resampler::new(from, to).unwrap();
            let tones = [0.01, 0.2, 0.44].map(|part| part * f64::from(from.min(to)));
            let range = 1_000_000..1_004_000;
            let made = sines(from, &tones, resampler.source(range.clone())).resample(&resampler, range.clone());
            let error = error_db(made.samples(), sines(to, &tones, range).samples());
            assert!(error < -85.0, "{from} to {to}: {error} dB");
        }
    }

    #[test]
    fn overlapping_jobs_resample_to_the_same_samples() {
        let resampler = Resampler::new(44_100, 48_000).unwrap();
        let noise = |n: i64| ((n.wrapping_mul(0x5851_F42D_4C95_7F2D) >> 33) as f32) / (1u64 << 31) as f32;
        let source = |range: Range<i64>| {
            let samples: Vec<f32> = range.clone().map(noise).collect();
            let mut pcm = Pcm::silence(range, 1);
            pcm.place(pcm.start, &samples);
            pcm
        };
        let (one, other) = (90_000..96_500, 95_777..99_000);
        let a = source(resampler.source(one.clone())).resample(&resampler, one);
        let b = source(resampler.source(other.clone())).resample(&resampler, other);
        let both = 95_777..96_500;
        assert_eq!(a.slice(both.clone()), b.slice(both));
    }

    #[test]
    fn five_channels_at_full_scale_are_mixed_below_full_scale_and_quiet_ones_exactly() {
        let matrix = matrix(&usual_positions(6), 2).unwrap();
        let mixed = |level: f32| {
            let mut pcm = Pcm::silence(0..1, 6);
            pcm.place(0, &[level, -level, level, level, level, -level]);
            pcm.mix(&matrix).samples().to_vec()
        };
        let quiet = 0.1 * (1.0 + 2.0 * DOWN_3);
        assert!((mixed(0.1)[0] - quiet).abs() < 1e-6, "centre and surround 3 dB down, no low-frequency channel");
        assert!(mixed(1.0).iter().all(|sample| (KNEE..=1.0).contains(&sample.abs()) || sample.abs() < KNEE));
        assert!(mixed(1.0)[0] > KNEE);
        let rising: Vec<f32> = (0..300).map(|n| rounded_off(n as f32 / 100.0)).collect();
        assert!(rising.is_sorted() && rising.iter().all(|sample| *sample <= 1.0));
    }

    #[test]
    fn stretching_by_a_sample_keeps_a_tone_on_its_course() {
        // 1024 samples of a tone made 1025, with its neighbours as they are.
        let tone = |at: f64| (2.0 * PI * 997.0 / 48_000.0 * at).sin() as f32 * 0.5;
        let samples: Vec<f32> = (-128..1024 + 128).map(|n| tone(f64::from(n))).collect();
        let around = Pcm { start: -128, channels: 1, samples };
        for length in [1023, 1025] {
            let stretched = around.stretched(1024, length).unwrap();
            let wanted: Vec<f32> = (0..length).map(|n| tone(n as f64 * 1024.0 / length as f64)).collect();
            assert!(error_db(stretched.samples(), &wanted) < -80.0);
            assert_eq!(stretched.range(), 0..length);
        }
    }

    #[test]
    fn placing_keeps_to_the_range() {
        let mut pcm = Pcm::silence(10..14, 2);
        pcm.place(8, &[1., 1., 2., 2., 3., 3.]);
        pcm.place(13, &[4., 4., 5., 5.]);
        pcm.place(i64::MAX - 1, &[9.; 8]);
        assert_eq!(pcm.samples(), [3., 3., 0., 0., 0., 0., 4., 4.]);
        assert_eq!(pcm.slice(12..16).samples(), [0., 0., 4., 4., 0., 0., 0., 0.]);
    }

    #[test]
    fn rates_out_of_the_ordinary_are_refused() {
        assert!(Resampler::new(0, 48_000).is_none());
        assert!(Resampler::new(191_999, 48_000).is_none());
        assert!(Resampler::new(44_056, 48_000).is_some());
    }
}
