//! What is sent: a file, its index first, or what comes in by stdin; as fast as it is taken, or as fast as it plays.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, Stdin};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::faststart::{self, Layout, Piece};

/// Most bytes of media in one message.
const CHUNK: u64 = 256 * 1024;

/// Most bytes of stdin that are kept to be sent again.
const KEEP: u64 = 256 << 20;

/// Channel 0, before each message's media.
const PROGRAMME: u8 = 0;

/// An input that is open.
pub enum Source {
    File { file: File, layout: Layout },
    Stdin { stdin: Stdin, kept: Kept },
}

/// Where to begin: at first at the beginning, later as the service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct From {
    /// Bytes from the beginning to send before the rest.
    pub set_up_bytes: u64,
    /// Where the rest begins.
    pub offset: u64,
}

impl Source {
    /// `-` is stdin.
    pub async fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdin { stdin: tokio::io::stdin(), kept: Kept::default() });
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
            Self::Stdin { .. } => None,
        }
    }

    /// How to send it as fast as it plays; `delivered` is the media time that has come back.
    pub fn real_time(&self, delivered: watch::Receiver<Duration>) -> Pace {
        let duration = match self {
            Self::File { layout, .. } => layout.duration,
            Self::Stdin { .. } => None,
        };
        match (duration, self.length()) {
            (Some(duration), Some(bytes)) => Pace::Rate(bytes as f64 / duration.as_secs_f64()),
            _ => Pace::Delivered(delivered, Instant::now()),
        }
    }

    /// Hands on what is to be sent from `from` on as messages, until there is no more, or nobody takes them. `next`:
    /// from where it would have to be sent again now.
    pub async fn send(
        &mut self,
        from: From,
        pace: Pace,
        messages: mpsc::Sender<Bytes>,
        next: watch::Receiver<From>,
    ) -> io::Result<()> {
        let mut sending = Sending { pace, messages, begun: Instant::now(), bytes: 0 };
        match self {
            Self::Stdin { stdin, kept } => kept.send(stdin, from, &mut sending, next).await,
            Self::File { file, layout } => {
                send_file(file, &layout.pieces, 0..from.set_up_bytes, &mut sending).await?;
                send_file(file, &layout.pieces, from.offset..u64::MAX, &mut sending).await
            }
        }
    }
}

/// Sends a range of what `pieces` are together.
async fn send_file(
    file: &mut File,
    pieces: &[Piece],
    range: std::ops::Range<u64>,
    sending: &mut Sending,
) -> io::Result<()> {
    let mut begin = 0;
    for piece in pieces {
        let length = piece.len();
        let (from, to) = (range.start.saturating_sub(begin).min(length), range.end.saturating_sub(begin).min(length));
        begin += length;
        if from >= to {
            continue;
        }
        match piece {
            Piece::Index(bytes) => {
                sending.all_of(&mut &bytes[from as usize..to as usize]).await?;
            }
            Piece::File(of_file) => {
                file.seek(io::SeekFrom::Start(of_file.start + from)).await?;
                if sending.all_of(&mut (&mut *file).take(to - from)).await? < to - from && !sending.is_closed() {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file got shorter"));
                }
            }
        }
    }
    Ok(())
}

/// What came from stdin and may have to be sent again: its set-up, and all from the last receipt's offset on.
#[derive(Debug, Default)]
pub struct Kept {
    set_up: Bytes,
    /// Where `pieces` begin in the input.
    start: u64,
    pieces: VecDeque<Bytes>,
    bytes: u64,
    /// There was too much to keep: nothing can be sent again.
    gave_up: bool,
    ended: bool,
}

impl Kept {
    async fn send(
        &mut self,
        stdin: &mut (impl AsyncRead + Unpin),
        from: From,
        sending: &mut Sending,
        mut next: watch::Receiver<From>,
    ) -> io::Result<()> {
        if from != From::default() || self.start + self.bytes > 0 {
            for piece in self.again(from)? {
                sending.all_of(&mut piece.as_ref()).await?;
            }
        }
        while !self.ended && !sending.is_closed() {
            sending.wait().await;
            self.release(*next.borrow_and_update());
            let Some(message) = sending.message(stdin).await? else {
                self.ended = true;
                break;
            };
            self.keep(message.slice(1..));
            sending.hand_on(message).await;
        }
        Ok(())
    }

    fn keep(&mut self, piece: Bytes) {
        self.bytes += piece.len() as u64;
        self.pieces.push_back(piece);
        if self.bytes > KEEP || self.gave_up {
            (self.gave_up, self.start) = (true, self.start + self.bytes);
            self.pieces.clear();
            self.bytes = 0;
        }
    }

    /// Forgets what will not be asked for again.
    fn release(&mut self, from: From) {
        if self.start == 0 && !self.gave_up && from.offset > 0 && self.set_up.is_empty() {
            let mut set_up = BytesMut::new();
            for piece in &self.pieces {
                let missing = (from.set_up_bytes as usize).saturating_sub(set_up.len());
                set_up.extend_from_slice(&piece[..missing.min(piece.len())]);
            }
            self.set_up = set_up.freeze();
        }
        while let Some(piece) = self.pieces.front() {
            let length = piece.len() as u64;
            if self.start + length > from.offset {
                return;
            }
            self.start += length;
            self.bytes -= length;
            self.pieces.pop_front();
        }
    }

