//! H.264, H.265 and MPEG-2 video: PES payload → one access unit for each picture, and the set-up.

use std::ops::Range;

use bytes::Bytes;

use super::elementary::{Found, Marks, Unit};
use super::picture::{Order, Picture, Pictures, Sequence, begins, pictures};
use crate::media::codec::sets::InForce;
use crate::media::codec::{annexb, h264, h265, mpeg2};
use crate::media::{self, Error, Format, Sync, Ticks, VideoCodec};

/// Bytes of a PES's payload that tell whether a picture begins with it.
const HEAD: usize = 8;
/// Bytes of a sequence header and its extensions; what is more is not believed.
const SET_UP_MAX: usize = 64 << 10;
/// The length of a frame where nothing tells it: 25 frames a second.
const FRAME: i64 = 3600;
/// Stamps farther from those before are of another timeline.
const JUMP: i64 = 10 * 90_000;
/// A buffer that has grown beyond this is given back when it is empty again.
const KEEP: usize = 4 << 20;
/// So is room for the parts of pictures.
const KEEP_PARTS: usize = 1 << 10;

/// One video stream.
#[derive(Debug)]
pub struct Video {
    codec: VideoCodec,
    limit: usize,
    buffer: Vec<u8>,
    /// Those that are being given.
    pictures: Pictures,
    marks: Marks<Stamped>,
    /// Since the last loss, a PES with stamps has begun.
    live: bool,
    /// Where the newest PES with stamps begins, until it is known whether it begins with a picture.
    undecided: Option<usize>,
    /// Pictures are not looked for again in a shorter buffer than this.
    look_again: usize,
    last: Option<Stamped>,
    last_order: Option<Order>,
    /// The latest PTS.
    latest: Option<Ticks>,
    set_up: SetUp,
}

/// A PES's stamps, and where it begins in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamped {
    pts: Ticks,
    dts: Ticks,
    offset: u64,
}

impl Video {
    pub fn new(codec: VideoCodec, name: &str, limit: usize) -> Self {
        Self {
            codec,
            limit,
            buffer: Vec::new(),
            pictures: Pictures::default(),
            marks: Marks::default(),
            live: false,
            undecided: None,
            look_again: 0,
            last: None,
            last_order: None,
            latest: None,
            set_up: SetUp::new(codec, name),
        }
    }

    /// A PES without stamps goes on with the picture before.
    pub fn begin(&mut self, stamps: Option<(Ticks, Ticks)>, offset: u64, found: &mut Vec<Found>) {
        self.decide(found);
        if let Some((pts, dts)) = stamps {
            self.live = true;
            self.marks.put(self.buffer.len(), Stamped { pts, dts, offset });
            self.undecided = Some(self.buffer.len());
        }
    }

    pub fn data(&mut self, data: &[u8], found: &mut Vec<Found>) -> Result<(), Error> {
        if !self.live {
            return Ok(());
        }
        if self.buffer.len() + data.len() > self.limit {
            return Err(Error::OverLimit(format!("an access unit of more than {} bytes", self.limit)));
        }
        self.buffer.extend_from_slice(data);
        if self.undecided.is_some_and(|at| self.buffer.len() >= at + HEAD) {
            self.decide(found);
        }
        Ok(())
    }

    pub fn reset(&mut self) {
        self.buffer.clear();
        self.marks.clear();
        self.undecided = None;
        self.look_again = 0;
        self.live = false;
    }

    pub fn flush(&mut self, found: &mut Vec<Found>) {
        self.give(self.buffer.len(), Keep::Nothing, found);
        self.reset();
    }

    /// Takes over a set-up that is known from elsewhere.
    pub fn know(&mut self, video: &media::Video) {
        self.set_up.know(self.codec, video);
    }

    pub fn offset(&self) -> Option<u64> {
        let in_force = self.last.map(|last| last.offset).filter(|_| !self.buffer.is_empty());
        in_force.or(self.marks.first().map(|mark| mark.offset))
    }

    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// Gives what is whole now that the head of a new PES is here: all pictures before it where it begins with one (but
    /// for a field whose pair this may be), else all but the last, which goes on in it.
    fn decide(&mut self, found: &mut Vec<Found>) {
        let Some(at) = self.undecided.take() else { return };
        let aligned = self.buffer.get(at..).is_some_and(|head| begins(self.codec, head));
        if aligned {
            self.give(at, Keep::Unpaired, found);
        } else if self.buffer.len() >= self.look_again {
            let before = self.buffer.len();
            self.give(at, Keep::Last, found);
            self.look_again = if self.buffer.len() == before { before * 2 } else { 0 };
        }
    }

