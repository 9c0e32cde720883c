use bytes::{Buf, BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::fixtures::video_job;
use super::pool_end::{self, encode_job};
use super::worker_end::Part;
use super::*;
use crate::job::FailureCode;
use crate::media::VideoCodec;

/// Reads `bytes` at the pool's end, as if they came in pieces of `piece` bytes; ends with the first error.
fn read_all(bytes: &[u8], piece: usize, limit: usize) -> (Vec<FromWorker>, Option<Error>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.build().expect("a runtime without drivers").block_on(async {
        let (mut input, output) = tokio::io::duplex(piece.max(1));
        let write = async move {
            // The reader may stop listening at an error.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut input, bytes).await;
        };
        let read = async move {
            let mut reader = pool_end::Reader::new(output);
            let mut frames = Vec::new();
            loop {
                match reader.read(limit).await {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => return (frames, None),
                    Err(error) => return (frames, Some(error)),
                }
            }
        };
        tokio::join!(write, read).1
    })
}

fn encoded(frames: &[FromWorker]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame.encode(&mut bytes).expect("small enough");
    }
    bytes
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        9 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from),
        1 => (0_usize..200_000).prop_map(|length| Bytes::from(vec![7; length])),
    ]
}

fn any_frame() -> impl Strategy<Value = FromWorker> {
    let sample = |(rendition, pts, sync, data)| FromWorker::Sample {
        rendition,
        sample: EncodedSample { pts: Ticks(pts), sync, data },
    };
    let stats = |(cpu_us, wall_us, units_in, decoded, moved)| {
        FromWorker::Finished(Stats { cpu_us, wall_us, units_in, decoded, moved })
    };
    let inventory = |version| {
        let video_decoders = vec![(VideoCodec::H264, "avdec_h264".into())];
        FromWorker::Hello(Inventory { version, video_decoders, ..Default::default() })
    };
    prop_oneof![
        (any::<u32>(), any::<i64>(), any::<bool>(), any_bytes()).prop_map(sample),
        (any::<u32>(), proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(rendition, config)| FromWorker::SetUp { rendition, config: config.into() }),
        any::<(u64, u64, u64, u64, u64)>().prop_map(stats),
        any::<String>().prop_map(inventory),
        any::<String>().prop_map(|message| FromWorker::Failed(Failure::new(FailureCode::BadMedia, message))),
    ]
}

proptest! {
    #[test]
    fn frames_come_through_whole_in_any_pieces(
        frames in proptest::collection::vec(any_frame(), 0..8),
        piece in 1_usize..5000,
    ) {
        let (read, error) = read_all(&encoded(&frames), piece, MAX_FRAME);
        prop_assert!(error.is_none(), "{:?}", error);
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn cut_frames_are_told(frames in proptest::collection::vec(any_frame(), 1..4), cut in any::<prop::sample::Index>()) {
        let bytes = encoded(&frames);
        let bytes = &bytes[..cut.index(bytes.len())];
        let (read, error) = read_all(bytes, 1000, MAX_FRAME);
        prop_assert_eq!(&frames[..read.len()], &read[..]);
        prop_assert_eq!(encoded(&read).len() == bytes.len(), error.is_none());
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), short in any::<bool>()) {
        if short && let Some(word) = bytes.first_chunk_mut::<3>() {
            *word = [0; 3];
        }
        read_all(&bytes, 64, MAX_FRAME);
        let _ = worker_end::Reader::new(&bytes[..]).read_job();
        let _ = FromWorker::decode(bytes.clone().into());
        let _ = ToWorker::decode(bytes.into());
    }

    #[test]
    fn jobs_come_through_whole(
        units in proptest::collection::vec((any::<i64>(), any_bytes()), 0..8),
        renditions in 0_usize..4,
        threads in any::<u32>(),
    ) {
        let mut job = video_job(&units.iter().map(|unit| unit.0).collect::<Vec<_>>(), renditions);
        for (unit, (_, data)) in job.units.iter_mut().zip(units) {
            unit.data = data;
        }
        let mut chunks = encode_job(&job, threads).expect("small enough");
        let wire = chunks.copy_to_bytes(chunks.remaining());
        let mut reader = worker_end::Reader::new(&wire[..]);
        job.threads = threads;
        prop_assert_eq!(reader.read_job().expect("well-formed"), Some(job));
        prop_assert_eq!(reader.read_job().expect("well-formed"), None);
    }
}