    /// What was read already and is to be sent again.
    fn again(&self, from: From) -> io::Result<Vec<Bytes>> {
        let mut pieces = Vec::new();
        let skip = from.offset.checked_sub(self.start).filter(|_| !self.gave_up);
        let set_up = if self.start == 0 && self.set_up.is_empty() { None } else { Some(&self.set_up) };
        let (Some(mut skip), true) = (skip, set_up.is_none_or(|set_up| set_up.len() as u64 >= from.set_up_bytes))
        else {
            let most = KEEP >> 20;
            return Err(io::Error::other(format!("what has to be sent again is not kept: it is more than {most} MiB")));
        };
        match set_up {
            Some(set_up) => pieces.push(set_up.slice(..from.set_up_bytes as usize)),
            None => pieces.extend(first(&self.pieces, from.set_up_bytes)),
        }
        for piece in &self.pieces {
            let length = piece.len() as u64;
            if skip < length {
                pieces.push(piece.slice(skip as usize..));
            }
            skip = skip.saturating_sub(length);
        }
        pieces.retain(|piece| !piece.is_empty());
        Ok(pieces)
    }
}

fn first(pieces: &VecDeque<Bytes>, mut bytes: u64) -> Vec<Bytes> {
    let mut first = Vec::new();
    for piece in pieces {
        let length = bytes.min(piece.len() as u64);
        first.push(piece.slice(..length as usize));
        bytes -= length;
    }
    first
}

/// How fast to send.
#[derive(Clone)]
pub enum Pace {
    /// As fast as it is taken.
    Free,
    /// Bytes a second.
    Rate(f64),
    /// Never while more media time has come back than time has passed since then.
    Delivered(watch::Receiver<Duration>, Instant),
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
        while !self.is_closed() {
            self.wait().await;
            let Some(message) = self.message(reader).await? else { break };
            sum += message.len() as u64 - 1;
            self.hand_on(message).await;
        }
        Ok(sum)
    }

    /// The next message; None where there is no more.
    async fn message(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
        let chunk = match self.pace {
            // A message every 40 ms.
            Pace::Rate(rate) => ((rate / 25.0) as u64).clamp(1024, CHUNK),
            _ => CHUNK,
        };
        let mut message = BytesMut::with_capacity(chunk as usize + 1);
        message.put_u8(PROGRAMME);
        let read = (&mut *reader).take(chunk).read_buf(&mut message).await?;
        // What is kept must not hold on to the room for more.
        Ok((read > 0).then(|| Bytes::copy_from_slice(&message)))
    }

    async fn hand_on(&mut self, message: Bytes) {
        self.bytes += message.len() as u64 - 1;
        // Nobody takes it any more: `is_closed` tells.
        let _ = self.messages.send(message).await;
    }

    fn is_closed(&self) -> bool {
        self.messages.is_closed()
    }

    async fn wait(&mut self) {
        let until = match &mut self.pace {
            Pace::Free => return,
            Pace::Rate(rate) => self.begun + Duration::try_from_secs_f64(self.bytes as f64 / *rate).unwrap_or_default(),
            Pace::Delivered(delivered, begun) => *begun + *delivered.borrow_and_update(),
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn messages(mut source: Source, pace: Pace) -> (Vec<Bytes>, Duration) {
        let (sender, mut receiver) = mpsc::channel(1);
        let begun = Instant::now();
        let next = watch::channel(From::default()).1;
        let sending = tokio::spawn(async move { source.send(From::default(), pace, sender, next).await });
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

    /// What is sent of `kept` and the rest of an input, and where one is told to go on meanwhile.
    async fn sent(kept: &mut Kept, mut rest: &[u8], from: From, next: From) -> io::Result<Vec<u8>> {
        let (sender, mut receiver) = mpsc::channel(1000);
        let mut sending = Sending { pace: Pace::Free, messages: sender, begun: Instant::now(), bytes: 0 };
        let (told, next) = watch::channel(next);
        kept.send(&mut rest, from, &mut sending, next).await?;
        drop((sending, told));
        let mut all = Vec::new();
        while let Some(message) = receiver.recv().await {
            all.extend_from_slice(&message[1..]);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn what_may_be_asked_for_again_is_kept_and_no_more() {
        let input: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut kept = Kept::default();
        let beginning = From::default();
        assert_eq!(sent(&mut kept, &input[..400_000], beginning, beginning).await.unwrap(), input[..400_000]);
        kept.ended = false;
        // No receipt has come: everything again, and then the rest.
        let to = From { set_up_bytes: 100, offset: 300_000 };
        assert_eq!(sent(&mut kept, &input[400_000..600_000], beginning, to).await.unwrap(), input[..600_000]);
        assert!(kept.start > 0 && kept.start <= 300_000, "{}", kept.start);
        kept.ended = false;
        let again = sent(&mut kept, &input[600_000..], to, to).await.unwrap();
        assert_eq!(again, [&input[..100], &input[300_000..]].concat());
        assert_eq!(sent(&mut kept, &[], to, to).await.unwrap(), again, "the end is remembered");
        let lost = sent(&mut kept, &[], From { set_up_bytes: 0, offset: 0 }, to).await.unwrap_err();
        assert!(lost.to_string().contains("256 MiB"), "{lost}");
    }

    #[tokio::test]
    async fn a_file_is_read_again_from_where_it_is_said() {
        let bytes: Vec<u8> = (0..600_000_u32).map(|n| (n % 251) as u8).collect();
        let (_file, mut source) = source(&bytes).await;
        let from = From { set_up_bytes: 1000, offset: 500_000 };
        let (sender, mut receiver) = mpsc::channel(100);
        source.send(from, Pace::Free, sender, watch::channel(from).1).await.unwrap();
        let mut all = Vec::new();
        while let Some(message) = receiver.recv().await {
            all.extend_from_slice(&message[1..]);
        }
        assert_eq!(all, [&bytes[..1000], &bytes[500_000..]].concat());
    }

    #[tokio::test]
    async fn a_directory_is_no_input() {
        assert!(Source::open(&std::env::temp_dir()).await.is_err());
    }
}
