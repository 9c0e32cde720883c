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
