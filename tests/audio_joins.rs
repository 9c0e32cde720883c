//! Sound that is made segment by segment is as good where segments meet as one continuous encode of it.

use std::f64::consts::TAU;
use std::fs;
use std::path::Path;

use crate::support::media;
use crate::support::service::Service;
use crate::support::{client, sound};
use serde_json::{Value, json};
use tempfile::TempDir;

const RATE: u32 = 48_000;
const SECONDS: usize = 12;
/// Samples to each side of a join that are held against the source.
const AROUND: i64 = 2048;
/// What the joins may lose against the continuous encode, dB on average.
const LOSS: f64 = 1.0;
/// Mean square below which a join counts as silent, and is not measured.
const SILENT: f64 = 1e-6;

#[tokio::test]
async fn joins_of_a_tone_sound_like_a_continuous_encode() {
    let tone = |t: f64, channel: usize| 0.4 * (TAU * [997.0, 1499.0][channel] * t).sin();
    joins_sound_like_a_continuous_encode(wave(tone)).await;
}

#[tokio::test]
async fn joins_of_a_sweep_sound_like_a_continuous_encode() {
    let sweep =
        |t: f64, channel: usize| 0.3 * (TAU * [100.0 * t + 400.0 * t * t, 7000.0 * t - 250.0 * t * t][channel]).sin();
    joins_sound_like_a_continuous_encode(wave(sweep)).await;
}

/// The rate control of AAC's encoder is far from where it begins, and is slow on its way. Single joins are 2 dB better or
/// worse than the continuous encode, so there have to be many.
#[tokio::test]
async fn joins_of_a_hum_sound_like_a_continuous_encode() {
    let overtone = |n: f64, t: f64| (TAU * 60.0 * n * t + n * n).sin() / (n * n);
    let hum = |t: f64, channel: usize| {
        let t = t - channel as f64 * 0.002;
        0.15 * (1..30).map(|n| overtone(f64::from(n), t)).sum::<f64>()
    };
    joins_of(wave(hum), &[(1000, SECONDS - 2)]).await;
}

#[tokio::test]
async fn joins_of_speech_sound_like_a_continuous_encode() {
    joins_sound_like_a_continuous_encode(speech()).await;
}

#[tokio::test]
async fn joins_of_music_sound_like_a_continuous_encode() {
    joins_sound_like_a_continuous_encode(wave(music)).await;
}

/// Short segments and long ones, made and copied.
async fn joins_sound_like_a_continuous_encode(wav: Vec<u8>) {
    joins_of(wav, &[(1000, SECONDS - 2), (4000, 2)]).await;
}

/// Segments of so many milliseconds, with as many joins at least.
async fn joins_of(wav: Vec<u8>, cuts: &[(u32, usize)]) {
    let clip = Clip::new(&wav, RATE);
    // The same coder as the service's, so that what differs is the joins alone.
    let aac = clip.continuous("aac", "-c:a aac -aac_coder fast -aac_ms 0 -b:a 128k");
    let outputs = json!([
        {"name": "aac", "audio": {"codec": "aac", "kbps": 128}},
        {"name": "opus", "audio": {"codec": "opus", "kbps": 96}},
        {"name": "copy", "audio": {"codec": "copy"}}]);
    // ffmpeg sets its Opus coder up in another way, so the whole is the service's own: one segment.
    let whole = clip.made(30_000, outputs.clone()).await;
    assert!(whole["opus"].joins.is_empty());
    for &(segment_ms, joins) in cuts {
        let made = clip.made(segment_ms, outputs.clone()).await;
        made["aac"].holds_against(&clip.original, &aac, joins, LOSS);
        made["opus"].holds_against(&clip.original, &whole["opus"].sound, joins, LOSS);
        for &at in &made["copy"].joins {
            assert!(made["copy"].sound.around(at) == clip.original.around(at), "a copy is what the source is");
        }
    }
}

