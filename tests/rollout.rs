//! `segmill rollout`, the real program, against an Admin API and a Prometheus that can be made to fail.

mod support;

use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use support::cloud::{Cloud, Fault, SERVICE};
use support::tokens::now;
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
