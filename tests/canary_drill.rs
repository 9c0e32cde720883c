//! Releases as they go: a good one up to all of the traffic, and a bad one back, by the real rules in their real time. The
//! real service three times, a real Prometheus that scrapes them, `segmill push` and a real k6 that stream all the while,
//! and a cloud that routes new connections by its traffic. Not part of `cargo test`: `make drill`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::cloud::{Cloud, SERVICE};
use crate::support::k6::{K6, Run};
use crate::support::media::{Clip, Shape};
use crate::support::prometheus::Prometheus;
use crate::support::service::Service;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// The width by which the workers of `examples/chaos_service.rs` know what may fail.
const MARKED: usize = 208;
const OUTPUTS: &str = r#"[{"name":"v","video":{"codec":"h264","height":90}}]"#;
/// How late a segment may be that is wanted live, in ms: what others do on this machine is to fail none.
const DEADLINE: &str = "30000";
/// Clients, of each kind, and pictures. These stream for twenty seconds again and again, so that new connections come all
/// the while.
const SHORT: (usize, u16) = (2, 600);
/// These stream for ten minutes: theirs are the sockets that are open when the release is taken back.
const LONG: (usize, u16) = (4, 18_000);
/// From the first segment that fails until all of the traffic is back.
const TAKEN_BACK: Duration = Duration::from_secs(480);
/// Nothing of it takes so long.
const STUCK: Duration = Duration::from_secs(900);

/// Leads each new connection to a revision by its share of the traffic, and adds nothing.
async fn route(cloud: Cloud, revisions: BTreeMap<&'static str, SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        // In turn and not by chance: of ten connections exactly one goes to who has 10 %.
        let mut owed: BTreeMap<String, i64> = BTreeMap::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let shares = cloud.shares();
            for (revision, percent) in &shares {
                *owed.entry(revision.clone()).or_default() += *percent as i64;
            }
            let next = owed.iter().filter(|(name, _)| shares.contains_key(*name)).max_by_key(|(_, owed)| **owed);
            let revision = next.expect("somebody has traffic").0.clone();
            *owed.get_mut(&revision).expect("it is owed") -= 100;
            let to = revisions[revision.as_str()];
            tokio::spawn(async move {
                if let Ok(mut service) = TcpStream::connect(to).await {
                    // Ends when either does.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut service).await;
                }
            });
        }
    });
    address
}

/// What the clients have seen.
#[derive(Debug, Default)]
struct Seen {
    whole: usize,
    with_failures: usize,
    refused: usize,
    reconnects: BTreeMap<String, u64>,
    /// Receipts, and those of segments that failed.
    segments: u64,
    failed: u64,
}

/// What `segmill push` streams, and what k6 does.
fn clips(frames: u16) -> [PathBuf; 2] {
    [(Shape::FaststartMp4, ""), (Shape::FragmentedMp4, "-frag_duration 200000")].map(|(shape, more)| {
        Clip { shape, width: MARKED, height: 118, frames, gop: 15, audio: None, more, ..Clip::default() }.path()
    })
}