    fn give(&mut self, end: usize, keep: Keep, found: &mut Vec<Found>) {
        let (buffer, mut done) = (std::mem::take(&mut self.buffer), std::mem::take(&mut self.pictures));
        pictures(self.codec, &buffer[..end], self.set_up.coding, &mut done);
        let kept = done.list.pop_if(|last| match keep {
            Keep::Nothing => false,
            Keep::Unpaired => last.unpaired,
            Keep::Last => true,
        });
        for picture in &done.list {
            self.picture(&buffer, picture, &done.parts[picture.parts.clone()], found);
        }
        let gone = kept.map_or(end, |picture| picture.bytes.start);
        self.buffer = buffer;
        self.buffer.drain(..gone);
        self.marks.shift(gone);
        if self.buffer.capacity() > KEEP && self.buffer.len() < KEEP {
            self.buffer.shrink_to(KEEP);
        }
        if done.parts.capacity() <= KEEP_PARTS {
            self.pictures = done;
        }
    }

    fn picture(&mut self, buffer: &[u8], picture: &Picture, parts: &[Range<usize>], found: &mut Vec<Found>) {
        let parts = || parts.iter().filter_map(|part| buffer.get(part.clone())).filter(|part| !part.is_empty());
        let data = match self.codec {
            VideoCodec::Mpeg2 => Bytes::copy_from_slice(buffer.get(picture.bytes.clone()).unwrap_or_default()),
            // Without what no unit is to hold, or it would be copied once more.
            _ => annexb::to_length_prefixed(parts().filter(|nal| !self.set_up.sets.drops(nal))),
        };
        let changed = match self.codec {
            VideoCodec::Mpeg2 => self.set_up.mpeg2(parts()),
            _ => self.set_up.parameter_sets(&data),
        };
        let mark = self.marks.take(picture.bytes.start);
        if let Some(second) = picture.second {
            // The frame has the stamps of its first field.
            self.marks.take(second);
        }
        let stamped = mark.or_else(|| self.last.map(|last| self.after(last, picture.order)));
        if let Some(format) = changed {
            found.push(Found::Format(format, stamped.map_or(u64::MAX, |stamped| stamped.offset)));
        }
        if !picture.coded {
            return;
        }
        let Some(stamped) = stamped else { return };
        self.last = Some(stamped);
        self.last_order = picture.order;
        self.latest = match self.latest {
            Some(latest) if (stamped.pts - latest).0.abs() < JUMP => Some(latest.max(stamped.pts)),
            _ => Some(stamped.pts),
        };
        let Stamped { pts, dts, offset } = stamped;
        let sync = match self.codec {
            VideoCodec::H264 => h264::sync(&data),
            VideoCodec::H265 => h265::sync(&data),
            VideoCodec::Mpeg2 => mpeg2::sync(&data),
            _ => Sync::No,
        };
        let data = match self.codec {
            VideoCodec::Mpeg2 => data,
            _ => self.set_up.sets.dress(data, sync != Sync::No),
        };
        if self.set_up.readable && !data.is_empty() {
            found.push(Found::Unit(Unit { pts, dts, sync, offset, data }));
        }
    }

    /// The stamps of a picture that has none of its own: decoded a frame later than the one before, and presented as
    /// many frames from it as their order says; where that is counted anew, after all that came before.
    fn after(&self, last: Stamped, order: Option<Order>) -> Stamped {
        let frame = match self.set_up.frame_rate {
            Some((number, per)) if number > 0 && per > 0 => Ticks(i64::from(per) * 90_000 / i64::from(number)),
            _ => Ticks(FRAME),
        };
        let dts = last.dts + frame;
        let pts = match (order, self.last_order) {
            (Some(order), Some(before)) => match order.after(before, frame) {
                Some(later) => last.pts + later,
                None => self.latest.unwrap_or(last.pts) + frame + order.since_first(frame),
            },
            _ => last.pts + frame,
        };
        Stamped { pts: pts.max(dts), dts, offset: last.offset }
    }
}

/// What is left in the buffer when pictures are given.
#[derive(Debug, Clone, Copy)]
enum Keep {
    Nothing,
    /// The last, if it is a field whose pair may come.
    Unpaired,
    Last,
}

/// The stream's set-up as far as it has been seen.
#[derive(Debug)]
struct SetUp {
    name: String,
    sets: InForce,
    /// MPEG-2: the sequence header and its extensions.
    sequence: Bytes,
    format: Option<Format>,
    /// Not found to be of a kind that is not read here.
    readable: bool,
    coding: Option<Sequence>,
    /// The SPS that `coding` was read from.
    coding_of: Bytes,
    frame_rate: Option<(u32, u32)>,
}

