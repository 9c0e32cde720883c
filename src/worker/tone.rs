//! High dynamic range (BT.2100, PQ and HLG) brought down to BT.709.
//!
//! Light of the display by the transfer's own rule (HLG: a display of 1000 cd/m², system gamma 1.2), then the knee of
//! BT.2390 from the brightest that the source says to the 203 cd/m² of BT.2408's reference white, on the greatest of
//! red, green and blue so that hues stay; the source's primaries to BT.709's; BT.1886. Pixels are counted in `f32`:
//! the compiler fuses nothing, so the same picture comes out alike on every worker. Where pictures lie is told by
//! [`super::tone_mapper`].

use crate::media::{Colour, Hdr};

/// BT.2408: the light of SDR's white, candelas a square metre.
const WHITE: f64 = 203.0;
/// What a source that doesn't say is taken for, and HLG's display.
const NOMINAL_PEAK: f64 = 1000.0;

/// Planes of 4:2:0: each with its stride in bytes. 10 bits lie in two bytes, the lower one first.
pub struct Planes<T> {
    pub luma: (T, usize),
    pub cb: (T, usize),
    pub cr: (T, usize),
}

/// All that is the same for every pixel.
pub struct Tone {
    /// Y'CbCr of 10 bits to R'G'B' of 0 to [`CODES`] - 1.
    decode: Decode,
    /// Light of each code: candelas a square metre, or of the scene for HLG.
    light: Vec<f32>,
    /// For HLG: by the scene's luminance, what makes it the display's light.
    system: Option<(Curve, [f32; 3])>,
    /// By the greatest light of a pixel: what it is multiplied by; white becomes 1.
    knee: Curve,
    primaries: [[f32; 3]; 3],
    /// BT.1886 backwards.
    gamma: Curve,
}

const CODES: usize = 1024;

struct Decode {
    black: f32,
    luma: f32,
    red_cr: f32,
    green_cb: f32,
    green_cr: f32,
    blue_cb: f32,
}

/// A function of a positive number, by the number's octave and [`Curve::STEPS`] steps in each.
struct Curve {
    values: Vec<f32>,
    first: u32,
}

impl Curve {
    const BITS: u32 = 8;

    /// From 2^`least` to 2^`most`; what lies outside is as the ends.
    fn new(least: i32, most: i32, f: impl Fn(f64) -> f64) -> Self {
        let index = |x: f32| x.to_bits() >> (23 - Self::BITS);
        let (first, past) = (index(2f32.powi(least)), index(2f32.powi(most)));
        let middle = |n: u32| f32::from_bits((n << (23 - Self::BITS)) | 1 << (22 - Self::BITS));
        Self { values: (first..=past).map(|n| f(f64::from(middle(n))) as f32).collect(), first }
    }

    #[inline(always)]
    fn at(&self, x: f32) -> f32 {
        let index = (x.max(0.0).to_bits() >> (23 - Self::BITS)).saturating_sub(self.first) as usize;
        self.values[index.min(self.values.len() - 1)]
    }
}

impl Tone {
    pub fn new(colour: Colour, hdr: Hdr) -> Self {
        let peak = peak(colour, hdr);
        let knee = Curve::new(-16, 14, |light| eetf(light, peak) / light / WHITE);
        let hlg = colour.transfer == Colour::HLG;
        let of_code = |code: usize| code as f64 / (CODES - 1) as f64;
        let light = |code| if hlg { hlg_scene(of_code(code)) } else { pq_light(of_code(code)) };
        let luminance = luminance(colour).map(|weight| weight as f32);
        Self {
            decode: Decode::new(colour),
            light: (0..CODES).map(|code| light(code) as f32).collect(),
            system: hlg.then(|| (Curve::new(-24, 1, |scene| NOMINAL_PEAK * scene.powf(0.2)), luminance)),
            knee,
            primaries: to_bt709(colour),
            gamma: Curve::new(-24, 0, |light| light.min(1.0).powf(1.0 / 2.4)),
        }
    }

