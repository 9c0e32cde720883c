//! Scratch space: where files with their index last wait for it. Bounded for the whole service, and counted.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::media::{Error, demux};
use crate::telemetry::metrics::Held;

/// The service's scratch space.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    capacity: u64,
    used: AtomicU64,
}

impl Scratch {
    /// `capacity`: most bytes in all files together.
    pub fn new(folder: PathBuf, capacity: u64) -> Arc<Self> {
        Arc::new(Self { folder, capacity, used: AtomicU64::new(0) })
    }

    fn reserve(&self, bytes: u64) -> Result<(), Error> {
        let reserve = |used: u64| used.checked_add(bytes).filter(|&total| total <= self.capacity);
        let reserved = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve);
        reserved.map(drop).map_err(|_| Error::ScratchFull(format!("{} bytes for all sessions", self.capacity)))
    }
}

/// One session's file: without a name, so that it is gone with the session however that ends.
pub(super) struct ScratchFile {
    scratch: Arc<Scratch>,
    file: Option<File>,
    length: u64,
    counted: Held,
}

impl ScratchFile {
    /// `counted`: the share of the gauge that tells this file's size.
    pub fn new(scratch: Arc<Scratch>, counted: Held) -> Self {
        Self { scratch, file: None, length: 0, counted }
    }
}

impl demux::Spool for ScratchFile {
    fn append(&mut self, data: &[u8]) -> Result<(), Error> {
        self.scratch.reserve(data.len() as u64)?;
        let at = self.length;
        self.length += data.len() as u64;
        self.counted.set(self.length);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(&self.scratch.folder).map_err(failed)?),
        };
        file.write_all_at(data, at).map_err(failed)
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, Error> {
        let end = offset.checked_add(length as u64).filter(|&end| end <= self.length);
        let (Some(file), Some(_)) = (&self.file, end) else {
            return Err(Error::Truncated(format!("no bytes at {offset}")));
        };
        let mut data = vec![0; length];
        file.read_exact_at(&mut data, offset).map_err(failed)?;
        Ok(data.into())
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        self.scratch.used.fetch_sub(self.length, Ordering::Relaxed);
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::ScratchFailed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::demux::Spool;
    use crate::telemetry::Metrics;

    #[test]
    fn counts_what_is_in_use_refuses_what_does_not_fit_and_gives_back_on_drop() {
        let scratch = Scratch::new(std::env::temp_dir(), 10);
        let mut file = ScratchFile::new(scratch.clone(), Metrics::new(10).scratch());
        file.append(b"0123").unwrap();
        file.append(b"45").unwrap();
        assert_eq!((scratch.used.load(Ordering::Relaxed), &file.read(2, 3).unwrap()[..]), (6, &b"234"[..]));
        assert_eq!(file.append(b"67890").unwrap_err().code(), "scratch_full");
        assert_eq!(file.read(4, 3).unwrap_err().code(), "truncated_input");
        drop(file);
        assert_eq!(scratch.used.load(Ordering::Relaxed), 0);
    }
}
