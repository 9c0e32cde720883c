//! Video jobs.

use super::support::{Clip, ffmpeg, run_as_it_comes, run_job, scratch, video_clip};
use crate::job::{Deinterlace, Encoded, EncodedSample, FailureCode, Job, Preset, VideoSpec, Work};
use crate::media::codec::{annexb, h264};
use crate::media::{AccessUnit, Colour, Format, Sync, Ticks, VideoCodec, Window};

const SOURCE: &str = "-f lavfi -i testsrc2=size=320x180:rate=25";

fn spec(codec: VideoCodec, width: u32, height: u32) -> VideoSpec {
    VideoSpec {
        codec,
        width,
        height,
        crf: 24,
        max_kbps: Some(800),
        preset: Preset::Veryfast,
        depth: 8,
        deinterlace: Deinterlace::Frame,
        fps: None,
    }
}

fn work(renditions: &[VideoSpec]) -> Work {
    Work::Video { frame_rate: (25, 1), renditions: renditions.to_vec(), schedules: Vec::new() }
}

fn h264_clip(seconds: f32) -> Clip {
    video_clip(VideoCodec::H264, &format!("{SOURCE} -t {seconds}"), "-c:v libx264 -preset veryfast -g 25 -bf 2")
}

/// One rendition has the window's pictures, all of them, once, and starts with a sync sample.
fn check(job: &Job, clip: &Clip, encoded: &[Encoded]) {
    let expected = clip.pts(job.window);
    for rendition in encoded {
        let mut pts: Vec<Ticks> = rendition.samples.iter().map(|sample| sample.pts).collect();
        pts.sort();
        assert_eq!(pts, expected);
        assert!(rendition.samples[0].sync);
        assert_eq!(rendition.samples.iter().filter(|sample| sample.sync).count(), 1);
        assert_eq!(rendition.samples[0].pts, expected[0]);
    }
}

#[test]
fn a_ladder_has_every_picture_once_on_every_rung() {
    let clip = h264_clip(2.0);
    let job = clip.job(work(&[spec(VideoCodec::H264, 320, 180), spec(VideoCodec::H264, 160, 90)]));
    let (encoded, stats) = run_job(&job).unwrap();
    check(&job, &clip, &encoded);
    assert_eq!((stats.units_in, stats.decoded), (50, 50));
    assert!(stats.cpu_us > 0 && stats.wall_us > 0);
}

#[test]
fn segments_of_a_session_have_the_same_set_up() {
    let clip = h264_clip(2.04);
    let rungs = [spec(VideoCodec::H264, 320, 180), VideoSpec { max_kbps: None, ..spec(VideoCodec::H264, 160, 90) }];
    let set_up = |units: std::ops::Range<usize>| {
        let window = Window { start: Ticks(i64::MIN), end: Ticks(i64::MAX) };
        let (encoded, _) = run_job(&clip.job_of(units, window, work(&rungs))).unwrap();
        encoded.into_iter().map(|rendition| rendition.config).collect::<Vec<_>>()
    };
    let first = set_up(0..25);
    assert_eq!(first, set_up(25..50));
    assert_eq!(first, set_up(50..51), "a segment of one picture");
}

/// What a degraded session relies on: its commonest step down needs no new init.
#[test]
fn faster_presets_that_keep_the_set_up() {
    use Preset::{Superfast, Ultrafast, Veryfast};
    let clip = h264_clip(0.4);
    let cases = [
        (VideoCodec::H264, &[Veryfast, Superfast][..]),
        (VideoCodec::Vp9, &[Veryfast, Superfast, Ultrafast]),
        (VideoCodec::Av1, &[Veryfast, Superfast, Ultrafast]),
    ];
    for (codec, presets) in cases {
        let made = presets.iter().map(|&preset| VideoSpec { preset, ..spec(codec, 320, 180) });
        let (encoded, _) = run_job(&clip.job(work(&made.collect::<Vec<_>>()))).unwrap();
        assert!(encoded.windows(2).all(|pair| pair[0].config == pair[1].config), "{codec:?}");
    }
}

