//! The sandbox of workers: what a malicious one tries from inside (`examples/malicious_worker.rs`), what it may use, and
//! what the service does where the kernel has not all of it (`examples/old_kernel.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::support;
use crate::support::service::Service;
use bytes::Bytes;
use segmill::job::{Deinterlace, FailureCode, Job, Layer, Preset, VideoSpec, Work};
use segmill::media::{
    AccessUnit, Chroma, Colour, Format, Hdr, Sync, Ticks, Timescale, Track, TrackId, Video, VideoCodec, Window,
};
use segmill::pool::{Claim, Config, Done, Pool, SessionId, StartError};

/// All that the malicious worker tries, as `server` (this process) and `sibling` (another worker) run beside it.
const TRIED: &[&str] = &[
    "read /etc/passwd",
    "list /",
    "name a place without opening it",
    "read the server's environment",
    "read the server's map of memory",
    "write the server's memory",
    "read a sibling's map of memory",
    "read its own memory's map",
    "write a new file",
    "write a nameless file",
    "write a device",
    "look at /etc/passwd",
    "ask whether /etc/passwd is there",
    "read a link",
    "make a directory",
    "delete a file",
    "rename a file",
    "link to a file",
    "change a file's mode",
    "watch a directory",
    "open a file by its handle",
    "make a file in memory",
    "leave for another root",
    "open a TCP socket",
    "open a TCP socket over IPv6",
    "open a UDP socket",
    "open a UNIX socket",
    "open a raw socket",
    "open a packet socket",
    "open a netlink socket",
    "make a pair of sockets that can send elsewhere",
    "connect its socket to an address",
    "connect its socket to a name",
    "bind its socket",
    "listen on its socket",
    "accept on its socket",
    "send to an address",
    "send a message, which can have files",
    "receive a message, which can have files",
    "start a program",
    "start a program by a descriptor",
    "make a process",
    "make a process that shares its memory",
    "make a process by clone3",
    "make a process in a user namespace",
    "make a thread in a network namespace",
    "trace the server",
    "trace a sibling",
    "have itself traced",
    "read the server's memory",
    "read a sibling's memory",
    "write a sibling's memory",
    "compare itself with the server",
    "ask whether the server can be signalled",
    "signal the server",
    "signal a sibling",
    "signal all processes",
    "signal its group",
    "signal a thread of the server",
    "signal a thread of a sibling",
    "signal a thread of any process",
    "queue a signal to the server",
    "take hold of the server",
    "signal by a descriptor",
    "take a descriptor of another",
    "have the server signalled of its socket",
    "have signals sent by its socket",
    "have signals sent by its socket's flags",
    "slow the server down",
    "move the server to one processor",
    "change how a sibling is scheduled",
    "change a limit of the server",
    "raise its own limits",
    "move a sibling's pages",
    "mount",
    "unmount",
    "enter a user namespace",
    "enter a network namespace",
    "enter a mount namespace",
    "enter a sibling's namespace",
    "set up a ring of calls",
    "load a program into the kernel",
    "count events",
    "handle faults of pages",
    "add a key",
    "ask for keys",
    "share memory",
    "make a message queue",
    "read the kernel's log",
    "set the clock",
    "load a module",
    "account for processes",
    "become root",
    "become root's group",
    "join a group",
    "take capabilities",
    "become another kind of program",
    "let itself be traced",
    "keep capabilities",
    "put a filter over the filter",
    "read /etc/passwd by a call of x32",
    "read /etc/passwd by the old call",
    "make a process by the old call",
];

/// Where the test's programs are, if they had to be copied to where nobody can read them.
const PROGRAMS: &str = "JAIL_TEST_PROGRAMS";
const NOBODY: u32 = 65534;

#[tokio::test]
async fn all_that_a_malicious_worker_tries_is_denied() {
    let report = report(&[]).await;
    let tried: BTreeSet<&str> = report.keys().map(String::as_str).collect();
    assert_eq!(tried, TRIED.iter().copied().collect());
    for (name, error) in report {
        let denied = [libc::EPERM, libc::EACCES].contains(&error) || name.ends_with("clone3") && error == libc::ENOSYS;
        assert!(denied, "{name}: error {error}");
    }
}

