//! The HTTP routes over real sockets: what comes back is read by curl, ffmpeg and Python, and the documents that the
//! service serves about itself hold what it says and takes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::client;
use crate::support::media::{self, Clip, Picture, Shape};
use crate::support::service::Service;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

fn service() -> Service {
    Service::start(&["--workers", "1", "--segment-ms", "1000"])
}

fn numbers(media: &[u8]) -> Vec<u16> {
    media::decode_barcodes(media).into_iter().map(|(_, number)| number).collect()
}

fn counted(service: &Service, op: &str) -> f64 {
    let series = format!("segmill_segments_total{{op=\"{op}\",origin=\"client\",outcome=\"ok\"}}");
    service.metric(&series).unwrap_or_else(|| panic!("no {series}"))
}

#[test]
fn transcode_makes_exactly_what_its_parameters_say() {
    let service = service();
    let clip = Clip::default().bytes();
    let all: Vec<u16> = (0..60).collect();
    // By the query: MIME type, video codec and height, audio codec.
    let cases = [
        ("POST", "height=144", "video/mp4", Some(("h264", 144)), Some("aac")),
        ("PUT", "height=144&crf=30&preset=ultrafast&max_kbps=800", "video/mp4", Some(("h264", 144)), Some("aac")),
        ("POST", "width=256&audio=none", "video/mp4", Some(("h264", 144)), None),
        ("POST", "codec=copy&audio=copy", "video/mp4", Some(("h264", 180)), Some("aac")),
        ("POST", "container=ts&height=144&audio=none", "video/mp2t", Some(("h264", 144)), None),
        ("PUT", "container=ts&codec=copy", "video/mp2t", Some(("h264", 180)), Some("aac")),
        ("POST", "codec=none", "audio/mp4", None, Some("aac")),
        ("POST", "codec=none&audio=opus&kbps=64&channels=1", "audio/mp4", None, Some("opus")),
    ];
    for (method, query, mime, video, audio) in cases {
        let before = counted(&service, "transcode");
        let (status, head, body) = service.http(method, &format!("/v1/transcode?{query}"), &[], &clip);
        assert_eq!(status, 200, "{query}: {}", String::from_utf8_lossy(&body));
        let head = head.to_ascii_lowercase();
        assert!(head.contains(&format!("content-type: {mime}")), "{query}: {head}");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("out");
        std::fs::write(&path, &body).expect("a temporary file");
        let mut streams = media::probe(&path, &["-show_entries", "stream=codec_name,height"]);
        streams.dedup(); // Programmes list their streams again.
        streams.truncate(usize::from(video.is_some()) + usize::from(audio.is_some()));
        let expected: Vec<Vec<String>> = video
            .map(|(codec, height)| vec![codec.to_owned(), height.to_string()])
            .into_iter()
            .chain(audio.map(|codec| vec![codec.to_owned()]))
            .collect();
        assert_eq!(streams, expected, "{query}");
        if video.is_some() {
            assert_eq!(numbers(&body), all, "{query}");
        }
        if audio.is_some() {
            let (_, rate, samples) = media::decode_audio(&body);
            let short = (i64::from(rate) * 2 - samples.len() as i64).abs();
            // The source's own last frame is filled up.
            assert!(short <= 2048, "{query}: {} samples", samples.len());
        }
        // Sound alone is cut at its own frames, and its priming reaches past the second cut.
        let segments = if video.is_some() { 2.0 } else { 3.0 };
        assert_eq!(counted(&service, "transcode") - before, segments, "{query}");
    }
    assert_eq!(service.metric("segmill_sessions"), Some(0.0));
}

/// A request whose body is sent in the test's own time.
struct Upload(TcpStream);

