//! One job through GStreamer.

use bytes::Bytes;

use crate::job::{EncodedSample, Failure, FailureCode, Inventory, Job, Stats};

/// Takes what is made as it is made; called from the pipeline's threads.
pub trait Sink: Send + Sync {
    /// The rendition's set-up, in the form of `Video::config` or `Audio::config`; before its first sample.
    fn set_up(&self, rendition: usize, config: Bytes);
    /// The rendition's next sample, in decode order.
    fn sample(&self, rendition: usize, sample: EncodedSample);
}

/// Makes all renditions of `job`. Frame counts are checked: fewer or more than the window holds is a failure.
pub fn transcode(job: &Job, sink: std::sync::Arc<dyn Sink>) -> Result<Stats, Failure> {
    let _ = (job, sink);
    Err(Failure::new(FailureCode::UnsupportedCodec, "not built yet"))
}

/// What this process can decode and encode. Initialises GStreamer on the first call.
pub fn inventory() -> Result<Inventory, Failure> {
    Ok(Inventory::default())
}
