//! The scaler: planes held against sums in floating point, pictures through the element itself.

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use crate::worker::lanes::Vectors;
use crate::worker::resize::{Axis, Depth, Eight, Resizer, Ten};
use crate::worker::{elements, scaler};

/// Of a size and another size.
type Change = (usize, usize);

const CHANGES: [(Change, Change); 6] = [
    ((192, 128), (108, 72)),
    ((97, 40), (55, 33)),
    ((40, 97), (30, 64)),
    ((333, 401), (3, 2)),
    ((5, 200), (1, 1)),
    ((64, 64), (48, 20)),
];

fn axis((from, to): Change) -> Axis {
    let ratio = from as f64 / to as f64;
    Axis::new(from, to, ratio, ratio / 2.0 - 0.5)
}

/// Bytes without a pattern.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(step).collect()
}

/// One line by the definition of the filter.
fn filtered(line: &[f64], to: usize) -> Vec<f64> {
    let ratio = line.len() as f64 / to as f64;
    let stretch = ratio.max(1.0);
    let cubic = |x: f64| match x.abs() {
        x if x < 1.0 => 1.4 * x.powi(3) - 2.4 * x.powi(2) + 1.0,
        x if x < 2.0 => -0.6 * (x.powi(3) - 5.0 * x.powi(2) + 8.0 * x - 4.0),
        _ => 0.0,
    };
    let made = |n: usize| {
        let centre = (n as f64 + 0.5) * ratio - 0.5;
        let (mut sum, mut weights) = (0.0, 0.0);
        for at in (centre - 2.0 * stretch).floor() as i64..=(centre + 2.0 * stretch).ceil() as i64 {
            let weight = cubic((at as f64 - centre) / stretch);
            sum += weight * line[at.clamp(0, line.len() as i64 - 1) as usize];
            weights += weight;
        }
        sum / weights
    };
    (0..to).map(made).collect()
}

/// Held against what the filter says: how far `made` may be from it, and what is the most that a sample can be.
fn check_plane(((across, down), (most, tolerance)): ((Change, Change), (f64, f64)), source: &[f64], made: &[f64]) {
    let clamped = |line: Vec<f64>| line.into_iter().map(|value| value.clamp(0.0, most)).collect::<Vec<_>>();
    let column = |x: usize| -> Vec<f64> { (0..down.0).map(|y| source[y * across.0 + x]).collect() };
    let columns: Vec<_> = (0..across.0).map(|x| clamped(filtered(&column(x), down.1))).collect();
    for y in 0..down.1 {
        let line: Vec<_> = columns.iter().map(|column| column[y]).collect();
        for (x, wanted) in clamped(filtered(&line, across.1)).into_iter().enumerate() {
            let made = made[y * across.1 + x];
            assert!((made - wanted).abs() < tolerance, "{across:?} {down:?}: {made} for {wanted} at {x}, {y}");
        }
    }
}

#[test]
fn a_plane_is_what_the_filter_says() {
    for (across, down) in CHANGES {
        let source = noise(across.0 * down.0);
        let mut target = vec![0; across.1 * down.1];
        assert!(Resizer::<Eight>::new(axis(across), axis(down)).resize(&source, across.0, &mut target, across.1));
        let numbers = |bytes: &[u8]| bytes.iter().copied().map(f64::from).collect::<Vec<_>>();
        check_plane(((across, down), (255.0, 1.7)), &numbers(&source), &numbers(&target));
    }
}

#[test]
fn a_plane_of_ten_bits_is_what_the_filter_says() {
    for (across, down) in CHANGES {
        let samples: Vec<u16> =
            noise(2 * across.0 * down.0).chunks(2).map(|n| u16::from(n[0]) << 2 | u16::from(n[1] >> 6)).collect();
        let source: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let mut target = vec![0; 2 * across.1 * down.1];
        let mut resizer = Resizer::<Ten>::new(axis(across), axis(down));
        assert!(resizer.resize(&source, 2 * across.0, &mut target, 2 * across.1));
        assert!(!resizer.resize(&source[1..], 2 * across.0, &mut target, 2 * across.1));
        let made: Vec<f64> = target.chunks(2).map(|n| f64::from(u16::from_le_bytes([n[0], n[1]]))).collect();
        let source: Vec<f64> = samples.into_iter().map(f64::from).collect();
        check_plane(((across, down), (1023.0, 2.2)), &source, &made);
    }
}