/// `segmill push` of so many pictures in their time, once or until it is told to stop.
async fn client(frames: u16, to: SocketAddr, stop: Option<Arc<AtomicBool>>, seen: Arc<Mutex<Seen>>) {
    let [path, _] = clips(frames);
    let folder = tempfile::tempdir().expect("a folder");
    for round in 0.. {
        if round > 0 && stop.as_ref().is_none_or(|stop| stop.load(Ordering::Relaxed)) {
            return;
        }
        let output = Command::new(env!("CARGO_BIN_EXE_segmill"))
            .arg("push")
            .arg(&path)
            .args([
                "--json",
                "--real-time",
                "--segment-ms",
                "1000",
                "--outputs",
                OUTPUTS,
                "--to",
                &format!("ws://{to}"),
                "--out",
            ])
            .arg(folder.path().join(round.to_string()))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .expect("the binary starts");
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let said: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let summary = said.iter().find(|message| message["type"] == "summary").cloned().unwrap_or_default();
        let receipts: Vec<&Value> = said.iter().filter(|message| message["type"] == "receipt").collect();
        let numbers: Vec<u64> = receipts.iter().filter_map(|receipt| receipt["seq"].as_u64()).collect();
        let mut seen = seen.lock().expect("nobody panics with it");
        match output.status.code() {
            Some(code @ (0 | 5)) => {
                // Failed is not lost: each segment has its one receipt, and each picture was in one.
                assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{summary} {told}");
                assert_eq!(summary["frames_in"], frames, "{summary} {told}");
                if code == 0 { seen.whole += 1 } else { seen.with_failures += 1 }
            }
            // The very first segment failed: the session is refused by a code, not lost.
            Some(3) => seen.refused += 1,
            code => panic!("{code:?} {summary} {told}"),
        }
        seen.segments += receipts.len() as u64;
        seen.failed += receipts.iter().filter(|receipt| receipt["outcome"] == "failed").count() as u64;
        for (reason, count) in summary["reconnects"].as_object().into_iter().flatten() {
            *seen.reconnects.entry(reason.clone()).or_default() += count.as_u64().unwrap_or_default();
        }
    }
}

/// What the users of k6 have seen.
#[derive(Debug, Default)]
struct Users {
    runs: usize,
    sessions: f64,
    /// Sessions that were ended since their first segments had failed.
    refused: f64,
    moved: f64,
    segments: f64,
    failed: f64,
}

/// How a run of k6 has to end.
#[derive(Clone, Copy, PartialEq)]
enum Release {
    /// With all its thresholds.
    Good,
    /// Segments fail and are late; nothing is lost for all that, and nothing comes twice, out of order, or wrong.
    Bad,
}

/// k6 with users of such a clip: one session each, or sessions for a minute, run after run until it is told to stop.
async fn users(
    (count, frames): (usize, u16),
    to: SocketAddr,
    stop: Option<Arc<AtomicBool>>,
    release: Release,
    seen: Arc<Mutex<Users>>,
) {
    let [_, clip] = clips(frames);
    let (clip, count, url) = (clip.display().to_string(), count.to_string(), format!("ws://{to}/v1/stream"));
    let variables = [
        ("PROFILE", if stop.is_some() { "gate" } else { "tiny" }),
        ("DURATION", "1m"),
        ("USERS", &count),
        ("URL", &url),
        ("CLIP", &clip),
        ("TARGET", OUTPUTS),
        ("ORIGIN", "client"),
        ("SEGMENT_MS", "1000"),
        ("DEADLINE_MS", DEADLINE),
        // Where it takes longer, a release is bad.
        ("LATENCY_MS", "3000"),
        ("DELIVERY_MS", "3000"),
    ];
    for round in 0.. {
        if round > 0 && stop.as_ref().is_none_or(|stop| stop.load(Ordering::Relaxed)) {
            return;
        }
        let run = Run::of(&variables).await.expect("there is k6");
        match release {
            Release::Good => assert_eq!((run.exit, run.failed()), (0, Vec::new()), "{}", run.told),
            Release::Bad => {
                for never in ["segments_lost", "segments_duplicated", "segments_out_of_order", "violations"] {
                    assert_eq!(run.count(never), 0.0, "{never}: {}", run.told);
                }
                let may_fail = ["segment_delivery", "segment_errors", "segment_latency", "session_errors"];
                assert!(run.failed().iter().all(|metric| may_fail.contains(&metric.as_str())), "{}", run.told);
            }
        }
        assert!(!run.told.contains("connection lost"), "{}", run.told);
        let mut seen = seen.lock().expect("nobody panics with it");
        seen.runs += 1;
        seen.refused += run.value("session_errors", "passes");
        seen.sessions += run.value("session_errors", "passes") + run.value("session_errors", "fails");
        seen.moved += run.count("reconnects");
        seen.segments += run.count("segments");
        // Nothing was lost or wrong, so that these are what failed.
        seen.failed += run.value("segment_errors", "passes");
    }
}