/// The windows of two jobs meet inside units that both have: each picture is in one of them.
#[test]
fn pre_roll_and_post_roll_are_decoded_and_dropped() {
    let clip = h264_clip(3.0);
    let start = clip.units[25].pts;
    let end = clip.units[50].pts;
    let window = Window { start, end };
    let job = clip.job_of(0..75, window, work(&[spec(VideoCodec::H264, 320, 180)]));
    let (encoded, stats) = run_job(&job).unwrap();
    assert_eq!((stats.units_in, stats.decoded), (25, 25));
    check(&job, &clip, &encoded);
}

#[test]
fn pictures_are_the_ones_that_went_in_in_their_order() {
    let clip = h264_clip(1.0);
    let job = clip.job(work(&[spec(VideoCodec::H264, 320, 180), spec(VideoCodec::H264, 160, 90)]));
    let (encoded, _) = run_job(&job).unwrap();
    let source = ffmpeg(&format!("{SOURCE} -t 1 -vf scale=64:36 -pix_fmt gray -f rawvideo -"));
    for rendition in &encoded {
        let pictures = decode_h264(rendition, "64:36");
        assert_eq!(pictures.len(), source.len());
        for (n, picture) in pictures.chunks(64 * 36).enumerate() {
            let distance = |other: &[u8]| -> u64 {
                other.iter().zip(picture).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum()
            };
            let nearest = source.chunks(64 * 36).enumerate().min_by_key(|(_, other)| distance(other));
            assert_eq!(nearest.map(|(n, _)| n), Some(n));
        }
    }
}

/// As grey pictures of that size.
fn decode_h264(rendition: &Encoded, size: &str) -> Vec<u8> {
    let (_guard, path) = scratch("out.h264");
    let (sets, _) = h264::ParameterSets::from_avcc(&rendition.config).unwrap();
    let mut stream = Vec::new();
    let mut add = |nal: &[u8]| stream.extend([&[0, 0, 0, 1], nal].concat());
    sets.sps.iter().chain(&sets.pps).for_each(|nal| add(nal));
    rendition.samples.iter().for_each(|sample| annexb::length_prefixed(&sample.data).for_each(&mut add));
    std::fs::write(&path, stream).unwrap();
    ffmpeg(&format!("-i {} -vf scale={size} -pix_fmt gray -vsync passthrough -f rawvideo -", path.display()))
}

/// Uneven times, B pictures, a time before zero: what comes back is what went in.
/// Left to itself x264 spends less on them: nothing follows that would gain by it.
#[test]
fn the_last_pictures_of_a_segment_are_as_good_as_those_before() {
    const LUMA: usize = 320 * 180;
    let input = "-f lavfi -i mandelbrot=size=320x180:rate=25 -t 2";
    let clip = video_clip(VideoCodec::H264, input, "-c:v libx264 -preset veryfast -crf 6 -pix_fmt yuv420p");
    let Format::Video(video) = &clip.track.format else { panic!("video") };
    let sample = |unit: &AccessUnit| EncodedSample { pts: unit.pts, sync: false, data: unit.data.clone() };
    let samples = clip.units.iter().map(sample).collect();
    let source = decode_h264(&Encoded { config: video.config.clone(), samples }, "320:180");
    let window = Window { start: clip.units[0].pts, end: Ticks(i64::MAX) };
    let works = work(&[VideoSpec { max_kbps: None, ..spec(VideoCodec::H264, 320, 180) }]);
    let job = clip.job_of(0..clip.units.len(), window, works);
    for (encoded, _) in [run_job(&job).unwrap(), run_as_it_comes(&job).unwrap()] {
        check(&job, &clip, &encoded);
        let made = decode_h264(&encoded[0], "320:180");
        assert_eq!(made.len(), source.len());
        let pictures = made.chunks_exact(LUMA).zip(source.chunks_exact(LUMA));
        let square = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b)).powi(2);
        let errors: Vec<f64> = pictures.map(|(a, b)| a.iter().zip(b).map(square).sum()).collect();
        let mean = |errors: &[f64]| errors.iter().sum::<f64>() / errors.len() as f64;
        let (last, before) = (mean(&errors[48..]), mean(&errors[10..40]));
        assert!(last < 1.1 * before, "{last} to {before}");
    }
}