/// The same again as nobody, where the first time was as root.
#[test]
fn and_denied_as_nobody_too() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
    let test = std::env::current_exe().expect("a test has a path");
    let copied = |program: &Path| {
        let copy = directory.path().join(program.file_name().expect("a program has a name"));
        fs::copy(program, &copy).expect("it can be read");
        copy
    };
    copied(&program("malicious_worker"));
    let output = Command::new(copied(&test))
        .args(["--exact", "jail::all_that_a_malicious_worker_tries_is_denied"])
        .env(PROGRAMS, directory.path())
        .current_dir(directory.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("it starts");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

/// What is denied is not denied for another reason.
#[tokio::test]
async fn without_the_sandbox_what_any_process_may_do_is_done() {
    let report = report(&["free"]).await;
    assert!(report.len() > 15, "{report:?}");
    for (name, error) in report {
        assert_eq!(error, 0, "{name}");
    }
}

/// What each attempt of a malicious worker came to, with a sibling at its side.
async fn report(args: &[&str]) -> BTreeMap<String, i32> {
    let sibling = Sibling::start(args);
    let pool = start(1, args).await.expect("it starts");
    let done = pool.run(job(&format!("try {} {}", std::process::id(), sibling.0.id())), any()).await;
    let outcome = done.result.expect("it lives on");
    let text = std::str::from_utf8(&outcome.renditions[0].config).expect("text");
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    lines.map(|(name, error)| (name.to_owned(), error.parse().expect("a number"))).collect()
}

/// Another worker, idle.
struct Sibling(Child, #[expect(dead_code, reason = "it lives as long as this is open")] UnixStream);

impl Sibling {
    fn start(args: &[&str]) -> Self {
        let (mut ours, theirs) = UnixStream::pair().expect("sockets");
        let mut command = Command::new(program("malicious_worker"));
        let child = command.args(args).stdin(OwnedFd::from(theirs)).spawn().expect("it starts");
        ours.read_exact(&mut [0]).expect("it says hello");
        Self(child, ours)
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it runs");
    }
}

#[tokio::test]
async fn a_worker_that_eats_memory_ends_by_its_limit() {
    let pool = start(1, &[]).await.expect("it starts");
    let done = pool.run(job("eat"), any()).await;
    ended(&done, "signal: 6");
}

#[tokio::test]
async fn a_worker_that_takes_more_time_than_a_job_has_ends_by_its_limit() {
    let pool = start(1, &[]).await.expect("it starts");
    let done = pool.run(job("spin"), any()).await;
    ended(&done, "signal: 24");
}

/// It does so when its pool is gone.
#[tokio::test]
async fn a_worker_may_kill_itself() {
    let pool = start(1, &[]).await.expect("it starts");
    let failure = pool.run(job("end"), any()).await.result.expect_err("it dies each time");
    assert_eq!(failure.code, FailureCode::WorkerKilled, "{failure}");
}

fn ended(done: &Done, how: &str) {
    let failure = done.result.as_ref().expect_err("it dies each time");
    assert_eq!((failure.code, done.attempts), (FailureCode::Poison, 2), "{failure}");
    assert!(failure.message.contains("worker_died") && failure.message.contains(how), "{failure}");
}

#[tokio::test]
async fn a_worker_without_what_is_required_gets_no_job() {
    let error = start_requiring(1, &["free"], &[Layer::Limits, Layer::Seccomp]).await.err();
    let Some(StartError::Unconfined(told)) = &error else { panic!("{error:?}") };
    assert_eq!(told, "limits, seccomp");
}

#[test]
fn the_services_workers_are_confined() {
    // With two, the second might not be ready yet.
    let service = Service::start(&["--workers", "1", "--worker-memory", "6GiB"]);
    for layer in ["descriptors", "no_new_privileges", "limits", "user", "seccomp"] {
        assert_eq!(service.metric(&format!("segmill_sandbox_layer{{layer=\"{layer}\"}}")), Some(1.0), "{layer}");
    }
    for worker in service.workers() {
        let file = |name: &str| fs::read_to_string(format!("/proc/{worker}/{name}")).expect("it runs");
        let status = file("status");
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
            assert!(status.contains(line), "{line}: {status}");
        }
        let group = file("stat").rsplit_once(')').and_then(|(_, rest)| rest.split(' ').nth(3).map(str::to_owned));
        assert_eq!(group, Some(worker.to_string()), "a group of its own");
        let limits = file("limits");
        let limit = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("it is listed");
            line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(limit("Max address space"), vec![(6_u64 << 30).to_string(); 2]);
        assert_eq!(limit("Max core file size"), ["0", "0"]);
        assert_eq!(limit("Max file size"), ["0", "0"]);
        assert_eq!(limit("Max open files"), ["128", "128"]);
        assert_ne!(limit("Max cpu time")[0], "unlimited");
        if rustix::process::geteuid().is_root() {
            let network = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).expect("root may look");
            let own = network(worker) != network(service.pid());
            assert_eq!(service.metric("segmill_sandbox_layer{layer=\"network\"}"), Some(f64::from(u8::from(own))));
            assert!(status.contains("Uid:\t65534\t65534\t65534\t65534") && status.contains("Groups:\t \n"), "{status}");
        }
    }
}