#[tokio::test]
async fn joins_of_what_is_resampled_sound_like_a_continuous_encode() {
    let clip = Clip::new(&wave(music), 44_100);
    let outputs = json!([
        {"name": "aac", "audio": {"codec": "aac", "kbps": 128, "sample_rate": 48000}},
        {"name": "opus", "audio": {"codec": "opus", "kbps": 96}}]);
    let made = clip.made(1000, outputs.clone()).await;
    // One segment: resampled and encoded in the same way, without a join.
    let whole = clip.made(30_000, outputs).await;
    assert!(whole["aac"].joins.is_empty());
    made["aac"].holds_against(&clip.original, &whole["aac"].sound, SECONDS - 2, LOSS);
    made["opus"].holds_against(&clip.original, &whole["opus"].sound, SECONDS - 2, LOSS);
}

/// An encoder that has seen silence before the first packet, and a decoder that has not, disagree for a while: loudly.
#[tokio::test]
async fn opus_begins_with_what_the_source_begins_with() {
    let clip = Clip::new(&wave(|t, channel| 0.02 * (TAU * [997.0, 1499.0][channel] * t).sin()), RATE);
    let made = clip.made(1000, json!([{"name": "opus", "audio": {"codec": "opus", "kbps": 96}}])).await;
    let heard = &made["opus"].sound;
    assert_eq!(heard.start, 0);
    // Its look-ahead is silent: 6.5 ms.
    let (from, to) = (360, 4096);
    let snr = sound::snr(&clip.original.samples[from..to], &heard.samples[from..to]);
    assert!(snr > 12.0, "{snr:.1} dB");
}

/// A source of one sound track.
struct Clip {
    folder: TempDir,
    media: Vec<u8>,
    /// As the service's decoder gets it, at [`RATE`].
    original: Sound,
}

impl Clip {
    fn new(wav: &[u8], rate: u32) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let [given, source, original] =
            ["given.wav", "source.mp4", "original.wav"].map(|name| folder.path().join(name));
        fs::write(&given, wav).expect("a temporary file");
        encode(&given, &source, &format!("-c:a aac -aac_pns 0 -b:a 320k -ar {rate} -movflags faststart"));
        encode(&source, &original, &format!("-c:a pcm_f32le -ar {RATE}"));
        let read = |path| fs::read(path).expect("it was just made");
        Self { media: read(source), original: Sound::of(&read(original)), folder }
    }

    /// One encode of all of it.
    fn continuous(&self, name: &str, options: &str) -> Sound {
        let made = self.folder.path().join(format!("{name}.mp4"));
        encode(&self.folder.path().join("source.mp4"), &made, options);
        Sound::of(&fs::read(made).expect("it was just made"))
    }

    /// What the service makes of it, by output.
    async fn made(&self, segment_ms: u32, outputs: Value) -> std::collections::BTreeMap<String, Made> {
        let service = Service::start(&["--workers", "2"]);
        let start = json!({"segment_ms": segment_ms, "outputs": outputs});
        let session = client::stream(service.listen, start, self.media.clone(), 10_000).await;
        assert_eq!((session.close_code(), session.error_codes()), (1000, vec![]));
        let made = session.outputs.iter().map(|(name, output)| {
            let starts = output.segments[1..].iter().filter_map(|(header, _)| header["start"].as_i64());
            (name.clone(), Made { sound: Sound::of(&output.whole()), joins: starts.collect() })
        });
        made.collect()
    }
}

/// An output.
struct Made {
    sound: Sound,
    /// Where its segments meet, in samples.
    joins: Vec<i64>,
}

impl Made {
    fn holds_against(&self, original: &Sound, continuous: &Sound, joins: usize, loss: f64) {
        let loud = |at: &&i64| {
            let around = original.around(**at);
            around.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>() / around.len() as f64 > SILENT
        };
        let measured: Vec<i64> = self.joins.iter().filter(loud).copied().collect();
        assert!(measured.len() >= joins.min(2) && self.joins.len() >= joins, "{:?}", self.joins);
        let mean = |heard: &Sound| {
            let each = measured.iter().map(|&at| sound::snr(original.around(at), heard.around(at)));
            each.sum::<f64>() / measured.len() as f64
        };
        let (expected, found) = (mean(continuous), mean(&self.sound));
        println!("{found:.1} dB at {} joins, {expected:.1} dB in a continuous encode", measured.len());
        assert!(found > expected - loss, "{found:.1} dB at the joins, {expected:.1} dB in a continuous encode");
    }
}

