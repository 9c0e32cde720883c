//! The whole service with workers that can be told to fail, for the chaos tests; never shipped. `segmill serve` in all
//! else: the same flags, the same [`Service`], and the same transcode where no fault is asked for.
//!
//! Pictures of [`MARKED`] width are those of a session that may fail. What its jobs do is in the file `fault` of the
//! folder in CHAOS_DIR: `once NAME` for the job that takes it first, `always NAME` for all.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use clap::Parser;
use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};
use segmill::allocator::{self, Allocator};
use segmill::config::{Config, ServeArgs, USAGE};
use segmill::ipc::FromWorker;
use segmill::job::{EncodedSample, Failure, Stats};
use segmill::media::{Format, Ticks};
use segmill::server::service::{Service, workers};
use segmill::worker::sink::Sink;
use segmill::worker::transcode::{Assignment, inventory};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// The width of pictures that may fail.
const MARKED: u32 = 208;
/// A fault strikes at this sample of the job's.
const STRIKES_AT: u32 = 3;
/// What a worker that eats memory may have over what it has, bytes.
const MEMORY: u64 = 256 << 20;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    serve: ServeArgs,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(word), Some(folder)) if word == "worker" => worker(folder.into()),
        _ => serve(),
    }
}

fn serve() -> ExitCode {
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let folder = environment.iter().find(|(name, _)| name == "CHAOS_DIR").expect("CHAOS_DIR is set").1.clone();
    let config = match Config::new(Line::parse().serve, &environment) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(USAGE);
        }
    };
    allocator::give_back_soon();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let _telemetry = segmill::telemetry::init(true, &config.log.filter, None).expect("a log");
        let mut terminate = signal(SignalKind::terminate()).expect("a signal");
        let mut workers = workers(&config, environment).expect("this program has a path");
        workers.args = vec!["worker".into(), folder];
        // They read their faults from files, which they could not from inside.
        workers.required.clear();
        let service = Service::start_with(config, workers).await.expect("it starts");
        terminate.recv().await;
        service.stop().await;
    });
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

fn worker(folder: PathBuf) -> ExitCode {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().expect("the socket"));
    segmill::worker::die_with_pool(&socket).expect("a thread");
    let raw = socket.try_clone().expect("a file number");
    let ended = segmill::worker::serve(&socket, inventory, |assignment, sink| perform(&folder, &raw, assignment, sink));
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn perform(folder: &Path, raw: &UnixStream, assignment: Assignment<'_>, sink: Arc<dyn Sink>) -> Result<Stats, Failure> {
    let marked = matches!(&assignment.job().track.format, Format::Video(video) if video.width == MARKED);
    let Some(fault) = marked.then(|| taken(folder)).flatten() else { return assignment.transcode(sink) };
    if fault == "teardown" {
        let stats = assignment.transcode(sink);
        // All is made, and the pipeline does not come down.
        std::mem::drop(stats);
        sleep();
    }
    let raw = raw.try_clone().expect("a file number");
    assignment.transcode(Arc::new(Failing { sink, fault, raw, samples: AtomicU32::new(0) }))
}

/// What the next job of a marked session is to do.
fn taken(folder: &Path) -> Option<String> {
    let path = folder.join("fault");
    let text = std::fs::read_to_string(&path).ok()?;
    let (times, name) = text.trim().split_once(' ')?;
    // Who renames it has it.
    let mine = times == "always" || std::fs::rename(&path, folder.join(format!("taken-{name}"))).is_ok();
    mine.then(|| name.to_owned())
}

/// Hands samples on until its fault strikes, in the thread that made them.
struct Failing {
    sink: Arc<dyn Sink>,
    fault: String,
    raw: UnixStream,
    samples: AtomicU32,
}

impl Sink for Failing {
    fn set_up(&self, rendition: usize, config: Bytes) {
        self.sink.set_up(rendition, config);
    }

    fn sample(&self, rendition: usize, sample: EncodedSample) {
        self.sink.sample(rendition, sample);
        if self.samples.fetch_add(1, Ordering::Relaxed) + 1 == STRIKES_AT {
            strike(&self.fault, &self.raw);
        }
    }
}

fn strike(fault: &str, raw: &UnixStream) {
    match fault {
        "spin" => loop {
            std::hint::spin_loop();
        },
        "sleep" => sleep(),
        "memory" => {
            let status = std::fs::read_to_string("/proc/self/status").expect("of this process");
            let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("a line of memory");
            let kilobytes: u64 = line.split_whitespace().next().and_then(|kb| kb.parse().ok()).expect("a number");
            let most = Some((kilobytes << 10) + MEMORY);
            setrlimit(Resource::As, Rlimit { current: most, maximum: most }).expect("a lower limit is granted");
            let mut eaten = Vec::new();
            loop {
                eaten.push(vec![1u8; 4 << 20]);
            }
        }
        "segfault" => loop {
            // The first is the runtime's own, which looks whether its stack has overflowed.
            kill_process(getpid(), Signal::SEGV).expect("it is this process");
        },
        "abort" => std::process::abort(),
        "exit" => std::process::exit(0),
        "garbage" => write(raw, &[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]),
        "claim" => write(raw, &[0xff; 4]),
        "flood" => {
            let sample = EncodedSample { pts: Ticks(0), sync: false, data: Bytes::new() };
            let mut frame = BytesMut::new();
            FromWorker::Sample { rendition: 0, sample }.encode(&mut frame).expect("a small one");
            let thousand = frame.repeat(1000);
            (0..1000).for_each(|_| write(raw, &thousand));
        }
        other => panic!("no such fault: {other}"),
    }
}

fn write(mut raw: &UnixStream, bytes: &[u8]) {
    if raw.write_all(bytes).is_err() {
        sleep();
    }
}

fn sleep() -> ! {
    loop {
        std::thread::park();
    }
}
