//! WebM and Matroska (RFC 8794, RFC 9559).

use bytes::Bytes;

use super::{Event, Limits};
use crate::media::Error;

/// See [`super::Demuxer`], which this serves.
pub struct Demuxer {}

impl Demuxer {
    pub fn new(limits: Limits) -> Self {
        let _ = limits;
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