impl Upload {
    fn begin(service: &Service, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(service.listen).expect("the port is open");
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("the request is taken");
        Self(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        self.0.write_all(&chunk).expect("the body is taken");
    }

    fn end(&mut self) {
        self.0.write_all(b"0\r\n\r\n").expect("the body is taken");
    }

    /// Reads until `text` is there.
    fn read_until(&mut self, text: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        while !answer.windows(text.len()).any(|window| window == text) {
            let mut some = [0; 4096];
            let length = self.0.read(&mut some).expect("an answer");
            assert!(length > 0, "the answer ended: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&some[..length]);
        }
        answer
    }

    fn rest(mut self) -> Vec<u8> {
        let mut answer = Vec::new();
        // What breaks off may do so by a reset.
        let _ = self.0.read_to_end(&mut answer);
        answer
    }
}

/// Where each fragment of the file starts.
fn fragments(bytes: &[u8]) -> Vec<usize> {
    (4..bytes.len() - 4).filter(|&at| &bytes[at..at + 4] == b"moof").map(|at| at - 4).collect()
}

#[test]
fn transcode_answers_while_the_body_is_still_coming_and_sums_up_in_the_trailer() {
    let service = service();
    let clip = Clip { audio: None, frames: 90, ..Clip::default() }.bytes();
    let third = fragments(&clip)[2];
    for (headers, trailer) in [("TE: trailers\r\n", true), ("", false)] {
        let mut upload = Upload::begin(&service, "/v1/transcode?height=144", headers);
        upload.send(&clip[..third]);
        let mut answer = upload.read_until(b"moof");
        clip[third..].chunks(1000).for_each(|chunk| upload.send(chunk));
        upload.end();
        answer.extend(upload.rest());
        let end = answer.windows(5).rposition(|window| window == b"\r\n0\r\n").expect("the last chunk");
        let end = String::from_utf8_lossy(&answer[end + 5..]).into_owned();
        if trailer {
            let summary = end.strip_prefix("segmill-summary: ").and_then(|end| end.strip_suffix("\r\n\r\n"));
            let summary: Value = serde_json::from_str(summary.expect("the trailer")).expect("JSON");
            let expected =
                json!({"segments": 3, "frames_in": 90, "frames_out": {"out": 90}, "failed": 0, "degraded": 0});
            assert_eq!(summary, expected);
        } else {
            assert_eq!(end, "\r\n");
        }
    }
}

#[test]
fn an_answer_that_can_not_be_finished_breaks_off() {
    let service = service();
    let clip = Clip { audio: None, frames: 90, ..Clip::default() }.bytes();
    let mut upload = Upload::begin(&service, "/v1/transcode?height=144", "TE: trailers\r\n");
    upload.send(&clip[..clip.len() * 4 / 5]);
    let mut answer = upload.read_until(b"moof");
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    upload.end();
    answer.extend(upload.rest());
    assert!(!answer.ends_with(b"\r\n\r\n"), "no last chunk, and no trailer");
    let status = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "--data-binary", "@-"])
        .arg(format!("http://{}/v1/transcode?height=144", service.listen))
        .stdin(Stdio::piped())
        .spawn()
        .and_then(|mut curl| {
            curl.stdin.take().expect("it was asked for").write_all(&clip[..clip.len() * 4 / 5])?;
            curl.wait()
        })
        .expect("curl is installed");
    assert!(!status.success(), "curl tells a part from the whole");
}

#[test]
fn what_is_refused_over_http_is_a_problem_by_name() {
    let service = service();
    let clip = Clip { audio: None, ..Clip::default() }.bytes();
    let init = clip[..fragments(&clip)[0]].to_vec();
    let motion_jpeg = Clip {
        shape: Shape::MatroskaLive,
        video: Some(Picture::Mpeg2),
        audio: None,
        more: "-c:v mjpeg -pix_fmt yuvj420p",
        ..Clip::default()
    };
    let cases: Vec<(&str, &str, &[u8], u16, &str)> = vec![
        (
            "POST",
            "/v1/transcode",
            b"this is no media at all, whatever one may think of it",
            415,
            "unsupported_container",
        ),
        ("POST", "/v1/segments", &[0; 1000], 415, "unsupported_container"),
        ("POST", "/v1/transcode", b"", 422, "truncated_input"),
        ("POST", "/v1/transcode?audio=none", &init, 422, "no_media"),
        ("POST", "/v1/transcode?height=360", &clip, 422, "rung_above_source"),
        ("POST", "/v1/transcode?codec=none", &clip, 422, "no_such_track"),
        ("POST", "/v1/transcode?codec=vp9&container=ts", &clip, 422, "container_cannot_hold"),
        ("POST", "/v1/transcode?codec=copy&crf=20", &clip, 400, "bad_message"),
        ("POST", "/v1/transcode?codec=none&audio=none", b"", 400, "bad_message"),
        ("POST", "/v1/transcode?colour=red", b"", 400, "bad_request"),
        ("POST", "/v1/transcode?height=tall", b"", 400, "bad_request"),
        ("POST", "/v1/transcode?segment_ms=1", b"", 400, "bad_message"),
        ("POST", "/v1/segments?outputs=%5B", b"", 400, "bad_request"),
        ("POST", "/v1/segments?outputs=%5B%5D", b"", 400, "bad_message"),
        ("POST", "/v1/segments?output=x", b"", 400, "bad_request"),
        ("GET", "/v1/transcode", b"", 405, "method_not_allowed"),
        ("POST", "/v1/capabilities", b"", 405, "method_not_allowed"),
        ("GET", "/", b"", 404, "not_found"),
        ("GET", "/v1/../etc/passwd", b"", 404, "not_found"),
        ("GET", "/metrics", b"", 404, "not_found"),
    ];
    for (method, path, body, status, code) in cases {
        let (told, head, body) = service.http(method, path, &[], body);
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        assert_eq!((told, problem["code"].as_str()), (status, Some(code)), "{method} {path}: {problem}");
        assert_eq!(problem["status"], status, "{method} {path}");
        assert!(
            head.to_ascii_lowercase().contains("content-type: application/problem+json"),
            "{method} {path}: {head}"
        );
    }
    let (status, _, body) = service.http("POST", "/v1/transcode", &[], &motion_jpeg.bytes());
    let problem: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((status, problem["code"].as_str()), (415, Some("unsupported_codec")));
    assert_eq!(service.metric("segmill_segment_transcode_seconds_count{op=\"transcode\"}"), None);
}

