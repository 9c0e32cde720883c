//! What pictures look like when they come out: depth, colours, levels, the right way up, of fields, at another rate.

use super::support::{Clip, ffmpeg, run_job, scratch, video_clip};
use crate::job::{Deinterlace, Encoded, Job, Preset, Schedule, Shown, VideoSpec, Work};
use crate::media::codec::{av1, h264, h265, hdr, vp9};
use crate::media::mux::{OutTrack, Part, Sample, cmaf};
use crate::media::{Colour, Format, Hdr, Mastering, Ticks, Timescale, Video, VideoCodec, Window};

const ALL: Window = Window { start: Ticks(i64::MIN), end: Ticks(i64::MAX) };

fn spec(codec: VideoCodec, width: u32, height: u32) -> VideoSpec {
    VideoSpec {
        codec,
        width,
        height,
        crf: 12,
        max_kbps: None,
        preset: Preset::Ultrafast,
        depth: 8,
        deinterlace: Deinterlace::Frame,
        fps: None,
    }
}

fn deep(codec: VideoCodec, width: u32, height: u32) -> VideoSpec {
    VideoSpec { depth: 10, ..spec(codec, width, height) }
}

fn work(renditions: &[VideoSpec], schedules: Vec<Option<Schedule>>) -> Work {
    Work::Video { frame_rate: (25, 1), renditions: renditions.to_vec(), schedules }
}

fn make(job: &Job) -> Vec<Encoded> {
    run_job(job).unwrap_or_else(|failure| panic!("{failure}")).0
}

fn of(clip: &mut Clip) -> &mut Video {
    match &mut clip.track.format {
        Format::Video(video) => video,
        _ => panic!("a clip of pictures"),
    }
}

/// What the coded set-up says.
fn told(codec: VideoCodec, encoded: &Encoded) -> Video {
    match codec {
        VideoCodec::H264 => h264::ParameterSets::from_avcc(&encoded.config).unwrap().0.video().unwrap(),
        VideoCodec::H265 => h265::ParameterSets::from_hvcc(&encoded.config).unwrap().0.video().unwrap(),
        VideoCodec::Vp9 => vp9::video(&encoded.samples[0].data).unwrap(),
        _ => av1::video(&encoded.samples[0].data).unwrap(),
    }
}

/// The pictures as ffmpeg decodes them, in `format` and through `filter`.
fn decode(codec: VideoCodec, encoded: &Encoded, filter: &str, format: &str) -> Vec<u8> {
    let mut pts: Vec<i64> = encoded.samples.iter().map(|sample| sample.pts.0).collect();
    pts.sort_unstable();
    let rank = |at: Ticks| Ticks(pts.binary_search(&at.0).unwrap() as i64 * 3600);
    let track = OutTrack {
        number: 1,
        timescale: Timescale::new(90_000).unwrap(),
        language: None,
        format: Format::Video(told(codec, encoded)),
    };
    let sample = |sample: &crate::job::EncodedSample| Sample {
        pts: rank(sample.pts),
        sync: sample.sync,
        data: sample.data.clone(),
    };
    let samples: Vec<Sample> = encoded.samples.iter().map(sample).collect();
    let part = Part { track: &track, samples: &samples, end: Ticks(pts.len() as i64 * 3600) };
    let (_guard, path) = scratch("out.mp4");
    let header = cmaf::init(std::slice::from_ref(&track)).unwrap();
    std::fs::write(&path, [header, cmaf::segment(1, &[part]).unwrap()].concat()).unwrap();
    let arguments = format!("-i {} -vf {filter} -pix_fmt {format} -fps_mode passthrough -f rawvideo -", path.display());
    ffmpeg(&arguments)
}

/// Which of `pictures` each of `made` is most like.
fn nearest(made: &[u8], pictures: &[u8], size: usize) -> Vec<usize> {
    let distance = |a: &[u8], b: &[u8]| -> u64 { a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum() };
    let like =
        |made: &[u8]| pictures.chunks(size).enumerate().min_by_key(|(_, other)| distance(made, other)).unwrap().0;
    made.chunks(size).map(like).collect()
}

