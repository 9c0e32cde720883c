//! The frames between pool and worker, both ends; what a worker sends is hostile.
#![no_main]

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use segmill::ipc::{FromWorker, MAX_FRAME, ToWorker, pool_end, worker_end};

fuzz_target!(|data: &[u8]| {
    segmill_fuzz::bounded(data.len(), || {
        body(data);
        answers(data);
        let mut jobs = worker_end::Reader::new(data);
        while let Ok(Some(job)) = jobs.read_job() {
            drop(job);
        }
    });
});

/// One frame's body; what is read is written and read again as the same.
fn body(data: &[u8]) {
    let _ = ToWorker::decode(Bytes::copy_from_slice(data));
    let Ok(frame) = FromWorker::decode(Bytes::copy_from_slice(data)) else { return };
    let mut written = BytesMut::new();
    frame.encode(&mut written).expect("it has come in, so it is within the bounds");
    assert_eq!(FromWorker::decode(written.split_off(4).freeze()).ok(), Some(frame));
}

/// A stream of frames, as a worker's socket gives it.
fn answers(data: &[u8]) {
    let mut reader = pool_end::Reader::new(data);
    while let Some(Ok(Some(frame))) = reader.read(MAX_FRAME).now_or_never() {
        drop(frame);
    }
}