#[test]
fn a_segment_s_body_is_bounded() {
    let service = Service::start(&["--workers", "1", "--max-segment-bytes", "64KiB"]);
    let large = Clip { frames: 150, ..Clip::default() }.bytes();
    assert!(large.len() > 64 << 10);
    let (status, _, body) = service.http("POST", "/v1/segments", &[], &large);
    let problem: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((status, problem["code"].as_str()), (413, Some("media_limit")));
}

/// The parts of a multipart answer, as Python's email package reads them: type, file name, content.
fn parts(answer: &[u8]) -> Vec<(String, Option<String>, Vec<u8>)> {
    const READ: &str = "
import email, email.policy, json, sys
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.HTTP)
assert m.get_content_type() == 'multipart/mixed' and not m.defects, m.defects
print(json.dumps([[p['content-type'], p.get_filename(), p.get_payload(decode=True).hex()] for p in m.iter_parts()]))
";
    let mut python = Command::new("python3")
        .args(["-c", READ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    python.stdin.take().expect("it was asked for").write_all(answer).expect("python reads");
    let output = python.wait_with_output().expect("python runs");
    assert!(output.status.success());
    let parts: Vec<(String, Option<String>, String)> = serde_json::from_slice(&output.stdout).expect("JSON");
    let unhex = |hex: String| {
        let digits = hex.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).expect("digits"));
        digits.map(|two| u8::from_str_radix(two, 16).expect("digits")).collect()
    };
    parts.into_iter().map(|(kind, name, content)| (kind, name, unhex(content))).collect()
}

/// `answer` starts with the header of HTTP, as `curl -i` writes it.
#[track_caller]
fn assert_segment(answer: &[u8]) {
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
    let line = answer.windows(2).position(|window| window == b"\r\n").expect("a status line");
    let parts = parts(&answer[line + 2..]);
    let [(cmaf_kind, cmaf_name, cmaf), (ts_kind, ts_name, ts), (receipt_kind, None, receipt)] = parts.as_slice() else {
        panic!("{:?}", parts.iter().map(|part| &part.0).collect::<Vec<_>>())
    };
    assert!(cmaf_kind.starts_with("video/mp4; codecs=\"avc1."), "{cmaf_kind}");
    assert_eq!((cmaf_name.as_deref(), ts_name.as_deref()), (Some("cmaf.mp4"), Some("ts.ts")));
    assert_eq!((ts_kind.as_str(), receipt_kind.as_str()), ("video/mp2t", "application/json"));
    let all: Vec<u16> = (0..60).collect();
    assert_eq!((numbers(cmaf), numbers(ts)), (all.clone(), all));
    let receipt: Value = serde_json::from_slice(receipt).expect("JSON");
    assert_eq!((&receipt["seq"], &receipt["outcome"]), (&json!(1), &json!("ok")));
    assert_eq!(receipt["frames_out"], json!({"cmaf": 60, "ts": 60}));
}