impl SetUp {
    fn new(codec: VideoCodec, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            sets: InForce::new(codec),
            sequence: Bytes::new(),
            format: None,
            readable: true,
            coding: None,
            coding_of: Bytes::new(),
            frame_rate: None,
        }
    }

    fn know(&mut self, codec: VideoCodec, video: &media::Video) {
        match codec {
            VideoCodec::Mpeg2 => self.sequence = video.config.clone(),
            _ => self.sets = InForce::of(codec, &video.config).unwrap_or_else(|_| InForce::new(codec)),
        }
        self.know_coding();
        self.frame_rate = video.frame_rate;
        self.format = Some(Format::Video(video.clone()));
    }

    /// The new format, where an access unit's parameter sets change it.
    fn parameter_sets(&mut self, unit: &[u8]) -> Option<Format> {
        let video = self.sets.take(unit).transpose();
        self.know_coding();
        self.believe(video?)?
    }

    /// How the sequence in force codes its slice headers.
    fn know_coding(&mut self) {
        let sps = self.sets.active_sps().unwrap_or_default();
        if self.coding_of != sps {
            self.coding_of = Bytes::copy_from_slice(sps);
            self.coding = Sequence::of(sps);
        }
    }

    fn mpeg2<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>) -> Option<Format> {
        // The extensions of a sequence: sequence, sequence display, sequence scalable.
        let header = parts
            .skip_while(|part| part.first() != Some(&0xb3))
            .take_while(|part| matches!(part.first_chunk(), Some([0xb3, _] | [0xb5, 0x10..=0x2f | 0x50..=0x5f])));
        let mut sequence = Vec::new();
        for part in header {
            if sequence.len() + part.len() > SET_UP_MAX {
                break;
            }
            sequence.extend_from_slice(&[0, 0, 1]);
            sequence.extend_from_slice(part);
        }
        if sequence.is_empty() || sequence == self.sequence {
            return None;
        }
        let changed = self.believe(mpeg2::video(&sequence))?;
        self.sequence = sequence.into();
        changed
    }

    /// None where the set-up is malformed: the one before stays. Else the new format, where it is another.
    fn believe(&mut self, video: Result<media::Video, Error>) -> Option<Option<Format>> {
        let format = match video {
            Ok(video) => {
                self.frame_rate = video.frame_rate;
                Format::Video(video)
            }
            Err(Error::BadMedia(_) | Error::Truncated(_)) => return None,
            Err(_) => Format::Other { kind: "video".into(), codec: self.name.clone() },
        };
        self.readable = matches!(format, Format::Video(_));
        if self.format.as_ref() == Some(&format) {
            return Some(None);
        }
        self.format = Some(format.clone());
        Some(Some(format))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUD: &[u8] = &[0, 0, 0, 1, 9, 0xf0];

    /// Pictures of two slices each; the lengths differ, so that no two are alike.
    fn pictures(count: usize) -> Vec<Vec<u8>> {
        let slice = |first: bool, n: usize| {
            let mut nal = vec![0, 0, 1, 0x41, if first { 0x9a } else { 0x1a }];
            nal.extend(std::iter::repeat_n(n as u8 | 1, 20 + n));
            nal
        };
        (0..count).map(|n| [AUD, &slice(true, n), &slice(false, n)].concat()).collect()
    }

    /// What comes of PES packets that begin at these places of the stream, with these stamps.
    fn read(stream: &[u8], cuts: &[usize], stamps: &[Option<i64>]) -> Vec<(i64, usize)> {
        let mut video = Video::new(VideoCodec::H264, "0x1b", 1 << 20);
        let mut found = Vec::new();
        for (n, (from, stamp)) in cuts.iter().zip(stamps).enumerate() {
            video.begin(stamp.map(|stamp| (Ticks(stamp), Ticks(stamp))), 0, &mut found);
            let to = cuts.get(n + 1).copied().unwrap_or(stream.len());
            for packet in stream[*from..to].chunks(17) {
                video.data(packet, &mut found).expect("is in bounds");
            }
        }
        video.flush(&mut found);
        let unit = |found| if let Found::Unit(unit) = found { Some((unit.pts.0, unit.data.len())) } else { None };
        found.into_iter().filter_map(unit).collect()
    }

    fn check(cuts: impl Fn(&[usize]) -> Vec<usize>, stamps: &[Option<i64>], expect: &[i64]) {
        let pictures = pictures(expect.len());
        // A unit has no delimiter, and a length of four bytes before each slice in place of three of a start code.
        let lengths = pictures.iter().map(|picture| picture.len() - AUD.len() + 2);
        let expect: Vec<(i64, usize)> = expect.iter().copied().zip(lengths).collect();
        let starts: Vec<usize> = (0..pictures.len()).map(|n| pictures[..n].iter().map(Vec::len).sum()).collect();
        assert_eq!(read(&pictures.concat(), &cuts(&starts), stamps), expect);
    }

    #[test]
    fn a_picture_in_each_pes() {
        check(<[usize]>::to_vec, &[Some(1), Some(2), Some(3)], &[1, 2, 3]);
    }

    #[test]
    fn a_pes_without_stamps_goes_on_with_the_picture() {
        let cuts = |starts: &[usize]| vec![0, 30, starts[1], starts[1] + 40];
        check(cuts, &[Some(1), None, Some(2), None], &[1, 2]);
    }

    #[test]
    fn several_pictures_in_a_pes_follow_by_a_frame_each() {
        check(|starts| vec![0, starts[3]], &[Some(0), Some(50_000)], &[0, 3600, 7200, 50_000]);
    }

    #[test]
    fn pes_that_begin_inside_a_picture() {
        for inside in 1..40 {
            let cuts = |starts: &[usize]| vec![0, starts[1] - inside, starts[2] - inside];
            check(cuts, &[Some(1), Some(2), Some(3)], &[1, 2, 3]);
        }
    }

    #[test]
    fn after_a_loss_until_the_next_stamps() {
        let stream = pictures(2).concat();
        let (mut video, mut found) = (Video::new(VideoCodec::H264, "0x1b", 1 << 20), Vec::new());
        video.begin(Some((Ticks(1), Ticks(1))), 0, &mut found);
        video.data(&stream[..20], &mut found).expect("is in bounds");
        video.reset();
        video.data(&stream[20..], &mut found).expect("is in bounds");
        video.begin(None, 0, &mut found);
        video.data(&stream, &mut found).expect("is in bounds");
        video.flush(&mut found);
        assert_eq!(found, []);
    }

    /// x264, interlaced, 64x64: frame_num and pic_order_cnt_lsb of 4 bits.
    const SETS: &[u8] = &[
        0, 0, 0, 1, 0x67, 0x64, 0, 0x15, 0xac, 0xe4, 0x11, 0x36, 0x02, 0x20, 0, 0, 3, 0, 0x20, 0, 0, 6, 0x43, 0xe2,
        0x85, 0x49, 0, 0, 0, 1, 0x68, 0xfb, 0x83, 0xcb, 0x22, 0xc0,
    ];

    /// A P field: first_mb 0, slice_type 5, pps 0, frame_num, field_pic_flag, bottom_field_flag, pic_order_cnt_lsb.
    fn field(frame: u32, bottom: bool) -> Vec<u8> {
        let bottom = u32::from(bottom);
        let bits =
            1 << 31 | 0b00110 << 26 | 1 << 25 | frame << 21 | 1 << 20 | bottom << 19 | (2 * frame + bottom) << 15;
        [AUD, &[0, 0, 1, 0x41], &bits.to_be_bytes(), &[0x77; 30]].concat()
    }

    fn check_fields(pes: &[(Option<i64>, &[Vec<u8>])]) {
        let mut video = Video::new(VideoCodec::H264, "0x1b", 1 << 20);
        let mut found = Vec::new();
        for (n, (stamp, fields)) in pes.iter().enumerate() {
            video.begin(stamp.map(|stamp| (Ticks(stamp), Ticks(stamp))), 0, &mut found);
            let sets = if n == 0 { SETS } else { &[] };
            video.data(&[sets, &fields.concat()].concat(), &mut found).expect("is in bounds");
        }
        video.flush(&mut found);
        let unit = |found: &Found| match found {
            Found::Unit(unit) => Some((unit.pts.0, annexb::length_prefixed(&unit.data).count())),
            Found::Format(..) => None,
        };
        let units: Vec<_> = found.iter().filter_map(unit).collect();
        assert_eq!(units, [(0, 2), (3600, 2), (7200, 2)]);
    }

    #[test]
    fn the_fields_of_a_frame_are_one_unit_however_they_lie_in_pes_packets() {
        let fields: Vec<Vec<u8>> = (0..3).flat_map(|frame| [field(frame, false), field(frame, true)]).collect();
        let stamp = |n: usize| Some(1800 * n as i64);
        let each: Vec<_> = fields.chunks(1).enumerate().map(|(n, field)| (stamp(n), field)).collect();
        check_fields(&each);
        let unstamped: Vec<_> =
            fields.chunks(1).enumerate().map(|(n, field)| (stamp(n).filter(|_| n % 2 == 0), field)).collect();
        check_fields(&unstamped);
        let frames: Vec<_> = fields.chunks(2).enumerate().map(|(n, frame)| (stamp(2 * n), frame)).collect();
        check_fields(&frames);
        // A second field and the first of the next frame in one PES: its stamps are the second field's.
        check_fields(&[
            (stamp(0), &fields[..1]),
            (stamp(1), &fields[1..3]),
            (None, &fields[3..4]),
            (stamp(4), &fields[4..]),
        ]);
    }
}
