//! Progress bars on stderr, where that is a terminal; nothing elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::protocol::{Receipt, SegmentHeader};

pub struct Progress {
    all: MultiProgress,
    input: ProgressBar,
    outputs: BTreeMap<String, (ProgressBar, u64)>,
}

impl Progress {
    /// `length`: bytes of the input, where known.
    pub fn new(length: Option<u64>) -> Self {
        let all = MultiProgress::new();
        let (bar, template) = match length {
            Some(length) => {
                (ProgressBar::new(length), "{prefix:>12} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}")
            }
            None => (ProgressBar::no_length(), "{prefix:>12} {spinner} {bytes} {bytes_per_sec} {msg}"),
        };
        let input = all.add(bar.with_style(style(template)).with_prefix("sent"));
        Self { all, input, outputs: BTreeMap::new() }
    }

    /// To be called with each number of bytes sent.
    pub fn sent(&self) -> impl Fn(u64) + use<> {
        let bar = self.input.clone();
        move |bytes| bar.inc(bytes)
    }

    pub fn segment(&mut self, header: &SegmentHeader) {
        let (bar, bytes) = self.outputs.entry(header.output.clone()).or_insert_with(|| {
            let bar = ProgressBar::no_length().with_style(style("{prefix:>12} {spinner} {msg}"));
            (self.all.add(bar.with_prefix(header.output.clone())), 0)
        });
        *bytes = bytes.saturating_add(header.bytes);
        let end = i128::from(header.start) + i128::from(header.duration);
        let seconds = end as f64 / f64::from(header.timescale.max(1));
        bar.set_message(format!("segment {} · {seconds:.1} s · {}", header.seq, HumanBytes(*bytes)));
        bar.tick();
    }

    pub fn receipt(&self, receipt: &Receipt) {
        let latency = Duration::from_millis(receipt.latency_ms);
        self.input.set_message(format!("· latency {:.2} s", latency.as_secs_f64()));
    }

    /// A line that stays.
    pub fn note(&self, line: &str) {
        self.all.suspend(|| eprintln!("segmill: {line}"));
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        self.input.finish_and_clear();
        for (bar, _) in self.outputs.values() {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants of this file, and a test makes each")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_well_formed() {
        let header = SegmentHeader {
            seq: 1,
            output: "v".into(),
            init: None,
            start: i64::MAX,
            duration: i64::MAX,
            timescale: 0,
            frames: 0,
            bytes: u64::MAX,
            sha256: String::new(),
            independent: true,
            discontinuity: false,
        };
        for length in [None, Some(10)] {
            let mut progress = Progress::new(length);
            progress.sent()(5);
            progress.segment(&header);
            progress.segment(&header);
            progress.clear();
        }
    }
}