    /// False where a plane is too small for pictures of `width` × `height`.
    pub fn map(&self, (width, height): (usize, usize), from: Planes<&[u8]>, to: Planes<&mut [u8]>) -> bool {
        self.try_map((width, height), from, to).is_some()
    }

    fn try_map(&self, (width, height): (usize, usize), from: Planes<&[u8]>, to: Planes<&mut [u8]>) -> Option<()> {
        let half = width.div_ceil(2);
        for y in (0..height).step_by(2) {
            let chroma = |(plane, stride): (&'_ [u8], usize)| -> Option<Vec<f32>> {
                let line = plane.get(y / 2 * stride..)?.get(..2 * half)?;
                Some(line.as_chunks().0.iter().map(|&n| f32::from(u16::from_le_bytes(n)) - 512.0).collect())
            };
            let (cb, cr) = (chroma((from.cb.0, from.cb.1))?, chroma((from.cr.0, from.cr.1))?);
            let mut sums = vec![[0f32; 3]; half];
            let lines = y..(y + 2).min(height);
            let count = lines.len();
            for y in lines {
                let line = from.luma.0.get(y * from.luma.1..)?.get(..2 * width)?;
                let made = to.luma.0.get_mut(y * to.luma.1..)?.get_mut(..width)?;
                for (x, (made, &luma)) in made.iter_mut().zip(line.as_chunks().0).enumerate() {
                    let rgb = self.pixel(f32::from(u16::from_le_bytes(luma)), cb[x / 2], cr[x / 2]);
                    *made = byte(16.0 + 219.0 * bt709_luma(rgb));
                    let sum = &mut sums[x / 2];
                    *sum = [sum[0] + rgb[0], sum[1] + rgb[1], sum[2] + rgb[2]];
                }
            }
            let made_cb = to.cb.0.get_mut(y / 2 * to.cb.1..)?.get_mut(..half)?;
            let made_cr = to.cr.0.get_mut(y / 2 * to.cr.1..)?.get_mut(..half)?;
            for (x, sum) in sums.iter().enumerate() {
                let pixels = (count * (width - 2 * x).min(2)) as f32;
                let rgb = sum.map(|sum| sum / pixels);
                let luma = bt709_luma(rgb);
                made_cb[x] = byte(128.0 + 224.0 / 1.8556 * (rgb[2] - luma));
                made_cr[x] = byte(128.0 + 224.0 / 1.5748 * (rgb[0] - luma));
            }
        }
        Some(())
    }

    /// R'G'B' of BT.709, 0 to 1.
    #[inline(always)]
    fn pixel(&self, luma: f32, cb: f32, cr: f32) -> [f32; 3] {
        let Decode { black, luma: scale, red_cr, green_cb, green_cr, blue_cb } = self.decode;
        let grey = (luma - black) * scale + 0.5;
        let codes = [grey + red_cr * cr, grey + green_cb * cb + green_cr * cr, grey + blue_cb * cb];
        let mut light = codes.map(|code| self.light[(code.max(0.0) as usize).min(CODES - 1)]);
        if let Some((system, weights)) = &self.system {
            let luminance = light[0] * weights[0] + light[1] * weights[1] + light[2] * weights[2];
            let factor = system.at(luminance);
            light = light.map(|scene| scene * factor);
        }
        let factor = self.knee.at(light[0].max(light[1]).max(light[2]));
        let light = light.map(|light| light * factor);
        self.primaries.map(|[r, g, b]| {
            let mixed = r * light[0] + g * light[1] + b * light[2];
            if mixed > 0.0 { self.gamma.at(mixed) } else { 0.0 }
        })
    }
}

fn bt709_luma([red, green, blue]: [f32; 3]) -> f32 {
    0.2126 * red + 0.7152 * green + 0.0722 * blue
}

fn byte(value: f32) -> u8 {
    (value + 0.5) as u8
}

