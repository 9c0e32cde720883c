//! `segmill rollout`, the real program, against an Admin API and a Prometheus that can be made to fail.

use std::io::Write;
use std::process::{Output, Stdio};
use std::time::Duration;

use crate::support::cloud::{Cloud, Fault, SERVICE};
use crate::support::media::{self, Clip, Shape};
use crate::support::service::{self, Service};
use crate::support::tokens::{self, Signer, now};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// Parts of the expressions of deploy/alerts/rules.yaml by which the rules are told apart.
const ERRORS: &str = "> 0.10";
const LATENCY: &str = "> 3\n";
const HEALTH: &str = "segmill_health_consecutive_failures";
const WARNING: &str = "> 0.05";
const HOUR: u64 = 3600;

fn command(cloud: &Cloud, arguments: &[&str]) -> Command {
    let url = format!("http://{}", cloud.address);
    let mut command = Command::new(env!("CARGO_BIN_EXE_segmill"));
    command.arg("rollout").args(arguments).args(["--service", SERVICE]);
    command.args(["--run-url", &url, "--prometheus-url", &url, "--metadata-url", &url]);
    command.kill_on_drop(true);
    command
}

/// Exit code, and what was told on stdout and stderr; it never tells the token.
async fn run(cloud: &Cloud, arguments: &[&str]) -> (i32, String) {
    told(&command(cloud, arguments).output().await.expect("it runs"))
}

fn told(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    assert!(!text.contains(Cloud::token()), "{text}");
    (output.status.code().expect("it ends by itself"), text)
}

fn says((code, text): (i32, String), expected: i32, part: &str) {
    assert_eq!(code, expected, "{text}");
    assert!(text.contains(part), "{part}: {text}");
}

fn shares(cloud: &Cloud, expected: &[(&str, u64)]) {
    let shares = cloud.shares();
    let shares: Vec<_> = shares.iter().map(|(revision, percent)| (revision.as_str(), *percent)).collect();
    assert_eq!(shares, expected);
}

