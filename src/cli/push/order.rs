//! What a service may send, and in which order: a push that says "done" has checked all of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::store::is_safe;
use crate::protocol::{BinaryHeader, InitHeader, SegmentHeader, ServerMessage};

/// How the service broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a text message is not JSON")]
    NotJson,
    #[error("a {0} message is malformed: {1}")]
    MalformedText(String, String),
    #[error("a binary message is malformed")]
    MalformedBinary,
    #[error("the output name {0:?} is not allowed")]
    Name(String),
    #[error("segment or receipt {got} came where {expected} was due")]
    Sequence { expected: u64, got: u64 },
    #[error("segment {seq} of {output} came twice")]
    Twice { seq: u64, output: String },
    #[error("segment {seq} of {output} belongs to an init that was not sent last")]
    WrongInit { seq: u64, output: String },
    #[error("segment {seq} of {output} is not as its header says: {what}")]
    Payload { seq: u64, output: String, what: &'static str },
    #[error("done counts {said} segments, {came} came")]
    Count { said: u64, came: u64 },
}

/// A binary message that passed.
#[derive(Debug, PartialEq, Eq)]
pub enum Checked<'a> {
    Init(&'a InitHeader),
    Segment(&'a SegmentHeader),
}

/// Where a session stands.
#[derive(Debug, Default)]
pub struct Order {
    receipts: u64,
    inits: BTreeMap<String, u32>,
    /// Outputs of the segment that is under way.
    here: BTreeSet<String>,
    first_start_ms: Option<i64>,
}

/// Types of text messages that are known here; others are to be ignored (PROTOCOL, version 1).
const KNOWN: [&str; 8] = ["ready", "tracks", "receipt", "event", "moved", "pressure", "error", "done"];

impl Order {
    /// None where the message is of a type that this client does not know.
    pub fn text(&mut self, message: Value) -> Result<Option<ServerMessage>, Violation> {
        let kind = message.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !KNOWN.contains(&kind.as_str()) {
            return Ok(None);
        }
        let message = serde_json::from_value(message).map_err(|e| Violation::MalformedText(kind, e.to_string()))?;
        match &message {
            ServerMessage::Tracks(tracks) => {
                for output in &tracks.outputs {
                    named(&output.name)?;
                }
            }
            ServerMessage::Receipt(receipt) => {
                self.due(receipt.seq)?;
                self.receipts = receipt.seq;
                self.here.clear();
                self.first_start_ms.get_or_insert(receipt.start_ms);
            }
            ServerMessage::Event(event) => self.due(event.seq)?,
            ServerMessage::Done(done) if done.segments != self.receipts => {
                return Err(Violation::Count { said: done.segments, came: self.receipts });
            }
            _ => {}
        }
        Ok(Some(message))
    }

    pub fn binary<'a>(&mut self, header: &'a BinaryHeader, payload: &[u8]) -> Result<Checked<'a>, Violation> {
        match header {
            BinaryHeader::Init(init) => {
                named(&init.output)?;
                self.inits.insert(init.output.clone(), init.id);
                Ok(Checked::Init(init))
            }
            BinaryHeader::Segment(segment) => {
                self.segment(segment, payload)?;
                Ok(Checked::Segment(segment))
            }
        }
    }

    /// Another connection goes on after the last receipt.
    pub fn reconnect(&mut self) {
        self.here.clear();
    }

    /// How many receipts have come.
    pub fn receipts(&self) -> u64 {
        self.receipts
    }

    /// Media time at which the first segment starts.
    pub fn first_start_ms(&self) -> i64 {
        self.first_start_ms.unwrap_or(0)
    }

    fn segment(&mut self, segment: &SegmentHeader, payload: &[u8]) -> Result<(), Violation> {
        let (seq, output) = (segment.seq, segment.output.clone());
        named(&output)?;
        self.due(seq)?;
        if segment.init != self.inits.get(&output).copied() {
            return Err(Violation::WrongInit { seq, output });
        }
        if segment.bytes != payload.len() as u64 {
            return Err(Violation::Payload { seq, output, what: "length" });
        }
        let digest: String = Sha256::digest(payload).iter().map(|byte| format!("{byte:02x}")).collect();
        if digest != segment.sha256 {
            return Err(Violation::Payload { seq, output, what: "SHA-256" });
        }
        if segment.timescale == 0 || segment.duration < 0 {
            return Err(Violation::Payload { seq, output, what: "duration" });
        }
        if !self.here.insert(output.clone()) {
            return Err(Violation::Twice { seq, output });
        }
        Ok(())
    }

    fn due(&self, got: u64) -> Result<(), Violation> {
        let expected = self.receipts.saturating_add(1);
        if got == expected { Ok(()) } else { Err(Violation::Sequence { expected, got }) }
    }
}

