//! The output directory: one folder an output, each file whole or not there.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs;
use tokio::io::AsyncWriteExt;

use super::hls::{self, Presentation};
use crate::protocol::{InitHeader, SegmentHeader};

const MASTER: &str = "master.m3u8";

/// Writes what comes back below one directory. Names must have passed [`is_safe`].
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Makes the directory where it is not there.
    pub async fn new(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory).await?;
        Ok(Self { directory })
    }

    pub async fn init(&self, header: &InitHeader, payload: &[u8]) -> io::Result<()> {
        self.write(&header.output, &hls::init_file(header.id), payload).await
    }

    pub async fn segment(&self, header: &SegmentHeader, payload: &[u8]) -> io::Result<()> {
        self.write(&header.output, &hls::segment_file(header.seq, header.init.is_some()), payload).await
    }

    /// An empty file for a segment that is not there.
    pub async fn gap(&self, output: &str, file: &str) -> io::Result<()> {
        self.write(output, file, b"").await
    }

    /// Brings all playlists up to date.
    pub async fn playlists(&self, presentation: &Presentation, ended: bool) -> io::Result<()> {
        let Some(master) = presentation.master() else { return Ok(()) };
        for (name, rendition) in &presentation.renditions {
            self.write(name, "media.m3u8", rendition.media(ended).as_bytes()).await?;
        }
        write_whole(&self.directory.join(MASTER), master.as_bytes()).await
    }

    async fn write(&self, output: &str, file: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = self.directory.join(output);
        fs::create_dir_all(&folder).await?;
        write_whole(&folder.join(file), bytes).await
    }
}

/// Whether an output's name can be a folder's: 1 to 32 of `A-Z a-z 0-9 . _ -`, no dot first. The service promises it;
/// the file system is not to depend on that promise.
pub fn is_safe(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=32).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.') && name != MASTER
}

/// On disk, and under its name only when all of it is there.
async fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let mut file = fs::File::create(&part).await?;
    file.write_all(bytes).await?;
    file.sync_data().await?;
    drop(file);
    fs::rename(&part, path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_not_safe() {
        for name in ["720p", "audio_en-GB", "a.b", &"x".repeat(32)] {
            assert!(is_safe(name), "{name}");
        }
        for name in ["", ".", "..", ".x", "a/b", "a\\b", "a b", "é", "master.m3u8", "nul\0", &"x".repeat(33)] {
            assert!(!is_safe(name), "{name}");
        }
    }

    #[tokio::test]
    async fn files_appear_whole_under_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("out")).await.unwrap();
        let header =
            InitHeader { output: "v".into(), id: 2, mime: "video/mp4; codecs=\"avc1.64001f\"".into(), timescale: 1 };
        store.init(&header, b"init").await.unwrap();
        let folder = dir.path().join("out/v");
        assert_eq!(std::fs::read(folder.join("init-2.mp4")).unwrap(), b"init");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "no part is left");
    }
}