#[test]
fn times_that_keep_no_rate_come_back_to_the_tick() {
    let mut clip = h264_clip(1.0);
    let start = clip.units[0].pts.0;
    for unit in &mut clip.units {
        let n = (unit.pts.0 - start) / 512;
        unit.pts = Ticks(n * n * n * 97 - 5_000);
    }
    for codec in [VideoCodec::H264, VideoCodec::H265, VideoCodec::Vp9, VideoCodec::Av1] {
        let job = clip.job(work(&[spec(codec, 160, 90)]));
        let (encoded, _) = run_job(&job).unwrap();
        check(&job, &clip, &encoded);
    }
}

#[test]
fn every_codec_is_decoded() {
    let codecs = [
        (VideoCodec::H265, "-c:v libx265 -preset ultrafast -x265-params log-level=error"),
        (VideoCodec::Vp8, "-c:v libvpx -deadline realtime"),
        (VideoCodec::Vp9, "-c:v libvpx-vp9 -deadline good -cpu-used 5 -lag-in-frames 16 -auto-alt-ref 1"),
        (VideoCodec::Av1, "-c:v libaom-av1 -cpu-used 8 -lag-in-frames 16"),
        (VideoCodec::Mpeg2, "-c:v mpeg2video -bf 0"),
    ];
    for (codec, output) in codecs {
        let clip = video_clip(codec, &format!("{SOURCE} -t 1"), output);
        let job = clip.job(work(&[spec(VideoCodec::H264, 160, 90)]));
        let (encoded, stats) = run_job(&job).unwrap_or_else(|failure| panic!("{codec:?}: {failure}"));
        assert_eq!((stats.units_in, stats.decoded), (25, 25), "{codec:?}");
        check(&job, &clip, &encoded);
    }
}

#[test]
fn every_codec_is_encoded_with_the_same_set_up_for_every_segment() {
    let clip = h264_clip(1.0);
    let half = Window { start: Ticks(i64::MIN), end: clip.units[10].pts };
    for codec in [VideoCodec::H265, VideoCodec::Vp9, VideoCodec::Av1] {
        for max_kbps in [Some(500), None] {
            let work = work(&[VideoSpec { max_kbps, ..spec(codec, 160, 90) }]);
            let whole = clip.job(work.clone());
            let (encoded, _) = run_job(&whole).unwrap_or_else(|failure| panic!("{codec:?}: {failure}"));
            check(&whole, &clip, &encoded);
            let part = clip.job_of(0..25, half, work);
            let (again, _) = run_job(&part).unwrap();
            check(&part, &clip, &again);
            assert_eq!(encoded[0].config, again[0].config, "{codec:?}");
        }
    }
}

#[test]
fn other_sample_formats_become_8_bit_420() {
    for format in ["yuv420p10le", "yuv422p", "yuv444p"] {
        let output = format!("-pix_fmt {format} -c:v libx264 -preset ultrafast");
        let clip = video_clip(VideoCodec::H264, &format!("{SOURCE} -t 0.4"), &output);
        let job = clip.job(work(&[spec(VideoCodec::H264, 160, 90)]));
        let (encoded, _) = run_job(&job).unwrap_or_else(|failure| panic!("{format}: {failure}"));
        check(&job, &clip, &encoded);
    }
}

#[test]
fn interlaced_pictures_come_out_one_for_one() {
    let output = "-c:v libx264 -preset ultrafast -flags +ilme+ildct -x264-params tff=1";
    let mut clip = video_clip(VideoCodec::H264, &format!("{SOURCE} -t 1"), output);
    if let Format::Video(video) = &mut clip.track.format {
        video.interlaced = true;
    }
    let job = clip.job(work(&[spec(VideoCodec::H264, 160, 90)]));
    let (encoded, _) = run_job(&job).unwrap();
    check(&job, &clip, &encoded);
}

