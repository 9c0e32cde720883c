//! A demuxer that goes on in the middle gives the very units that follow there, in every container.

use std::collections::BTreeMap;
use std::process::Command;

use crate::support::data;
use crate::support::media::{Clip, Picture, Shape, Sound};
use bytes::Bytes;
use segmill::media::demux::{Demuxer, Event, Limits, Spool, State};
use segmill::media::{AccessUnit, Error, Track, TrackId};

const PACKET: usize = 188;
const SPLICES: u16 = 0x500;

#[derive(Default)]
struct Memory(Vec<u8>);

impl Spool for Memory {
    fn append(&mut self, data: &[u8]) -> Result<(), Error> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, Error> {
        let from = offset as usize;
        Ok(Bytes::copy_from_slice(&self.0[from..from + length]))
    }
}

/// One unit, with how the input can be taken up at it and the tracks that were told before it.
struct Given {
    unit: AccessUnit,
    state: State,
    tracks: Vec<Track>,
}

fn read(mut demuxer: Demuxer, input: &[&[u8]]) -> Vec<Given> {
    let (mut given, mut tracks) = (Vec::new(), Vec::new());
    let mut events = |demuxer: &mut Demuxer, ends: bool| {
        loop {
            match demuxer.poll() {
                Ok(Some(Event::Tracks { tracks: told, .. })) => tracks = told,
                Ok(Some(Event::Unit(unit))) => {
                    let state = demuxer.state(unit.offset, tracks.clone()).expect("a unit has come");
                    given.push(Given { unit, state, tracks: tracks.clone() });
                }
                Ok(Some(Event::Data(_))) => {}
                Ok(None) => return,
                // A file that is cut where another begins says at its end that samples are missing.
                Err(Error::Truncated(_)) if ends => return,
                Err(error) => panic!("{error}"),
            }
        }
    };
    for piece in input.iter().flat_map(|part| part.chunks(10_000)) {
        demuxer.push(Bytes::copy_from_slice(piece)).expect("it is media");
        events(&mut demuxer, false);
    }
    demuxer.finish();
    events(&mut demuxer, true);
    given
}

fn by_track<'a>(given: impl Iterator<Item = &'a Given>) -> BTreeMap<TrackId, Vec<&'a AccessUnit>> {
    let mut tracks: BTreeMap<TrackId, Vec<&AccessUnit>> = BTreeMap::new();
    given.for_each(|given| tracks.entry(given.unit.track).or_default().push(&given.unit));
    tracks
}

/// Takes the input up at every few units, and compares what is given from there on.
fn check(label: &str, input: &[u8]) {
    let whole = read(Demuxer::new(None, Limits::default(), Box::new(Memory::default())), &[input]);
    assert!(whole.len() > 30, "{label}: {}", whole.len());
    for from in (0..whole.len()).step_by(7) {
        let Given { unit, state, tracks } = &whole[from];
        let (set_up, offset) = (state.set_up_bytes() as usize, state.offset());
        assert!(offset <= unit.offset, "{label}: unit {from}");
        let bytes = postcard::to_allocvec(state).expect("a state can be written");
        let state: State = postcard::from_bytes(&bytes).expect("a state can be read");
        let resumed = Demuxer::resume(&state, Limits::default(), Box::new(Memory::default())).expect("a state");
        let again = read(resumed, &[&input[..set_up], &input[offset as usize..]]);
        let expected = by_track(whole.iter().filter(|given| given.unit.offset >= unit.offset));
        let found = by_track(again.iter().filter(|given| given.unit.offset >= unit.offset));
        for (track, expected) in expected {
            let found = found.get(&track).map(Vec::as_slice).unwrap_or_default();
            assert_eq!(found.len(), expected.len(), "{label}: track {track:?} from unit {from} at {offset}");
            assert!(found == expected, "{label}: track {track:?} from unit {from} at {offset}");
        }
        let told = again.iter().find(|given| given.unit.offset >= unit.offset).map(|given| &given.tracks);
        // Where all is read again nothing is taken over; else the tracks are those that were told.
        let first = again.first().map(|given| given.unit.offset);
        if first == Some(unit.offset) {
            assert!(told.is_none_or(|told| told.is_empty() || told == tracks), "{label}: the tracks at unit {from}");
        }
    }
}

fn clip(shape: Shape, video: Picture, audio: Sound) -> Clip {
    Clip { shape, video: Some(video), audio: Some(audio), gop: 15, b_frames: 2, ..Clip::default() }
}

#[test]
fn every_container_can_be_taken_up_at_any_unit() {
    use {Picture::*, Shape::*, Sound::*};
    for (shape, video, audio) in [
        (Ts, H264, Aac),
        (Ts, H265, Ac3),
        (Ts, Mpeg2, Mp3),
        (FragmentedMp4, H264, Aac),
        (FragmentedMp4, Vp9, Opus),
        (FaststartMp4, H264, Aac),
        (FaststartMp4, H265, Aac),
        (Mp4, H264, Aac),
        (Webm, Vp8, Opus),
        (Webm, Vp9, Opus),
        (MatroskaLive, H264, Aac),
        (MatroskaLive, Mpeg2, Ac3),
    ] {
        let clip = clip(shape, video, audio);
        check(&format!("{shape:?} {video:?} {audio:?}"), &clip.bytes());
    }
}

