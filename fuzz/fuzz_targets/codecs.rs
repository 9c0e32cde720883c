//! Set-up bytes and frame headers of every codec. The first byte chooses which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segmill::media::codec::{aac, ac3, annexb, av1, h264, h265, mp3, mpeg2, opus, vp8, vp9};

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = segmill_fuzz::split(data) else { return };
    segmill_fuzz::bounded(bytes.len(), || read(choice, bytes));
});

fn read(choice: u8, bytes: &[u8]) {
    match choice % 14 {
        0 => avcc(bytes),
        1 => hvcc(bytes),
        2 => drop(vp9::video_from_vpcc(bytes, 320, 180)),
        3 => drop((vp9::video(bytes), vp9::is_key_frame(bytes), vp8::video(bytes), vp8::is_key_frame(bytes))),
        4 => drop(av1::video_from_av1c(bytes)),
        5 => {
            let _ = (av1::video(bytes), av1::is_key_frame(bytes));
            let once = av1::strip(bytes.to_vec().into());
            assert_eq!(av1::strip(once.clone()), once, "what is stripped has nothing to strip");
        }
        6 => asc(bytes),
        7 => {
            if let Some(header) = aac::Adts::parse(bytes) {
                let _ = format!("{header:?}");
            }
        }
        8 => drop((opus::audio_from_dops(bytes), opus::audio_from_opus_head(bytes), opus::samples(bytes))),
        9 => drop((mp3::Header::parse(bytes), mp3::audio(bytes))),
        10 => drop((ac3::Header::parse(bytes), ac3::audio(bytes), ac3::samples(bytes))),
        11 => drop((ac3::audio_from_dac3(bytes), ac3::audio_from_dec3(bytes))),
        12 => drop((mpeg2::video(bytes), mpeg2::sync(bytes))),
        _ => annex_b(bytes),
    }
}

/// What is written of what was read is read again as the same.
fn avcc(bytes: &[u8]) {
    let Ok((sets, length)) = h264::ParameterSets::from_avcc(bytes) else { return };
    assert!((1..=4).contains(&length));
    let _ = sets.video();
    let Ok(record) = sets.avcc() else { return };
    let (again, _) = h264::ParameterSets::from_avcc(&record).expect("what we write we read");
    assert_eq!(again.avcc().ok(), Some(record));
}

fn hvcc(bytes: &[u8]) {
    let Ok((sets, length)) = h265::ParameterSets::from_hvcc(bytes) else { return };
    assert!((1..=4).contains(&length));
    let _ = sets.video();
    let Ok(record) = sets.hvcc() else { return };
    let (again, _) = h265::ParameterSets::from_hvcc(&record).expect("what we write we read");
    assert_eq!(again.hvcc().ok(), Some(record));
}

fn asc(bytes: &[u8]) {
    let _ = (aac::frame_samples(bytes), aac::decoded_samples(bytes), aac::adts_header(bytes, bytes.len()));
    if let Some((config, frame)) = bytes.split_at_checked(2)
        && aac::may_hold_sbr(config)
    {
        let _ = (aac::holds_sbr(config, frame), aac::with_sbr(config).expect("what is read can be written"));
    }
    if let Ok(audio) = aac::audio(bytes) {
        assert!(audio.sample_rate > 0 && audio.channels > 0, "{audio:?}");
    }
}

/// NAL units with lengths in place of start codes are the same NAL units.
fn annex_b(bytes: &[u8]) {
    let nals: Vec<&[u8]> = annexb::nal_units(bytes).collect();
    let unit = annexb::to_length_prefixed(nals.iter().copied());
    assert_eq!(annexb::length_prefixed(&unit).collect::<Vec<_>>(), nals);
    let _ = (h264::sync(&unit), h265::sync(&unit), h264::sync(bytes), h265::sync(bytes));
    let _ = annexb::length_prefixed(bytes).count();
    let _ = h264::ParameterSets::from_nals(nals.iter().copied()).video();
    let _ = h265::ParameterSets::from_nals(nals.iter().copied()).video();
}
