//! Closed captions on their way past the encoder: out of the source's pictures, into a rendition's.

use crate::job::EncodedSample;
use crate::media::codec::captions::{self, Construct};
use crate::media::{Ticks, VideoCodec};
use crate::segment::Cut;

/// The captions of a segment's pictures, in the order of presentation.
#[derive(Debug, Default)]
pub(super) struct Captions(Vec<(Ticks, Vec<Construct>)>);

impl Captions {
    /// Those of the pictures that are presented in the segment.
    pub fn of(cut: &Cut, codec: VideoCodec) -> Self {
        let presented = cut.all().filter(|unit| cut.window.contains(unit.pts));
        let carried = presented.map(|unit| (unit.pts, captions::read(codec, &unit.data)));
        let mut sets: Vec<_> = carried.filter(|(_, constructs)| !constructs.is_empty()).collect();
        sets.sort_by_key(|(pts, _)| *pts);
        Self(sets)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts them into a rendition's pictures, in place of what the encoder may have put there.
    ///
    /// Each set goes into the first picture at or after its own, and what is left into the last: a picture that is
    /// left out hands its captions to the next one, and one that is repeated has them once. `source_time` tells the time
    /// in the source of what is shown at a time.
    pub fn carry(&self, codec: VideoCodec, samples: &mut [EncodedSample], source_time: impl Fn(Ticks) -> Ticks) {
        if self.is_empty() || !captions::holds(codec) {
            return;
        }
        let mut order: Vec<usize> = (0..samples.len()).collect();
        order.sort_by_key(|&index| samples.get(index).map(|sample| sample.pts));
        let mut sets = self.0.iter().peekable();
        for (n, &index) in order.iter().enumerate() {
            let last = n + 1 == order.len();
            let Some(sample) = samples.get_mut(index) else { continue };
            let mut constructs = Vec::new();
            let shows = source_time(sample.pts);
            while let Some((_, set)) = sets.next_if(|(pts, _)| last || *pts <= shows) {
                constructs.extend_from_slice(set);
            }
            sample.data = captions::replace(codec, &sample.data, &constructs);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const H264: VideoCodec = VideoCodec::H264;

    fn set(n: u8) -> Construct {
        [0xfc, n, n]
    }

    fn picture(pts: i64) -> EncodedSample {
        EncodedSample { pts: Ticks(pts), sync: false, data: Bytes::from_static(&[0, 0, 0, 2, 0x41, 0x9a]) }
    }

    /// The first byte of each set, by picture.
    fn check(sets: &[(i64, u8)], pictures: &[i64], expect: &[&[u8]]) {
        let captions = Captions(sets.iter().map(|&(pts, n)| (Ticks(pts), vec![set(n)])).collect());
        let mut samples: Vec<_> = pictures.iter().map(|&pts| picture(pts)).collect();
        captions.carry(H264, &mut samples, |pts| pts);
        let bytes = |sample: &EncodedSample| -> Vec<u8> {
            captions::read(H264, &sample.data).iter().map(|construct| construct[1]).collect()
        };
        assert_eq!(samples.iter().map(bytes).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn sets_stay_with_their_pictures_in_any_decode_order() {
        check(&[(0, 1), (10, 2), (20, 3), (30, 4)], &[0, 30, 10, 20], &[&[1], &[4], &[2], &[3]]);
    }

    #[test]
    fn a_picture_left_out_hands_its_set_to_the_next_and_the_last_takes_the_rest() {
        check(&[(0, 1), (10, 2), (20, 3), (30, 4), (40, 5)], &[0, 20, 35], &[&[1], &[2, 3], &[4, 5]]);
    }

    #[test]
    fn a_repeated_picture_has_them_once() {
        check(&[(0, 1), (20, 2)], &[0, 10, 20, 30], &[&[1], &[], &[2], &[]]);
    }
}
