//! What the receipts said: a table for a person, a summary for a program.

use std::collections::BTreeMap;
use std::time::Instant;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use crate::protocol::{Receipt, SegmentHeader, SegmentOutcome};

/// Most rows of the table; of more segments the first and the last are shown, and all that are not `ok`.
const ROWS: usize = 40;

/// All receipts of a session.
pub struct Report {
    begun: Instant,
    receipts: Vec<Receipt>,
    bytes_out: BTreeMap<String, u64>,
    /// Of the segment whose receipt is to come.
    bytes_of_segment: BTreeMap<String, u64>,
    /// Why a connection was followed by another, and how often.
    reconnects: BTreeMap<&'static str, u64>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            receipts: Vec::new(),
            bytes_out: BTreeMap::new(),
            bytes_of_segment: BTreeMap::new(),
            reconnects: BTreeMap::new(),
        }
    }
}

impl Report {
    pub fn segment(&mut self, header: &SegmentHeader) {
        self.bytes_of_segment.insert(header.output.clone(), header.bytes);
    }

    /// Another connection follows; what came of an unfinished segment comes again.
    pub fn reconnect(&mut self, why: &'static str) {
        *self.reconnects.entry(why).or_default() += 1;
        self.bytes_of_segment.clear();
    }

    pub fn receipt(&mut self, receipt: &Receipt) {
        for (name, bytes) in std::mem::take(&mut self.bytes_of_segment) {
            let all = self.bytes_out.entry(name).or_default();
            *all = all.saturating_add(bytes);
        }
        // The token is long, and of no use here.
        self.receipts.push(Receipt { resume: None, ..receipt.clone() });
    }

    /// Whether no receipt came.
    pub fn is_empty(&self) -> bool {
        self.receipts.is_empty()
    }

    /// One object: counts, media time, latencies (milliseconds), and bytes by output.
    pub fn summary(&self) -> Value {
        json!({
            "segments": self.receipts.len(),
            "failed": self.count(SegmentOutcome::Failed),
            "degraded": self.count(SegmentOutcome::Degraded),
            "degraded_by": self.degraded_by(),
            "media_ms": self.media_ms(),
            "wall_ms": u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "latency_p50_ms": self.latency(50),
            "latency_p95_ms": self.latency(95),
            "frames_in": sum(self.receipts.iter().map(|receipt| receipt.frames_in)),
            "bytes_out": self.bytes_out,
            "reconnects": self.reconnects,
        })
    }

    /// A row a segment, and the totals below.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "seq",
            "start",
            "length",
            "frames in",
            "frames out",
            "queued",
            "transcode",
            "latency",
            "attempts",
            "outcome",
        ]);
        let count = self.receipts.len();
        let mut left_out = 0;
        for (place, receipt) in self.receipts.iter().enumerate() {
            let at_an_end = place < ROWS / 2 || place + ROWS / 2 >= count;
            if count > ROWS && !at_an_end && receipt.outcome == SegmentOutcome::Ok {
                left_out += 1;
                continue;
            }
            if left_out > 0 {
                table.add_row(["…", &format!("{left_out} more")]);
                left_out = 0;
            }
            table.add_row(row(receipt));
        }
        for column in table.column_iter_mut().take(9) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{}\n\n{}", table.trim_fmt(), self.totals())
    }

    fn totals(&self) -> String {
        let (media, wall) = (self.media_ms() as f64 / 1000.0, self.begun.elapsed().as_secs_f64());
        let latency = match (self.latency(50), self.latency(95)) {
            (Some(p50), Some(p95)) => format!("; latency p50 {}, p95 {}", seconds(p50), seconds(p95)),
            _ => String::new(),
        };
        let bytes: Vec<_> =
            self.bytes_out.iter().map(|(name, bytes)| format!("{name} {}", HumanBytes(*bytes))).collect();
        format!(
            "{} segments, {media:.2} s of media in {wall:.2} s ({:.1}× real time){latency}; {} degraded{}, {} failed{}\n{}",
            self.receipts.len(),
            media / wall.max(0.001),
            self.count(SegmentOutcome::Degraded),
            self.told_degraded(),
            self.count(SegmentOutcome::Failed),
            self.told_reconnects(),
            bytes.join(" · "),
        )
    }

    /// How often what was not made as asked.
    fn degraded_by(&self) -> BTreeMap<&'static str, u64> {
        let mut times = BTreeMap::new();
        for degraded in self.receipts.iter().flat_map(|receipt| &receipt.degraded) {
            *times.entry(degraded.what.name()).or_default() += 1;
        }
        times
    }

    fn told_degraded(&self) -> String {
        let each: Vec<_> = self.degraded_by().iter().map(|(what, times)| format!("{what} {times}")).collect();
        if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) }
    }

    fn told_reconnects(&self) -> String {
        if self.reconnects.is_empty() {
            return String::new();
        }
        let each: Vec<_> = self.reconnects.iter().map(|(why, times)| format!("{times} {why}")).collect();
        format!("; connected again: {}", each.join(", "))
    }

    fn count(&self, outcome: SegmentOutcome) -> usize {
        self.receipts.iter().filter(|receipt| receipt.outcome == outcome).count()
    }

    fn media_ms(&self) -> u64 {
        sum(self.receipts.iter().map(|receipt| receipt.duration_ms.max(0).cast_unsigned()))
    }

    /// Nearest-rank percentile of the latencies of the segments that did not fail, milliseconds.
    fn latency(&self, percent: usize) -> Option<u64> {
        let delivered = self.receipts.iter().filter(|receipt| receipt.outcome != SegmentOutcome::Failed);
        let mut latencies: Vec<_> = delivered.map(|receipt| receipt.latency_ms).collect();
        latencies.sort_unstable();
        let rank = (latencies.len() * percent).div_ceil(100).max(1);
        latencies.get(rank - 1).copied()
    }
}