impl Decode {
    fn new(colour: Colour) -> Self {
        let [red, green, blue] = luminance(colour);
        let codes = (CODES - 1) as f64;
        let (black, luma, chroma) = if colour.full_range { (0.0, 1023.0, 1023.0) } else { (64.0, 876.0, 896.0) };
        let chroma = codes / chroma;
        Self {
            black,
            luma: (codes / luma) as f32,
            red_cr: (2.0 * (1.0 - red) * chroma) as f32,
            green_cb: (-2.0 * blue * (1.0 - blue) / green * chroma) as f32,
            green_cr: (-2.0 * red * (1.0 - red) / green * chroma) as f32,
            blue_cb: (2.0 * (1.0 - blue) * chroma) as f32,
        }
    }
}

/// Weights of red, green and blue by the matrix (ISO/IEC 23091-2 8.3); BT.2020's where it is not known.
fn luminance(colour: Colour) -> [f64; 3] {
    match colour.matrix {
        1 => [0.2126, 0.7152, 0.0722],
        5 | 6 => [0.299, 0.587, 0.114],
        _ => [0.2627, 0.678, 0.0593],
    }
}

/// The brightest that the source has.
fn peak(colour: Colour, hdr: Hdr) -> f64 {
    if colour.transfer == Colour::HLG {
        return NOMINAL_PEAK;
    }
    let light = hdr.light.map(|(most, _)| f64::from(most));
    let display = hdr.mastering.map(|mastering| f64::from(mastering.brightest) / 10_000.0);
    let told = [light, display].into_iter().flatten().filter(|peak| *peak > 0.0).reduce(f64::min);
    told.unwrap_or(NOMINAL_PEAK).clamp(WHITE, 10_000.0)
}

const M1: f64 = 2610.0 / 16384.0;
const M2: f64 = 2523.0 / 32.0;
const C1: f64 = 3424.0 / 4096.0;
const C2: f64 = 2413.0 / 128.0;
const C3: f64 = 2392.0 / 128.0;

/// SMPTE ST 2084: candelas a square metre of a signal from 0 to 1.
fn pq_light(signal: f64) -> f64 {
    let root = signal.max(0.0).powf(1.0 / M2);
    10_000.0 * ((root - C1).max(0.0) / (C2 - C3 * root)).powf(1.0 / M1)
}

/// The signal of a light.
fn pq_signal(light: f64) -> f64 {
    let power = (light.max(0.0) / 10_000.0).powf(M1);
    ((C1 + C2 * power) / (1.0 + C3 * power)).powf(M2)
}

/// BT.2100 table 5: the scene's light, 0 to 1, of a signal.
fn hlg_scene(signal: f64) -> f64 {
    const A: f64 = 0.178_832_77;
    let (b, c) = (1.0 - 4.0 * A, 0.5 - A * (4.0 * A).ln());
    if signal <= 0.5 { signal * signal / 3.0 } else { (((signal - c) / A).exp() + b) / 12.0 }
}

/// BT.2390 5.4.1, without a lift of black: light of a display of `peak` to light of one of [`WHITE`].
fn eetf(light: f64, peak: f64) -> f64 {
    let most = pq_signal(peak);
    let (signal, target) = ((pq_signal(light) / most).min(1.0), (pq_signal(WHITE) / most).min(1.0));
    let knee = 1.5 * target - 0.5;
    if signal < knee || knee >= 1.0 {
        return pq_light(signal * most);
    }
    let t = (signal - knee) / (1.0 - knee);
    let (t2, t3) = (t * t, t * t * t);
    let made = (2.0 * t3 - 3.0 * t2 + 1.0) * knee + (t3 - 2.0 * t2 + t) * (1.0 - knee) + (3.0 * t2 - 2.0 * t3) * target;
    pq_light(made * most)
}

/// From light of the source's primaries to light of BT.709's; both have the white of D65.
fn to_bt709(colour: Colour) -> [[f32; 3]; 3] {
    match colour.primaries {
        1 => [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        // SMPTE EG 432-1, "P3".
        12 => [[1.224_94, -0.224_94, 0.0], [-0.042_06, 1.042_06, 0.0], [-0.019_64, -0.078_64, 1.098_28]],
        // BT.2087 annex 2 backwards.
        _ => [[1.660_49, -0.587_64, -0.072_85], [-0.124_55, 1.132_9, -0.008_35], [-0.018_15, -0.100_58, 1.118_73]],
    }
}