fn rollout(cloud: &Cloud, prometheus: &Prometheus, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segmill"));
    let url = format!("http://{}", cloud.address);
    command.arg("rollout").args(arguments).args(["--service", SERVICE, "--run-url", &url, "--metadata-url", &url]);
    command.args(["--prometheus-url", &format!("http://{}", prometheus.address), "--log-format", "text"]);
    command.kill_on_drop(true);
    command
}

async fn runs(mut command: Command) -> String {
    let output = command.output().await.expect("it runs");
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {told}");
    told
}

/// Waits for the event itself, with a deadline.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    while !is_so() {
        assert!(begun.elapsed() < STUCK, "still not: {what}");
        ticks.tick().await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_release_goes_up_and_a_bad_one_is_taken_back_with_its_sockets() {
    assert!(K6.is_some(), "scripts/k6.sh finds no k6, and can't build it");
    // Made before anything runs: it takes seconds, and nothing else goes on meanwhile.
    for (_, frames) in [SHORT, LONG] {
        clips(frames);
    }
    let cloud = Cloud::start().await;
    let folders =
        [tempfile::tempdir(), tempfile::tempdir(), tempfile::tempdir()].map(|folder| folder.expect("a folder"));
    let url = format!("http://{}", cloud.address);
    let start = |revision: &'static str, folder: &Path| {
        let of = ["--workers", "1", "--resume-key", KEY, "--run-service", SERVICE, "--run-revision", revision];
        let to = ["--run-url", &url, "--run-metadata-url", &url, "--worker-start-timeout", "60s"];
        Service::chaos(folder, &[&of[..], &to].concat())
    };
    let services: BTreeMap<&str, Service> =
        ["a", "b", "d"].into_iter().zip(&folders).map(|(name, folder)| (name, start(name, folder.path()))).collect();
    let scrapes: String = services
        .iter()
        .map(|(name, service)| {
            format!(
                "      - targets: [\"{}\"]\n        labels: {{service_name: segmill, revision_name: {name}}}\n",
                service.ops
            )
        })
        .collect();
    let config = format!(
        "global:\n  scrape_interval: 10s\nscrape_configs:\n  - job_name: segmill\n    static_configs:\n{scrapes}"
    );
    let prometheus = Prometheus::start(&config, &[]);
    let address = route(cloud.clone(), services.iter().map(|(name, service)| (*name, service.listen)).collect()).await;
    let [stop, stop_good] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let (seen, good, bad) =
        (Arc::<Mutex<Seen>>::default(), Arc::<Mutex<Users>>::default(), Arc::<Mutex<Users>>::default());
    let push = |(clients, frames): (usize, u16), stop: Option<&Arc<AtomicBool>>| -> Vec<_> {
        (0..clients).map(|_| tokio::spawn(client(frames, address, stop.cloned(), Arc::clone(&seen)))).collect()
    };
    let k6 = |who, stop: Option<&Arc<AtomicBool>>, release| {
        let seen = if release == Release::Good { &good } else { &bad };
        tokio::spawn(users(who, address, stop.cloned(), release, Arc::clone(seen)))
    };
    let mut clients = push(SHORT, Some(&stop));
    let users_of_the_good = k6(SHORT, Some(&stop_good), Release::Good);
    let count = |revision: &str, outcome: &str| {
        let series = format!("segmill_segments_total{{op=\"stream\",origin=\"client\",outcome=\"{outcome}\"}}");
        services[revision].metric(&series).unwrap_or_default()
    };
    let has = |revision: &str, percent: u64| cloud.shares().get(revision) == Some(&percent);
    until("everybody streams", || count("a", "ok") >= 20.0).await;

    // The good one goes up by itself, in steps that are short here.
    let steps = "10:60s,50:60s,100:1s";
    println!("{}", runs(rollout(&cloud, &prometheus, &["promote", "--steps", steps])).await);
    let flags = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--audience",
        "a",
        "--account",
        "a",
        "--jwks-url",
        &format!("{url}/jwks"),
        "--every",
        "5s",
        "--advance",
        "--steps",
        steps,
        "--min-segments",
        "20",
    ];
    let mut autopilot: Child = rollout(&cloud, &prometheus, &flags).spawn().expect("it starts");
    println!("good: 100 % after {:?}", until("the good one has all", || has("b", 100)).await);
    assert_eq!(services["b"].metric("segmill_retired"), Some(0.0));
    until("it serves all", || count("b", "ok") >= 50.0).await;
    autopilot.kill().await.expect("it runs");
    stop_good.store(true, Ordering::Relaxed);
    users_of_the_good.await.expect("all thresholds hold of a good release");
    println!("k6, the good one: {:?}", good.lock().expect("nobody panics with it"));

    // The bad one does well at first.
    cloud.change(|inside| inside.latest = "d".into());
    let early = ["--steps", "50:1s,100:1h", "--early"];
    println!(
        "{}",
        runs(rollout(&cloud, &prometheus, &[&["promote", "--revision", "d", "--percent", "50"], &early[..]].concat()))
            .await
    );
    let watching =
        rollout(&cloud, &prometheus, &["watch", "--revision", "d", "--for", "20m", "--steps", "50:1h,100:1h"])
            .stdout(Stdio::piped())
            .spawn();
    let watching = watching.expect("it starts");
    clients.extend(push(LONG, None));
    clients.extend([k6(SHORT, Some(&stop), Release::Bad), k6(LONG, None, Release::Bad)]);
    until("it has made something", || count("d", "ok") >= 200.0).await;
    let open = services["d"].metric("segmill_sessions").unwrap_or_default();
    let all_failed = || ["a", "b", "d"].map(|revision| count(revision, "failed"));
    assert_eq!(all_failed(), [0.0; 3], "none has failed until here");
    std::fs::write(folders[2].path().join("fault"), "always exit").expect("the folder can be written");
    until("it fails", || count("d", "failed") > 0.0).await;
    let onset = Instant::now();
    until("it is taken back", || has("b", 100)).await;
    let taken_back = onset.elapsed();
    println!("bad: taken back {taken_back:?} after its first failure, with {open} sessions open then");
    let still = services["d"].metric("segmill_sessions");
    let moved = until("no session is left on it", || services["d"].metric("segmill_sessions") == Some(0.0)).await;
    println!("its sockets ({still:?}): handed over within {moved:?}");
    let output = watching.wait_with_output().await.expect("it ends");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((output.status.code(), told.contains("SegmillErrorRateHigh")), (Some(4), true), "{told}");
    assert!(taken_back < TAKEN_BACK, "{taken_back:?}");

    // It stays so, and whoever streams goes on.
    let again =
        rollout(&cloud, &prometheus, &["promote", "--revision", "d", "--percent", "50", "--steps", "50:1h,100:1h"])
            .output()
            .await;
    assert_eq!(again.expect("it runs").status.code(), Some(3));
    k6(SHORT, None, Release::Good).await.expect("all thresholds hold again");
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client has lost something");
    }
    let seen = seen.lock().expect("nobody panics with it");
    let (good, bad) = (good.lock().expect("nobody panics with it"), bad.lock().expect("nobody panics with it"));
    println!("push: {seen:?}\nk6, good: {good:?}\nk6, bad: {bad:?}");
    assert_eq!(seen.reconnects.keys().collect::<Vec<_>>(), ["drain"], "all others keep their connections");
    assert!(bad.moved > 0.0 && bad.failed > 0.0, "k6 has seen nothing of it: {bad:?}");
    // What clients have is what the services have made, and what failed is the bad one's, all of it.
    assert_eq!(all_failed(), [0.0, 0.0, seen.failed as f64 + bad.failed]);
    let outcomes = ["ok", "degraded", "failed"];
    let made: f64 = services.keys().flat_map(|name| outcomes.map(|outcome| count(name, outcome))).sum();
    assert_eq!(made, seen.segments as f64 + good.segments + bad.segments);
    assert_eq!(services["d"].metric("segmill_retired"), Some(1.0));
}