#[tokio::test]
async fn a_job_is_written_whole_through_a_narrow_socket() {
    let mut job = video_job(&[0, 1, 2], 1);
    for (unit, length) in job.units.iter_mut().zip([100_000, 10, 5000]) {
        unit.data = vec![3; length].into();
    }
    let (mut ours, mut theirs) = tokio::io::duplex(1000);
    let mut wire = Vec::new();
    let write = async {
        pool_end::write_job(&mut ours, &job, 1).await.expect("the other end reads");
        drop(ours);
    };
    let read = tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut wire);
    tokio::join!(write, read).1.expect("no error in memory");
    job.threads = 1;
    assert_eq!(worker_end::Reader::new(&wire[..]).read_job().expect("well-formed"), Some(job));
}

#[tokio::test]
async fn the_units_of_an_open_job_come_as_they_are_told() {
    let whole = Job { threads: 2, ..video_job(&[0, 2, 1], 1) };
    let mut draft = Job { units: Vec::new(), ..whole.clone() };
    draft.window.end = Ticks(i64::MAX);
    let mut open = pool_end::Open::new(&draft, 2).expect("small enough");
    for unit in &whole.units {
        open.unit(unit).expect("small enough");
    }
    open.end(whole.window.end).expect("small enough");
    let mut wire = Vec::new();
    open.write(&mut wire).await.expect("no error in memory");
    assert!(open.is_written());
    let mut parts = worker_end::Reader::new(&wire[..]);
    assert_eq!(parts.begin_job().expect("well-formed"), Some((draft, true)));
    for unit in &whole.units {
        assert_eq!(parts.read_part().expect("well-formed"), Part::Unit(unit.clone()));
    }
    assert_eq!(parts.read_part().expect("well-formed"), Part::End(whole.window.end));
    assert_eq!(worker_end::Reader::new(&wire[..]).read_job().expect("well-formed"), Some(whole));
}

#[test]
fn a_claim_is_refused_before_its_bytes_come() {
    let (_, error) = read_all(&u32::MAX.to_be_bytes(), 64, MAX_FRAME);
    assert!(matches!(error, Some(Error::TooLong { length: 0xffff_ffff, .. })), "{error:?}");
    let hello = encoded(&[FromWorker::Hello(Inventory { version: "x".repeat(MAX_HELLO), ..Default::default() })]);
    let (_, error) = read_all(&hello, 64, MAX_HELLO);
    assert!(matches!(error, Some(Error::TooLong { limit: MAX_HELLO, .. })), "{error:?}");
}

#[test]
fn set_ups_are_bounded_and_payloads_have_their_place() {
    let set_up = |length| encoded(&[FromWorker::SetUp { rendition: 0, config: vec![0; length].into() }]);
    assert!(read_all(&set_up(MAX_CONFIG), 4096, MAX_FRAME).1.is_none());
    assert!(matches!(read_all(&set_up(MAX_CONFIG + 1), 4096, MAX_FRAME).1, Some(Error::TooLong { .. })));
    let mut finished = encoded(&[FromWorker::Finished(Stats::default())]);
    finished.put_u8(0);
    finished[3] += 1;
    assert!(matches!(read_all(&finished, 64, MAX_FRAME).1, Some(Error::Malformed(_))));
}

#[test]
fn a_unit_over_the_bound_is_not_written() {
    let mut job = video_job(&[0], 1);
    job.units[0].data = vec![0; MAX_FRAME].into();
    assert!(matches!(encode_job(&job, 1), Err(Error::TooLong { .. })));
}

#[test]
fn the_announced_number_of_units_is_binding() {
    let mut wire = BytesMut::new();
    let job = video_job(&[], 1);
    let header = |units| {
        let (track, window, work) = (job.track.clone(), job.window, job.work.clone());
        ToWorkerHeader::Job(JobHeader { id: 1, seq: 1, track, units, window, work, threads: 1 })
    };
    put_head(&mut wire, &header(Some(u32::MAX)), 0).expect("small enough");
    put_head(&mut wire, &ToWorkerHeader::End { window_end: job.window.end }, 0).expect("small enough");
    assert!(matches!(worker_end::Reader::new(&wire[..]).read_job(), Err(Error::Malformed(_))));
}
