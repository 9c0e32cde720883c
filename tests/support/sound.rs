//! Sound whose every stretch tells where it is: chirps without a break in phase, another in each second of eight. One
//! stretch found in another by correlation gives the offset to the sample.

use std::f64::consts::TAU;

const AMPLITUDE: f64 = 0.4;
/// Hertz over which each second sweeps.
const SWEEP: f64 = 2000.0;

/// The sample at `index` from time 0, which may be negative.
pub fn sample(index: i64, rate: u32) -> f32 {
    let second = index.div_euclid(i64::from(rate));
    let t = index.rem_euclid(i64::from(rate)) as f64 / f64::from(rate);
    // A whole number of cycles in each second, so that the phase goes on across seconds.
    let first = 300.0 + 100.0 * second.rem_euclid(8) as f64;
    (AMPLITUDE * (TAU * (first * t + SWEEP * t * t / 2.0)).sin()) as f32
}

/// `count` samples from `start`.
pub fn samples(start: i64, count: usize, rate: u32) -> Vec<f32> {
    (start..).take(count).map(|index| sample(index, rate)).collect()
}

/// A WAV file, 16 bit, all channels alike, from time 0.
pub fn wav(count: usize, rate: u32, channels: u16) -> Vec<u8> {
    let bytes = count as u32 * u32::from(channels) * 2;
    let mut file = Vec::with_capacity(44 + bytes as usize);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(36 + bytes).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0");
    file.extend_from_slice(&channels.to_le_bytes());
    file.extend_from_slice(&rate.to_le_bytes());
    file.extend_from_slice(&(rate * u32::from(channels) * 2).to_le_bytes());
    file.extend_from_slice(&(channels * 2).to_le_bytes());
    file.extend_from_slice(b"\x10\0data");
    file.extend_from_slice(&bytes.to_le_bytes());
    for value in samples(0, count, rate) {
        let value = (value * 32767.0).round() as i16;
        (0..channels).for_each(|_| file.extend_from_slice(&value.to_le_bytes()));
    }
    file
}

/// The sample of the original at which `heard` starts, looked for within `reach` samples of `expected`, and how well it
/// fits there: 1 is exact but for loudness.
pub fn locate(heard: &[f32], rate: u32, expected: i64, reach: i64) -> (i64, f64) {
    let original = samples(expected - reach, heard.len() + 2 * reach as usize, rate);
    let mut best = (expected, f64::MIN);
    for (offset, window) in original.windows(heard.len()).enumerate() {
        let fit = dot(heard, window) / (dot(heard, heard) * dot(window, window)).sqrt();
        if fit > best.1 {
            best = (expected - reach + offset as i64, fit);
        }
    }
    best
}

/// Signal to noise in dB of `heard` against what it should be.
pub fn snr(original: &[f32], heard: &[f32]) -> f64 {
    let noise: Vec<f32> = original.iter().zip(heard).map(|(a, b)| a - b).collect();
    10.0 * (dot(original, original) / dot(&noise, &noise)).log10()
}

/// Mean square of what lies above a frequency, by a filter that is 40 dB down a kilohertz below it.
pub fn power_above(samples: &[f32], rate: u32, hertz: f64) -> f64 {
    const HALF: i32 = 64;
    let corner = TAU * hertz / f64::from(rate);
    let tap = |n: i32| {
        let (n, window) = (f64::from(n), 0.5 + 0.5 * (TAU / 2.0 * f64::from(n) / f64::from(HALF + 1)).cos());
        let low = if n == 0.0 { corner } else { (corner * n).sin() / n } / (TAU / 2.0);
        window * (if n == 0.0 { 1.0 } else { 0.0 } - low)
    };
    let taps: Vec<f32> = (-HALF..=HALF).map(|n| tap(n) as f32).collect();
    let filtered: Vec<f64> = samples.windows(taps.len()).map(|window| dot(window, &taps)).collect();
    filtered.iter().map(|sample| sample * sample).sum::<f64>() / filtered.len() as f64
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