/// Decoded sound on the absolute grid of samples.
struct Sound {
    start: i64,
    samples: Vec<f32>,
}

impl Sound {
    fn of(media: &[u8]) -> Self {
        let (start, rate, samples) = media::decode_audio(media);
        assert_eq!(rate, RATE);
        Self { start: start.ticks(i64::from(RATE)), samples }
    }

    fn around(&self, at: i64) -> &[f32] {
        let from = (at - AROUND - self.start) as usize;
        &self.samples[from..from + 2 * AROUND as usize]
    }
}

fn encode(from: &Path, to: &Path, options: &str) {
    let to = to.to_str().expect("a plain path");
    media::ffmpeg(from, &format!("-i IN -vn {options} {to}"));
}

/// A WAV file in stereo of what `value` says of a time and a channel, in a little noise.
fn wave(mut value: impl FnMut(f64, usize) -> f64) -> Vec<u8> {
    let count = SECONDS * RATE as usize;
    // The header is right for any sound of this length.
    let mut file = sound::wav(count, RATE, 2);
    file.truncate(44);
    let mut noise = Noise(1);
    for index in 0..count {
        let t = index as f64 / f64::from(RATE);
        for channel in 0..2 {
            let value = value(t, channel) + 0.004 * noise.next();
            file.extend_from_slice(&((value * 32_767.0) as i16).to_le_bytes());
        }
    }
    file
}

/// White, from -1 to 1.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(self.0 >> 16) / 32_768.0 - 1.0
    }
}

/// Plucked chords over a slow sweep.
fn music(t: f64, channel: usize) -> f64 {
    const CHORDS: [[f64; 3]; 4] =
        [[220.0, 277.2, 329.6], [196.0, 246.9, 392.0], [174.6, 261.6, 440.0], [164.8, 207.7, 493.9]];
    let beat = (t * 3.0).fract() / 3.0;
    let chord = CHORDS[(t * 3.0) as usize % CHORDS.len()];
    let pluck = |note: f64| (1..6).map(|n| (TAU * note * f64::from(n) * beat).sin() / f64::from(n * n)).sum::<f64>();
    let sweep = (TAU * (500.0 * t + 250.0 * t * t)).sin();
    let chord: f64 = chord.iter().map(|&note| pluck(note * (1.0 + channel as f64 * 0.003))).sum();
    0.12 * chord * (-8.0 * beat).exp() + 0.1 * sweep
}

/// Vowels, each a pulse train through three formants, with a burst of noise between one and the next.
fn speech() -> Vec<u8> {
    const VOWELS: [[f64; 3]; 4] =
        [[730.0, 1090.0, 2440.0], [270.0, 2290.0, 3010.0], [300.0, 870.0, 2240.0], [530.0, 1840.0, 2480.0]];
    let (mut phase, mut noise, mut said) = (0.0f64, Noise(7), 0.0);
    let mut formants = [[0.0f64; 2]; 3];
    wave(move |t, channel| {
        if channel == 1 {
            return 0.9 * said;
        }
        let syllable = t * 2.2;
        phase += (120.0 + 15.0 * (TAU * 0.7 * t).sin()) / f64::from(RATE);
        let pulse = if phase >= 1.0 { 1.0 } else { 0.0 };
        phase = phase.fract();
        let voice: f64 = formants
            .iter_mut()
            .zip(VOWELS[syllable as usize % 4])
            .map(|(state, hertz)| resonate(state, pulse, hertz))
            .sum();
        let loud = (2.0 * (TAU / 2.0 * syllable.fract()).sin()).min(1.0);
        let burst = if syllable.fract() > 0.85 { 0.05 * noise.next() } else { 0.0 };
        said = 0.12 * voice * loud + burst;
        said
    })
}

/// A resonance of 90 Hz width.
fn resonate(state: &mut [f64; 2], input: f64, hertz: f64) -> f64 {
    let radius = (-TAU / 2.0 * 90.0 / f64::from(RATE)).exp();
    let value = input + 2.0 * radius * (TAU * hertz / f64::from(RATE)).cos() * state[0] - radius * radius * state[1];
    *state = [value, state[0]];
    value * (TAU * hertz / f64::from(RATE)).sin()
}
