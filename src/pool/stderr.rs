//! A worker's standard error → the log, line by line, bounded in length and rate: the worker may be anyone's.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

/// Most bytes of a line that are kept.
const MAX_LINE: usize = 1 << 10;
/// Most lines in each [`PERIOD`]; the others are counted.
const MAX_LINES: u32 = 20;
const PERIOD: Duration = Duration::from_secs(1);

/// Reads to the end. What is over the bounds is read all the same, so that the worker is never held up.
pub(super) async fn log(mut stderr: impl AsyncRead + Unpin, slot: usize, pid: u32) {
    let mut lines = Lines::default();
    let mut rate = Rate::new(Instant::now());
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
        for line in lines.push(chunk.get(..count).unwrap_or_default()) {
            let (allowed, suppressed) = rate.allow(Instant::now());
            if suppressed > 0 {
                tracing::warn!(slot, pid, suppressed, "worker lines suppressed");
            }
            if allowed {
                tracing::warn!(slot, pid, line, "worker");
            }
        }
    }
    if let Some(line) = lines.end() {
        tracing::warn!(slot, pid, line, "worker");
    }
}

/// Cuts bytes into lines, control characters escaped.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.extend(text.iter().take(room));
            if ends {
                lines.extend(self.end());
            }
        }
        lines
    }

    fn end(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line).escape_debug().to_string();
        (!text.is_empty()).then_some(text)
    }
}

struct Rate {
    since: Instant,
    lines: u32,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { since: now, lines: 0 }
    }

    /// Whether the next line is let through, and how many were not in the period that this line ends.
    fn allow(&mut self, now: Instant) -> (bool, u32) {
        let mut suppressed = 0;
        if now.duration_since(self.since) >= PERIOD {
            suppressed = self.lines.saturating_sub(MAX_LINES);
            *self = Self::new(now);
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= MAX_LINES, suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_bounded_and_escaped() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\ntw"), ["one"]);
        assert_eq!(lines.push(b"o\n\n\x1b[31m\n"), ["two", "\\u{1b}[31m"]);
        assert_eq!(lines.push(&[b'x'; 3 * MAX_LINE]), [""; 0]);
        assert_eq!(lines.push(b"\nrest"), ["x".repeat(MAX_LINE)]);
        assert_eq!(lines.end().as_deref(), Some("rest"));
    }

    #[test]
    fn a_flood_is_cut_to_its_rate_and_counted() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let passed = (0..MAX_LINES + 5).filter(|_| rate.allow(start).0).count();
        assert_eq!(passed as u32, MAX_LINES);
        assert_eq!(rate.allow(start + PERIOD), (true, 5));
    }
}
