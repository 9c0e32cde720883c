//! Workers that fail in every way there is, in the whole service, with four healthy sessions beside each: these lose
//! nothing, and nothing is left behind. Not part of `cargo test`: `make chaos`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::canary::{at_rest, canaries, counters};
use crate::support::client;
use crate::support::media::Clip;
use crate::support::service::Service;
use crate::support::verify;
use serde_json::{Value, json};
use tokio::sync::watch;

/// The width by which the workers of `examples/chaos_service.rs` know a session that may fail.
const MARKED: usize = 208;
/// How long all that was taken may take to be given back.
const BACK: Duration = Duration::from_secs(10);

fn start(outputs: &[&str]) -> Value {
    json!({"segment_ms": 500, "outputs": verify::outputs(outputs)})
}

/// Each fault, and the name that it has when it is seen.
const FAULTS: [(&str, &str); 10] = [
    ("spin", "worker_timeout"),
    ("sleep", "worker_timeout"),
    ("teardown", "worker_timeout"),
    ("memory", "worker_died"),
    ("segfault", "worker_died"),
    ("abort", "worker_died"),
    ("exit", "worker_died"),
    ("garbage", "worker_protocol"),
    ("claim", "worker_protocol"),
    ("flood", "worker_protocol"),
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_worker_does_it_is_named_counted_and_felt_by_nobody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = tempfile::tempdir().expect("a folder");
    let mut flags = vec!["--workers", "2", "--worker-progress-timeout", "5s", "--worker-start-timeout", "60s"];
    flags.extend(["--poison-dir", kept.path().to_str().expect("text")]);
    let service = Service::chaos(folder.path(), &flags);
    let poison = |round: usize| Clip {
        width: MARKED,
        height: 118,
        audio: None,
        frames: 15,
        gop: 15,
        first: round as u16 * 100,
        ..Clip::default()
    };
    // All code has run once, and all that is kept for ever is there.
    canaries(&service, None).await;
    let rest = at_rest(&service, None, BACK).await;
    for (round, (fault, cause)) in FAULTS.into_iter().enumerate() {
        let before = counters(&service);
        let (struck, strikes) = watch::channel(false);
        let faults = async {
            // Once: the job is done by another worker, and its client sees nothing but the number of tries.
            tell(folder.path(), "once", fault);
            let clip = poison(2 * round);
            let session = client::stream(service.listen, start(&["h264@90"]), clip.bytes(), 20_000).await;
            verify::session(&clip, &["h264@90"], &session);
            assert_eq!(session.receipts[0]["attempts"], 2, "{fault}");
            // Always: two workers, and no more when it comes again.
            tell(folder.path(), "always", fault);
            let clip = poison(2 * round + 1);
            for attempts in [2, 0] {
                let session = client::stream(service.listen, start(&["h264@90"]), clip.bytes(), 20_000).await;
                let receipt = &session.receipts[0];
                assert_eq!((session.receipts.len(), &receipt["outcome"]), (1, &json!("failed")), "{fault}");
                assert_eq!(
                    (&receipt["error"]["code"], &receipt["attempts"]),
                    (&json!("poison_segment"), &json!(attempts))
                );
                assert_eq!((session.close_code(), session.error_codes()), (4422, vec!["poison_segment"]));
            }
            std::fs::remove_file(folder.path().join("fault")).expect("it is there");
            struck.send_replace(true);
        };
        let (receipts, ()) = tokio::join!(canaries(&service, Some(strikes)), faults);
        at_rest(&service, Some(&rest), BACK).await;
        let after = counters(&service);
        let rise = |series: &str| after.get(series).unwrap_or(&0.0) - before.get(series).unwrap_or(&0.0);
        let by =
            |name: &str| after.keys().filter(|series| series.starts_with(name)).map(|series| rise(series)).sum::<f64>();
        assert_eq!(rise(&format!("segmill_worker_restarts_total{{cause=\"{cause}\"}}")), 3.0, "{fault}");
        assert_eq!(by("segmill_worker_restarts_total{"), 3.0, "{fault}: for no other cause");
        assert_eq!(rise("segmill_quarantined_jobs_total{event=\"added\"}"), 1.0, "{fault}");
        assert_eq!(rise("segmill_quarantined_jobs_total{event=\"answered\"}"), 1.0, "{fault}");
        assert_eq!(rise("segmill_segment_errors_total{code=\"poison_segment\"}"), 2.0, "{fault}");
        assert_eq!(by("segmill_segment_errors_total{"), 2.0, "{fault}: no other error");
        let outcome = |outcome: &str| {
            rise(&format!("segmill_segments_total{{op=\"stream\",origin=\"client\",outcome=\"{outcome}\"}}"))
        };
        assert_eq!([outcome("ok"), outcome("degraded"), outcome("failed")], [receipts + 1.0, 0.0, 2.0], "{fault}");
        println!("{fault}: {cause}, {receipts} segments of canaries exact");
    }
    drop(service);
    // What was kept is what was sent: nothing is wrong with it where no fault is asked for.
    let files: Vec<_> = std::fs::read_dir(kept.path()).expect("a folder").map(|file| file.expect("a file")).collect();
    assert_eq!(files.len(), FAULTS.len());
    for file in files {
        let mut worker = Command::new(env!("CARGO_BIN_EXE_segmill"));
        let replayed = worker.args(["worker", "--replay"]).arg(file.path()).output().expect("the binary starts");
        let said = String::from_utf8_lossy(&replayed.stdout);
        assert!(replayed.status.success() && said.contains("decoded: 15"), "{said}");
    }
}

/// What the next jobs of a marked session do.
fn tell(folder: &Path, times: &str, fault: &str) {
    std::fs::write(folder.join("told"), format!("{times} {fault}")).expect("the folder can be written");
    std::fs::rename(folder.join("told"), folder.join("fault")).expect("the folder can be written");
}