#[test]
fn units_that_are_no_media_are_the_clients_fault() {
    let mut clip = h264_clip(0.4);
    for (n, unit) in clip.units.iter_mut().enumerate() {
        unit.data = (0..500).map(|k| (k * 7 + n * 13) as u8 | 1).collect();
    }
    let failure = run_job(&clip.job(work(&[spec(VideoCodec::H264, 160, 90)]))).unwrap_err();
    assert_eq!(failure.code, FailureCode::BadMedia, "{failure}");
}

#[test]
fn a_set_up_that_is_no_set_up_is_the_clients_fault() {
    let mut clip = h264_clip(0.4);
    if let Format::Video(video) = &mut clip.track.format {
        video.config = vec![7; 40].into();
    }
    let failure = run_job(&clip.job(work(&[spec(VideoCodec::H264, 160, 90)]))).unwrap_err();
    assert_eq!(failure.code, FailureCode::BadMedia, "{failure}");
}

#[test]
fn a_lost_picture_is_not_passed_over() {
    let mut clip = h264_clip(1.0);
    clip.units[12].data = clip.units[12].data.slice(..5);
    let failure = run_job(&clip.job(work(&[spec(VideoCodec::H264, 160, 90)]))).unwrap_err();
    assert!(matches!(failure.code, FailureCode::BadMedia | FailureCode::FrameMismatch), "{failure}");
}

#[test]
fn a_codec_that_is_only_read_is_not_made() {
    let clip = h264_clip(0.2);
    let failure = run_job(&clip.job(work(&[spec(VideoCodec::Vp8, 160, 90)]))).unwrap_err();
    assert_eq!(failure.code, FailureCode::UnsupportedCodec);
}

#[test]
fn the_quality_number_and_the_cap_are_obeyed() {
    let clip = video_clip(
        VideoCodec::H264,
        "-f lavfi -i testsrc2=size=320x180:rate=25 -t 2 -vf noise=alls=30:allf=t",
        "-c:v libx264 -preset veryfast -crf 12",
    );
    for codec in [VideoCodec::H264, VideoCodec::H265, VideoCodec::Vp9, VideoCodec::Av1] {
        let kbps = |crf: u8, max_kbps: Option<u32>| {
            let (encoded, _) =
                run_job(&clip.job(work(&[VideoSpec { crf, max_kbps, ..spec(codec, 320, 180) }]))).unwrap();
            encoded[0].samples.iter().map(|sample| sample.data.len()).sum::<usize>() * 8 / 2 / 1000
        };
        let (fine, coarse, capped) = (kbps(20, None), kbps(40, None), kbps(20, Some(300)));
        println!("{codec:?}: {fine} {coarse} {capped} kb/s");
        assert!(fine > coarse * 3 / 2, "{codec:?}: {fine} and {coarse} kb/s");
        assert!(capped < 600 && capped < fine / 2, "{codec:?}: {capped} of {fine} kb/s");
    }
}

/// With one frame thread, libav would lose the whole of the second group of pictures.
#[test]
fn an_open_group_of_pictures_is_entered_without_loss() {
    let mut clip = video_clip(
        VideoCodec::H264,
        &format!("{SOURCE} -t 3"),
        "-c:v libx264 -preset medium -bf 3 -x264-params open-gop=1:keyint=25:min-keyint=25:scenecut=0:b-pyramid=normal",
    );
    let syncs: Vec<usize> = (1..clip.units.len()).filter(|&n| h264::sync(&clip.units[n].data) != Sync::No).collect();
    let (start, end) = (syncs[0], syncs[1]);
    assert_eq!(h264::sync(&clip.units[start].data), Sync::OpenGop);
    let window = Window { start: clip.units[start].pts, end: clip.units[end].pts };
    // The leading pictures after the next entry are of this window.
    let last = (end..clip.units.len()).rfind(|&n| window.contains(clip.units[n].pts)).unwrap_or(end);
    clip.units.truncate(last + 1);
    for first in [0, start] {
        let mut job = clip.job_of(first..last + 1, window, work(&[spec(VideoCodec::H264, 160, 90)]));
        job.threads = 1;
        let (encoded, _) = run_job(&job).unwrap_or_else(|failure| panic!("from {first}: {failure}"));
        check(&job, &clip, &encoded);
    }
}