const PQ: Colour = Colour { primaries: 9, transfer: 16, matrix: 9, full_range: false };

fn mastering() -> Mastering {
    Mastering {
        primaries: [(13_250, 34_500), (7_500, 3_000), (34_000, 16_000)],
        white: (15_635, 16_450),
        brightest: 10_000_000,
        darkest: 50,
    }
}

/// Flat pictures of 10 bits with these samples.
fn flat(samples: [u16; 3], colour: Colour) -> Clip {
    let [luma, cb, cr] = samples;
    let mut clip = video_clip(
        VideoCodec::H265,
        &format!(
            "-f lavfi -i nullsrc=size=128x72:rate=25,format=yuv420p10le,geq=lum={luma}:cb={cb}:cr={cr} -frames:v 3"
        ),
        "-c:v libx265 -preset ultrafast -x265-params log-level=error:qp=4 -pix_fmt yuv420p10le",
    );
    let video = of(&mut clip);
    (video.bit_depth, video.colour) = (10, colour);
    clip
}

#[test]
fn ten_bits_stay_ten_bits_where_they_can_and_become_eight_where_not() {
    let clip = flat([503, 514, 478], Colour { primaries: 1, transfer: 1, matrix: 1, full_range: false });
    let deep = |codec, width, height| VideoSpec { crf: 2, ..deep(codec, width, height) };
    let specs = [
        deep(VideoCodec::H265, 128, 72),
        deep(VideoCodec::Vp9, 128, 72),
        deep(VideoCodec::H265, 96, 54),
        spec(VideoCodec::H264, 128, 72),
        spec(VideoCodec::Av1, 64, 36),
    ];
    let made = make(&clip.job(work(&specs, vec![])));
    for (spec, encoded) in specs.iter().zip(&made) {
        let video = told(spec.codec, encoded);
        assert_eq!((video.bit_depth, encoded.samples.len()), (spec.depth, 3), "{:?}", spec.codec);
        let deep = decode(spec.codec, encoded, "null", "yuv420p10le");
        let size = (spec.width * spec.height) as usize;
        let at = |n: usize| u16::from_le_bytes([deep[2 * n], deep[2 * n + 1]]);
        let near = match spec.codec {
            VideoCodec::H265 => 1,
            VideoCodec::H264 => 3,
            _ => 8,
        };
        for (n, wanted) in [(0, 503), (size / 2, 503), (size, 514), (size + size / 4, 478)] {
            assert!(at(n).abs_diff(wanted) <= near, "{:?}: {} for {wanted}", spec.codec, at(n));
        }
    }
}

#[test]
fn high_dynamic_range_is_carried_in_ten_bits_with_what_is_said_of_it() {
    let mut clip = flat([600, 500, 540], PQ);
    let said = Hdr { mastering: Some(mastering()), light: Some((1000, 400)) };
    of(&mut clip).hdr = said;
    for (transfer, hdr_said) in [(Colour::PQ, said), (Colour::HLG, Hdr::default())] {
        let colour = Colour { transfer, ..PQ };
        (of(&mut clip).colour, of(&mut clip).hdr) = (colour, hdr_said);
        let specs = [deep(VideoCodec::H265, 128, 72), deep(VideoCodec::Vp9, 128, 72)];
        let made = make(&clip.job(work(&specs, vec![])));
        let h265 = told(VideoCodec::H265, &made[0]);
        assert_eq!((h265.bit_depth, h265.colour), (10, colour));
        assert_eq!(hdr::of_unit(VideoCodec::H265, &made[0].samples[0].data), hdr_said);
        let vp9 = vp9::with_colour(&told(VideoCodec::Vp9, &made[1]), colour);
        assert_eq!((vp9.bit_depth, vp9.colour), (10, colour));
    }
}