#[test]
fn a_flat_plane_of_ten_bits_stays_within_a_step() {
    for (across, down) in CHANGES {
        for level in [0u16, 1, 64, 512, 940, 1023] {
            let plane = |size: usize| level.to_le_bytes().repeat(size);
            let mut target = vec![0; 2 * across.1 * down.1];
            let mut resizer = Resizer::<Ten>::new(axis(across), axis(down));
            assert!(resizer.resize(&plane(across.0 * down.0), 2 * across.0, &mut target, 2 * across.1));
            let off = target.chunks(2).map(|n| u16::from_le_bytes([n[0], n[1]]).abs_diff(level)).max();
            assert!(off <= Some(1), "{across:?} {down:?} {level}: off by {off:?}");
        }
    }
}

#[test]
fn a_flat_plane_stays_as_it_is() {
    for (across, down) in CHANGES.into_iter().chain([((1920, 426), (1080, 240))]) {
        for level in [0, 1, 16, 100, 128, 235, 255] {
            let mut target = vec![77; across.1 * down.1];
            let source = vec![level; across.0 * down.0];
            assert!(Resizer::<Eight>::new(axis(across), axis(down)).resize(&source, across.0, &mut target, across.1));
            assert!(target.iter().all(|&byte| byte == level), "{across:?} {down:?} {level}");
        }
    }
}

#[test]
fn the_vectors_of_every_processor_make_what_those_of_this_one_do() {
    fn alike<D: Depth>(source: &[u8]) {
        for (across, down) in CHANGES {
            let made = |mut resizer: Resizer<D>| {
                let mut target = vec![0; D::BYTES * across.1 * down.1];
                assert!(resizer.resize(source, D::BYTES * across.0, &mut target, D::BYTES * across.1));
                target
            };
            let usual = made(Resizer::with(axis(across), axis(down), Vectors::Usual));
            for vectors in Vectors::all() {
                let others = made(Resizer::with(axis(across), axis(down), vectors));
                assert!(usual == others, "{vectors:?} {across:?} {down:?}");
            }
        }
    }
    let bytes = noise(2 * 333 * 401);
    alike::<Eight>(&bytes);
    alike::<Ten>(
        &bytes.iter().enumerate().map(|(n, byte)| if n % 2 == 0 { *byte } else { byte >> 6 }).collect::<Vec<_>>(),
    );
}

#[test]
fn what_lies_between_lines_is_neither_read_nor_written() {
    let (across, down) = CHANGES[1];
    let tight = noise(across.0 * down.0);
    let (stride, target_stride) = (across.0 + 23, across.1 + 9);
    let padded: Vec<u8> = tight.chunks(across.0).flat_map(|line| [line, &[255; 23]].concat()).collect();
    let mut resizer = Resizer::<Eight>::new(axis(across), axis(down));
    let (mut from_tight, mut from_padded) = (vec![0; across.1 * down.1], vec![77; target_stride * down.1]);
    assert!(resizer.resize(&tight, across.0, &mut from_tight, across.1));
    assert!(resizer.resize(&padded, stride, &mut from_padded, target_stride));
    for (tight, padded) in from_tight.chunks(across.1).zip(from_padded.chunks(target_stride)) {
        assert_eq!((tight, &[77; 9][..]), padded.split_at(across.1));
    }
    // The last line needs no padding; a line less is refused.
    let needed = padded.len() - 23;
    assert!(resizer.resize(&padded[..needed], stride, &mut from_padded, target_stride));
    assert!(!resizer.resize(&padded[..needed - 1], stride, &mut from_padded, target_stride));
    assert!(!resizer.resize(&padded, across.0 - 1, &mut from_padded, target_stride));
    assert!(!resizer.resize(&padded, stride, &mut from_padded[..target_stride * (down.1 - 1)], target_stride));
}

/// The element between a source and a sink of these sizes.
struct Line {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    sink: gst_app::AppSink,
    from: gst_video::VideoInfo,
    to: gst_video::VideoInfo,
}

impl Line {
    fn new(from: (u32, u32), to: (u32, u32), site: gst_video::VideoChromaSite) -> Self {
        elements::init().unwrap();
        let info = |(width, height), shape: i32| {
            gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, width, height)
                .chroma_site(site)
                .fps(gst::Fraction::new(25, 1))
                .par(gst::Fraction::new(shape, 1))
                .build()
                .unwrap()
        };
        let (from, to) = (info(from, 1), info(to, 2));
        let source = gst_app::AppSrc::builder().caps(&from.to_caps().unwrap()).format(gst::Format::Time).build();
        let sink = gst_app::AppSink::builder().caps(&to.to_caps().unwrap()).sync(false).build();
        let pipeline = gst::Pipeline::new();
        let scaler = scaler::make().unwrap();
        pipeline.add_many([source.upcast_ref(), &scaler, sink.upcast_ref()]).unwrap();
        gst::Element::link_many([source.upcast_ref(), &scaler, sink.upcast_ref()]).unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        Self { pipeline, source, sink, from, to }
    }

    fn push(&self, buffer: gst::Buffer) -> gst::Buffer {
        self.source.push_buffer(buffer).unwrap();
        self.sink.pull_sample().unwrap().buffer_owned().unwrap()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.pipeline.set_state(gst::State::Null).unwrap();
    }
}

