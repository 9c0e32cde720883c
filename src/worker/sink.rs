//! Where a job's samples go.

use bytes::Bytes;

use crate::job::EncodedSample;

/// Takes what is made as it is made; called from the pipeline's threads.
pub trait Sink: Send + Sync {
    /// The rendition's set-up, in the form of `Video::config` or `Audio::config`; before its first sample.
    fn set_up(&self, rendition: usize, config: Bytes);
    /// The rendition's next sample, in decode order.
    fn sample(&self, rendition: usize, sample: EncodedSample);
}