/// The samples of a flat picture once it is BT.709, by the rules of BT.2100, BT.2390 and BT.2087, in plain numbers.
fn brought_down([luma, cb, cr]: [u16; 3], hlg: bool) -> [f64; 3] {
    let y = (f64::from(luma) - 64.0) / 876.0;
    let (u, v) = ((f64::from(cb) - 512.0) / 896.0, (f64::from(cr) - 512.0) / 896.0);
    let (r, b) = (y + 1.4746 * v, y + 1.8814 * u);
    let rgb = [r, (y - 0.2627 * r - 0.0593 * b) / 0.678, b].map(|signal| signal.clamp(0.0, 1.0));
    let eotf = |e: f64| {
        let p = e.powf(1.0 / 78.84375);
        10_000.0 * ((p - 0.8359375).max(0.0) / (18.8515625 - 18.6875 * p)).powf(1.0 / 0.1593017578125)
    };
    let inverse = |light: f64| {
        let p = (light / 10_000.0).powf(0.1593017578125);
        ((0.8359375 + 18.8515625 * p) / (1.0 + 18.6875 * p)).powf(78.84375)
    };
    let scene = |e: f64| {
        if e <= 0.5 { e * e / 3.0 } else { (((e - 0.559_910_73) / 0.178_832_77).exp() + 0.284_668_92) / 12.0 }
    };
    let light = if hlg {
        let scene = rgb.map(scene);
        let luminance = 0.2627 * scene[0] + 0.678 * scene[1] + 0.0593 * scene[2];
        scene.map(|part| 1000.0 * luminance.powf(0.2) * part)
    } else {
        rgb.map(eotf)
    };
    let greatest = light.into_iter().fold(1e-6, f64::max);
    let (most, white) = (inverse(1000.0), inverse(203.0) / inverse(1000.0));
    let (e, knee) = ((inverse(greatest) / most).min(1.0), 1.5 * white - 0.5);
    let t = (e - knee) / (1.0 - knee);
    let spline = (2.0 * t.powi(3) - 3.0 * t.powi(2) + 1.0) * knee
        + (t.powi(3) - 2.0 * t.powi(2) + t) * (1.0 - knee)
        + (3.0 * t.powi(2) - 2.0 * t.powi(3)) * white;
    let factor = eotf(most * if e < knee { e } else { spline }) / greatest / 203.0;
    let [r, g, b] = light.map(|part| part * factor);
    let [r, g, b] = [
        1.660491 * r - 0.587641 * g - 0.072850 * b,
        -0.124550 * r + 1.132900 * g - 0.008349 * b,
        -0.018151 * r - 0.100579 * g + 1.118730 * b,
    ]
    .map(|part| part.clamp(0.0, 1.0).powf(1.0 / 2.4));
    let y = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    [16.0 + 219.0 * y, 128.0 + 224.0 * (b - y) / 1.8556, 128.0 + 224.0 * (r - y) / 1.5748]
}

/// Black, greys, PQ's reference white and beyond, skin, strong colours.
const PATCHES: [[u16; 3]; 8] = [
    [64, 512, 512],
    [200, 512, 512],
    [420, 512, 512],
    [573, 512, 512],
    [723, 512, 512],
    [900, 512, 512],
    [480, 470, 560],
    [400, 640, 430],
];

#[test]
fn high_dynamic_range_becomes_bt709_in_eight_bits_as_the_standards_count_it() {
    for hlg in [false, true] {
        let colour = Colour { transfer: if hlg { Colour::HLG } else { Colour::PQ }, ..PQ };
        for patch in PATCHES {
            let clip = flat(patch, colour);
            let made = make(&clip.job(work(&[spec(VideoCodec::H264, 128, 72)], vec![])));
            let video = told(VideoCodec::H264, &made[0]);
            assert_eq!((video.bit_depth, video.colour), (8, Colour::BT709));
            let pixels = decode(VideoCodec::H264, &made[0], "null", "yuv420p");
            let size = 128 * 72;
            let got = [pixels[size / 2], pixels[size + size / 8], pixels[size + size / 4 + size / 8]];
            for (got, wanted) in got.into_iter().zip(brought_down(patch, hlg)) {
                assert!((f64::from(got) - wanted).abs() < 1.6, "{patch:?} {hlg}: {got} for {wanted:.2}");
            }
        }
    }
}