#[test]
fn an_input_whose_set_up_changes_can_be_taken_up_at_any_unit() {
    use {Picture::*, Shape::*, Sound::*};
    for (shape, video, audio) in
        [(Ts, H264, Aac), (FragmentedMp4, H264, Aac), (FaststartMp4, H264, Aac), (Webm, Vp8, Opus)]
    {
        let before = clip(shape, video, audio);
        let after = Clip { width: 480, height: 270, ..clip(shape, video, audio) };
        check(&format!("two of {shape:?}"), &[before.bytes(), after.bytes()].concat());
    }
}

#[test]
fn parameter_sets_that_come_only_once_are_remembered() {
    // MPEG-TS whose parameter sets stand at the first picture only.
    let once = Clip { more: "-bsf:v filter_units=pass_types=1-6|9", ..clip(Shape::Ts, Picture::H264, Sound::Aac) };
    let (with, without) = (clip(Shape::Ts, Picture::H264, Sound::Aac).bytes(), once.bytes());
    // Of the first file only the first GOP: both have the same layout of time.
    let whole = read(Demuxer::new(None, Limits::default(), Box::new(Memory::default())), &[&with]);
    let second = whole.iter().filter(|given| given.unit.track == whole[0].unit.track).nth(15).expect("a second GOP");
    let input = [&with[..second.unit.offset as usize], &without].concat();
    check("parameter sets only once", &input);
}

/// Pictures, and AAC in LATM whose StreamMuxConfig stands in every `interval`th element.
fn latm(interval: usize, sample_rate: u32) -> Vec<u8> {
    let made = clip(Shape::Ts, Picture::H264, Sound::Aac);
    let made = Clip { sample_rate, ..made };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ffmpeg = |arguments: &str, file: &str| {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(made.path()).args(arguments.split_whitespace());
        let done = ffmpeg.arg(file).current_dir(folder.path()).status().expect("ffmpeg is installed");
        assert!(done.success(), "{arguments}");
    };
    ffmpeg(&format!("-map 0:a -c copy -bsf:a aac_adtstoasc -f latm -smc-interval {interval}"), "sound.latm");
    ffmpeg("-f loas -i sound.latm -map 0:v -map 1:a -c copy -bitexact -f mpegts", "clip.ts");
    std::fs::read(folder.path().join("clip.ts")).expect("a clip that was just made")
}

#[test]
fn the_multiplex_of_latm_is_remembered_where_it_is_told_only_once() {
    let once = latm(60_000, 48_000);
    check("told once", &once);
    check("told now and then", &latm(20, 48_000));
    check("another one in the middle", &[once, latm(60_000, 44_100)].concat());
}

/// A splice section of three packets; between the first two of them are whole pictures.
#[test]
fn a_section_that_begins_before_the_place_and_ends_behind_it_is_not_lost() {
    let clip = Clip { audio: None, frames: 60, ..clip(Shape::Ts, Picture::H264, Sound::Aac) };
    let section = data::splice_insert_of(7, 200_000, 90_000, 400);
    let stream = data::Stream { pid: SPLICES, stream_type: 0x86, descriptors: b"", units: vec![(30, section.clone())] };
    let laden = data::with_streams(&clip.bytes(), b"\x05\x04CUEI", &[stream]);
    let mut packets: Vec<&[u8]> = laden.chunks(PACKET).collect();
    let pid = |packet: &[u8]| u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
    let first = packets.iter().position(|packet| pid(packet) == SPLICES).expect("it was just put in");
    let begins = |packets: &[&[u8]], n: usize| pid(packets[n]) == pid(packets[first + 3]) && packets[n][1] & 0x40 != 0;
    let pictures: Vec<usize> = (first + 3..packets.len()).filter(|n| begins(&packets, *n)).collect();
    packets[first + 1..pictures[3]].rotate_left(2);
    assert!(begins(&packets, first + 1) && pid(packets[pictures[3] - 2]) == SPLICES);
    let (input, place, end) = (packets.concat(), (first + 1) * PACKET, (pictures[3] - 1) * PACKET);

    let mut demuxer = Demuxer::new(None, Limits::default(), Box::new(Memory::default()));
    demuxer.push(Bytes::copy_from_slice(&input[..end])).expect("it is media");
    let mut tracks = Vec::new();
    while let Some(event) = demuxer.poll().expect("it is media") {
        match event {
            Event::Tracks { tracks: told, .. } => tracks = told,
            Event::Unit(_) => {}
            Event::Data(unit) => panic!("{unit:?} is not whole"),
        }
    }
    let state = demuxer.state(place as u64, tracks).expect("media has come");
    assert_eq!(state.offset(), place as u64);
    let bytes = postcard::to_allocvec(&state).expect("a state can be written");
    let state: State = postcard::from_bytes(&bytes).expect("a state can be read");
    let mut resumed = Demuxer::resume(&state, Limits::default(), Box::new(Memory::default())).expect("a state");
    let set_up = state.set_up_bytes() as usize;
    resumed.push(Bytes::copy_from_slice(&input[..set_up])).expect("it is media");
    resumed.push(Bytes::copy_from_slice(&input[place..])).expect("it is media");
    resumed.finish();
    let mut found = Vec::new();
    while let Some(event) = resumed.poll().expect("it is media") {
        if let Event::Data(unit) = event {
            found.push((unit.offset, unit.data));
        }
    }
    assert_eq!(found, [((first * PACKET) as u64, Bytes::from(section))]);
}
