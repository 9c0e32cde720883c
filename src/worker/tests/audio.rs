//! Audio jobs: what comes out is decoded by ffmpeg and compared with ffmpeg's own decoding of what went in.

use std::path::Path;

use bytes::Bytes;

use super::support::{Clip, audio_clip, audio_file, ffmpeg, run_job, scratch, unit};
use crate::job::{AudioSpec, Encoded, FailureCode, Job, Work};
use crate::media::codec::{aac, opus};
use crate::media::{AudioCodec, Format, Ticks, Track, Window};
use crate::worker::{elements, pcm, sound};

/// A sweep in noise: no two places alike.
const SOURCE: &str = "-f lavfi -i aevalsrc=0.25*sin(2*PI*(100+300*t)*t)+0.25*random(0)-0.125|0.25*sin(2*PI*(3000-200*t)*t)+\
                      0.25*random(1)-0.125:s=48000:d=6 -af lowpass=f=9000";
const RATE: i64 = 48_000;

fn spec(codec: AudioCodec, sample_rate: u32) -> AudioSpec {
    AudioSpec { codec, bit_rate: 128_000, channels: 2, sample_rate, origin: 0, first_frame: 0, frames: 0 }
}

/// The job of the segment [from, to), in seconds: the frames that start in it, from the units around it.
fn segment(clip: &Clip, spec: &AudioSpec, from: i64, to: i64) -> Job {
    let n = spec.frame_samples();
    let rate = i64::from(spec.sample_rate);
    let first_frame = (from * rate + n - 1).div_euclid(n);
    let end_frame = (to * rate + n - 1).div_euclid(n);
    let spec = AudioSpec { first_frame, frames: (end_frame - first_frame) as u32, ..spec.clone() };
    let ticks = i64::from(clip.track.timescale.get());
    let window = Window { start: Ticks(from * ticks), end: Ticks(to * ticks) };
    let inside = |n: &usize| window.contains(clip.units[*n].pts);
    let first = (0..clip.units.len()).find(inside).unwrap();
    let last = (0..clip.units.len()).rfind(inside).unwrap();
    let units = first.saturating_sub(67)..(last + 3).min(clip.units.len());
    clip.job_of(units, window, Work::Audio { renditions: vec![spec] })
}

/// Three segments of two seconds as one rendition; checks the grid.
fn three_segments(clip: &Clip, spec: &AudioSpec) -> Encoded {
    let mut whole = Encoded::default();
    for second in [0, 2, 4] {
        let job = segment(clip, spec, second, second + 2);
        let Work::Audio { renditions } = &job.work else { unreachable!() };
        let (mut encoded, stats) = run_job(&job).unwrap();
        let part = encoded.remove(0);
        assert_eq!(part.samples.len(), renditions[0].frames as usize);
        assert_eq!((stats.units_in, stats.decoded), (2 * RATE as u64, 2 * RATE as u64));
        assert!(whole.config.is_empty() || whole.config == part.config);
        whole.config = part.config;
        whole.samples.extend(part.samples);
    }
    for (n, sample) in whole.samples.iter().enumerate() {
        assert_eq!(sample.pts, Ticks(spec.origin + n as i64 * spec.frame_samples()));
        assert!(sample.sync);
    }
    whole
}