#[test]
fn segments_answers_all_outputs_and_the_receipt_as_parts() {
    let service = service();
    let clip = Clip::default();
    let outputs = json!([
        {"name": "cmaf", "video": {"codec": "h264", "height": 144}, "audio": {"codec": "aac"}},
        {"name": "ts", "container": "ts", "video": {"codec": "copy"}}]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let spec = folder.path().join("spec.json");
    std::fs::write(&spec, json!({"outputs": outputs}).to_string()).expect("a temporary file");
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["-s", "-i", "-H", "Expect:"])
            .args(arguments)
            .output()
            .expect("curl is installed");
        assert!(output.status.success());
        output.stdout
    };
    let (url, path) = (format!("http://{}/v1/segments", service.listen), clip.path());
    let file = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let (media, spec) = (file(&path), file(&spec));
    let (form_media, form_spec) = (format!("media=@{media}"), format!("spec=<{spec}"));
    assert_segment(&curl(&["-F", &form_spec, "-F", &form_media, &url]));
    assert_segment(&curl(&["-F", &form_media, "-F", &form_spec, &url]));
    let escaped: String = outputs.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    let with_outputs = format!("{url}?outputs={escaped}&container=mp4");
    assert_segment(&curl(&["--data-binary", &format!("@{media}"), &with_outputs]));
    assert_segment(&curl(&["-T", &media, &with_outputs]));
    assert_eq!(counted(&service, "segments"), 4.0);

    for (form, reason) in [
        (vec!["-F", form_spec.as_str()], "media"),
        (vec!["-F", &form_media, "-F", "other=1"], "other"),
        (vec!["-F", &form_media, "-F", "spec={\"output\":[]}"], "spec"),
    ] {
        let answer = curl(&[&form[..], &[url.as_str()]].concat());
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(reason), "{form:?}: {answer}");
    }
}

/// Whether `value` holds to `schema`; a keyword that is not known here is a panic, so that none is passed over.
fn holds(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: {value} against {schema}"));
    let none = serde_json::Map::new();
    let fields = value.as_object().unwrap_or(&none);
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        let rules = || rule.as_array().expect("a list").iter();
        match keyword.as_str() {
            "$ref" => holds(document, referenced(document, rule), value)?,
            "type" => {
                let is = |name: &Value| match name.as_str() {
                    Some("object") => value.is_object(),
                    Some("array") => value.is_array(),
                    Some("string") => value.is_string(),
                    Some("integer") => value.is_i64() || value.is_u64(),
                    Some("boolean") => value.is_boolean(),
                    Some("null") => value.is_null(),
                    _ => panic!("type {name}"),
                };
                let fits = rule.as_array().map_or_else(|| is(rule), |names| names.iter().any(is));
                if !fits {
                    return wrong("type");
                }
            }
            "properties" => {
                for (name, rule) in rule.as_object().expect("an object") {
                    fields.get(name).map_or(Ok(()), |field| holds(document, rule, field))?;
                }
            }
            "required" if value.is_object() => {
                if let Some(name) = rules().find(|name| !fields.contains_key(name.as_str().unwrap_or_default())) {
                    return wrong(&format!("required {name}"));
                }
            }
            "additionalProperties" => {
                let known = schema["properties"].as_object().unwrap_or(&none);
                for (name, field) in fields.iter().filter(|(name, _)| !known.contains_key(*name)) {
                    match rule {
                        Value::Bool(true) => {}
                        Value::Bool(false) => return wrong(&format!("{name} is not known")),
                        rule => holds(document, rule, field)?,
                    }
                }
            }
            "items" => value.as_array().into_iter().flatten().try_for_each(|item| holds(document, rule, item))?,
            "oneOf" if rules().filter(|rule| holds(document, rule, value).is_ok()).count() != 1 => {
                return wrong("oneOf");
            }
            "anyOf" if !rules().any(|rule| holds(document, rule, value).is_ok()) => return wrong("anyOf"),
            "enum" if !rules().any(|rule| rule == value) => return wrong("enum"),
            "const" if rule != value => return wrong("const"),
            "minimum" if value.as_f64().is_some_and(|value| value < rule.as_f64().unwrap_or(f64::MAX)) => {
                return wrong("minimum");
            }
            "maximum" if value.as_f64().is_some_and(|value| value > rule.as_f64().unwrap_or(f64::MIN)) => {
                return wrong("maximum");
            }
            "required" | "oneOf" | "anyOf" | "enum" | "const" | "minimum" | "maximum" => {}
            "description" | "default" | "format" => {}
            other => panic!("the keyword {other} is not known"),
        }
    }
    Ok(())
}

