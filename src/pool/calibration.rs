//! How fast this machine is, measured once by a job of our own before the first client's: a few pictures that the first
//! of two jobs makes into H.264, since there is no encoder in this process, and the second into two renditions.
//!
//! The pictures come to the first job as samples that are not predicted (I_PCM, ITU-T H.264 7.3.5), which need no encoder.

use bytes::Bytes;

use crate::job::{Deinterlace, Job, Outcome, Preset, VideoSpec, Work};
use crate::media::{
    AccessUnit, Chroma, Colour, Format, Hdr, Sync, Ticks, Timescale, Track, TrackId, Video, VideoCodec, Window,
};

/// In macroblocks of 16 by 16 samples.
const COLUMNS: u32 = 40;
const ROWS: u32 = 22;
const PICTURES: u32 = 15;
/// What the second job takes over what the table says of it, on the machine of the table: its pictures are small and few,
/// and a job's beginning weighs more.
pub(super) const USUAL: f64 = 1.4;

/// Makes the pictures into H.264.
pub(super) fn first() -> Job {
    let config = configuration(&sequence(), &picture());
    let units = (0..PICTURES).map(pcm).enumerate();
    job(config, units.map(|(number, data)| unit(number, data, Sync::Idr)).collect(), &[(COLUMNS * 16, ROWS * 16)])
}

/// Makes renditions of what came of the [first]; None where that is nothing.
pub(super) fn second(outcome: &Outcome) -> Option<Job> {
    let made = outcome.renditions.first().filter(|made| !made.samples.is_empty())?;
    let units = made.samples.iter().enumerate().map(|(number, sample)| AccessUnit {
        pts: sample.pts,
        ..unit(number, sample.data.clone(), if sample.sync { Sync::Idr } else { Sync::No })
    });
    let sizes = [(COLUMNS * 16, ROWS * 16), (COLUMNS * 8, ROWS * 8)];
    Some(job(made.config.clone(), units.collect(), &sizes))
}

fn unit(number: usize, data: Bytes, sync: Sync) -> AccessUnit {
    let at = Ticks(i64::try_from(number).unwrap_or(i64::MAX));
    AccessUnit { track: TrackId(1), pts: at, dts: at, duration: None, sync, offset: 0, data }
}

fn job(config: Bytes, units: Vec<AccessUnit>, sizes: &[(u32, u32)]) -> Job {
    let video = Video {
        codec: VideoCodec::H264,
        config,
        codec_string: String::new(),
        width: COLUMNS * 16,
        height: ROWS * 16,
        sample_aspect: (1, 1),
        rotation: 0,
        bit_depth: 8,
        chroma: Chroma::C420,
        colour: Colour::default(),
        hdr: Hdr::default(),
        interlaced: false,
        frame_rate: None,
    };
    let rendition = |&(width, height): &(u32, u32)| VideoSpec {
        codec: VideoCodec::H264,
        width,
        height,
        crf: 23,
        max_kbps: None,
        preset: Preset::Veryfast,
        depth: 8,
        deinterlace: Deinterlace::Frame,
        fps: None,
    };
    let timescale = Timescale::new(PICTURES).expect("not 0");
    Job {
        id: 0,
        seq: 0,
        track: Track { id: TrackId(1), timescale, language: None, format: Format::Video(video) },
        units,
        window: Window { start: Ticks(0), end: Ticks(i64::from(PICTURES)) },
        work: Work::Video {
            frame_rate: (PICTURES, 1),
            renditions: sizes.iter().map(rendition).collect(),
            schedules: vec![None; sizes.len()],
        },
        threads: 1,
    }
}

/// AVCDecoderConfigurationRecord (ISO/IEC 14496-15 5.3.3.1).
fn configuration(sequence: &[u8], picture: &[u8]) -> Bytes {
    let length = |set: &[u8]| u16::try_from(set.len()).expect("a few bytes").to_be_bytes();
    let mut record = vec![1, sequence[1], sequence[2], sequence[3], 0xff, 0xe1];
    record.extend(length(sequence));
    record.extend(sequence);
    record.push(1);
    record.extend(length(picture));
    record.extend(picture);
    record.into()
}