/// As if the canary's step had begun so long ago.
fn age(cloud: &Cloud, seconds: u64) {
    let mut note = cloud.note();
    note["since"] = json!(note["since"].as_u64().expect("a time") - seconds);
    cloud.change(|inside| drop(inside.annotations.insert("segmill.dev/rollout".into(), json!(note.to_string()))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_goes_up_step_by_step_and_the_same_twice_changes_nothing() {
    let cloud = Cloud::start().await;
    says(run(&cloud, &["promote"]).await, 0, "changed: a 90 %, b 10 %");
    shares(&cloud, &[("a", 90), ("b", 10)]);
    says(run(&cloud, &["promote", "--percent", "10"]).await, 0, "nothing to change");
    says(run(&cloud, &["promote"]).await, 3, "lasts");
    age(&cloud, 2 * HOUR);
    cloud.change(|inside| inside.segments = 999.0);
    says(run(&cloud, &["promote", "--percent", "50"]).await, 5, "999 segments are too few");
    says(run(&cloud, &["promote", "--percent", "50", "--min-segments", "900"]).await, 0, "a 50 %, b 50 %");
    age(&cloud, 24 * HOUR);
    cloud.change(|inside| inside.segments = 5000.0);
    says(run(&cloud, &["promote", "--revision", "b"]).await, 0, "changed: b 100 %");
    says(run(&cloud, &["promote", "--percent", "100", "--revision", "b"]).await, 0, "nothing to change");
    let (_, text) = run(&cloud, &["status", "--json"]).await;
    let status: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["release"]["stable"], "a", "{status}");
    assert_eq!((&status["release"]["canary"]["percent"], &status["traffic"]), (&json!(100), &json!({"b": 100})));
    says(run(&cloud, &["status"]).await, 0, "b 100 %");
    let inside = cloud.inside();
    assert_eq!(inside.patches.len(), 3);
    for patch in &inside.patches {
        let names: Vec<_> = patch.as_object().expect("an object").keys().collect();
        assert_eq!(names, ["etag", "annotations", "traffic"]);
        assert_eq!(patch["annotations"]["kept"], "as it is");
        assert!(patch["traffic"].as_array().expect("targets").contains(&json!(
            {"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION", "revision": "b", "tag": "next"}
        )));
    }
    let asked = |what: &str| inside.asked.iter().filter(|asked| asked.as_str() == what).count();
    assert_eq!(asked("GET token"), 9, "one for each process, however much it asks");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_back_stays_so_also_by_another_name() {
    let cloud = Cloud::start().await;
    says(run(&cloud, &["rollback"]).await, 0, "nothing to change: a 100 %");
    run(&cloud, &["promote"]).await;
    says(run(&cloud, &["rollback", "--reason", "it sounds wrong"]).await, 0, "changed: a 100 %");
    shares(&cloud, &[("a", 100)]);
    says(run(&cloud, &["rollback"]).await, 0, "nothing to change: a 100 %");
    says(run(&cloud, &["rollback", "--revision", "b"]).await, 0, "nothing to change: a 100 %");
    says(run(&cloud, &["promote"]).await, 3, "it sounds wrong");
    cloud.change(|inside| inside.latest = "c".into());
    says(run(&cloud, &["promote"]).await, 3, "b was taken back");
    says(run(&cloud, &["watch", "--revision", "b", "--for", "1h"]).await, 4, "it sounds wrong");
    says(run(&cloud, &["status"]).await, 0, "it sounds wrong");
    cloud.change(|inside| inside.latest = "d".into());
    says(run(&cloud, &["promote"]).await, 0, "a 90 %, d 10 %");

    // What was noted is damaged: a rollback that says of whom it is does not need it.
    cloud.change(|inside| drop(inside.annotations.insert("segmill.dev/rollout".into(), json!("{"))));
    says(run(&cloud, &["status"]).await, 0, "can't be read");
    says(run(&cloud, &["rollback"]).await, 3, "which of them is the canary is not noted");
    says(run(&cloud, &["rollback", "--revision", "d"]).await, 0, "changed: a 100 %");
    says(run(&cloud, &["promote", "--revision", "nowhere", "--percent", "10"]).await, 1, "there is no such thing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_canary_is_taken_back_and_not_where_the_stable_revision_is_as_bad() {
    let cloud = Cloud::start().await;
    run(&cloud, &["promote"]).await;
    let watch = ["watch", "--for", "1s", "--every", "500ms"];
    says(run(&cloud, &watch).await, 0, "5000 segments");
    cloud.change(|inside| inside.bad = vec![(WARNING, "b", 0)]);
    says(run(&cloud, &watch).await, 5, "SegmillErrorRateRaised");
    cloud.change(|inside| inside.bad = vec![(ERRORS, "a", 0), (ERRORS, "b", 0)]);
    says(run(&cloud, &watch).await, 5, "both bad: SegmillErrorRateHigh");
    cloud.change(|inside| (inside.bad, inside.segments) = (vec![], 3.0));
    says(run(&cloud, &watch).await, 5, "3 segments are too few");
    cloud.change(|inside| inside.prometheus_down = true);
    says(run(&cloud, &["promote", "--early"]).await, 5, "503");
    says(run(&cloud, &["status"]).await, 0, "503");
    shares(&cloud, &[("a", 90), ("b", 10)]);

    // It has been so for most of its five minutes.
    cloud.change(|inside| {
        inside.prometheus_down = false;
        inside.bad = vec![(LATENCY, "b", now() - 290)];
    });
    let watching = command(&cloud, &["watch", "--for", "1s", "--every", "500ms"]).output();
    let taken_back =
        told(&tokio::time::timeout(Duration::from_secs(120), watching).await.expect("it ends").expect("it runs"));
    says(taken_back, 4, "taken back: SegmillLatencyHigh");
    shares(&cloud, &[("a", 100)]);
    assert_eq!(cloud.note()["frozen"][0]["reason"], "SegmillLatencyHigh");
    assert_eq!(cloud.note()["frozen"][0]["digest"], format!("sha256:{}", "b".repeat(64)));
    says(run(&cloud, &watch).await, 5, "nothing is being tried");
    cloud.change(|inside| inside.bad = vec![(HEALTH, "a", 0)]);
    says(run(&cloud, &["promote", "--revision", "d", "--percent", "10"]).await, 3, "stable revision is bad");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_overtaken_or_gets_no_answer_looks_again_and_overwrites_nothing() {
    let cloud = Cloud::start().await;
    let service = "GET projects/test/locations/here/services/segmill";
    let operation = "GET projects/test/locations/here/operations";
    cloud.change(|inside| {
        inside.faults = [
            (service, Fault::Status(503)),
            (service, Fault::Status(429)),
            ("PATCH", Fault::Overtaken),
            ("PATCH", Fault::Status(500)),
            ("PATCH", Fault::Unanswered),
            (operation, Fault::Status(500)),
        ]
        .into();
    });
    says(run(&cloud, &["promote"]).await, 0, "a 90 %, b 10 %");
    assert_eq!(cloud.inside().patches.len(), 1, "done once, although nobody told so");

    // Somebody else takes the canary back while its promotion is under way.
    age(&cloud, 2 * HOUR);
    cloud.change(|inside| inside.faults = [("PATCH", Fault::Status(412))].into());
    let promoting = tokio::spawn({
        let cloud = cloud.clone();
        async move { run(&cloud, &["promote", "--percent", "50"]).await }
    });
    let rolled_back = run(&cloud, &["rollback", "--revision", "b"]).await;
    assert_eq!(rolled_back.0, 0, "{}", rolled_back.1);
    let promoted = promoting.await.expect("no panic");
    assert!(matches!(promoted.0, 0 | 3), "{}", promoted.1);
    shares(&cloud, &[("a", 100)]);

    for (fault, says_so) in
        [(Fault::Endless, "longer than"), (Fault::Garbage, "can't be read"), (Fault::Status(403), "403: as told")]
    {
        cloud.change(|inside| inside.faults = [(service, fault)].into());
        says(run(&cloud, &["status"]).await, 1, says_so);
    }
    cloud.change(|inside| inside.faults = [("PATCH", Fault::Fails)].into());
    says(run(&cloud, &["promote", "--revision", "d", "--percent", "10"]).await, 1, "the revision is not ready");
    cloud.change(|inside| inside.faults = [("PATCH", Fault::Overtaken); 20].into());
    says(run(&cloud, &["promote", "--revision", "d", "--percent", "10"]).await, 1, "again and again");
    shares(&cloud, &[("a", 100)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_meant_is_refused_before_anything_is_asked() {
    let cloud = Cloud::start().await;
    for (arguments, part) in [
        (&["status", "--service", "segmill"][..], "projects/PROJECT"),
        (&["promote", "--revision", "b/../c"], "is no revision's name"),
        (&["promote", "--steps", "50:1h,10:1h"], "must rise to 100"),
        (&["promote", "--steps", "10:1h"], "must rise to 100"),
        (&["promote", "--percent", "0"], "--percent"),
        (&["status", "--run-url", "http://example.com"], "https only"),
        (&["status", "--rules", "Cargo.toml"], "--rules"),
        (&["status", "--credentials", "my-token"], "must be metadata, none or @FILE"),
    ] {
        let url = format!("http://{}", cloud.address);
        let mut command = Command::new(env!("CARGO_BIN_EXE_segmill"));
        command.args(["rollout", "--prometheus-url", &url, "--metadata-url", &url]).args(arguments);
        command.env("SEGMILL_ROLLOUT_SERVICE", SERVICE).env("SEGMILL_ROLLOUT_RUN_URL", &url);
        says(told(&command.output().await.expect("it runs")), 64, part);
    }
    assert_eq!(cloud.inside().asked.len(), 0);
}

/// A running `segmill rollout serve`, and where it listens.
async fn serving(cloud: &Cloud, more: &[&str]) -> (tokio::process::Child, std::net::SocketAddr) {
    let jwks = format!("http://{}/jwks", cloud.address);
    let flags = ["serve", "--listen", "127.0.0.1:0", "--audience", "https://rollback.example", "--jwks-url", &jwks];
    let mut command = command(cloud, &[&flags[..], &["--account", ACCOUNT, "--log-format", "json"], more].concat());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
    let address = loop {
        let line = lines.next_line().await.expect("text").expect("it says where it listens");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        if line["message"] == "ready" {
            break line["listen"].as_str().and_then(|text| text.parse().ok()).expect("an address");
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, address)
}

const ACCOUNT: &str = "pusher@test.iam.example";

/// What Pub/Sub sends of an alert.
fn alert(state: &str) -> Value {
    let notification = json!({"version": "1.2", "incident": {"incident_id": "0.x", "state": state, "policy_name": "SegmillErrorRateHigh"}});
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, notification.to_string());
    json!({"message": {"data": data, "messageId": "1", "attributes": {}}, "subscription": "projects/test/subscriptions/alerts"})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_is_pushed_takes_a_bad_canary_back_once_it_is_bad_indeed() {
    let cloud = Cloud::start().await;
    let (google, stranger) = (Signer::new(Algorithm::RS256, "g"), Signer::new(Algorithm::RS256, "s"));
    cloud.change(|inside| inside.jwks = tokens::set(&[&google]));
    let (mut child, address) = serving(&cloud, &[]).await;
    let claims = |more: Value| {
        let mut claims = json!({"iss": "https://accounts.google.com", "aud": "https://rollback.example", "sub": "1",
            "email": ACCOUNT, "email_verified": true, "exp": now() + 600});
        more.as_object().expect("claims").iter().for_each(|(name, value)| claims[name] = value.clone());
        claims
    };
    let push = |token: String, body: String| async move {
        let sent = tokio::task::spawn_blocking(move || {
            let token = format!("Bearer {token}");
            let headers: &[(&str, &str)] = if token == "Bearer " { &[] } else { &[("Authorization", &token)] };
            service::request(address, "POST", "/", headers, body.as_bytes()).0
        });
        sent.await.expect("no panic")
    };
    let good = google.sign(&claims(json!({})));
    let open = alert("open").to_string();
    // Until the keys are there nobody can be let in.
    while push(good.clone(), alert("closed").to_string()).await == 503 {}
    run(&cloud, &["promote"]).await;
    cloud.change(|inside| inside.bad = vec![(ERRORS, "b", 0)]);
    for (token, status) in [
        (String::new(), 401),
        ("x.y.z".into(), 401),
        (stranger.sign(&claims(json!({}))), 401),
        (google.sign(&claims(json!({"aud": "https://other.example"}))), 401),
        (google.sign(&claims(json!({"iss": "https://other.example"}))), 401),
        (google.sign(&claims(json!({"exp": now() - 600}))), 401),
        (google.sign(&claims(json!({"email": "other@test.iam.example"}))), 403),
        (google.sign(&claims(json!({"email_verified": false}))), 403),
        (google.sign(&claims(json!({"email_verified": "true"}))), 403),
    ] {
        assert_eq!(push(token.clone(), open.clone()).await, status, "{token}");
    }
    for no_alert in ["", "{}", "[]", r#"{"message": {"data": "?"}}"#, r#"{"message": {"data": "e30="}}"#] {
        assert_eq!(push(good.clone(), no_alert.into()).await, 204, "{no_alert}: it would be no better the next time");
    }
    assert_eq!(push(good.clone(), alert("closed").to_string()).await, 204);
    shares(&cloud, &[("a", 90), ("b", 10)]);

    cloud.change(|inside| inside.bad = vec![]);
    assert_eq!(push(good.clone(), open.clone()).await, 204, "whatever the message says, the canary is not bad");
    cloud.change(|inside| inside.bad = vec![(ERRORS, "b", now())]);
    assert_eq!(push(good.clone(), open.clone()).await, 503, "it may become bad: come again");
    cloud.change(|inside| inside.bad = vec![(ERRORS, "a", 0), (ERRORS, "b", 0)]);
    assert_eq!(push(good.clone(), open.clone()).await, 503, "as bad as the stable one");
    cloud.change(|inside| inside.prometheus_down = true);
    assert_eq!(push(good.clone(), open.clone()).await, 503);
    shares(&cloud, &[("a", 90), ("b", 10)]);

    cloud.change(|inside| (inside.prometheus_down, inside.bad) = (false, vec![(ERRORS, "b", 0)]));
    cloud.change(|inside| inside.faults = [("PATCH", Fault::Overtaken)].into());
    let pushes = (0..8).map(|_| push(good.clone(), open.clone()));
    assert_eq!(futures_util::future::join_all(pushes).await, [204; 8]);
    shares(&cloud, &[("a", 100)]);
    assert_eq!(cloud.inside().patches.len(), 2, "the promotion, and one rollback for all who pushed");
    assert_eq!(cloud.note()["frozen"][0]["revision"], "b");

    service::signal(child.id().expect("it runs"), "TERM");
    assert_eq!(child.wait().await.expect("it ends").code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_alert_a_canary_goes_up_while_it_does_well_and_comes_back_when_it_does_not() {
    let cloud = Cloud::start().await;
    run(&cloud, &["promote"]).await;
    let steps = ["--every", "500ms", "--advance", "--steps", "10:1s,50:1s,100:1h"];
    let (_child, _) = serving(&cloud, &steps).await;
    until("all have it", || cloud.shares().get("b") == Some(&100)).await;
    let split: Vec<_> = cloud.inside().patches.iter().map(|patch| patch["traffic"][0]["percent"].clone()).collect();
    assert_eq!(split, [10, 50, 100]);
    cloud.change(|inside| inside.bad = vec![(HEALTH, "b", 0)]);
    until("it is taken back", || cloud.shares().get("a") == Some(&100)).await;
}

/// Waits for the event itself, with a deadline.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while !is_so() {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_was_taken_back_hands_its_sessions_over_and_lives_on() {
    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let cloud = Cloud::start().await;
    let url = format!("http://{}", cloud.address);
    let flags = |revision: &'static str| {
        let of = ["--workers", "1", "--resume-key", KEY, "--run-service", SERVICE, "--run-revision", revision];
        let to = ["--run-url", &url, "--run-metadata-url", &url, "--run-every", "200ms"];
        Service::start(&[&of[..], &to].concat())
    };
    let (stable, canary) = (flags("a"), flags("b"));
    run(&cloud, &["promote"]).await;
    let clip = Clip { shape: Shape::Ts, frames: 360, gop: 15, ..Clip::default() };
    let folder = tempfile::tempdir().expect("a folder");
    let outputs = r#"[{"name":"v","video":{"codec":"h264","height":90},"audio":{"codec":"aac"}}]"#;
    let mut push = std::process::Command::new(env!("CARGO_BIN_EXE_segmill"))
        .args(["push", "-", "--json", "--segment-ms", "500", "--outputs", outputs, "--out"])
        .arg(folder.path())
        .args(["--to", &format!("ws://{},ws://{}", canary.listen, stable.listen)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // The second half is filmed after the first has been taken back.
    let media = clip.bytes();
    let (first, second) = media.split_at(media.len() / 2);
    let mut input = push.stdin.take().expect("it is piped");
    input.write_all(first).expect("it reads");
    let made = "segmill_segments_total{op=\"stream\",origin=\"client\",outcome=\"ok\"}";
    until("a segment is made", || canary.metric(made).is_some_and(|made| made > 0.0)).await;

    // An API that fails, or tells nonsense, takes nobody's session.
    let failed = || canary.metric("segmill_release_polls_total{outcome=\"failed\"}").unwrap_or_default();
    let asks = "GET projects/test/locations/here/services/segmill";
    cloud.change(|inside| {
        inside.faults = [(asks, Fault::Garbage), (asks, Fault::Endless), (asks, Fault::Status(403))].into()
    });
    until("it could not be told", || {
        failed() + stable.metric("segmill_release_polls_total{outcome=\"failed\"}").unwrap_or_default() >= 3.0
    })
    .await;
    assert_eq!((canary.metric("segmill_sessions"), canary.get_ops("/health/ready").0), (Some(1.0), 200));

    says(run(&cloud, &["rollback", "--reason", "test"]).await, 0, "a 100 %");
    until("it is told", || canary.metric("segmill_retired") == Some(1.0)).await;
    let refused = canary.http("POST", "/v1/transcode", &[], b"");
    assert!(refused.0 == 503 && String::from_utf8_lossy(&refused.2).contains("closing"), "{}", refused.1);
    let (status, ready) = canary.get_ops("/health/ready");
    assert!(status == 503 && ready.contains("draining"), "{ready}");
    input.write_all(second).expect("it reads");
    drop(input);
    let output = push.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let summary = said.iter().find(|message| message["type"] == "summary").expect("a summary");
    assert_eq!((&summary["reconnects"]["drain"], &summary["complete"]), (&json!(1), &json!(true)), "{summary}");
    let pictures = media::decode_barcodes_of(&folder.path().join("v").join("media.m3u8"));
    let numbers: Vec<u16> = pictures.into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, (0..clip.frames).collect::<Vec<_>>(), "nothing is lost and nothing twice");
    assert_eq!(stable.metric("segmill_retired"), Some(0.0));
    assert_eq!(canary.get_ops("/health/live").0, 200, "until the platform ends it");

    // Somebody gives it traffic by hand: a process that refuses it is of no use.
    cloud.change(|inside| inside.traffic = vec![json!({"revision": "b", "percent": 100})]);
    assert_eq!(tokio::task::spawn_blocking(|| canary.exit_code()).await.expect("no panic"), Some(0));
}