fn referenced<'a>(document: &'a Value, reference: &Value) -> &'a Value {
    let pointer = reference.as_str().and_then(|reference| reference.strip_prefix('#'));
    let pointer = pointer.unwrap_or_else(|| panic!("{reference} is not in the document"));
    document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

/// Every `$ref` leads somewhere.
fn assert_closed(document: &Value, at: &Value) {
    match at {
        Value::Object(fields) => {
            fields.get("$ref").map(|reference| referenced(document, reference));
            fields.values().for_each(|field| assert_closed(document, field));
        }
        Value::Array(items) => items.iter().for_each(|item| assert_closed(document, item)),
        _ => {}
    }
}

fn document(service: &Service, path: &str) -> Value {
    let (status, head, body) = service.http("GET", path, &[], b"");
    assert_eq!(status, 200, "{path}");
    assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{path}: {head}");
    serde_json::from_slice(&body).expect("JSON")
}

#[tokio::test]
async fn all_that_is_said_in_a_session_is_as_asyncapi_says() {
    let service = service();
    let document = document(&service, "/v1/asyncapi.json");
    assert_eq!(document["asyncapi"], "3.0.0");
    assert_closed(&document, &document);
    let payload = |name: &str| document["channels"]["stream"]["messages"][name]["payload"].clone();
    let (from_client, text, binary) = (payload("client"), payload("server"), payload("binary"));

    let start = json!({"type": "start", "mode": "file", "input": {"container": "mp4"}, "segment_ms": 500, "outputs": [
        {"name": "v", "video": {"codec": "h264", "height": 144, "crf": 30, "preset": "superfast"}},
        {"name": "t", "container": "ts", "video": {"codec": "copy"}, "audio": {"codec": "copy"}},
        {"name": "a", "audio": {"codec": "opus", "kbps": 64}}]});
    let finish = json!({"type": "finish", "channel": 0});
    let clip = Clip { frames: 90, gop: 15, ..Clip::default() }.bytes();
    let mut seen = std::collections::BTreeSet::new();
    // A whole session, one that is cut off, and one that is refused.
    for (start, media) in [
        (start.clone(), &clip[..]),
        (start.clone(), &clip[..clip.len() / 2]),
        (json!({"type": "start", "outputs": []}), &[]),
    ] {
        let socket = client::connect(service.listen).await;
        let (mut sink, mut stream) = socket.split();
        for message in [&start, &finish, &json!({"type": "ack", "seq": 1})] {
            holds(&document, &from_client, message).expect("what is sent is as the document says");
        }
        let mut messages = vec![Message::text(start.to_string())];
        messages.extend(media.chunks(10_000).map(|piece| Message::binary([&[0], piece].concat())));
        messages
            .extend([Message::text(json!({"type": "ack", "seq": 1}).to_string()), Message::text(finish.to_string())]);
        let sending = tokio::spawn(async move {
            for message in messages {
                if sink.send(message).await.is_err() {
                    break;
                }
            }
            sink
        });
        while let Some(Ok(message)) = stream.next().await {
            let (schema, message): (_, Value) = match message {
                Message::Text(message) => (&text, serde_json::from_str(&message).expect("JSON")),
                Message::Binary(data) => {
                    let length = u32::from_be_bytes(data[..4].try_into().expect("four bytes")) as usize;
                    (&binary, serde_json::from_slice(&data[4..4 + length]).expect("JSON"))
                }
                _ => continue,
            };
            holds(&document, schema, &message).expect("what comes is as the document says");
            seen.insert(message["type"].as_str().expect("a type").to_owned());
        }
        drop(sending.await.expect("sending does not panic"));
    }
    for kind in ["ready", "tracks", "init", "segment", "receipt", "error", "done"] {
        assert!(seen.contains(kind), "{kind} was not among {seen:?}");
    }
    for wrong in [
        json!({"type": "begin"}),
        json!({"type": "start", "colour": 1}),
        json!({"type": "start", "outputs": [{"name": "v", "video": {"codec": "h266"}}]}),
        json!({"type": "start", "outputs": [{"name": "v", "video": {"codec": "h264", "hight": 1}}]}),
        json!({"type": "finish", "channel": 300}),
    ] {
        assert!(holds(&document, &from_client, &wrong).is_err(), "{wrong}");
    }
}

