//! What is sent: a file, its index first, or what comes in by stdin; as fast as it is taken, or as fast as it plays.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::faststart::{self, Layout, Piece};

/// Most bytes of media in one message.
const CHUNK: u64 = 256 * 1024;

/// Channel 0, before each message's media.
const PROGRAMME: u8 = 0;

/// An input that is open.
pub enum Source {
    File { file: File, layout: Layout },
    Stdin,
}

impl Source {
    /// `-` is stdin.
    pub async fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdin);
        }
        let file = File::open(path).await?;
        let metadata = file.metadata().await?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file; pipe it to stdin and name it -",
            ));
        }
        let mut file = file.into_std().await;
        let length = metadata.len();
        let laid_out = move || faststart::layout(&mut file, length).map(|layout| (file, layout));
        let (file, layout) = tokio::task::spawn_blocking(laid_out).await.map_err(io::Error::other)??;
        Ok(Self::File { file: File::from_std(file), layout })
    }

    /// Bytes in all, where that is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::File { layout, .. } => Some(layout.pieces.iter().map(Piece::len).sum()),
            Self::Stdin => None,
        }
    }

    /// How to send it as fast as it plays; `delivered` is the media time that has come back.
    pub fn real_time(&self, delivered: watch::Receiver<Duration>) -> Pace {
        let duration = match self {
            Self::File { layout, .. } => layout.duration,
            Self::Stdin => None,
        };
        match (duration, self.length()) {
            (Some(duration), Some(bytes)) => Pace::Rate(bytes as f64 / duration.as_secs_f64()),
            _ => Pace::Delivered(delivered),
        }
    }

    /// Hands all of it on as messages, until there is no more, or nobody takes them.
    pub async fn send(self, pace: Pace, messages: mpsc::Sender<Bytes>) -> io::Result<()> {
        let mut sending = Sending { pace, messages, begun: Instant::now(), bytes: 0 };
        match self {
            Self::Stdin => sending.all_of(&mut tokio::io::stdin()).await.map(|_| ()),
            Self::File { mut file, layout } => {
                for piece in layout.pieces {
                    let range = match piece {
                        Piece::Index(bytes) => {
                            sending.all_of(&mut bytes.as_ref()).await?;
                            continue;
                        }
                        Piece::File(range) => range,
                    };
                    file.seek(io::SeekFrom::Start(range.start)).await?;
                    let length = range.end - range.start;
                    if sending.all_of(&mut (&mut file).take(length)).await? < length && !sending.messages.is_closed() {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file got shorter"));
                    }
                }
                Ok(())
            }
        }
    }
}

/// How fast to send.
pub enum Pace {
    /// As fast as it is taken.
    Free,
    /// Bytes a second.
    Rate(f64),
    /// Never while more media time has come back than time has passed.
    Delivered(watch::Receiver<Duration>),
}

struct Sending {
    pace: Pace,
    messages: mpsc::Sender<Bytes>,
    begun: Instant,
    bytes: u64,
}

impl Sending {
    /// How many bytes were handed on.
    async fn all_of(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<u64> {
        let mut sum = 0;
        let chunk = match self.pace {
            // A message every 40 ms.
            Pace::Rate(rate) => ((rate / 25.0) as u64).clamp(1024, CHUNK),
            _ => CHUNK,
        };
        loop {
            self.wait().await;
            let mut message = BytesMut::with_capacity(chunk as usize + 1);
            message.put_u8(PROGRAMME);
            let mut part = (&mut *reader).take(chunk);
            if part.read_buf(&mut message).await? == 0 {
                return Ok(sum);
            }
            let length = message.len() as u64 - 1;
            sum += length;
            self.bytes += length;
            if self.messages.send(message.freeze()).await.is_err() {
                return Ok(sum);
            }
        }
    }

    async fn wait(&mut self) {
        let until = match &mut self.pace {
            Pace::Free => return,
            Pace::Rate(rate) => Duration::try_from_secs_f64(self.bytes as f64 / *rate).unwrap_or_default(),
            Pace::Delivered(delivered) => *delivered.borrow_and_update(),
        };
        tokio::time::sleep_until(self.begun + until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn messages(source: Source, pace: Pace) -> (Vec<Bytes>, Duration) {
        let (sender, mut receiver) = mpsc::channel(1);
        let begun = Instant::now();
        let sending = tokio::spawn(source.send(pace, sender));
        let mut messages = Vec::new();
        while let Some(message) = receiver.recv().await {
            messages.push(message);
        }
        sending.await.unwrap().unwrap();
        (messages, begun.elapsed())
    }

    async fn source(bytes: &[u8]) -> (tempfile::NamedTempFile, Source) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let source = Source::open(file.path()).await.unwrap();
        (file, source)
    }

    #[tokio::test]
    async fn a_file_goes_out_on_channel_0_in_bounded_messages() {
        let bytes: Vec<u8> = (0..600_000_u32).map(|n| (n % 251) as u8).collect();
        let (_file, source) = source(&bytes).await;
        assert_eq!(source.length(), Some(600_000));
        let (messages, _) = messages(source, Pace::Free).await;
        assert!(messages.iter().all(|message| message[0] == 0 && (2..=CHUNK as usize + 1).contains(&message.len())));
        let sent: Vec<u8> = messages.iter().flat_map(|message| message[1..].to_vec()).collect();
        assert_eq!(sent, bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept() {
        let (_file, source) = source(&[0; 100_000]).await;
        let (messages, took) = messages(source, Pace::Rate(50_000.0)).await;
        assert_eq!(took.as_millis(), 2000);
        assert!(messages.len() >= 50);
    }

    #[tokio::test]
    async fn a_directory_is_no_input() {
        assert!(Source::open(&std::env::temp_dir()).await.is_err());
    }
}
