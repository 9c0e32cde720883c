//! A worker for the tests of the pool, never shipped: it does each job as a test tells it to.
//!
//! A job whose first unit starts with `ask:` and the path of a socket is held: the worker connects there, says its
//! process number, and does what the byte that comes back says (see `obey`). All other jobs it does well: each
//! rendition has the window's units as its samples, and the number of threads as its set-up.
//! An argument makes it fail at its start.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{ExitCode, abort};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};
use segmill::ipc::FromWorker;
use segmill::ipc::worker_end::Reader;
use segmill::job::{EncodedSample, Failure, FailureCode, Inventory, Job, Stats, Work};
use segmill::media::Ticks;

/// All that one that eats memory may have, bytes.
const MEMORY: u64 = 512 << 20;

fn main() -> ExitCode {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("standard input is the socket");
    let mut socket = UnixStream::from(socket);
    segmill::worker::die_with_pool(&socket).expect("a thread");
    let hello = FromWorker::Hello(Inventory { version: "faulty".into(), ..Default::default() });
    match std::env::args().nth(1).as_deref() {
        Some("exit") => return ExitCode::from(3),
        Some("mute") => hang(),
        Some("babble") => send(&mut socket, &[FromWorker::Finished(Stats::default())]),
        Some("refuse") => send(&mut socket, &[failed(FailureCode::UnsupportedCodec)]),
        _ => send(&mut socket, &[hello]),
    }
    let mut jobs = Reader::new(socket.try_clone().expect("a file number"));
    while let Ok(Some(job)) = jobs.read_job() {
        match told(&job) {
            None => send(&mut socket, &answer(&job)),
            // Held until the job is done, so that the test sees when the worker dies.
            Some((directive, mut director)) => obey(directive, &job, &mut socket, &mut director),
        }
    }
    ExitCode::SUCCESS
}

fn obey(directive: u8, job: &Job, socket: &mut UnixStream, director: &mut UnixStream) {
    let good = answer(job);
    let half = good.get(..good.len() / 2).unwrap_or_default();
    match directive {
        b'e' => send(socket, &good),
        b'd' => {
            send(socket, half);
            abort()
        }
        b'x' => {
            send(socket, half);
            std::process::exit(0)
        }
        b'h' => {
            send(socket, half);
            hang()
        }
        b'g' => write(socket, &[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]),
        b'c' => write(socket, &[0xff; 4]),
        b'm' => {
            send(socket, half);
            loop {
                send(socket, std::slice::from_ref(good.get(1).expect("a sample follows the set-up")));
            }
        }
        b'w' => good.iter().for_each(|frame| {
            #[expect(clippy::disallowed_methods, reason = "the fault is to be slow")]
            std::thread::sleep(Duration::from_millis(20));
            send(socket, std::slice::from_ref(frame));
        }),
        b'k' => loop {
            std::hint::spin_loop();
        },
        b'a' => {
            let most = Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
            setrlimit(Resource::As, most).expect("a lower limit is granted");
            let mut eaten = Vec::new();
            loop {
                eaten.push(vec![1u8; 16 << 20]);
            }
        }
        b'v' => loop {
            // The first is the runtime's own, which looks whether its stack has overflowed.
            kill_process(getpid(), Signal::SEGV).expect("it is this process");
        },
        b'q' => {
            // A frame that never ends.
            send(socket, half);
            write(socket, &[0, 0, 1, 0, 0]);
            hang()
        }
        b'l' => {
            let mut frames = good;
            frames.insert(1, sample(vec![0; 3 * 640 * 360 + (64 << 10) + 1]));
            send(socket, &frames);
        }
        b'n' => {
            let mut frames = good;
            frames.pop();
            frames.push(FromWorker::Finished(Stats { cpu_us: u64::MAX, ..Stats::default() }));
            send(socket, &frames);
        }
        b'u' => {
            let mut frames = good;
            frames.pop();
            frames.push(FromWorker::Finished(Stats { decoded: 1 << 40, ..Stats::default() }));
            send(socket, &frames);
        }
        b'i' => {
            send(socket, &good);
            director.read_exact(&mut [0]).expect("the test says when");
            send(socket, &[sample(Vec::new())]);
            hang()
        }
        b't' => {
            send(socket, &good);
            hang()
        }
        b'o' => {
            let mut frames = good;
            frames.insert(frames.len() - 1, sample(Vec::new()));
            send(socket, &frames);
        }
        b's' => {
            let mut frames = good;
            frames.remove(frames.len() - 2);
            send(socket, &frames);
        }
        b'r' => send(socket, &[FromWorker::SetUp { rendition: 1000, config: Bytes::new() }]),
        b'b' => send(socket, &[failed(FailureCode::BadMedia)]),
        b'p' => send(socket, &[failed(FailureCode::PipelineFailed)]),
        other => panic!("no such directive: {other}"),
    }
}

/// What the job's director says, where it has one.
fn told(job: &Job) -> Option<(u8, UnixStream)> {
    let data = &job.units.first()?.data;
    let path = std::str::from_utf8(data.strip_prefix(b"ask:")?).expect("a path");
    let mut director = UnixStream::connect(path).expect("the test listens");
    director.write_all(&std::process::id().to_be_bytes()).expect("the test listens");
    let mut directive = [0];
    director.read_exact(&mut directive).expect("the test answers");
    Some((directive[0], director))
}

fn answer(job: &Job) -> Vec<FromWorker> {
    let mut frames = Vec::new();
    for rendition in 0..job.work.renditions() as u32 {
        frames.push(FromWorker::SetUp { rendition, config: job.threads.to_be_bytes().to_vec().into() });
        let Work::Video { .. } = job.work else { panic!("the tests' jobs are video") };
        for (index, unit) in job.units.iter().filter(|unit| job.window.contains(unit.pts)).enumerate() {
            let sample = EncodedSample { pts: unit.pts, sync: index == 0, data: unit.data.clone() };
            frames.push(FromWorker::Sample { rendition, sample });
        }
    }
    frames.push(FromWorker::Finished(Stats { units_in: job.units.len() as u64, ..Default::default() }));
    frames
}

fn sample(data: Vec<u8>) -> FromWorker {
    FromWorker::Sample { rendition: 0, sample: EncodedSample { pts: Ticks(0), sync: true, data: data.into() } }
}

fn failed(code: FailureCode) -> FromWorker {
    FromWorker::Failed(Failure::new(code, "as told"))
}

fn send(socket: &mut UnixStream, frames: &[FromWorker]) {
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame.encode(&mut bytes).expect("small enough");
    }
    write(socket, &bytes);
}

fn write(socket: &mut UnixStream, bytes: &[u8]) {
    if socket.write_all(bytes).is_err() {
        std::process::exit(1);
    }
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}