/// What a segment's pictures are from an open point on, decoded from the GOP before: those of a decoder that has come from
/// the beginning, to the last bit that an encoder makes of them.
#[test]
fn pictures_from_an_open_point_are_those_of_a_continuous_decode() {
    let clip = video_clip(
        VideoCodec::H264,
        &format!("{SOURCE} -t 4 -vf noise=alls=12:allf=t"),
        "-c:v libx264 -preset medium -bf 3 -refs 4 \
         -x264-params open-gop=1:keyint=25:min-keyint=25:scenecut=0:b-pyramid=normal",
    );
    let syncs: Vec<usize> = (0..clip.units.len()).filter(|&n| h264::sync(&clip.units[n].data) != Sync::No).collect();
    assert!(syncs.len() > 3);
    for place in 1..syncs.len() - 1 {
        let (before, start, end) = (syncs[place - 1], syncs[place], syncs[place + 1]);
        assert_eq!(h264::sync(&clip.units[start].data), Sync::OpenGop);
        let window = Window { start: clip.units[start].pts, end: clip.units[end].pts };
        let last = (end..clip.units.len()).rfind(|&n| window.contains(clip.units[n].pts)).unwrap_or(end);
        let made = |first: usize| {
            // VP9 by one thread makes the same bytes of the same pictures.
            let mut job = clip.job_of(first..last + 1, window, work(&[spec(VideoCodec::Vp9, 320, 180)]));
            job.threads = 1;
            run_job(&job).map(|(encoded, stats)| {
                assert_eq!((stats.decoded, stats.moved), (stats.units_in, 0));
                encoded
            })
        };
        let continuous = made(0).unwrap();
        assert_eq!(made(before).unwrap(), continuous, "the GOP before is enough, at point {place}");
    }
}

#[test]
fn a_job_that_is_at_work_while_it_comes_is_made_as_if_it_had_been_whole() {
    let codecs = [
        (VideoCodec::H264, "-c:v libx264 -preset veryfast -bf 3"),
        (VideoCodec::H265, "-c:v libx265 -preset ultrafast -x265-params log-level=error:bframes=3"),
        (VideoCodec::Vp8, "-c:v libvpx -deadline realtime"),
        (VideoCodec::Vp9, "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -lag-in-frames 0"),
        (VideoCodec::Av1, "-c:v libaom-av1 -cpu-used 8 -lag-in-frames 0"),
        (VideoCodec::Mpeg2, "-c:v mpeg2video -bf 0"),
    ];
    for (codec, output) in codecs {
        let clip = video_clip(codec, &format!("{SOURCE} -t 1"), output);
        let start = clip.units[0].pts;
        for spec in [spec(VideoCodec::H264, 320, 180), spec(VideoCodec::Vp9, 160, 90)] {
            let window = Window { start, end: clip.units.iter().map(|unit| unit.pts).max().unwrap() + Ticks(1) };
            let job = Job { threads: 1, ..clip.job_of(0..clip.units.len(), window, work(&[spec])) };
            let whole = run_job(&job).unwrap();
            let (encoded, stats) = run_as_it_comes(&job).unwrap_or_else(|failure| panic!("{codec:?}: {failure}"));
            assert!(encoded == whole.0, "{codec:?}");
            assert_eq!((stats.units_in, stats.decoded, stats.moved), (25, 25, 0), "{codec:?}");
        }
    }
}