/// A sequence parameter set of the constrained baseline profile, level 3 (7.3.2.1.1).
fn sequence() -> Vec<u8> {
    let mut bits = Bits::new(&[0x67, 66, 0xc0, 30]);
    // Its id, log2_max_frame_num - 4, pic_order_cnt_type, max_num_ref_frames.
    bits.exp_golombs(&[0, 0, 2, 0]);
    bits.put(0, 1);
    bits.exp_golomb(COLUMNS - 1);
    bits.exp_golomb(ROWS - 1);
    // Frames only, direct_8x8_inference, no cropping, nothing of usability.
    bits.put(0b1100, 4);
    bits.end()
}

/// A picture parameter set (7.3.2.2).
fn picture() -> Vec<u8> {
    let mut bits = Bits::new(&[0x68]);
    bits.exp_golomb(0);
    bits.exp_golomb(0);
    // CAVLC, frames only.
    bits.put(0, 2);
    // Slice groups, references of both lists.
    bits.exp_golombs(&[0, 0, 0]);
    bits.put(0, 3);
    // Quantizers, all as they are.
    bits.exp_golombs(&[0, 0, 0]);
    bits.put(0, 3);
    bits.end()
}

/// An access unit of one IDR slice (7.3.3).
fn pcm(number: u32) -> Bytes {
    let mut bits = Bits::new(&[0x65]);
    // The first macroblock, I slices only, the parameter set.
    bits.exp_golombs(&[0, 7, 0]);
    // frame_num.
    bits.put(0, 4);
    // idr_pic_id differs from that of the picture before.
    bits.exp_golomb(number % 2);
    bits.put(0, 2);
    // slice_qp_delta.
    bits.exp_golomb(0);
    for row in 0..ROWS {
        for column in 0..COLUMNS {
            bits.exp_golomb(25);
            bits.align();
            for (plane, size) in [(0, 16), (1, 8), (2, 8)] {
                for y in row * size..(row + 1) * size {
                    bits.bytes.extend((column * size..(column + 1) * size).map(|x| sample(plane, x, y, number)));
                }
            }
        }
    }
    let slice = bits.end();
    let length = u32::try_from(slice.len()).expect("less than a megabyte").to_be_bytes();
    [&length, slice.as_slice()].concat().into()
}

/// Something like a picture: slopes and edges that move at different speeds, with a little noise. From 16 to 235, so that no
/// start code is among the samples.
fn sample(plane: u32, x: u32, y: u32, number: u32) -> u8 {
    let slope = (2 * x + y + 3 * number) / 4 % 128;
    let edges = if ((x + 2 * number) / 24 + (y + number) / 18).is_multiple_of(3) { 60 } else { 0 };
    let noise =
        (x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77) ^ number.wrapping_mul(0xc2b2_ae3d)) >> 13 & 7;
    let value = if plane == 0 { 24 + slope + edges + noise } else { 96 + slope / 2 + noise / 4 };
    u8::try_from(value).unwrap_or(235).clamp(16, 235)
}

/// A NAL unit as it is written.
struct Bits {
    bytes: Vec<u8>,
    /// How many of the last byte are free.
    free: u32,
}

impl Bits {
    fn new(head: &[u8]) -> Self {
        Self { bytes: head.to_vec(), free: 0 }
    }

    fn put(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            self.free -= 1;
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> bit & 1) as u8) << self.free;
            }
        }
    }

    /// ue(v), and se(v) of 0 (9.1).
    fn exp_golomb(&mut self, value: u32) {
        let length = 32 - (value + 1).leading_zeros();
        self.put(0, length - 1);
        self.put(value + 1, length);
    }

    fn exp_golombs(&mut self, values: &[u32]) {
        values.iter().for_each(|&value| self.exp_golomb(value));
    }

    fn align(&mut self) {
        self.free = 0;
    }

    /// With the trailing bits, and what keeps start codes out (7.4.1.1).
    fn end(mut self) -> Vec<u8> {
        self.put(1, 1);
        let mut escaped = Vec::with_capacity(self.bytes.len() + 16);
        let mut zeros = 0;
        for byte in self.bytes {
            if zeros >= 2 && byte <= 3 {
                escaped.push(3);
                zeros = 0;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            escaped.push(byte);
        }
        escaped
    }
}