fn row(receipt: &Receipt) -> Vec<String> {
    let frames_out: Vec<_> = receipt.frames_out.iter().map(|(name, frames)| format!("{name} {frames}")).collect();
    let outcome = match (receipt.outcome, &receipt.error) {
        (SegmentOutcome::Ok, _) => "ok".to_owned(),
        (SegmentOutcome::Degraded, _) => {
            let parts = receipt.degraded.iter().map(|part| format!("{} {}", part.output, part.what.name()));
            format!("degraded: {}", parts.collect::<Vec<_>>().join(", "))
        }
        (SegmentOutcome::Failed, Some(error)) => format!("failed: {}", error.code),
        (SegmentOutcome::Failed, None) => "failed".to_owned(),
    };
    vec![
        receipt.seq.to_string(),
        format!("{:.3} s", receipt.start_ms as f64 / 1000.0),
        format!("{:.3} s", receipt.duration_ms as f64 / 1000.0),
        receipt.frames_in.to_string(),
        frames_out.join(" "),
        seconds(receipt.queued_ms),
        seconds(receipt.transcode_ms),
        seconds(receipt.latency_ms),
        receipt.attempts.to_string(),
        outcome,
    ]
}

fn seconds(ms: u64) -> String {
    format!("{:.2} s", ms as f64 / 1000.0)
}

fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(count: u64, failed: u64) -> Report {
        let mut report = Report::default();
        for seq in 1..=count {
            report.receipt(&Receipt {
                frames_dropped: BTreeMap::new(),
                frames_repeated: BTreeMap::new(),
                seq,
                start_ms: 0,
                duration_ms: 2000,
                frames_in: 50,
                frames_out: BTreeMap::from([("720p".to_owned(), 50)]),
                audio_samples: BTreeMap::new(),
                audio_lost: 0,
                queued_ms: 0,
                transcode_ms: 10,
                latency_ms: seq,
                cpu_ms: 0,
                attempts: 1,
                repaired: 0,
                undecodable: 0,
                outcome: if seq == failed { SegmentOutcome::Failed } else { SegmentOutcome::Ok },
                degraded: vec![],
                error: None,
                resume: None,
            });
        }
        report
    }

    #[test]
    fn percentiles_are_of_what_was_delivered() {
        let report = reported(101, 101);
        assert_eq!((report.latency(50), report.latency(95)), (Some(50), Some(95)));
        assert_eq!((reported(1, 0).latency(95), reported(0, 0).latency(50)), (Some(1), None));
    }

    #[test]
    fn a_long_table_keeps_its_ends_and_what_went_wrong() {
        let table = reported(100, 50).table();
        let first_words: Vec<_> = table.lines().filter_map(|line| line.split_whitespace().next()).collect();
        for shown in ["1", "20", "50", "81", "100"] {
            assert!(first_words.contains(&shown), "{shown} is not in {table}");
        }
        assert!(!first_words.contains(&"21") && table.contains("29 more") && table.contains("30 more"), "{table}");
        assert!(table.contains("100 segments, 200.00 s of media"), "{table}");
    }

    #[test]
    fn the_summary_counts() {
        let summary = reported(3, 2).summary();
        assert_eq!(
            (&summary["segments"], &summary["failed"], &summary["media_ms"]),
            (&json!(3), &json!(1), &json!(6000))
        );
    }
}
