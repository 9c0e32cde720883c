//! MP4: fragmented and progressive (ISO/IEC 14496-12, -14, -15).

use bytes::Bytes;

use super::{Event, Limits, Spool};
use crate::media::Error;

/// See [`super::Demuxer`], which this serves.
pub struct Demuxer {}

impl Demuxer {
    pub fn new(limits: Limits, spool: Box<dyn Spool>) -> Self {
        let _ = (limits, spool);
        Self {}
    }

    pub fn push(&mut self, data: Bytes) -> Result<(), Error> {
        let _ = data;
        Err(Error::UnsupportedContainer)
    }

    pub fn finish(&mut self) {}

    pub fn poll(&mut self) -> Result<Option<Event>, Error> {
        Ok(None)
    }
}
