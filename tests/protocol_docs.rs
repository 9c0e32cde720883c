//! The documents say what the code says: every example is a message, every code is in the table with its numbers, every
//! test that is named is there.

use std::collections::BTreeSet;
use std::fs;

use segmill::job::{Deinterlace, Preset};
use segmill::protocol::{
    self, AudioChoice, AudioRequest, BinaryHeader, ClientMessage, CutOn, FrameRate, Input, Mode, Output,
    OutputContainer, ResumeFrom, ServerMessage, Start, VideoChoice, VideoRequest,
};
use segmill::server::problem::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn examples() -> Vec<Value> {
    let page = read("docs/protocol.md");
    let blocks = page.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    blocks.map(|block| serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"))).collect()
}

/// Read as `T` and written again it is the same: nothing in it is unknown, misspelt or missing.
fn is_a<T: DeserializeOwned + Serialize>(example: &Value) {
    let read: T = serde_json::from_value(example.clone()).unwrap_or_else(|error| panic!("{error}: {example}"));
    assert_eq!(&serde_json::to_value(read).expect("JSON"), example);
}

#[test]
fn every_example_is_a_message_and_every_message_has_an_example() {
    let mut seen = BTreeSet::new();
    for example in examples() {
        let kind = example["type"].as_str().unwrap_or("problem").to_owned();
        match kind.as_str() {
            "start" | "finish" | "ack" => {
                // What is left out has its default, so that it is not written as it was read.
                serde_json::from_value::<ClientMessage>(example.clone())
                    .unwrap_or_else(|error| panic!("{error}: {example}"));
            }
            "init" | "segment" => is_a::<BinaryHeader>(&example),
            "problem" => {
                is_a::<Problem>(&example);
                let code = example["code"].as_str().expect("a code");
                assert_eq!(example["status"], protocol::http_status(code));
            }
            _ => is_a::<ServerMessage>(&example),
        }
        seen.insert(kind);
    }
    let schema = serde_json::to_string(&[
        schemars::schema_for!(ClientMessage),
        schemars::schema_for!(ServerMessage),
        schemars::schema_for!(BinaryHeader),
    ]);
    let schema = schema.expect("JSON");
    let kinds = schema.split("\"type\":{\"type\":\"string\",\"const\":\"").skip(1);
    let kinds: BTreeSet<_> = kinds.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect();
    assert!(kinds.contains("start") && kinds.contains("done"), "{kinds:?}");
    seen.remove("problem");
    assert_eq!(seen, kinds);
}

#[test]
fn start_is_shown_with_all_its_fields() {
    let full = ClientMessage::Start(Start {
        input: Input::default(),
        mode: Mode::Live,
        segment_ms: Some(1),
        deadline_ms: Some(1),
        cut_on: vec![CutOn::Scte35],
        resume: Some(ResumeFrom { token: "x".to_owned() }),
        outputs: Some(vec![Output {
            name: "v".to_owned(),
            container: OutputContainer::Cmaf,
            video: Some(VideoRequest {
                fps: FrameRate::new(30_000, 1001),
                deinterlace: Some(Deinterlace::Field),
                codec: VideoChoice::H264,
                width: Some(1),
                height: Some(1),
                crf: Some(1),
                max_kbps: Some(1),
                preset: Some(Preset::Veryfast),
            }),
            audio: Some(AudioRequest {
                codec: AudioChoice::Aac,
                kbps: Some(1),
                channels: Some(1),
                sample_rate: Some(1),
                track: 0,
            }),
        }]),
    });
    let full = serde_json::to_value(full).expect("JSON");
    let shown = examples().into_iter().filter(|example| example["type"] == "start");
    assert!(shown.map(|example| keys(&example)).any(|shown| shown == keys(&full)), "{full}");
}

/// The paths of all fields.
fn keys(value: &Value) -> BTreeSet<String> {
    let below = |name: &str, value: &Value| {
        let deeper = keys(value).into_iter().map(move |key| format!("{name}.{key}"));
        deeper.chain([name.to_owned()]).collect::<Vec<_>>()
    };
    match value {
        Value::Object(fields) => fields.iter().flat_map(|(name, value)| below(name, value)).collect(),
        Value::Array(items) => items.iter().flat_map(keys).collect(),
        _ => BTreeSet::new(),
    }
}

/// The rows of the pages' tables, cell by cell.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").collect()).collect()
}

fn quoted(source: &str) -> impl Iterator<Item = &str> {
    source.split('"').skip(1).step_by(2)
}

#[test]
fn every_code_is_in_the_specification_with_its_numbers() {
    let page = read("SPECIFICATION.md");
    let mut listed = BTreeSet::new();
    for row in rows(&page) {
        let [code, close, status, _meaning] = row.as_slice() else { continue };
        let Some(code) = code.strip_prefix('`').and_then(|code| code.strip_suffix('`')) else { continue };
        if *close != "–" {
            assert_eq!(close.parse(), Ok(protocol::close_code(code)), "{code}");
        }
        if !matches!(code, "not_found" | "method_not_allowed") && *status != "–" {
            assert_eq!(status.parse(), Ok(protocol::http_status(code)), "{code}");
        }
        assert!(listed.insert(code.to_owned()), "{code} is there twice");
    }
    let source = read("src/protocol.rs");
    let table = source.split("fn status_of").nth(1).expect("the one table");
    let media = read("src/media/error.rs");
    let jobs = read("src/job.rs");
    let of = |source: &str| -> Vec<String> {
        let code = source.split("fn code(self) ").nth(1).or_else(|| source.split("fn code(&self) ").nth(1));
        let body = code.and_then(|code| code.split("\n    }\n").next()).expect("a function of codes");
        quoted(body).map(str::to_owned).collect()
    };
    for code in quoted(table).map(str::to_owned).chain(of(&media)).chain(of(&jobs)) {
        assert!(listed.contains(&code), "{code} is not in SPECIFICATION.md");
    }
}

#[test]
fn every_test_that_a_promise_names_is_there() {
    let page = read("SPECIFICATION.md");
    let mut named = 0;
    for name in page.split('`').skip(1).step_by(2).filter(|name| name.contains(".rs::")) {
        let (path, test) = name.split_once("::").expect("it was looked for");
        assert!(read(path).contains(&format!("fn {test}(")), "{name} is not there");
        named += 1;
    }
    assert!(named > 50, "{named}");
}
