//! Sound that is encoded segment by segment is as good where segments meet as one continuous encode of it.

mod support;

use std::f64::consts::TAU;
use std::fs;
use std::path::Path;

use serde_json::json;
use support::media;
use support::service::Service;
use support::{client, sound};
use tempfile::TempDir;

const RATE: u32 = 48_000;
const SECONDS: usize = 8;
/// Samples to each side of a join that are held against the source.
const AROUND: i64 = 2048;
/// What the joins may lose against the continuous encode, dB on average.
const LOSS: f64 = 3.0;

#[tokio::test]
async fn joins_sound_like_a_continuous_encode() {
    let folder = TempDir::new().expect("a temporary folder");
    let [wav, source, continuous] = ["music.wav", "source.mp4", "continuous.mp4"].map(|name| folder.path().join(name));
    fs::write(&wav, music()).expect("a temporary file");
    encode(&wav, &source, "-b:a 320k");
    // The same coder as the service's, so that what differs is the joins alone.
    encode(&source, &continuous, "-aac_coder fast -aac_ms 0 -b:a 128k");
    let original = Sound::of(&fs::read(&source).expect("it was just made"));
    let continuous = Sound::of(&fs::read(&continuous).expect("it was just made"));

    let service = Service::start(&["--workers", "2"]);
    let outputs = json!([{"name": "sound", "audio": {"codec": "aac", "kbps": 128}}]);
    let start = json!({"segment_ms": 1000, "outputs": outputs});
    let session = client::stream(service.listen, start, fs::read(&source).expect("it was just made"), 10_000).await;
    assert_eq!((session.close_code(), session.error_codes()), (1000, vec![]));
    let output = &session.outputs["sound"];
    let made = Sound::of(&output.whole());

    let joins: Vec<i64> = output.segments[1..].iter().filter_map(|(header, _)| header["start"].as_i64()).collect();
    assert!(joins.len() >= SECONDS - 2, "{joins:?}");
    let mean = |heard: &Sound| {
        let each: Vec<f64> = joins.iter().map(|&at| sound::snr(original.around(at), heard.around(at))).collect();
        println!("{each:.1?}");
        each.iter().sum::<f64>() / each.len() as f64
    };
    let (expected, found) = (mean(&continuous), mean(&made));
    assert!(found > expected - LOSS, "{found:.1} dB at the joins, {expected:.1} dB in a continuous encode");
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
    media::ffmpeg(from, &format!("-i IN -vn -c:a aac {options} -movflags faststart {to}"));
}

/// Plucked chords over a slow sweep and a little noise, as a WAV file in stereo.
fn music() -> Vec<u8> {
    const CHORDS: [[f64; 3]; 4] =
        [[220.0, 277.2, 329.6], [196.0, 246.9, 392.0], [174.6, 261.6, 440.0], [164.8, 207.7, 493.9]];
    let count = SECONDS * RATE as usize;
    // The header is right for any sound of this length.
    let mut file = sound::wav(count, RATE, 2);
    file.truncate(44);
    let mut noise = 1u32;
    for index in 0..count {
        let t = index as f64 / f64::from(RATE);
        let beat = (t * 3.0).fract() / 3.0;
        let chord = CHORDS[(t * 3.0) as usize % CHORDS.len()];
        let pluck =
            |note: f64| (1..6).map(|n| (TAU * note * f64::from(n) * beat).sin() / f64::from(n * n)).sum::<f64>();
        let sweep = (TAU * (500.0 * t + 350.0 * t * t)).sin();
        for channel in 0..2 {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let hiss = f64::from(noise >> 16) / 32_768.0 - 1.0;
            let chord: f64 = chord.iter().map(|&note| pluck(note * (1.0 + f64::from(channel) * 0.003))).sum();
            let value = 0.12 * chord * (-8.0 * beat).exp() + 0.1 * sweep + 0.004 * hiss;
            file.extend_from_slice(&((value * 32_767.0) as i16).to_le_bytes());
        }
    }
    file
}