/// The samples of flat colours stay what they are, whatever the range and the subsampling.
#[test]
fn levels_stay_in_every_range_and_subsampling() {
    let cases = [
        ("yuv420p", false, [16, 128, 128]),
        ("yuv420p", false, [235, 100, 170]),
        ("yuv420p", true, [0, 128, 128]),
        ("yuv420p", true, [255, 128, 128]),
        ("yuv420p", true, [250, 20, 240]),
        ("yuv422p", false, [60, 90, 200]),
        ("yuv444p", false, [200, 60, 70]),
        ("gray", false, [77, 128, 128]),
    ];
    for (format, full_range, [luma, cb, cr]) in cases {
        let chroma = if format == "gray" { String::new() } else { format!(":cb={cb}:cr={cr}") };
        let range = if full_range { "pc" } else { "tv" };
        let mut clip = video_clip(
            VideoCodec::H264,
            &format!(
                "-f lavfi -i nullsrc=size=128x72:rate=25,format={format},geq=lum={luma}{chroma},setparams=range={range} \
                 -frames:v 3"
            ),
            &format!("-c:v libx264 -preset ultrafast -qp 4 -color_range {range} -pix_fmt {format}"),
        );
        of(&mut clip).colour = Colour { primaries: 1, transfer: 1, matrix: 1, full_range };
        for codec in [VideoCodec::H264, VideoCodec::H265, VideoCodec::Vp9, VideoCodec::Av1] {
            let made = make(&clip.job(work(&[spec(codec, 128, 72), spec(codec, 64, 36)], vec![])));
            for (encoded, size) in made.iter().zip([128 * 72, 64 * 36]) {
                let video = told(codec, encoded);
                assert_eq!(video.colour.full_range, full_range, "{codec:?} {format}");
                assert_eq!(video.colour.matrix, 1, "{codec:?} {format}");
                let same = if full_range { "yuvj420p" } else { "yuv420p" };
                let pixels = decode(codec, encoded, "null", same);
                let got = [pixels[size / 2], pixels[size + size / 8], pixels[size + size / 4 + size / 8]];
                let off = got.iter().zip([luma, cb, cr]).map(|(got, wanted)| got.abs_diff(wanted)).max();
                assert!(off <= Some(2), "{codec:?} {format}: {got:?} for {:?}", [luma, cb, cr]);
            }
        }
    }
}

#[test]
fn turned_pictures_come_out_upright_at_any_size() {
    for (width, height) in [(320, 180), (321, 179)] {
        let source = format!("-f lavfi -i testsrc2=size={width}x{height}:rate=25 -frames:v 3");
        let mut clip = video_clip(VideoCodec::H264, &source, "-c:v libx264 -preset ultrafast -crf 10 -pix_fmt yuv444p");
        of(&mut clip).sample_aspect = (4, 3);
        for (rotation, filter) in [(90, "transpose=clock"), (180, "hflip,vflip"), (270, "transpose=cclock")] {
            of(&mut clip).rotation = rotation;
            let (w, h) = if rotation == 180 { (160, 90) } else { (90, 160) };
            let made = make(&clip.job(work(&[spec(VideoCodec::H264, w, h)], vec![])));
            let video = told(VideoCodec::H264, &made[0]);
            let (upright, decoded) = if rotation == 180 { ((w, h), (4, 3)) } else { ((w, h), (3, 4)) };
            assert_eq!((video.width, video.height), upright);
            let close = |a: (u32, u32), b: (u32, u32)| (f64::from(a.0 * b.1) / f64::from(a.1 * b.0) - 1.0).abs() < 0.02;
            assert!(close(video.sample_aspect, decoded), "{rotation}: {:?}", video.sample_aspect);
            let got = decode(VideoCodec::H264, &made[0], "scale=40:40", "gray");
            let wanted = ffmpeg(&format!("{source} -vf {filter},scale=40:40 -pix_fmt gray -f rawvideo -"));
            assert_eq!(got.len(), wanted.len());
            let off: u64 = got.iter().zip(&wanted).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            assert!(off < 6 * wanted.len() as u64, "{width}x{height} {rotation}: {off} over {}", wanted.len());
        }
    }
}

