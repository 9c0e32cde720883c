//! `make bench` still fits the program that it measures: it starts, has a place for each bar, says what it has not measured, and
//! sets its peers up as the worker does itself.

use std::process::Command;

/// What a Python program prints that can import what is in benches/.
fn python(program: &str) -> String {
    let output = Command::new("python3").args(["-B", "-c", program]).env("PYTHONPATH", "benches").output();
    let output = output.expect("python3 starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn each_bar_is_measured_by_one_part() {
    python(
        "import bench; from measure.bars import BARS; measured = [key for _, keys, _ in bench.PARTS.values() for key in keys]\n\
         assert sorted(measured) == sorted(BARS), set(measured) ^ set(BARS)",
    );
}

#[test]
fn the_page_says_what_was_not_measured_and_why() {
    let page = python(
        "from measure import report\n\
         parts = {'start': {'rows': [{'key': 'ready', 'measured': '21 ms', 'met': True}], 'commit': 'c', 'date': 'd', 'command': 'm', 'others': 0},\n\
                  'idle': {'failed': 'no descriptors', 'keys': ['idle']}}\n\
         print(report.markdown(parts, 'a machine'))",
    );
    let row = |what: &str| page.lines().find(|line| line.starts_with(&format!("| {what}"))).expect("a row").to_owned();
    assert_eq!(row("start to ready"), "| start to ready | 21 ms | ≤ 300 ms | met |");
    assert!(row("1,000 idle").ends_with("| not measured: no descriptors | ≤ 64 KiB | not measured |"));
    assert!(row("500 live").ends_with("| not measured | ≤ 0.5 s, 0 | not measured |"));
}

#[test]
fn the_page_has_a_place_for_it() {
    let page = std::fs::read_to_string("docs/performance.md").expect("the page");
    for mark in ["<!-- bench -->", "<!-- /bench -->"] {
        assert_eq!(page.matches(mark).count(), 1, "{mark}");
    }
}

#[test]
fn the_peers_are_set_up_as_the_worker_sets_itself_up() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let (encoder, audio) = (read("src/worker/encoder.rs"), read("src/worker/audio.rs"));
    let options = python("from measure import peers; print(peers.X264, end='')");
    assert!(encoder.contains(&format!("\"{options}\"")), "x264: {options}");
    assert!(
        encoder.contains(r#""pass", "qual""#) && audio.contains(r#""aac-ms", false"#) && audio.contains(r#""fast""#)
    );
}

#[test]
fn what_comes_of_a_websocket_is_read_however_it_is_cut() {
    python(
        r#"
from measure.websocket import Frames
def read(come, most):
    messages, parts = [], {}
    def take(kind, piece, ends):
        parts.setdefault(kind, bytearray()).extend(piece)
        if ends:
            messages.append((kind, bytes(parts.pop(kind))))
    frames = Frames(take)
    for at in range(0, len(come), most):
        frames.feed(memoryview(come)[at:at + most])
    return messages
long, longer = bytes(range(256)) * 2, bytes(1 << 17)
come = (b"\x81\x02hi" + b"\x02\x7e\x02\x00" + long + b"\x89\x03how" + b"\x80\x7f" + (1 << 17).to_bytes(8) + longer
        + b"\x8a\x00" + b"\x82\x00" + b"\x88\x02\x03\xe8")
for most in (1, 2, 3, 7, 1000, len(come)):
    assert read(come, most) == [(1, b"hi"), (9, b"how"), (2, long + longer), (10, b""), (2, b""), (8, b"\x03\xe8")], most
"#,
    );
}

#[test]
fn a_peer_that_never_ends_is_ended() {
    python(
        r#"
import pathlib, tempfile
from measure import processes
with tempfile.TemporaryDirectory() as folder:
    log = pathlib.Path(folder) / "log"
    try:
        processes.measure(["sleep", "1000"], log, patience=0.1)
    except processes.Failed as failed:
        assert "ended with -9" in str(failed), failed
    else:
        raise AssertionError("it went on")
    processes.measure(["true"], log)
"#,
    );
}

#[test]
fn a_segment_that_is_not_whole_is_not_counted_as_good() {
    python(
        r#"
import hashlib
from measure import ledger
media, digest = bytes(1000), hashlib.sha256(bytes(1000)).hexdigest()
def judge(change):
    """Of a session of two segments in one output, the second of which is changed."""
    tally = ledger.Tally([{"name": "source", "video": {}, "audio": {}}], [1000, 1000], 50)
    session = ledger.Ledger(tally)
    session.sent = [n / 5 for n in range(20)]
    session.init({"output": "source", "id": 1}, 700)
    for seq in (1, 2):
        told = {"segment": {"seq": seq, "output": "source", "init": 1, "start": 2 * seq, "duration": 2, "frames": 50, "bytes": 1000, "sha256": digest},
                "receipt": {"seq": seq, "outcome": "ok", "frames_in": 50, "frames_out": {"source": 50}, "audio_samples": {"source": 96000}},
                "media": media, "comes": True}
        if seq == 2:
            change(told)
        if told["comes"]:
            hashed = hashlib.sha256(told["media"])
            session.segment(told["segment"], len(told["media"]), hashed, 5)
        session.receipt(told["receipt"], 5)
    session.finished({"segments": 2, "failed": 0, "degraded": 0})
    session.settle("1000")
    return tally.summary(0, 5)
good = judge(lambda told: None)
assert not good["wrong"] and not good["lost"] and not good["failed"] and good["segments"] == good["hashed"] == 2, good
def put(part, field, value):
    return lambda told: told[part].__setitem__(field, value)
faults = [put("segment", "seq", 1), put("segment", "output", "other"), put("segment", "init", 2), put("segment", "start", 5),
          put("segment", "frames", 49), put("segment", "bytes", 999), put("segment", "sha256", "0" * 64),
          put("receipt", "outcome", "failed"), put("receipt", "frames_in", 49), put("receipt", "frames_out", {"source": 49}),
          put("receipt", "audio_samples", {}), lambda told: told.update(comes=False), lambda told: told.update(media=bytes(999) + b"x"),
          lambda told: (told.update(media=media[:100]), told["segment"].update(bytes=100, sha256=hashlib.sha256(media[:100]).hexdigest()))]
for number, fault in enumerate(faults):
    found = judge(fault)
    assert found["wrong"] and found["failed"] == 1, (number, found)
late = judge(put("receipt", "outcome", "degraded"))
assert late["wrong"]["degraded"] == 1 and not late["failed"], late
assert judge(put("receipt", "seq", 1))["lost"] == judge(lambda told: told.update(comes=False))["lost"] == 1
"#,
    );
}
