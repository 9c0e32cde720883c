use proptest::prelude::*;

use super::*;
use crate::media::codec::bits::tests::hex;

/// The starts of streams by libaom: temporal delimiter, sequence header, frame (cut).
const MAIN_720: &str = "1200 0a0b0000002d4cffb3c6af9804 32033c1000";
const TEN_BIT: &str = "1200 0a0e00000004457e3e6d7ca848804820 3203 1000 84";
const GREY: &str = "1200 0a0d00000004457e3e6d7c9848804d 3203100084";

#[test]
fn reads_the_sequence_header() {
    let video = video(&hex(MAIN_720)).unwrap();
    assert_eq!((video.width, video.height), (1280, 720));
    assert_eq!(video.codec_string, "av01.0.05M.08");
    assert_eq!((video.bit_depth, video.chroma), (8, Chroma::C420));
    assert_eq!(video.config, hex("81050c00 0a0b0000002d4cffb3c6af9804"));
    assert_eq!(video_from_av1c(&video.config), Ok(video));
}

#[test]
fn reads_ten_bits_and_colour() {
    let video = video(&hex(TEN_BIT)).unwrap();
    assert_eq!((video.width, video.height, video.bit_depth), (352, 288, 10));
    assert_eq!(video.colour, Colour { primaries: 9, transfer: 16, matrix: 9, full_range: false });
    assert_eq!(video.codec_string, "av01.0.00M.10.0.110.09.16.09.0");
    assert_eq!(video.config[..4], hex("81004c00"));
}

#[test]
fn reads_monochrome() {
    let video = video(&hex(GREY)).unwrap();
    assert_eq!(video.chroma, Chroma::Monochrome);
    assert_eq!(video.codec_string, "av01.0.00M.08.1.110.09.16.09.1");
    assert_eq!(video.config[..4], hex("81001c00"));
}

#[test]
fn reads_a_record_of_another_writer() {
    // Unlike ours, its sequence header has been rewritten by the packager.
    let video = video_from_av1c(&hex("81050c00 0a0b0000002d4cffb3c02f8004")).unwrap();
    assert_eq!((video.width, video.height, video.codec_string.as_str()), (1280, 720, "av01.0.05M.08"));
}

#[test]
fn tells_key_frames() {
    let sequence = "0a0b0000002d4cffb3c6af9804";
    let cases = [
        (format!("1200 {sequence} 3202 1000"), true),
        (format!("{sequence} 1a02 1000"), true),
        (format!("{sequence} 3202 0000"), false), // not shown
        (format!("{sequence} 3202 3000"), false), // inter
        (format!("{sequence} 3202 5000"), false), // intra only
        (format!("{sequence} 3202 9000"), false), // shows an existing one
        ("1200 3202 1000".into(), false),         // no sequence header
        (sequence.into(), false),
        ("0a0118 320100".into(), true), // reduced still picture
        (format!("{sequence} b202 1000"), false),
        (String::new(), false),
    ];
    for (unit, expected) in cases {
        assert_eq!(is_key_frame(&hex(&unit)), expected, "{unit}");
    }
}

#[test]
fn strips_a_leading_delimiter_without_copying() {
    let unit = Bytes::from(hex("1200 0a0118 32021000"));
    let stripped = strip(unit.clone());
    assert_eq!(stripped, hex("0a0118 32021000"));
    assert_eq!(stripped.as_ptr(), unit[2..].as_ptr());
    let clean = strip(stripped.clone());
    assert_eq!((clean.as_ptr(), clean.len()), (stripped.as_ptr(), stripped.len()));
}

#[test]
fn strips_delimiters_tile_lists_and_padding_anywhere() {
    let cases = [
        ("1200 0a0118 7a020080 4201ff 32021000 7a00", "0a0118 32021000"),
        ("1200", ""),
        ("", ""),
        ("1200 0a0118 30100000", "0a0118 30100000"), // the last one without a size
        ("1600 00 0a0118", "0a0118"),                // with an extension
        ("1200 0a05ff", "0a05ff"),                   // malformed from here on
        ("1200 0a0118 1200 ff1200", "0a0118 ff1200"),
    ];
    for (unit, expected) in cases {
        assert_eq!(strip(hex(unit).into()), hex(expected), "{unit}");
    }
}

#[test]
fn sizes_are_bounded() {
    assert_eq!(leb128(&hex("e58e2600")), Some((624_485, &[0][..])));
    assert_eq!(leb128(&hex("80808000 01")), Some((0, &[1][..])));
    assert_eq!(leb128(&hex("ffffffff0f")), Some((u32::MAX as usize, &[][..])));
    assert_eq!(leb128(&hex("ffffffff1f")), None);
    assert_eq!(leb128(&hex("808080808080808000")), None);
    assert_eq!(leb128(&hex("80")), None);
}

#[test]
fn refuses_what_is_malformed() {
    for record in [
        "",
        "81050c",
        "01050c00 0a0b0000002d4cffb3c02f8004",
        "81050c00",
        "81050c00 0a0b0000002d",
        "81050c00 0a03000000",
        "81050c00 0a01e0",
    ] {
        assert_eq!(video_from_av1c(&hex(record)).unwrap_err().code(), "bad_media", "{record}");
    }
    let long = [hex("0a808008"), hex("0000002d4cffb3c6af9804"), vec![0; 1 << 17]].concat();
    assert_eq!(video(&long).unwrap_err().code(), "bad_media");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(tail in prop::collection::vec(any::<u8>(), 0..60), at in 0usize..16) {
        let _ = (is_key_frame(&tail), video(&tail), video_from_av1c(&tail));
        let mut unit = hex(MAIN_720);
        unit.truncate(at);
        unit.extend(tail);
        if let Ok(video) = video(&unit) {
            prop_assert_eq!(video_from_av1c(&video.config), Ok(video));
        }
        let stripped = strip(unit.into());
        prop_assert_eq!(strip(stripped.clone()), stripped);
    }

    #[test]
    fn any_sequence_header_is_read_or_refused(header in prop::collection::vec(any::<u8>(), 0..127)) {
        let unit = [&[0x0a, header.len() as u8], &header[..]].concat();
        if let Ok(video) = video(&unit) {
            prop_assert_eq!(video_from_av1c(&video.config), Ok(video));
        }
    }
}

#[test]
fn a_colour_description_is_written_into_a_sequence_header_and_nothing_else_is_changed() {
    let mut read = 0;
    for unit in [MAIN_720, TEN_BIT, GREY].map(hex) {
        let before = video(&unit).unwrap();
        let colour = Colour { primaries: 9, transfer: 16, matrix: 9, full_range: !before.colour.full_range };
        let made = with_colour(&Bytes::from(unit.clone()), colour).unwrap();
        let after = video(&made).unwrap();
        if before.chroma != Chroma::C420 {
            assert_eq!(after, before);
            continue;
        }
        read += 1;
        assert_eq!(after.colour, colour);
        let again = with_colour(&made, before.colour).unwrap();
        let again = video(&again).unwrap();
        assert_eq!(Video { config: before.config.clone(), ..again }, before);
        let rest =
            |unit: &[u8]| obus(unit).filter(|obu| obu.kind != 1).map(|obu| obu.payload.to_vec()).collect::<Vec<_>>();
        assert_eq!(rest(&made), rest(&unit));
    }
    assert!(read > 0);
}