/// 50 pictures a second woven into 25 of two fields.
fn interlaced(codec: VideoCodec, top_first: bool, more: &str) -> Clip {
    let (scan, flag) = if top_first { ("interleave_top", 1) } else { ("interleave_bottom", 0) };
    let first = if top_first { "tff" } else { "bff" };
    let coder = match codec {
        VideoCodec::H264 => format!("-c:v libx264 -preset ultrafast -g 12 -flags +ilme+ildct -x264-params {first}=1"),
        _ => "-c:v mpeg2video -bf 0 -g 12 -flags +ilme+ildct -qscale 2".to_owned(),
    };
    let mut clip = video_clip(
        codec,
        &format!("-f lavfi -i testsrc2=size=320x180:rate=50 -t 1 -vf tinterlace={scan},setfield={first}"),
        &format!("{coder} -top {flag} -pix_fmt yuv420p {more}"),
    );
    of(&mut clip).interlaced = true;
    clip
}

fn every_field(clip: &Clip) -> Schedule {
    let times = clip.pts(ALL);
    let step = times[1] - times[0];
    let shown = |(n, at): (usize, &Ticks)| {
        let shown = |k: usize| Shown { picture: (2 * n + k) as u32, pts: Ticks(2 * at.0 + k as i64 * step.0) };
        [shown(0), shown(1)]
    };
    Schedule {
        timescale: Timescale::new(2 * clip.track.timescale.get()).unwrap(),
        pictures: 2 * times.len() as u32,
        shown: times.iter().enumerate().flat_map(shown).collect(),
        end: Ticks(2 * (times[times.len() - 1] + step).0),
    }
}

#[test]
fn each_field_is_a_picture_where_asked_and_the_first_one_where_not() {
    let progressive =
        ffmpeg("-f lavfi -i testsrc2=size=320x180:rate=50 -t 1 -vf scale=160:90 -pix_fmt gray -f rawvideo -");
    let cases =
        [(VideoCodec::H264, true), (VideoCodec::H264, false), (VideoCodec::Mpeg2, true), (VideoCodec::Mpeg2, false)];
    for (codec, top_first) in cases {
        let clip = interlaced(codec, top_first, "");
        let fields = VideoSpec { deinterlace: Deinterlace::Field, ..spec(VideoCodec::H264, 320, 180) };
        let frames = spec(VideoCodec::H264, 320, 180);
        let both = work(&[fields, frames.clone()], vec![Some(every_field(&clip)), None]);
        let made = make(&clip.job(both));
        let alone = make(&clip.job(work(&[frames], vec![])));
        let count = clip.units.len();
        let like = |encoded: &Encoded| {
            let pixels = decode(VideoCodec::H264, encoded, "scale=160:90", "gray");
            nearest(&pixels, &progressive, 160 * 90)
        };
        assert_eq!(like(&made[0]), (0..2 * count).collect::<Vec<_>>(), "{codec:?} {top_first}");
        let firsts: Vec<usize> = (0..count).map(|n| 2 * n).collect();
        assert_eq!(like(&made[1]), firsts, "{codec:?} {top_first}");
        assert_eq!(like(&alone[0]), firsts, "{codec:?} {top_first}");
        let mut pts: Vec<i64> = made[0].samples.iter().map(|sample| sample.pts.0).collect();
        pts.sort_unstable();
        assert_eq!(pts, every_field(&clip).shown.iter().map(|shown| shown.pts.0).collect::<Vec<_>>());
    }
}