fn named(name: &str) -> Result<(), Violation> {
    if is_safe(name) { Ok(()) } else { Err(Violation::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn segment(seq: u64, output: &str) -> SegmentHeader {
        SegmentHeader {
            seq,
            output: output.into(),
            init: Some(1),
            start: 0,
            duration: 1,
            timescale: 1,
            frames: 1,
            bytes: 3,
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into(),
            independent: true,
            discontinuity: false,
        }
    }

    fn receipt(seq: u64) -> Value {
        json!({"type": "receipt", "seq": seq, "start_ms": 40, "duration_ms": 1000, "frames_in": 1, "frames_out": {},
            "audio_samples": {}, "queued_ms": 0, "transcode_ms": 0, "latency_ms": 0, "cpu_ms": 0, "attempts": 1,
            "outcome": "ok", "degraded": [], "from_a_later_version": true})
    }

    fn done(segments: u64) -> Value {
        json!({"type": "done", "segments": segments, "frames_in": 1, "frames_out": {}, "failed": 0, "degraded": 0})
    }

    /// A session in which the init of `v` has come.
    fn begun() -> Order {
        let mut order = Order::default();
        let init = InitHeader { output: "v".into(), id: 1, mime: String::new(), timescale: 1 };
        order.binary(&BinaryHeader::Init(init), b"").unwrap();
        order
    }

    fn sent(order: &mut Order, segment: SegmentHeader) -> Result<(), Violation> {
        order.binary(&BinaryHeader::Segment(segment), b"abc").map(|_| ())
    }

    #[test]
    fn a_session_in_order_passes() {
        let mut order = begun();
        for seq in 1..=2 {
            sent(&mut order, segment(seq, "v")).unwrap();
            assert!(order.text(receipt(seq)).unwrap().is_some());
        }
        assert_eq!(order.text(json!({"type": "moon", "reason": "drain"})), Ok(None), "not known is ignored");
        assert!(order.text(done(2)).unwrap().is_some());
        assert_eq!(order.first_start_ms(), 40);
    }

    #[test]
    fn what_is_out_of_order_or_not_as_said_is_told() {
        let gap = Violation::Sequence { expected: 1, got: 2 };
        assert_eq!(sent(&mut begun(), segment(2, "v")), Err(gap.clone()));
        assert_eq!(begun().text(receipt(2)), Err(gap));
        assert_eq!(begun().text(done(1)), Err(Violation::Count { said: 1, came: 0 }));
        assert!(matches!(sent(&mut begun(), segment(1, "w")), Err(Violation::WrongInit { .. })));
        assert!(matches!(
            sent(&mut begun(), SegmentHeader { init: None, ..segment(1, "v") }),
            Err(Violation::WrongInit { .. })
        ));
        assert_eq!(sent(&mut begun(), segment(1, "../v")), Err(Violation::Name("../v".into())));
        let mut order = begun();
        sent(&mut order, segment(1, "v")).unwrap();
        assert!(matches!(sent(&mut order, segment(1, "v")), Err(Violation::Twice { .. })));
        for (header, says) in [
            (SegmentHeader { bytes: 4, ..segment(1, "v") }, "length"),
            (SegmentHeader { sha256: "00".into(), ..segment(1, "v") }, "SHA-256"),
            (SegmentHeader { timescale: 0, ..segment(1, "v") }, "duration"),
        ] {
            assert!(matches!(sent(&mut begun(), header), Err(Violation::Payload { what, .. }) if what == says));
        }
        assert!(matches!(begun().text(json!({"type": "done"})), Err(Violation::MalformedText(..))));
    }
}