/// A file that the service was started with, without close-on-exec.
#[test]
fn workers_inherit_nothing() {
    let mut service = Command::new("sh")
        .args([
            "-c",
            "exec 7</etc/passwd; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_segmill"),
            "serve",
            "--workers",
            "1",
        ])
        .args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--log-format", "json"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let log = support::service::log_until(&mut service, "ready");
    assert!(!log.contains("descriptors are open"), "{log}");
    let on = log.lines().find(|line| line.contains("sandbox of the workers")).expect("it is said");
    assert!(on.contains("descriptors"), "{on}");
    if rustix::process::geteuid().is_root() {
        let server = service.id();
        for worker in children(server) {
            let open = fs::read_dir(format!("/proc/{worker}/fd")).expect("root may look").flatten();
            let open: BTreeSet<String> = open
                .map(|entry| fs::read_link(entry.path()).map_or_else(|_| "?".into(), |to| to.display().to_string()))
                .collect();
            let expected =
                |name: &String| name == "/dev/null" || name.starts_with("socket:") || name.starts_with("pipe:");
            assert!(open.iter().all(expected) && open.len() == 3, "{open:?}");
        }
    }
    service.kill().expect("it runs");
    service.wait().expect("it was killed");
}

#[test]
fn without_seccomp_the_service_starts_only_where_it_is_told_to() {
    let without = |calls: &[&str], flags: &[&str]| {
        let mut command = Command::new(program("old_kernel"));
        command.args(calls).args([
            "--",
            env!("CARGO_BIN_EXE_segmill"),
            "serve",
            "--workers",
            "1",
            "--log-format",
            "json",
        ]);
        command.args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]).args(flags);
        command.stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let refused = without(&["seccomp"], &[]).wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("the worker's sandbox lacks what is required: seccomp"), "{told}");

    let mut all_the_same = without(&["seccomp"], &["--sandbox", "best-effort"]);
    let log = support::service::log_until(&mut all_the_same, "ready");
    all_the_same.kill().and_then(|()| all_the_same.wait()).expect("it runs");
    let warned = |log: &str, layer: &str| {
        let mut lines =
            log.lines().filter(|line| line.contains("\"WARN\"") && line.contains("the sandbox lacks a layer"));
        lines.any(|line| line.contains(&format!("\"layer\":\"{layer}\"")))
    };
    assert!(warned(&log, "seccomp"), "{log}");

    let mut goes_on = without(&["landlock", "unshare"], &[]);
    let log = support::service::log_until(&mut goes_on, "ready");
    goes_on.kill().and_then(|()| goes_on.wait()).expect("it runs");
    assert!(warned(&log, "landlock") && warned(&log, "network") && !warned(&log, "seccomp"), "{log}");
}

async fn start(workers: usize, args: &[&str]) -> Result<Pool, StartError> {
    let required = if args.is_empty() { &[Layer::Limits, Layer::Seccomp][..] } else { &[] };
    start_requiring(workers, args, required).await
}

async fn start_requiring(workers: usize, args: &[&str], required: &[Layer]) -> Result<Pool, StartError> {
    let config = Config {
        workers,
        args: args.iter().map(Into::into).collect(),
        required: required.to_vec(),
        progress_timeout: Duration::from_secs(60),
        ..Config::new(program("malicious_worker"), 1)
    };
    Pool::start(config, Arc::new(())).await
}

fn program(name: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os(PROGRAMS) {
        return Path::new(&directory).join(name);
    }
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.parent().and_then(Path::parent).expect("…/deps/jail-…");
    let program = profile.join("examples").join(name);
    assert!(program.exists(), "build it: cargo build --example {name}");
    program
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

/// A job of nobody's in particular, with time.
fn any() -> Claim {
    Claim { session: SessionId(0), deadline: None }
}

/// One that has its directive as its one picture.
fn job(directive: &str) -> Job {
    let video = Video {
        codec: VideoCodec::H264,
        config: Bytes::new(),
        codec_string: "avc1.64001f".into(),
        width: 1280,
        height: 720,
        sample_aspect: (1, 1),
        rotation: 0,
        bit_depth: 8,
        chroma: Chroma::C420,
        colour: Colour::default(),
        hdr: Hdr::default(),
        interlaced: false,
        frame_rate: None,
    };
    let spec = VideoSpec {
        codec: VideoCodec::H264,
        width: 640,
        height: 360,
        crf: 23,
        max_kbps: None,
        preset: Preset::Veryfast,
        depth: 8,
        deinterlace: Deinterlace::Frame,
        fps: None,
    };
    let timescale = Timescale::new(1000).expect("not 0");
    let data = Bytes::copy_from_slice(directive.as_bytes());
    let pts = Ticks(0);
    Job {
        id: 1,
        seq: 1,
        track: Track { id: TrackId(1), timescale, language: None, format: Format::Video(video) },
        units: vec![AccessUnit { track: TrackId(1), pts, dts: pts, duration: None, sync: Sync::Idr, offset: 0, data }],
        window: Window { start: pts, end: Ticks(1000) },
        work: Work::Video { frame_rate: (25, 1), renditions: vec![spec], schedules: Vec::new() },
        threads: 1,
    }
}
