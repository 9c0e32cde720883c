//! The worker process. It holds nothing between jobs, and all that it knows of a job came with it.
//!
//! [`run`] is the loop over the ipc; [`transcode`] is one job through a fresh GStreamer pipeline. C code that reads
//! strangers' media runs only here, in the jail that is [`sandbox`].

mod audio;
mod colour;
mod elements;
mod encoder;
mod fields;
mod lanes;
mod lent;
mod look;
mod order;
mod pcm;
mod pipeline;
mod resize;
mod rung;
pub mod sandbox;
mod scaler;
mod showing;
pub mod sink;
mod sound;
#[cfg(test)]
mod tests;
mod times;
mod tone;
mod tone_mapper;
pub mod transcode;
mod video;

use std::fs::File;
use std::io::{self, stdin};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getpid, kill_process};

use self::sandbox::Limits;
use self::sink::Sink;
use self::transcode::{Assignment, inventory, transcode};
use crate::ipc::worker_end::{Reader, Writer};
use crate::ipc::{Error, FromWorker};
use crate::job::{EncodedSample, Failure, Inventory, Stats};

/// How long the loop may take to end by itself once the pool is gone.
const GRACE: Duration = Duration::from_secs(1);

/// The process: standard input is the socket to the pool. Ends well when the pool closes it, and with an error after a
/// failed job. Without limits it goes without a jail, too.
pub fn run(limits: Option<Limits>) -> ExitCode {
    let inherited = sandbox::nothing_inherited();
    let ended = stdin().as_fd().try_clone_to_owned().map_err(Error::Io).and_then(|socket| {
        let socket = UnixStream::from(socket);
        let ready = || {
            let inventory = inventory()?;
            elements::load()?;
            // No job is read before this: the pool sends none before the hello, and the loop reads none.
            let confinement = limits.map(|limits| sandbox::enter(&limits, inherited)).unwrap_or_default();
            // A thread that was there before would be outside.
            die_with_pool(&socket).map_err(|error| pipeline::pipeline_failed(format!("a thread: {error}")))?;
            Ok(Inventory { confinement, ..inventory })
        };
        serve(&socket, ready, |assignment, sink| {
            if let Some(limits) = limits {
                limits.begin_job().map_err(pipeline::pipeline_failed)?;
            }
            assignment.transcode(sink)
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// One job, from a file that the pool has kept; says what came of it.
pub fn replay(file: &Path) -> ExitCode {
    /// Drops what is made.
    struct Nowhere;
    impl Sink for Nowhere {
        fn set_up(&self, _: usize, _: Bytes) {}
        fn sample(&self, _: usize, _: EncodedSample) {}
    }
    let job = File::open(file).map_err(Error::Io).and_then(|file| Reader::new(file).read_job());
    let done = match job {
        Ok(Some(job)) => transcode(&job, Arc::new(Nowhere)).map_err(|failure| Error::Io(io::Error::other(failure))),
        Ok(None) => Err(Error::Truncated),
        Err(error) => Err(error),
    };
    match done {
        Ok(stats) => {
            println!("{stats:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Kills this process when the other end of the socket closes, even in mid-job. (A parent-death signal would not do:
/// it comes with the end of the thread that made the process, and the pool's threads come and go.)
#[expect(clippy::disallowed_methods, reason = "nothing to wait for: the process is to end, one way or the other")]
pub fn die_with_pool(socket: &UnixStream) -> io::Result<()> {
    let socket = socket.try_clone()?;
    let watch = move || {
        if hung_up(socket.as_fd()) {
            thread::sleep(GRACE);
            // The job's threads may be stuck; nothing less ends them.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    };
    thread::Builder::new().name("die-with-pool".into()).spawn(watch).map(drop)
}

fn hung_up(socket: BorrowedFd<'_>) -> bool {
    // A hang-up is told unasked; data is not.
    let mut watched = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    loop {
        match poll(&mut watched, None) {
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// The loop: hello, then job by job, until the socket closes (Ok) or something fails.
///
/// # Errors
/// Of the socket, or that of the job or the start that failed, once the pool was told.
pub fn serve(
    socket: &UnixStream,
    inventory: impl FnOnce() -> Result<Inventory, Failure>,
    transcode: impl Fn(Assignment<'_>, Arc<dyn Sink>) -> Result<Stats, Failure>,
) -> Result<(), Error> {
    let mut jobs = Reader::new(socket.try_clone()?);
    let frames = Arc::new(Frames { writer: Mutex::new(Ok(Writer::new(socket.try_clone()?))) });
    match inventory() {
        Ok(inventory) => frames.write(&FromWorker::Hello(inventory)),
        Err(failure) => return frames.fail(failure),
    }
    while let Some((job, open)) = jobs.begin_job()? {
        let mut next = || jobs.read_part();
        let assignment = if open { Assignment::Open(job, &mut next) } else { Assignment::Whole(job) };
        match transcode(assignment, frames.clone()) {
            Ok(stats) => frames.write(&FromWorker::Finished(stats)),
            // What a failed pipeline has left behind is not for the next job.
            Err(failure) => return frames.fail(failure),
        }
        frames.check()?;
    }
    Ok(())
}

/// The way of frames out, from any thread. What fails is kept until the loop asks: a pipeline has no use for it.
struct Frames {
    writer: Mutex<Result<Writer<UnixStream>, Option<Error>>>,
}

impl Frames {
    fn write(&self, frame: &FromWorker) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(open) = &mut *writer
            && let Err(error) = open.write(frame)
        {
            *writer = Err(Some(error));
        }
    }

    fn check(&self) -> Result<(), Error> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *writer {
            Ok(_) => Ok(()),
            Err(error) => Err(error.take().unwrap_or(Error::Truncated)),
        }
    }

    fn fail(&self, failure: Failure) -> Result<(), Error> {
        self.write(&FromWorker::Failed(failure.clone()));
        self.check()?;
        Err(Error::Io(io::Error::other(failure)))
    }
}

impl Sink for Frames {
    fn set_up(&self, rendition: usize, config: Bytes) {
        self.write(&FromWorker::SetUp { rendition: index(rendition), config });
    }

    fn sample(&self, rendition: usize, sample: EncodedSample) {
        self.write(&FromWorker::Sample { rendition: index(rendition), sample });
    }
}

/// An index that can't be told is out of the pool's bounds in any case.
fn index(rendition: usize) -> u32 {
    u32::try_from(rendition).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod loop_tests;
