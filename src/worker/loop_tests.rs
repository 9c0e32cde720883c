use std::thread::JoinHandle;

use super::*;
use crate::ipc::MAX_FRAME;
use crate::ipc::fixtures::video_job;
use crate::ipc::pool_end::{self, write_job};
use crate::job::{FailureCode, Job};
use crate::media::Ticks;

type Reader = pool_end::Reader<tokio::net::unix::OwnedReadHalf>;
type Writer = tokio::net::unix::OwnedWriteHalf;

/// The loop in a thread, with an inventory of this version, or none.
fn start(
    version: Option<&'static str>,
    transcode: fn(&Job, Arc<dyn Sink>) -> Result<Stats, Failure>,
) -> (Reader, Writer, JoinHandle<Result<(), Error>>) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    ours.set_nonblocking(true).expect("a socket");
    let inventory = move || match version {
        Some(version) => Ok(Inventory { version: version.into(), ..Default::default() }),
        None => Err(Failure::new(FailureCode::UnsupportedCodec, "nothing here")),
    };
    let whole = move |assignment: Assignment<'_>, sink| transcode(&assignment.whole()?, sink);
    let looping = thread::spawn(move || serve(&theirs, inventory, whole));
    let (reader, writer) = tokio::net::UnixStream::from_std(ours).expect("a runtime").into_split();
    (pool_end::Reader::new(reader), writer, looping)
}

async fn next(reader: &mut Reader) -> Option<FromWorker> {
    reader.read(MAX_FRAME).await.expect("well-formed")
}

fn ended(looping: JoinHandle<Result<(), Error>>) -> Result<(), Error> {
    looping.join().expect("no panic")
}

#[tokio::test]
async fn jobs_are_done_one_after_the_other_until_the_socket_closes() {
    let (mut reader, mut writer, looping) = start(Some("1.22"), |job, sink| {
        sink.set_up(0, Bytes::from_static(b"config"));
        for unit in &job.units {
            sink.sample(0, EncodedSample { pts: unit.pts, sync: true, data: unit.data.clone() });
        }
        Ok(Stats { decoded: job.units.len() as u64, ..Default::default() })
    });
    assert!(matches!(next(&mut reader).await, Some(FromWorker::Hello(inventory)) if inventory.version == "1.22"));
    for pts in [5, 6] {
        write_job(&mut writer, &video_job(&[pts], 1), 1).await.expect("it reads");
        assert!(matches!(next(&mut reader).await, Some(FromWorker::SetUp { rendition: 0, .. })));
        let Some(FromWorker::Sample { rendition: 0, sample }) = next(&mut reader).await else { panic!("no sample") };
        assert_eq!(sample.pts, Ticks(pts));
        assert!(matches!(next(&mut reader).await, Some(FromWorker::Finished(stats)) if stats.decoded == 1));
    }
    drop(writer);
    assert!(ended(looping).is_ok());
}

#[tokio::test]
async fn a_failed_job_is_the_last() {
    let (mut reader, mut writer, looping) =
        start(Some(""), |_, _| Err(Failure::new(FailureCode::BadMedia, "not a picture")));
    assert!(matches!(next(&mut reader).await, Some(FromWorker::Hello(_))));
    write_job(&mut writer, &video_job(&[0], 1), 1).await.expect("it reads");
    let failure = Failure::new(FailureCode::BadMedia, "not a picture");
    assert_eq!(next(&mut reader).await, Some(FromWorker::Failed(failure)));
    assert_eq!(next(&mut reader).await, None);
    assert!(ended(looping).is_err());
}

#[tokio::test]
async fn a_worker_that_can_do_nothing_says_so() {
    let (mut reader, _writer, looping) = start(None, |_, _| unreachable!("no job comes"));
    assert!(matches!(next(&mut reader).await, Some(FromWorker::Failed(failure)) if failure.message == "nothing here"));
    assert!(ended(looping).is_err());
}

#[tokio::test]
async fn a_pool_that_listens_no_more_ends_the_loop() {
    let (mut reader, mut writer, looping) = start(Some(""), |_, sink| {
        for _ in 0..1000 {
            sink.sample(0, EncodedSample { pts: Ticks(0), sync: true, data: vec![0; 10_000].into() });
        }
        Ok(Stats::default())
    });
    assert!(matches!(next(&mut reader).await, Some(FromWorker::Hello(_))));
    write_job(&mut writer, &video_job(&[0], 1), 1).await.expect("it reads");
    assert!(matches!(next(&mut reader).await, Some(FromWorker::Sample { .. })));
    drop((reader, writer));
    assert!(ended(looping).is_err());
}
