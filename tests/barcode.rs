//! The instruments of the other tests, checked first: numbers survive hard compression, and the sound tells its place.

use std::collections::HashSet;

use crate::support::barcode;
use crate::support::media::{self, Clip, Fraction, Picture, Shape, Sound};
use crate::support::sound;

fn numbers(clip: &Clip) -> Vec<u16> {
    (clip.first..clip.first + clip.frames).collect()
}

#[test]
fn a_picture_says_its_number_at_any_size() {
    for (width, height) in [(320, 180), (256, 144), (641, 361), (64, 64)] {
        for number in [0, 1, 0x5555, 0xAAAA, 0x8001, u16::MAX] {
            assert_eq!(barcode::read(&barcode::picture(number, width, height), width, height), Some(number));
        }
    }
}

#[test]
fn what_is_no_barcode_says_nothing() {
    let (width, height) = (320, 180);
    assert_eq!(barcode::read(&vec![128; width * height], width, height), None);
    assert_eq!(barcode::read(&[16; 100], width, height), None);
    let (one, other) = (barcode::picture(0x1234, width, height), barcode::picture(0x1235, width, height));
    let blended: Vec<u8> = one.iter().zip(&other).map(|(&a, &b)| a.midpoint(b)).collect();
    assert_eq!(barcode::read(&blended, width, height), None, "two pictures blended are neither");
}

#[test]
fn pictures_differ_below_their_numbers_too() {
    let lower = |number| barcode::picture(number, 64, 64)[64 * 32..64 * 64].to_vec();
    assert_eq!((0..100).map(lower).collect::<HashSet<_>>().len(), 100);
}

#[test]
fn numbers_survive_scaling_to_144_lines_and_hard_compression() {
    for more in ["-vf scale=-2:144 -crf 30", "-vf scale=-2:144 -crf 38"] {
        let clip = Clip { audio: None, first: 21_800, frames: 90, more, ..Clip::default() };
        let read: Vec<u16> = media::decode_barcodes_of(&clip.path()).into_iter().map(|(_, number)| number).collect();
        assert_eq!(read, numbers(&clip), "{more}");
    }
}

#[test]
fn every_codec_and_shape_gives_all_pictures_at_their_times() {
    let clip = |shape, video, b_frames| Clip { shape, video: Some(video), audio: None, b_frames, ..Clip::default() };
    let clips = [
        (clip(Shape::FragmentedMp4, Picture::H264, 0), 15_360),
        (clip(Shape::FaststartMp4, Picture::H264, 2), 15_360),
        (clip(Shape::Mp4, Picture::H265, 2), 15_360),
        (clip(Shape::Mp4, Picture::Av1, 0), 15_360),
        (clip(Shape::Webm, Picture::Vp8, 0), 1000),
        (clip(Shape::Webm, Picture::Vp9, 0), 1000),
        (clip(Shape::MatroskaLive, Picture::H264, 0), 1000),
        (clip(Shape::Ts, Picture::Mpeg2, 2), 90_000),
        (clip(Shape::Ts, Picture::H264, 2), 90_000),
    ];
    for (clip, timescale) in clips {
        let read = media::decode_barcodes(&clip.bytes());
        assert_eq!(read.iter().map(|(_, number)| *number).collect::<Vec<_>>(), numbers(&clip), "{clip:?}");
        // Some shapes don't start at 0; a container's tick is all that a time may be off.
        let start = read[0].0.ticks(timescale);
        for (n, (time, _)) in read.iter().enumerate() {
            let expected = clip.time(n as u16).ticks(timescale);
            assert!((time.ticks(timescale) - start).abs_diff(expected) <= 1, "{clip:?}: {n} at {time:?}");
        }
    }
}

#[test]
fn key_frames_come_where_they_are_asked_for() {
    for (shape, video) in [
        (Shape::FragmentedMp4, Picture::H264),
        (Shape::FragmentedMp4, Picture::H265),
        (Shape::Webm, Picture::Vp8),
        (Shape::Webm, Picture::Vp9),
        (Shape::Mp4, Picture::Av1),
        (Shape::Ts, Picture::Mpeg2),
    ] {
        let clip = Clip { shape, video: Some(video), audio: None, gop: 15, ..Clip::default() };
        let flags = media::probe(&clip.path(), &["-select_streams", "v:0", "-show_entries", "packet=flags"]);
        let keys: Vec<usize> = (0..flags.len()).filter(|&n| flags[n][0].starts_with('K')).collect();
        assert_eq!(keys, [0, 15, 30, 45], "{clip:?}");
    }
}

#[test]
fn sound_tells_its_place_to_the_sample() {
    let clips = [
        (Shape::FaststartMp4, Sound::Aac, 48_000, 20.0),
        (Shape::FaststartMp4, Sound::Aac, 44_100, 20.0),
        (Shape::Webm, Sound::Opus, 48_000, 15.0),
        (Shape::Mp4, Sound::Mp3, 48_000, 20.0),
        (Shape::Ts, Sound::Ac3, 48_000, 20.0),
        (Shape::Ts, Sound::Eac3, 48_000, 20.0),
    ];
    for (shape, audio, sample_rate, least) in clips {
        let clip = Clip { shape, audio: Some(audio), video: None, sample_rate, ..Clip::default() };
        let (start, rate, heard) = media::decode_audio(&clip.bytes());
        assert_eq!(rate, sample_rate);
        let (from, length) = (rate as usize / 2, 4800);
        let stretch = &heard[from..from + length];
        let (at, fit) = sound::locate(stretch, rate, from as i64, 3000);
        assert!(fit > 0.95, "{clip:?}: {fit}");
        let snr = sound::snr(&sound::samples(at, length, rate), stretch);
        assert!(snr > least, "{clip:?}: {snr} dB");
        println!("{shape:?} {audio:?} {rate}: starts at {start:?}, {} samples late, {snr:.1} dB", from as i64 - at);
    }
}

#[test]
fn a_stretch_is_found_where_it_was_cut_and_nowhere_else() {
    for at in [-700, 0, 12_345, 300_000] {
        let heard = sound::samples(at, 2000, 48_000);
        assert_eq!(sound::locate(&heard, 48_000, at + 411, 1000).0, at);
        assert!(sound::locate(&heard, 48_000, at + 5000, 1000).1 < 0.9);
    }
}

#[test]
fn fractions_are_exact() {
    assert_eq!(Fraction::new(2002, 60_000), Fraction::new(1001, 30_000));
    assert_eq!(Fraction::new(1, 3).ticks(1000), 333);
    assert_eq!(Fraction::new(-1, 3).ticks(1000), -334);
    assert!(Fraction::new(-1, 3) < Fraction::new(1, 4));
    assert_eq!("1/90000".parse(), Ok(Fraction::new(1, 90_000)));
}