/// It says so, and can be done when it is whole.
#[test]
fn a_job_that_depends_on_what_is_still_to_come_is_not_done_while_it_comes() {
    let mut clip = video_clip(VideoCodec::H264, &format!("{SOURCE} -t 1"), "-c:v libx264 -preset veryfast -bf 0");
    let window = Window { start: clip.units[0].pts, end: Ticks(i64::MAX) };
    let all = 0..clip.units.len();
    let works = work(&[spec(VideoCodec::H264, 160, 90)]);
    let early = Window { end: clip.units[20].pts, ..window };
    let failed = |job: &Job| run_as_it_comes(job).err().map(|failure| failure.code);
    assert_eq!(failed(&clip.job_of(all.clone(), early, works.clone())), Some(FailureCode::FrameMismatch));
    let (a, b) = (clip.units[5].pts, clip.units[6].pts);
    (clip.units[5].pts, clip.units[6].pts) = (b, a);
    let job = clip.job_of(all, window, works);
    assert_eq!(failed(&job), Some(FailureCode::FrameMismatch));
    let (encoded, _) = run_job(&job).unwrap();
    check(&job, &clip, &encoded);
}

/// Each picture has one of the window's times, in the decoder's order, whichever stamp it came with.
#[test]
fn stamps_that_contradict_the_decoder_are_given_in_its_order_by_every_codec() {
    let codecs = [
        (VideoCodec::H264, "-c:v libx264 -preset veryfast -bf 0"),
        (VideoCodec::H265, "-c:v libx265 -preset ultrafast -x265-params log-level=error:bframes=0"),
        (VideoCodec::Vp8, "-c:v libvpx -deadline realtime"),
        (VideoCodec::Vp9, "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -lag-in-frames 0"),
        (VideoCodec::Av1, "-c:v libaom-av1 -cpu-used 8 -lag-in-frames 0"),
        (VideoCodec::Mpeg2, "-c:v mpeg2video -bf 0"),
    ];
    for (codec, output) in codecs {
        let mut clip = video_clip(codec, &format!("{SOURCE} -t 1"), output);
        let job = clip.job(work(&[VideoSpec { max_kbps: None, ..spec(VideoCodec::Vp9, 160, 90) }]));
        let told = |job: &Job| {
            let job = Job { threads: 1, ..job.clone() };
            run_job(&job).unwrap_or_else(|failure| panic!("{codec:?}: {failure}"))
        };
        let (right, stats) = told(&job);
        assert_eq!(stats.moved, 0, "{codec:?}");
        // Decode order is the order of presentation here: two neighbours' stamps change places, and two that lie apart.
        for (a, b) in [(5, 6), (10, 13)] {
            let of_a = clip.units[a].pts;
            clip.units[a].pts = clip.units[b].pts;
            clip.units[b].pts = of_a;
        }
        let job = clip.job(job.work.clone());
        let (encoded, stats) = told(&job);
        check(&job, &clip, &encoded);
        assert_eq!((stats.units_in, stats.decoded, stats.moved), (25, 25, 4), "{codec:?}");
        assert_eq!(encoded, right, "{codec:?}: the same pictures in the same order");
    }
}

/// Samples that are not square keep the picture's shape on every rung, and the colour description comes along.
#[test]
fn shape_and_colour_are_carried_to_every_rung() {
    let mut clip = h264_clip(0.4);
    if let Format::Video(video) = &mut clip.track.format {
        video.sample_aspect = (4, 3);
        video.colour = Colour { primaries: 9, transfer: 14, matrix: 9, full_range: true };
    }
    let job = clip.job(work(&[spec(VideoCodec::H264, 320, 180), spec(VideoCodec::H264, 160, 180)]));
    let (encoded, _) = run_job(&job).unwrap();
    for (rendition, aspect) in encoded.iter().zip([(4, 3), (8, 3)]) {
        let video = h264::ParameterSets::from_avcc(&rendition.config).unwrap().0.video().unwrap();
        assert_eq!(video.sample_aspect, aspect);
        assert_eq!(video.colour, Colour { primaries: 9, transfer: 14, matrix: 9, full_range: true });
        assert_eq!(video.frame_rate, Some((25, 1)));
    }
}