fn decode(path: &Path, options: &str) -> Vec<f32> {
    let raw = ffmpeg(&format!("-i {} {options} -c:a pcm_f32le -f f32le -", path.display()));
    raw.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

fn decode_aac(encoded: &Encoded) -> Vec<f32> {
    let (_guard, path) = scratch("out.aac");
    let mut stream = Vec::new();
    for sample in &encoded.samples {
        stream.extend(aac::adts_header(&encoded.config, sample.data.len()).unwrap());
        stream.extend(&sample.data);
    }
    std::fs::write(&path, stream).unwrap();
    decode(&path, "")
}

/// The source, what ffmpeg makes of it at 128 kb/s in one go, and it as a clip in fine AAC at `sample_rate`.
fn source_continuous_and_clip(sample_rate: u32) -> (Vec<f32>, Vec<f32>, Clip) {
    let (_guard, source) = scratch("source.wav");
    ffmpeg(&format!("{SOURCE} -c:a pcm_f32le {}", source.display()));
    let continuous = source.with_file_name("continuous.mp4");
    ffmpeg(&format!("-i {} -c:a aac -aac_ms 0 -b:a 128k {}", source.display(), continuous.display()));
    let clip = audio_clip(AudioCodec::Aac, &format!("-i {}", source.display()), "-c:a aac -b:a 400k", sample_rate, 2);
    (decode(&source, ""), decode(&continuous, ""), clip)
}

/// Signal to noise of `made` against `wanted` where stereo frame `lag` of `made` is held against frame 0 of `wanted`.
fn snr(wanted: &[f32], made: &[f32], frames: std::ops::Range<i64>, lag: i64) -> f64 {
    let (mut signal, mut noise) = (0.0, 0.0);
    for n in frames.start * 2..frames.end * 2 {
        let wanted = f64::from(wanted[n as usize]);
        signal += wanted * wanted;
        noise += (wanted - f64::from(made[(n + 2 * lag) as usize])).powi(2);
    }
    10.0 * (signal / noise).log10()
}

#[test]
fn joined_aac_segments_are_as_good_at_the_joins_as_one_encode() {
    let (source, continuous, clip) = source_continuous_and_clip(48_000);
    let made = decode_aac(&three_segments(&clip, &spec(AudioCodec::Aac, 48_000)));
    for lag in [-3, -2, -1, 1, 2, 3] {
        let middle = 20_000..200_000;
        assert!(snr(&source, &made, middle.clone(), lag) + 3.0 < snr(&source, &made, middle, 0), "lag {lag}");
    }
    for join in [2 * RATE, 4 * RATE] {
        let around = join - 2048..join + 2048;
        let (made, one) = (snr(&source, &made, around.clone(), 0), snr(&source, &continuous, around, 0));
        println!("join at {join}: {made:.1} dB, in one go {one:.1} dB");
        assert!(made > one - 3.0, "join at {join}: {made:.1} dB, in one go {one:.1} dB");
    }
}

#[test]
fn resampled_segments_lie_on_the_same_grid_and_join() {
    let (source, continuous, clip) = source_continuous_and_clip(44_100);
    let mut made = Vec::new();
    for second in [0, 2, 4] {
        let job = segment(&clip, &spec(AudioCodec::Aac, 48_000), second, second + 2);
        made.extend(run_job(&job).unwrap().0.remove(0).samples);
    }
    let config = aac::low_complexity(48_000, 2).unwrap();
    let made = decode_aac(&Encoded { config, samples: made });
    for join in [2 * RATE, 4 * RATE] {
        let around = join - 2048..join + 2048;
        let (made, one) = (snr(&source, &made, around.clone(), 0), snr(&source, &continuous, around, 0));
        println!("join at {join}: {made:.1} dB, in one go {one:.1} dB");
        assert!(made > one - 3.0, "join at {join}: {made:.1} dB, in one go {one:.1} dB");
    }
}
/// What [`sound::decode`] makes of the clip's first two seconds, mixed to `channels`.
fn decoded(clip: &Clip, channels: u16) -> Vec<f32> {
    elements::init().unwrap();
    let job = segment(clip, &spec(AudioCodec::Aac, 48_000), 0, 2);
    let Format::Audio(audio) = &job.track.format else { unreachable!() };
    let decoded = sound::decode(&job, audio, |rate| Ok(0..2 * i64::from(rate))).unwrap();
    let matrix = pcm::matrix(&decoded.positions, channels).unwrap();
    decoded.pcm.mix(&matrix).samples().to_vec()
}

#[test]
fn every_codec_is_decoded_to_where_ffmpeg_puts_it() {
    let codecs = [
        (AudioCodec::Aac, "-c:a aac -b:a 192k", 44_100),
        (AudioCodec::Opus, "-c:a libopus -b:a 128k", 48_000),
        (AudioCodec::Mp3, "-c:a libmp3lame -b:a 192k", 48_000),
        (AudioCodec::Mp3, "-c:a libmp3lame -b:a 64k", 22_050),
        (AudioCodec::Mp3, "-c:a mp2 -b:a 192k", 48_000),
        (AudioCodec::Ac3, "-c:a ac3 -b:a 192k", 48_000),
        (AudioCodec::Eac3, "-c:a eac3 -b:a 192k", 48_000),
    ];
    for (codec, output, rate) in codecs {
        let (_guard, path) = scratch("clip.mp4");
        ffmpeg(&format!("{SOURCE} {output} -ar {rate} -ac 2 {}", path.display()));
        let made = decoded(&audio_file(codec, &path, rate, 2), 2);
        let same = snr(&decode(&path, ""), &made, 5_000..i64::from(rate) * 5 / 3, 0);
        assert!(same > 50.0, "{codec:?}: {same:.1} dB");
    }
}

/// A tone for each channel, the deep one for the low frequencies.
fn tones(layout: &str, channels: u16) -> String {
    let hertz = |n: u16| if channels == 6 && n == 4 { 60 } else { n * 700 };
    let tones: Vec<String> = (1..=channels).map(|n| format!("0.1*sin(2*PI*{}*t)", hertz(n))).collect();
    format!("-f lavfi -i aevalsrc={}:s=48000:d=3:c={layout}", tones.join("|"))
}

#[test]
fn channels_are_mixed_as_ffmpeg_does() {
    let aac = (AudioCodec::Aac, "-c:a aac -b:a 400k", 80.0);
    let cases = [
        ("5.1", 6, aac),
        ("quad", 4, aac),
        ("mono", 1, aac),
        ("stereo", 2, aac),
        // Decoded to integers by one of the two.
        ("5.1", 6, (AudioCodec::Opus, "-c:a libopus -b:a 400k -mapping_family 1", 45.0)),
        ("mono", 1, (AudioCodec::Opus, "-c:a libopus -b:a 96k", 45.0)),
        ("5.1(side)", 6, (AudioCodec::Ac3, "-c:a ac3 -b:a 448k", 80.0)),
        ("5.1(side)", 6, (AudioCodec::Eac3, "-c:a eac3 -b:a 448k", 80.0)),
    ];
    for (layout, channels, (codec, options, least)) in cases {
        let (_guard, path) = scratch("clip.mp4");
        ffmpeg(&format!("{} {options} {}", tones(layout, channels), path.display()));
        let clip = audio_file(codec, &path, 48_000, channels);
        for wanted in [1, 2] {
            let by_ffmpeg = decode(&path, &format!("-ac {wanted}"));
            let made = decoded(&clip, wanted);
            let half = i64::from(wanted);
            let same = snr(&by_ffmpeg, &made, 2_000 * half / 2..90_000 * half / 2, 0);
            assert!(same > least, "{codec:?} {layout} to {wanted}: {same:.1} dB");
        }
    }
}

#[test]
fn six_channels_are_kept_where_they_are_asked_for() {
    let (_guard, path) = scratch("clip.mp4");
    ffmpeg(&format!("{} -c:a aac -b:a 500k {}", tones("5.1", 6), path.display()));
    let clip = audio_file(AudioCodec::Aac, &path, 48_000, 6);
    let spec = AudioSpec { channels: 6, bit_rate: 400_000, ..spec(AudioCodec::Aac, 48_000) };
    let made = decode_aac(&run_job(&segment(&clip, &spec, 0, 2)).unwrap().0.remove(0));
    let source = decode(&path, "");
    for channel in 0..6 {
        let (mut signal, mut noise) = (0.0, 0.0);
        for n in 5_000..80_000 {
            let [wanted, made] = [&source, &made].map(|sound| f64::from(sound[6 * n + channel]));
            (signal, noise) = (signal + wanted * wanted, noise + (wanted - made).powi(2));
        }
        let snr = 10.0 * (signal / noise).log10();
        assert!(snr > 20.0, "channel {channel}: {snr:.1} dB");
    }
}

#[test]
fn joined_opus_segments_are_as_good_at_the_joins_as_one_encode() {
    let (source, _, clip) = source_continuous_and_clip(48_000);
    let spec = spec(AudioCodec::Opus, 48_000);
    let listen = |encoded: &Encoded| {
        let units = encoded.samples.iter().map(|sample| unit(sample.pts.0, sample.pts.0, true, sample.data.clone()));
        let audio = opus::audio_from_dops(&encoded.config).unwrap();
        let track = Track { format: Format::Audio(audio.clone()), ..clip.track.clone() };
        let heard = Clip { track, units: units.collect() };
        let job = segment(&heard, &spec, 0, 6);
        sound::decode(&job, &audio, |_| Ok(0..6 * RATE)).unwrap().pcm.samples().to_vec()
    };
    let joined = listen(&three_segments(&clip, &spec));
    let one = listen(&run_job(&segment(&clip, &spec, 0, 6)).unwrap().0.remove(0));
    for lag in [-3, -2, -1, 1, 2, 3] {
        let middle = 20_000..200_000;
        assert!(snr(&source, &joined, middle.clone(), lag) + 3.0 < snr(&source, &joined, middle, 0), "lag {lag}");
    }
    for join in [2 * RATE, 4 * RATE] {
        let around = join - 2048..join + 2048;
        let (joined, one) = (snr(&source, &joined, around.clone(), 0), snr(&source, &one, around, 0));
        println!("join at {join}: {joined:.1} dB, in one go {one:.1} dB");
        assert!(joined > one - 3.0, "join at {join}: {joined:.1} dB, in one go {one:.1} dB");
    }
}

/// libavcodec gives no sound for a unit that holds only filling; the units after it keep their places.
#[test]
fn a_unit_without_sound_is_a_silence_of_its_length() {
    let mut clip = source_continuous_and_clip(48_000).2;
    let whole = decoded(&clip, 2);
    // A fill element of no bytes, and the end (ISO/IEC 14496-3 table 4.86).
    clip.units[40].data = Bytes::from_static(&[0b1100_0001, 0b1100_0000]);
    let holed = decoded(&clip, 2);
    let (before, after) = (2_000..38 * 1024, 42 * 1024..90_000);
    assert!(snr(&whole, &holed, before, 0) > 60.0);
    assert!(snr(&whole, &holed, after, 0) > 60.0);
}

#[test]
fn a_gap_in_the_units_is_silent_and_what_follows_keeps_its_place() {
    let mut clip = source_continuous_and_clip(48_000).2;
    let whole = decoded(&clip, 2);
    clip.units.drain(40..60);
    let holed = decoded(&clip, 2);
    assert!(holed[2 * 40 * 1024..2 * 58 * 1024].iter().all(|sample| *sample == 0.0));
    assert!(snr(&whole, &holed, 61 * 1024..90_000, 0) > 60.0);
}

/// More of them in a row than GStreamer's elements put up with by default in some versions.
#[test]
fn damaged_units_are_silence_and_are_counted() {
    let mut clip = source_continuous_and_clip(48_000).2;
    let whole = decoded(&clip, 2);
    for unit in &mut clip.units[30..50] {
        unit.data = Bytes::from(vec![0xff; 40]);
    }
    let holed = decoded(&clip, 2);
    assert!(holed[2 * 32 * 1024..2 * 48 * 1024].iter().all(|sample| *sample == 0.0));
    assert!(snr(&whole, &holed, 2_000..28 * 1024, 0) > 60.0);
    assert!(snr(&whole, &holed, 53 * 1024..90_000, 0) > 60.0);
    let (encoded, stats) = run_job(&segment(&clip, &spec(AudioCodec::Aac, 48_000), 0, 2)).unwrap();
    assert_eq!(encoded[0].samples.len(), 94);
    assert_eq!(stats.units_in - stats.decoded, 20 * 1024);
}

/// The segmenter follows a source whose clock is off by moving units a sample; there must be no hole and no step.
#[test]
fn a_unit_moved_by_a_sample_leaves_no_hole() {
    let mut clip = source_continuous_and_clip(48_000).2;
    let whole = decoded(&clip, 2);
    clip.units[50..].iter_mut().for_each(|unit| unit.pts.0 += 1);
    let moved = decoded(&clip, 2);
    let seam = 48 * 1024..50 * 1024;
    assert!(snr(&whole, &moved, 2_000..48 * 1024, 0) > 60.0);
    assert!(snr(&whole, &moved, 50 * 1024 + 1..90_000, 1) > 60.0);
    let steps = |sound: &[f32], range: std::ops::Range<usize>| {
        range.map(|n| (sound[2 * n + 2] - sound[2 * n]).abs()).fold(0.0, f32::max)
    };
    let (before, after) = (steps(&whole, seam.clone()), steps(&moved, seam));
    assert!(after < 1.1 * before, "a step of {after} where there was none over {before}");
    for clip in [&clip, &source_continuous_and_clip(48_000).2] {
        let (_, stats) = run_job(&segment(clip, &spec(AudioCodec::Aac, 48_000), 0, 2)).unwrap();
        assert_eq!(stats.units_in, stats.decoded);
    }
}

#[test]
fn units_that_are_no_media_are_the_clients_fault() {
    let mut clip = source_continuous_and_clip(48_000).2;
    for (n, unit) in clip.units.iter_mut().enumerate() {
        unit.data = (0..100).map(|k| (k * 31 + n * 17) as u8 | 0xe0).collect();
    }
    let failure = run_job(&segment(&clip, &spec(AudioCodec::Aac, 48_000), 0, 2)).unwrap_err();
    assert_eq!(failure.code, FailureCode::BadMedia, "{failure}");
}

#[test]
fn no_units_give_silence_on_the_grid() {
    let clip = source_continuous_and_clip(48_000).2;
    for codec in [AudioCodec::Aac, AudioCodec::Opus] {
        let mut job = segment(&clip, &spec(codec, 48_000), 2, 4);
        job.units.clear();
        let (encoded, stats) = run_job(&job).unwrap();
        let Work::Audio { renditions } = &job.work else { unreachable!() };
        assert_eq!(encoded[0].samples.len(), renditions[0].frames as usize);
        assert_eq!((stats.units_in, stats.decoded), (0, 0));
    }
}

#[test]
fn what_is_not_made_is_refused_by_name() {
    let clip = source_continuous_and_clip(48_000).2;
    for (codec, rate, channels) in
        [(AudioCodec::Mp3, 48_000, 2), (AudioCodec::Opus, 44_100, 2), (AudioCodec::Aac, 48_000, 5)]
    {
        let mut job = segment(&clip, &spec(AudioCodec::Aac, 48_000), 0, 2);
        let Work::Audio { renditions } = &mut job.work else { unreachable!() };
        renditions[0] = AudioSpec { codec, sample_rate: rate, channels, ..renditions[0].clone() };
        assert_eq!(run_job(&job).unwrap_err().code, FailureCode::UnsupportedCodec);
    }
}

/// A tone in the channel at the left side alone: 3 dB down, in stereo at the front, in 5.1 at the back.
#[test]
fn seven_point_one_becomes_stereo_and_five_point_one() {
    const RATE: u32 = 48_000;
    let input = "-f lavfi -i aevalsrc=0|0|0|0|0|0|0.3*sin(2*PI*500*t)|0:s=48000:d=2:c=7.1";
    let clip = audio_clip(AudioCodec::Aac, input, "-c:a aac -b:a 384k", RATE, 8);
    for (channels, loud, gain) in [(2, 0, 0.707), (6, 4, 0.707)] {
        let spec = AudioSpec { channels, bit_rate: 320_000, ..spec(AudioCodec::Aac, RATE) };
        let (encoded, _) = run_job(&segment(&clip, &spec, 0, 1)).unwrap();
        let decoded = decode_aac(&encoded[0]);
        let power = |channel: usize| {
            let own: Vec<f32> = decoded.iter().skip(channel).step_by(usize::from(channels)).copied().collect();
            let middle = &own[own.len() / 4..own.len() * 3 / 4];
            (middle.iter().map(|sample| sample * sample).sum::<f32>() / middle.len() as f32).sqrt()
        };
        let heard = power(loud) / (0.3 * std::f32::consts::FRAC_1_SQRT_2);
        assert!((heard / gain - 1.0).abs() < 0.15, "{channels} channels: {heard} of {gain}");
        let silent = (0..usize::from(channels)).filter(|n| *n != loud).map(power);
        assert!(silent.clone().all(|power| power < 0.02), "{channels} channels: {:?}", silent.collect::<Vec<_>>());
    }
}