#[test]
fn openapi_and_capabilities_describe_the_service() {
    let service = service();
    let openapi = document(&service, "/v1/openapi.json");
    assert_eq!(openapi["openapi"], "3.1.0");
    assert_closed(&openapi, &openapi);
    for (path, methods) in openapi["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let (status, _, body) = service.http(&method.to_ascii_uppercase(), path, &[], b"");
            let told = &operation["responses"][status.to_string()];
            assert!(told.is_object(), "{method} {path}: {status} is not in the document");
            if status >= 400 {
                let problem: Value = serde_json::from_slice(&body).expect("JSON");
                let schema = &told["content"]["application/problem+json"]["schema"];
                holds(&openapi, schema, &problem).expect("a problem as the document says");
            }
        }
    }
    let capabilities = document(&service, "/v1/capabilities");
    assert_eq!(capabilities["containers"], json!({"in": ["mp4", "webm", "ts"], "out": ["cmaf", "ts"]}));
    assert_eq!(capabilities["limits"]["workers"], 1);
    let codecs = |list: &Value| {
        let list = list.as_array().expect("a list").iter();
        list.map(|entry| entry["codec"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert!(codecs(&capabilities["video"]["encode"]).contains(&"h264".to_owned()));
    assert!(codecs(&capabilities["audio"]["encode"]).contains(&"aac".to_owned()));
    assert!(codecs(&capabilities["video"]["decode"]).contains(&"h264".to_owned()));
}

#[test]
fn the_ops_port_counts_each_segment_of_a_request_once() {
    let service = service();
    assert_eq!(service.get_ops("/health/live"), (200, r#"{"live":true}"#.to_owned()));
    assert_eq!(service.get_ops("/health/ready"), (200, r#"{"ready":true}"#.to_owned()));
    let clip = Clip { audio: None, frames: 90, ..Clip::default() }.bytes();
    let trace =
        [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("segmill-origin", "loadtest")];
    let (status, _, body) = service.http("POST", "/v1/transcode?height=144", &trace, &clip);
    assert_eq!((status, numbers(&body).len()), (200, 90));
    let (_, text) = service.get_ops("/metrics");
    let value = |series: &str| service.metric(series).unwrap_or_else(|| panic!("no {series} in {text}"));
    for (series, expected) in [
        ("segmill_segments_total{op=\"transcode\",origin=\"loadtest\",outcome=\"ok\"}", 3.0),
        ("segmill_segments_total{op=\"transcode\",origin=\"client\",outcome=\"ok\"}", 0.0),
        ("segmill_segment_duration_seconds_count{op=\"transcode\",origin=\"loadtest\",outcome=\"ok\"}", 3.0),
        ("segmill_segment_queue_seconds_count{op=\"transcode\"}", 3.0),
        ("segmill_segment_transcode_seconds_count{op=\"transcode\"}", 3.0),
        ("segmill_delivery_seconds_count{op=\"transcode\"}", 3.0),
        ("segmill_frames_total{direction=\"in\"}", 90.0),
        ("segmill_frames_total{direction=\"out\"}", 90.0),
        ("segmill_segments_in_flight", 0.0),
        ("segmill_sessions", 0.0),
        ("segmill_queue_depth", 0.0),
    ] {
        assert_eq!(value(series), expected, "{series}");
    }
    // RFC 9110 answers the same to a trace that is none.
    let (status, _, _) = service.http("GET", "/v1/capabilities", &[("traceparent", "00-zz")], b"");
    assert_eq!(status, 200);
}

#[test]
fn pictures_that_come_twice_are_never_a_fault_of_the_service() {
    let service = Service::start(&["--workers", "1"]);
    let clip = Clip { shape: Shape::Ts, audio: None, gop: 60, b_frames: 2, ..Clip::default() };
    let media = clip.bytes();
    for packets in [20, 40, 60] {
        // A stretch in the middle of the only group of pictures, sent twice.
        let middle = media.len() / 2 / 188 * 188;
        let twice = [&media[..middle], &media[middle - packets * 188..]].concat();
        let (status, _, body) = service.http("POST", "/v1/transcode?height=90", &[], &twice);
        let told = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        assert!(status == 200 || status == 422, "{packets} packets twice: {status} {told}");
    }
}