/// A picture that is dark up to sample `edge` of each line of each plane.
fn edges(info: &gst_video::VideoInfo, edge: [usize; 3]) -> gst::Buffer {
    let mut data = vec![0; info.size()];
    for (plane, edge) in edge.into_iter().enumerate() {
        let (stride, height) = (info.stride()[plane] as usize, info.comp_height(plane as u8) as usize);
        for line in data[info.offset()[plane]..][..stride * height].chunks_mut(stride) {
            line[..edge].fill(40);
            line[edge..].fill(200);
        }
    }
    gst::Buffer::from_slice(data)
}

/// Where it is in the middle line of a plane: how many samples are dark, those between counted in part.
fn edge(buffer: &gst::Buffer, info: &gst_video::VideoInfo, plane: u32) -> f64 {
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let (width, height) = (info.comp_width(plane as u8) as usize, info.comp_height(plane as u8) as usize);
    let line = &frame.plane_data(plane).unwrap()[height / 2 * info.stride()[plane as usize] as usize..][..width];
    line.iter().map(|&byte| (200.0 - f64::from(byte)) / 160.0).sum()
}

#[test]
fn luma_and_chroma_stay_where_they_are() {
    for (from, to) in [((960, 540), (640, 360)), ((854, 480), (426, 240)), ((322, 180), (640, 358))] {
        for site in [gst_video::VideoChromaSite::MPEG2, gst_video::VideoChromaSite::JPEG] {
            let line = Line::new(from, to, site);
            let ratio = f64::from(from.0) / f64::from(to.0);
            for at in [60, 101, 122] {
                let made = line.push(edges(&line.from, [at, at, at]));
                let luma = edge(&made, &line.to, 0);
                assert!((luma - at as f64 / ratio).abs() < 0.1, "{from:?} {to:?}: luma at {luma} for {at}");
                // On the left, sample n of chroma is centred half a pixel into pixel 2n.
                let left = if site == gst_video::VideoChromaSite::MPEG2 { 0.5 } else { 0.0 };
                let wanted = ((2.0 * at as f64 - left) / ratio + left) / 2.0;
                for plane in [1, 2] {
                    let chroma = edge(&made, &line.to, plane);
                    let off = 2.0 * (chroma - wanted).abs();
                    assert!(off < 0.1, "{from:?} {to:?} {site:?}: chroma at {chroma} for {wanted}");
                }
            }
        }
    }
}

#[test]
fn a_picture_with_lines_of_its_own_length_is_scaled_alike() {
    let line = Line::new((322, 181), (200, 112), gst_video::VideoChromaSite::MPEG2);
    let plain = edges(&line.from, [101, 50, 60]);
    let mut padded = Vec::new();
    let (mut offsets, mut strides) = ([0; 3], [0; 3]);
    for plane in 0..3 {
        let (stride, width) = (line.from.stride()[plane] as usize, line.from.comp_width(plane as u8) as usize);
        let lines = plain.map_readable().unwrap()[line.from.offset()[plane]..].to_vec();
        (offsets[plane], strides[plane]) = (padded.len(), width as i32 + 77);
        for line in lines.chunks(stride).take(line.from.comp_height(plane as u8) as usize) {
            padded.extend([&line[..width], &[9; 77]].concat());
        }
    }
    let mut padded = gst::Buffer::from_slice(padded);
    let (flags, format) = (gst_video::VideoFrameFlags::empty(), gst_video::VideoFormat::I420);
    gst_video::VideoMeta::add_full(padded.get_mut().unwrap(), flags, format, 322, 181, &offsets, &strides).unwrap();
    let (plain, padded) = (line.push(plain), line.push(padded));
    for plane in 0..3 {
        assert_eq!(edge(&plain, &line.to, plane), edge(&padded, &line.to, plane));
    }
}

#[test]
fn a_picture_of_the_right_size_is_not_touched() {
    let line = Line::new((322, 180), (322, 180), gst_video::VideoChromaSite::MPEG2);
    let picture = edges(&line.from, [101, 50, 60]);
    let there = picture.map_readable().unwrap().as_ptr();
    let came = line.push(picture);
    assert_eq!(came.map_readable().unwrap().as_ptr(), there);
}