/// Nothing outside a picture is looked at: cut in two, it is deinterlaced as it is in one piece.
#[test]
fn deinterlaced_pictures_are_the_same_on_either_side_of_a_join() {
    let clip = interlaced(VideoCodec::H264, true, "-bf 0");
    let join = (1..clip.units.len()).find(|&n| clip.units[n].sync != crate::media::Sync::No).unwrap();
    let spec = VideoSpec { crf: 4, ..spec(VideoCodec::H264, 320, 180) };
    let pixels = |units: std::ops::Range<usize>| {
        let made = make(&clip.job_of(units, ALL, work(std::slice::from_ref(&spec), vec![])));
        decode(VideoCodec::H264, &made[0], "null", "gray")
    };
    let (whole, parts) = (pixels(0..clip.units.len()), [pixels(0..join), pixels(join..clip.units.len())].concat());
    assert_eq!(whole.len(), parts.len());
    let at = join * 320 * 180;
    for picture in [at - 320 * 180, at] {
        let pair = whole[picture..].iter().zip(&parts[picture..]).take(320 * 180);
        let off: u64 = pair.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        assert!(off < 2 * 320 * 180, "{off}");
    }
}

#[test]
fn pictures_are_dropped_and_repeated_as_scheduled() {
    let source = "-f lavfi -i testsrc2=size=320x180:rate=25 -t 0.4";
    let clip = video_clip(VideoCodec::H264, source, "-c:v libx264 -preset ultrafast -bf 2");
    let schedule = |shown: &[u32]| Schedule {
        timescale: Timescale::new(50).unwrap(),
        pictures: 10,
        shown: (0..).zip(shown).map(|(n, &picture)| Shown { picture, pts: Ticks(n * 7 - 3) }).collect(),
        end: Ticks(1000),
    };
    let orders: [&[u32]; 4] = [&[0, 0, 0, 1, 4, 4, 9], &[3], &[], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 9]];
    let pictures = ffmpeg(&format!("{source} -vf scale=64:36 -pix_fmt gray -f rawvideo -"));
    for codec in [VideoCodec::H264, VideoCodec::H265, VideoCodec::Vp9, VideoCodec::Av1] {
        let specs: Vec<_> = (0..orders.len())
            .map(|n| VideoSpec { fps: Some((30, 1)), ..spec(codec, 320 - 32 * n as u32, 180) })
            .chain([spec(codec, 64, 36)])
            .collect();
        let schedules = orders.iter().map(|order| Some(schedule(order))).collect();
        let made = make(&clip.job(work(&specs, schedules)));
        assert_eq!(made[4].samples.len(), 10, "{codec:?}: the rung below");
        for (order, encoded) in orders.iter().zip(&made) {
            let mut pts: Vec<i64> = encoded.samples.iter().map(|sample| sample.pts.0).collect();
            pts.sort_unstable();
            assert_eq!(pts, (0..order.len() as i64).map(|n| n * 7 - 3).collect::<Vec<_>>(), "{codec:?}");
            if !order.is_empty() {
                let order: Vec<usize> = order.iter().map(|&n| n as usize).collect();
                let pixels = decode(codec, encoded, "scale=64:36", "gray");
                assert_eq!(nearest(&pixels, &pictures, 64 * 36), order, "{codec:?}");
            }
        }
    }
}

#[test]
fn pictures_that_change_their_size_in_mid_segment_are_all_made_at_the_rungs_size() {
    let part = |size: &str, codec, coder: &str| {
        video_clip(codec, &format!("-f lavfi -i testsrc2=size={size}:rate=25 -t 0.4"), coder)
    };
    for (codec, coder) in [
        (VideoCodec::Vp8, "-c:v libvpx -deadline realtime"),
        (VideoCodec::Vp9, "-c:v libvpx-vp9 -deadline realtime -cpu-used 8"),
    ] {
        let mut clip = part("320x180", codec, coder);
        let (past, step) = (clip.units.len() as i64, clip.units[1].pts - clip.units[0].pts);
        for mut unit in part("240x136", codec, coder).units {
            unit.pts = unit.pts + Ticks(past * step.0);
            unit.dts = unit.pts;
            clip.units.push(unit);
        }
        let specs = [spec(VideoCodec::H264, 320, 180), spec(VideoCodec::H264, 160, 90)];
        let made = make(&clip.job(work(&specs, vec![])));
        for (encoded, (width, height)) in made.iter().zip([(320, 180), (160, 90)]) {
            assert_eq!(encoded.samples.len(), 20, "{codec:?}");
            let video = told(VideoCodec::H264, encoded);
            assert_eq!((video.width, video.height), (width, height));
        }
    }
}
