//! Everything a push shows and keeps: files, progress on a terminal, JSON lines, and the summary.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::hls::Presentation;
use super::progress::Progress;
use super::report::Report;
use super::store::Store;
use crate::protocol::{BinaryHeader, Done, ErrorMessage, InitHeader, Receipt, SegmentHeader, Tracks};

/// Where a session's events go.
pub struct Output {
    store: Option<Store>,
    presentation: Presentation,
    progress: Progress,
    report: Report,
    json: bool,
}

impl Output {
    /// `length`: bytes of the input, where known. `json`: one JSON object a line on stdout instead of tables.
    pub fn new(store: Option<Store>, length: Option<u64>, json: bool) -> Self {
        let progress = Progress::new(length);
        Self { store, presentation: Presentation::default(), progress, report: Report::default(), json }
    }

    /// To be called with each number of bytes sent.
    pub fn sent(&self) -> impl Fn(u64) + use<> {
        self.progress.sent()
    }

    /// Every text message, also those of unknown types.
    pub fn text(&self, message: &Value) {
        self.line(message);
    }

    /// The header of every binary message.
    pub fn header(&self, header: &BinaryHeader) {
        if self.json
            && let Ok(header) = serde_json::to_value(header)
        {
            self.line(&header);
        }
    }

    pub fn tracks(&mut self, tracks: &Tracks) {
        self.presentation.outputs(&tracks.outputs);
    }

    pub async fn init(&mut self, header: &InitHeader, payload: &[u8]) -> io::Result<()> {
        self.presentation.init(header);
        match &self.store {
            Some(store) => store.init(header, payload).await,
            None => Ok(()),
        }
    }

    pub async fn segment(&mut self, header: &SegmentHeader, payload: &[u8]) -> io::Result<()> {
        if let Some(store) = &self.store {
            store.segment(header, payload).await?;
            self.presentation.segment(header);
        }
        self.progress.segment(header);
        self.report.segment(header);
        Ok(())
    }

    pub async fn receipt(&mut self, receipt: &Receipt) -> io::Result<()> {
        self.progress.receipt(receipt);
        self.report.receipt(receipt);
        if let Some(store) = &self.store {
            for (output, file) in self.presentation.receipt(receipt) {
                store.gap(&output, &file).await?;
            }
        }
        self.playlists(false).await
    }

    /// Another connection goes on after segment `seq`.
    pub fn reconnect(&mut self, seq: u64, why: &'static str, line: &str) {
        self.presentation.go_back_to(seq);
        self.report.reconnect(why);
        self.progress.note(line);
    }

    pub fn error(&self, error: &ErrorMessage) {
        if !error.fatal {
            let of = error.seq.map(|seq| format!(" (segment {seq})")).unwrap_or_default();
            self.progress.note(&format!("{}{of}: {}", error.code, error.message));
        }
    }

    /// The end of the session, well or not: `done` is what the service counted.
    pub async fn finish(&mut self, done: Option<&Done>) -> io::Result<()> {
        self.progress.clear();
        self.playlists(true).await?;
        if self.json {
            let mut summary = self.report.summary();
            if let Value::Object(summary) = &mut summary {
                summary.insert("type".to_owned(), json!("summary"));
                summary.insert("complete".to_owned(), json!(done.is_some()));
            }
            self.line(&summary);
        } else if !self.report.is_empty() {
            // A reader that has gone away wants no table.
            let _ = writeln!(io::stdout(), "{}", self.report.table());
        }
        Ok(())
    }

    async fn playlists(&self, ended: bool) -> io::Result<()> {
        match &self.store {
            Some(store) => store.playlists(&self.presentation, ended).await,
            None => Ok(()),
        }
    }

    fn line(&self, value: &Value) {
        if self.json {
            // As for the table.
            let _ = writeln!(io::stdout(), "{value}");
        }
    }
}
