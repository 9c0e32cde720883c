//! The pool against real worker processes that die, hang and lie (`examples/faulty_worker.rs`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use segmill::job::{Deinterlace, FailureCode, Job, Preset, VideoSpec, Work};
use segmill::media::{
    AccessUnit, Chroma, Colour, Format, Hdr, Sync, Ticks, Timescale, Track, TrackId, Video, VideoCodec, Window,
};
use segmill::pool::{
    Claim, Config, Done, HeadStart, HeadStartEvent, Observer, PoisonDir, Pool, QuarantineEvent, SessionId, StartError,
    Workers,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn jobs_side_by_side_each_get_their_own_outcome() {
    let fixture = Fixture::start(|config| config.workers = 3).await;
    let jobs: Vec<Job> = (0..60).map(|id| job(id, &format!("job {id}"), 3)).collect();
    let done = join_all(jobs.iter().map(|job| fixture.pool.run(job.clone(), any()))).await;
    for (job, done) in jobs.iter().zip(done) {
        assert_right(job, &done, 1);
    }
    assert_eq!(fixture.pool.inventory().version, "faulty");
    fixture.pool.close().await;
    assert_eq!(fixture.restarts().await, [""; 0]);
}

#[tokio::test]
async fn a_fault_has_its_name_and_the_job_is_done_by_a_fresh_worker() {
    let faults = [
        (b'd', "worker_died"),
        (b'x', "worker_died"),
        (b'g', "worker_protocol"),
        (b'c', "worker_protocol"),
        (b'm', "worker_protocol"),
        (b'r', "worker_protocol"),
        (b'o', "frame_mismatch"),
        (b's', "frame_mismatch"),
        (b'p', "pipeline_failed"),
        (b'v', "worker_died"),
        (b'a', "worker_died"),
        (b'l', "worker_protocol"),
        (b'n', "worker_protocol"),
        (b'u', "worker_protocol"),
    ];
    let mut fixture = Fixture::start(|_| ()).await;
    for (fault, cause) in faults {
        let (job, running) = fixture.run_directed();
        let first = fixture.director.asked().await;
        let first = first.tell(fault).await;
        let second = fixture.director.asked().await;
        assert_ne!(first, second.pid, "{cause}: another process");
        second.tell(b'e').await;
        assert_right(&job, &running.await.expect("no panic"), 2);
        assert_eq!(fixture.observer.restarts.recv().await, Some(cause));
    }
}

#[tokio::test]
async fn a_job_that_kills_two_workers_is_poison_and_the_pool_lives_on() {
    let mut fixture = Fixture::start(|_| ()).await;
    for (first, second) in [(b'd', b'd'), (b'x', b'c')] {
        let (_, running) = fixture.run_directed();
        fixture.director.asked().await.tell(first).await;
        fixture.director.asked().await.tell(second).await;
        let done = running.await.expect("no panic");
        assert_eq!((code(&done), done.attempts), (Some(FailureCode::Poison), 2));
    }
    let job = job(7, "good", 1);
    assert_right(&job, &fixture.pool.run(job.clone(), any()).await, 1);
}

#[tokio::test]
async fn what_no_other_worker_could_better_is_answered_at_once() {
    let mut fixture = Fixture::start(|_| ()).await;
    let (_, running) = fixture.run_directed();
    fixture.director.asked().await.tell(b'b').await;
    let done = running.await.expect("no panic");
    assert_eq!((code(&done), done.attempts), (Some(FailureCode::BadMedia), 1));
    assert_eq!(fixture.observer.restarts.recv().await, Some("bad_media"));
}

#[tokio::test]
async fn a_failure_that_stays_keeps_its_name() {
    let mut fixture = Fixture::start(|_| ()).await;
    let (_, running) = fixture.run_directed();
    fixture.director.asked().await.tell(b'd').await;
    fixture.director.asked().await.tell(b'p').await;
    let done = running.await.expect("no panic");
    assert_eq!((code(&done), done.attempts), (Some(FailureCode::PipelineFailed), 2));
}

#[tokio::test]
async fn a_worker_that_hangs_or_spins_is_killed_by_its_clock() {
    let mut fixture = Fixture::start(|config| config.progress_timeout = Duration::from_millis(1500)).await;
    for fault in [b'h', b'k', b'q'] {
        let (job, running) = fixture.run_directed();
        let hanging = fixture.director.asked().await.tell_and_keep(fault).await;
        hanging.dead().await;
        fixture.director.asked().await.tell(b'e').await;
        assert_right(&job, &running.await.expect("no panic"), 2);
        assert_eq!(fixture.observer.restarts.recv().await, Some("worker_timeout"));
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "nothing is waited for: the runtime's one thread stands still")]
async fn a_worker_is_not_blamed_for_the_time_in_which_the_pool_stood_still() {
    let limit = Duration::from_millis(1500);
    let mut fixture = Fixture::start(|config| (config.progress_timeout, config.wall_timeout) = (limit, limit)).await;
    for _ in 0..3 {
        let (job, running) = fixture.run_directed();
        fixture.director.asked().await.tell(b'e').await;
        // On the one thread of the runtime; meanwhile the worker does the job, and says so.
        std::thread::sleep(3 * limit);
        tokio::select! {
            done = running => assert_right(&job, &done.expect("no panic"), 1),
            _ = fixture.director.asked() => panic!("another worker has it"),
        }
    }
}

#[tokio::test]
async fn a_worker_that_speaks_unasked_is_killed_and_counted() {
    let mut fixture = Fixture::start(|_| ()).await;
    let (job, running) = fixture.run_directed();
    let babbling = fixture.director.asked().await.tell_and_keep(b'i').await;
    assert_right(&job, &running.await.expect("no panic"), 1);
    fixture.observer.until(|workers, _| workers.idle == 1).await;
    babbling.tell_and_keep(b'!').await.dead().await;
    assert_eq!(fixture.observer.restarts.recv().await, Some("worker_protocol"));
}

#[tokio::test]
async fn a_worker_that_does_not_stop_is_killed_when_the_pool_closes() {
    let mut fixture = Fixture::start(|_| ()).await;
    let (job, running) = fixture.run_directed();
    let stuck = fixture.director.asked().await.tell_and_keep(b't').await;
    assert_right(&job, &running.await.expect("no panic"), 1);
    fixture.pool.close().await;
    assert!(test_kill_process(pid(stuck.pid)).is_err(), "the process is gone");
}

#[tokio::test]
async fn a_job_whose_workers_are_killed_from_outside_is_not_at_fault() {
    let mut fixture = Fixture::start(|_| ()).await;
    for (signal, times) in [(Signal::KILL, 7), (Signal::TERM, 7), (Signal::KILL, 8)] {
        let (job, running) = fixture.run_directed();
        for _ in 0..times {
            kill_process(pid(fixture.director.asked().await.pid), signal).expect("it runs");
            assert_eq!(fixture.observer.restarts.recv().await, Some("worker_killed"));
        }
        if times < 8 {
            // It is not held to have been tried: its own fault still has its second try.
            fixture.director.asked().await.tell(b'd').await;
            fixture.director.asked().await.tell(b'e').await;
            assert_eq!(fixture.observer.restarts.recv().await, Some("worker_died"));
            assert_right(&job, &running.await.expect("no panic"), times + 2);
        } else {
            let done = running.await.expect("no panic");
            assert_eq!((code(&done), done.attempts), (Some(FailureCode::WorkerKilled), times));
        }
    }
    assert_eq!(fixture.observer.quarantine.try_recv().ok(), None);
}

#[tokio::test]
async fn a_poison_job_that_comes_again_costs_no_worker_and_is_kept_for_who_wants_to_see_it() {
    let folder = tempfile::tempdir().expect("a directory");
    let dir = folder.path().to_owned();
    let mut fixture = Fixture::start(|config| config.poison = Some(PoisonDir { dir, bytes: 1 << 20 })).await;
    let (job, running) = fixture.run_directed();
    for _ in 0..2 {
        fixture.director.asked().await.tell(b'd').await;
        assert_eq!(fixture.observer.restarts.recv().await, Some("worker_died"));
    }
    assert_eq!(code(&running.await.expect("no panic")), Some(FailureCode::Poison));
    let again = fixture.pool.run(Job { id: 1000, seq: 1000, ..job.clone() }, any()).await;
    assert_eq!((code(&again), again.attempts), (Some(FailureCode::Poison), 0));
    assert_eq!(fixture.observer.quarantine.recv().await, Some(QuarantineEvent::Added));
    assert_eq!(fixture.observer.quarantine.recv().await, Some(QuarantineEvent::Answered));
    // One that only looks like it is another.
    let mut other = job.clone();
    other.units[1].data = vec![0xaa; other.units[1].data.len()].into();
    let running = fixture.run(other.clone());
    fixture.director.asked().await.tell(b'e').await;
    assert_right(&other, &running.await.expect("no panic"), 1);
    fixture.pool.close().await;
    let kept: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a directory").map(|file| file.expect("a file")).collect();
    let [file] = kept.as_slice() else { panic!("{kept:?}") };
    let file = std::fs::File::open(file.path()).expect("it is there");
    let read = segmill::ipc::worker_end::Reader::new(file).read_job().expect("well-formed").expect("a job");
    assert_eq!(read, job);
    assert_eq!(fixture.restarts().await, [""; 0], "the first two were seen");
}

#[tokio::test]
async fn a_worker_that_dawdles_is_killed_by_the_wall_clock() {
    let mut fixture = Fixture::start(|config| {
        config.wall_timeout = Duration::from_millis(500);
        config.wall_per_media_second = Duration::from_millis(1000);
    })
    .await;
    // 500 samples in a window of one second, one each 20 ms at best.
    let mut job = fixture.directed_job();
    job.units.extend((3..500).map(|pts| unit(pts, Bytes::new())));
    let running = fixture.run(job.clone());
    fixture.director.asked().await.tell(b'w').await;
    fixture.director.asked().await.tell(b'e').await;
    assert_right(&job, &running.await.expect("no panic"), 2);
    assert_eq!(fixture.observer.restarts.recv().await, Some("worker_timeout"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_killed_from_outside_lose_nothing() {
    let mut fixture = Fixture::start(|config| config.workers = 2).await;
    let running: Vec<_> = (0..4).map(|_| fixture.run_directed()).collect();
    let victims = [fixture.director.asked().await, fixture.director.asked().await];
    for victim in victims {
        kill_process(pid(victim.pid), Signal::KILL).expect("it runs");
    }
    for _ in 0..4 {
        fixture.director.asked().await.tell(b'e').await;
    }
    let mut attempts = 0;
    for (job, running) in running {
        let done = running.await.expect("no panic");
        assert_right(&job, &done, done.attempts);
        attempts += done.attempts;
    }
    assert_eq!(attempts, 4 + 2);
}

#[tokio::test]
async fn a_worker_that_dies_idle_costs_no_job_an_attempt() {
    let mut fixture = Fixture::start(|_| ()).await;
    let (_, running) = fixture.run_directed();
    let worker = fixture.director.asked().await.tell(b'e').await;
    running.await.expect("no panic").result.expect("told to be good");
    fixture.observer.until(|workers, _| workers.idle == 1).await;
    kill_process(pid(worker), Signal::KILL).expect("it runs");
    assert_eq!(fixture.observer.restarts.recv().await, Some("idle_exit"));
    let job = job(7, "good", 1);
    assert_right(&job, &fixture.pool.run(job.clone(), any()).await, 1);
}

#[tokio::test]
async fn there_are_never_more_workers_than_the_bound() {
    let mut fixture = Fixture::start(|config| {
        config.workers = 2;
        config.queue_jobs = 12;
    })
    .await;
    let running: Vec<_> = (0..8).map(|_| fixture.run_directed().1).collect();
    let mut held = vec![fixture.director.asked().await, fixture.director.asked().await];
    fixture.observer.until(|workers, queued| workers.busy == 2 && queued == 6).await;
    let mut pids = BTreeSet::new();
    for _ in 0..6 {
        pids.insert(held.remove(0).tell(b'e').await);
        held.push(fixture.director.asked().await);
    }
    for asked in held {
        pids.insert(asked.tell(b'e').await);
    }
    for done in running {
        done.await.expect("no panic").result.expect("told to be good");
    }
    assert_eq!(pids.len(), 2, "two processes did all jobs");
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait_and_loses_none() {
    let mut fixture = Fixture::start(|config| config.queue_jobs = 1).await;
    let running: Vec<_> = (0..4).map(|_| fixture.run_directed()).collect();
    for _ in 0..4 {
        let asked = fixture.director.asked().await;
        assert!(fixture.pool.snapshot().queued <= 1);
        asked.tell(b'e').await;
    }
    for (job, running) in running {
        assert_right(&job, &running.await.expect("no panic"), 1);
    }
}

#[tokio::test]
async fn closing_answers_every_job_and_kills_every_worker() {
    let mut fixture = Fixture::start(|config| config.workers = 2).await;
    let running: Vec<_> = (0..5).map(|_| fixture.run_directed().1).collect();
    let held = [fixture.director.asked().await, fixture.director.asked().await];
    fixture.pool.close().await;
    for asked in held {
        assert!(test_kill_process(pid(asked.pid)).is_err(), "the process is gone");
    }
    for running in running {
        assert_eq!(code(&running.await.expect("no panic")), Some(FailureCode::Closed));
    }
    assert_eq!(code(&fixture.pool.run(job(9, "late", 1), any()).await), Some(FailureCode::Closed));
    assert_eq!(fixture.pool.snapshot().workers, Workers::default());
}

#[tokio::test]
async fn a_job_is_begun_before_it_is_whole_and_comes_out_as_if_it_had_been() {
    let mut fixture = Fixture::start(|config| config.workers = 2).await;
    let job = job(1, "good", 2);
    let mut early = fixture.begin(&job).await.expect("nobody else wants a worker");
    early.push(job.units[0].clone());
    early.push(job.units[1].clone());
    fixture.observer.until(|workers, _| workers.busy == 1).await;
    assert!(early.is_of(&job));
    let other = Job { window: Window { start: Ticks(1), ..job.window }, ..job.clone() };
    assert!(!early.is_of(&other) && !early.is_of(&Job { units: job.units[1..].to_vec(), ..job.clone() }));
    assert_right(&job, &early.finish(job.clone(), any()).await, 1);
    assert_eq!(fixture.observer.head_starts.recv().await, Some(HeadStartEvent::Done));
    assert_eq!(fixture.restarts().await, [""; 0]);
}

#[tokio::test]
async fn no_job_is_begun_early_where_another_may_want_the_worker() {
    let mut fixture = Fixture::start(|_| ()).await;
    let job = job(1, "good", 1);
    assert!(fixture.begin(&job).await.is_none(), "there is but one");
    fixture = Fixture::start(|config| config.workers = 2).await;
    fixture.observer.until(|workers, _| workers.idle == 2).await;
    let first = fixture.pool.begin(draft(&job), &Arc::default()).expect("one is left");
    assert!(fixture.pool.begin(draft(&job), &Arc::default()).is_none(), "it is for whole ones");
    drop(first);
    let (_, running) = fixture.run_directed();
    let held = fixture.director.asked().await;
    fixture.observer.until(|workers, _| workers.idle == 1).await;
    let first = fixture.pool.begin(draft(&job), &Arc::default()).expect("it has nothing to do");
    fixture.observer.until(|workers, _| workers.busy == 2).await;
    held.tell(b'e').await;
    running.await.expect("no panic").result.expect("told to be good");
    assert_right(&job, &first.finish(job.clone(), any()).await, 1);
}

#[tokio::test]
async fn an_early_job_whose_worker_fails_is_done_by_another_and_two_of_them_are_its_end() {
    let mut fixture = Fixture::start(|config| config.workers = 2).await;
    for (faults, attempts) in [(&b"de"[..], 2), (b"ode", 3), (b"dx", 2)] {
        let job = fixture.directed_job();
        let mut early = fixture.begin(&job).await.expect("nobody else wants a worker");
        early.push(job.units[0].clone());
        let whole = job.clone();
        let running = tokio::spawn(async move { early.finish(whole, any()).await });
        for &fault in faults {
            fixture.director.asked().await.tell(fault).await;
        }
        let done = running.await.expect("no panic");
        assert_eq!(fixture.observer.head_starts.recv().await, Some(HeadStartEvent::Failed));
        if faults.last() == Some(&b'e') {
            // What had to know all of the job and did not is not held against it.
            assert_right(&job, &done, attempts);
        } else {
            assert_eq!((code(&done), done.attempts), (Some(FailureCode::Poison), attempts));
        }
    }
    // One that is begun now may be the same.
    fixture.observer.until(|workers, _| workers.idle == 2).await;
    assert!(fixture.pool.begin(draft(&job(9, "good", 1)), &Arc::default()).is_none());
}

#[tokio::test]
async fn an_early_job_that_nobody_wants_costs_no_worker() {
    let mut fixture = Fixture::start(|config| config.workers = 2).await;
    let job = job(1, "good", 1);
    let mut early = fixture.begin(&job).await.expect("nobody else wants a worker");
    early.push(job.units[0].clone());
    drop(early);
    assert_eq!(fixture.observer.head_starts.recv().await, Some(HeadStartEvent::GivenUp));
    assert_right(&job, &fixture.pool.run(job.clone(), any()).await, 1);
    assert_eq!(fixture.restarts().await, [""; 0]);
}

#[tokio::test]
async fn an_early_job_leaves_its_worker_to_others_that_wait() {
    let mut fixture = Fixture::start(|config| config.workers = 2).await;
    let job = job(1, "good", 1);
    let mut early = fixture.begin(&job).await.expect("nobody else wants a worker");
    early.push(job.units[0].clone());
    fixture.observer.until(|workers, _| workers.busy == 1).await;
    let (_, first) = fixture.run_directed();
    let held = fixture.director.asked().await;
    let (_, second) = fixture.run_directed();
    fixture.director.asked().await.tell(b'e').await;
    second.await.expect("no panic").result.expect("told to be good");
    assert_eq!(fixture.observer.head_starts.recv().await, Some(HeadStartEvent::GivenUp));
    assert!(early.is_given_up());
    assert_right(&job, &early.finish(job.clone(), any()).await, 1);
    held.tell(b'e').await;
    first.await.expect("no panic").result.expect("told to be good");
    assert_eq!(fixture.restarts().await, [""; 0]);
}

#[tokio::test]
async fn closing_answers_an_early_job_too() {
    let mut fixture = Fixture::start(|config| config.workers = 2).await;
    let job = job(1, "good", 1);
    let mut early = fixture.begin(&job).await.expect("nobody else wants a worker");
    early.push(job.units[0].clone());
    fixture.pool.close().await;
    assert_eq!(code(&early.finish(job, any()).await), Some(FailureCode::Closed));
}

#[tokio::test]
async fn a_dropped_pool_leaves_no_worker() {
    let mut fixture = Fixture::start(|_| ()).await;
    let (_, running) = fixture.run_directed();
    let held = fixture.director.asked().await;
    running.abort();
    drop(fixture.pool);
    held.dead().await;
}

#[tokio::test]
async fn a_caller_that_leaves_frees_its_worker_and_its_place() {
    let mut fixture = Fixture::start(|_| ()).await;
    let (_, running) = fixture.run_directed();
    let held = fixture.director.asked().await;
    let (_, queued) = fixture.run_directed();
    fixture.observer.until(|_, queued| queued == 1).await;
    queued.abort();
    fixture.observer.until(|_, queued| queued == 0).await;
    running.abort();
    held.dead().await;
    assert_eq!(fixture.observer.restarts.recv().await, Some("cancelled"));
    let job = job(7, "good", 1);
    assert_right(&job, &fixture.pool.run(job.clone(), any()).await, 1);
}

#[tokio::test]
async fn processors_are_shared_out_among_the_running_jobs() {
    let mut fixture = Fixture::start(|config| {
        config.workers = 2;
        config.cpus = 8;
    })
    .await;
    let (_, first) = fixture.run_directed();
    let held = fixture.director.asked().await;
    let (_, second) = fixture.run_directed();
    fixture.director.asked().await.tell(b'e').await;
    held.tell(b'e').await;
    let mut fixed = job(7, "its own", 1);
    fixed.threads = 3;
    assert_eq!(threads(&first.await.expect("no panic")), Some(8));
    assert_eq!(threads(&second.await.expect("no panic")), Some(4));
    assert_eq!(threads(&fixture.pool.run(fixed, any()).await), Some(3));
}

#[tokio::test]
async fn jobs_of_a_burst_get_a_thread_each() {
    let mut fixture = Fixture::start(|config| {
        config.workers = 4;
        config.cpus = 4;
    })
    .await;
    fixture.observer.until(|workers, _| workers.idle == 4).await;
    // All are in the queue before any worker is woken: there is one thread here.
    let done = join_all((0..4).map(|id| fixture.pool.run(job(id, "burst", 1), any()))).await;
    assert_eq!(done.iter().map(threads).collect::<Vec<_>>(), [Some(1); 4]);
    assert_eq!(threads(&fixture.pool.run(job(4, "alone", 1), any()).await), Some(4));
}

#[tokio::test]
async fn a_session_with_much_to_do_does_not_hold_up_another() {
    let mut fixture = Fixture::start(|config| config.queue_jobs = 40).await;
    let (_, blocking) = fixture.run_directed();
    let blocker = fixture.director.asked().await;
    let (done, mut order) = mpsc::unbounded_channel();
    let claim = |session| Claim { session: SessionId(session), deadline: None };
    let run = |claim: Claim| {
        let (pool, done) = (fixture.pool.clone(), done.clone());
        let mut job = job(claim.session.0, "good", 1);
        job.units.extend((3..100).map(|pts| unit(pts, Bytes::new())));
        tokio::spawn(async move {
            pool.run(job, claim).await.result.expect("told to be good");
            done.send(claim.session.0).expect("the test listens");
        })
    };
    let mut running: Vec<_> = (0..16).map(|_| run(claim(1))).collect();
    fixture.observer.until(|_, queued| queued == 16).await;
    running.push(run(claim(2)));
    fixture.observer.until(|_, queued| queued == 17).await;
    blocker.tell(b'e').await;
    blocking.await.expect("no panic");
    join_all(running).await;
    let order: Vec<u64> = std::iter::from_fn(|| order.try_recv().ok()).collect();
    assert!(order.iter().position(|session| *session == 2) < Some(8), "{order:?}");
    assert_eq!(order.len(), 17);
}

#[tokio::test]
async fn what_no_worker_has_had_by_its_deadline_is_late_and_what_has_begun_is_finished() {
    let mut fixture = Fixture::start(|_| ()).await;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(300);
    let claim = Claim { session: SessionId(1), deadline: Some(deadline) };
    let first = fixture.directed_job();
    let running = {
        let (pool, job) = (fixture.pool.clone(), first.clone());
        tokio::spawn(async move { pool.run(job, claim).await })
    };
    let asked = fixture.director.asked().await;
    let late = fixture.pool.run(job(2, "good", 1), claim).await;
    assert_eq!((code(&late), late.attempts), (Some(FailureCode::Late), 0));
    assert_eq!(fixture.pool.snapshot().queued, 0);
    assert!(tokio::time::Instant::now() >= deadline);
    asked.tell(b'e').await;
    assert_right(&first, &running.await.expect("no panic"), 1);
}

#[tokio::test]
async fn a_worker_that_does_not_start_is_told_by_name() {
    let start = async |how: &str| {
        let mut config = config();
        config.args = vec![how.into()];
        config.workers = 2;
        config.start_timeout = Duration::from_secs(if how == "mute" { 1 } else { 60 });
        Pool::start(config, Arc::new(())).await.err().map(|error| error.code())
    };
    assert_eq!(start("exit").await, Some("start_died"));
    assert_eq!(start("mute").await, Some("start_timeout"));
    assert_eq!(start("babble").await, Some("start_protocol"));
    assert_eq!(start("refuse").await, Some("start_refused"));
}

#[tokio::test]
async fn a_worker_in_mid_job_dies_with_the_servers_end_of_the_socket() {
    let mut director = Director::new();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    let mut worker = tokio::process::Command::new(faulty_worker())
        .stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    ours.set_nonblocking(true).expect("a socket");
    let mut ours = UnixStream::from_std(ours).expect("a socket");
    let job = job(1, &director.question(), 1);
    segmill::ipc::pool_end::write_job(&mut ours, &job, 1).await.expect("it reads");
    let hanging = director.asked().await.tell_and_keep(b'h').await;
    let mut frames = segmill::ipc::pool_end::Reader::new(ours);
    for _ in ["hello", "set-up", "sample"] {
        frames.read(segmill::ipc::MAX_FRAME).await.expect("well-formed").expect("it goes on");
    }
    drop(frames);
    hanging.dead().await;
    let status = worker.wait().await.expect("a child");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[tokio::test]
async fn the_shipped_worker_starts_and_ends_well() {
    let mut config = Config::new(env!("CARGO_BIN_EXE_segmill"), 1);
    config.args = vec!["worker".into()];
    config.env = segmill::pool::worker_env(std::env::vars_os());
    config.start_timeout = Duration::from_secs(60);
    let pool = Pool::start(config, Arc::new(())).await.map_err(|error: StartError| error.to_string());
    pool.expect("it starts").close().await;

    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    let mut worker = tokio::process::Command::new(env!("CARGO_BIN_EXE_segmill"))
        .arg("worker")
        .stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut first = [0];
    std::io::Read::read_exact(&mut &ours, &mut first).expect("a hello");
    // Its hello has been read in part only: the socket must close, not reset.
    ours.shutdown(std::net::Shutdown::Write).expect("a socket");
    assert!(worker.wait().await.expect("a child").success());
}

/// A pool of one faulty worker, and the ways to watch and direct it.
struct Fixture {
    pool: Pool,
    director: Director,
    observer: Observed,
    /// No two jobs are the same.
    next_id: AtomicU64,
}

impl Fixture {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        change(&mut config);
        let (observer, observed) = Recorder::new();
        let pool = Pool::start(config, Arc::new(observer)).await.expect("the faulty worker starts");
        Self { pool, director: Director::new(), observer: observed, next_id: AtomicU64::new(1) }
    }

    fn directed_job(&self) -> Job {
        job(self.next_id.fetch_add(1, Ordering::Relaxed), &self.director.question(), 2)
    }

    fn run_directed(&self) -> (Job, JoinHandle<Done>) {
        let job = self.directed_job();
        (job.clone(), self.run(job))
    }

    fn run(&self, job: Job) -> JoinHandle<Done> {
        let pool = self.pool.clone();
        tokio::spawn(async move { pool.run(job, any()).await })
    }

    /// The job without what is known of it at its end, once two workers are idle or one is all there are.
    async fn begin(&mut self, job: &Job) -> Option<HeadStart> {
        self.observer.until(|workers, _| workers.idle == 2 || workers.starting + workers.idle == 1).await;
        self.pool.begin(draft(job), &Arc::new(AtomicBool::new(false)))
    }

    /// All restarts there have been, once nothing observes any more.
    async fn restarts(self) -> Vec<&'static str> {
        let Self { pool, observer: Observed { mut restarts, .. }, .. } = self;
        drop(pool);
        let mut causes = Vec::new();
        while let Some(cause) = restarts.recv().await {
            causes.push(cause);
        }
        causes
    }
}

fn config() -> Config {
    let mut config = Config::new(faulty_worker(), 1);
    let minute = Duration::from_secs(60);
    (config.start_timeout, config.progress_timeout, config.wall_timeout) = (minute, minute, minute);
    config
}

fn faulty_worker() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.parent().and_then(Path::parent).expect("…/deps/pool-…");
    let worker = profile.join("examples/faulty_worker");
    assert!(worker.exists(), "build it: cargo build --example faulty_worker");
    worker
}

/// Listens for workers that ask what to do.
struct Director {
    directory: tempfile::TempDir,
    listener: UnixListener,
}

impl Director {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("s")).expect("a socket");
        Self { directory, listener }
    }

    fn question(&self) -> String {
        format!("ask:{}", self.directory.path().join("s").display())
    }

    async fn asked(&mut self) -> Asked {
        let (mut stream, _) = self.listener.accept().await.expect("a listener");
        let pid = stream.read_u32().await.expect("the worker says its number");
        Asked { pid, stream }
    }
}

/// A worker that holds a job.
struct Asked {
    pid: u32,
    stream: UnixStream,
}

impl Asked {
    async fn tell(self, directive: u8) -> u32 {
        self.tell_and_keep(directive).await.pid
    }

    async fn tell_and_keep(mut self, directive: u8) -> Self {
        self.stream.write_u8(directive).await.expect("the worker listens");
        self
    }

    /// Waits until the process is gone.
    async fn dead(mut self) {
        // A reset is as good an end as any.
        let _ = self.stream.read_u8().await;
    }
}

/// Hands on what the pool tells.
struct Recorder {
    restarts: mpsc::UnboundedSender<&'static str>,
    quarantine: mpsc::UnboundedSender<QuarantineEvent>,
    head_starts: mpsc::UnboundedSender<HeadStartEvent>,
    state: watch::Sender<(Workers, usize)>,
}

struct Observed {
    restarts: mpsc::UnboundedReceiver<&'static str>,
    quarantine: mpsc::UnboundedReceiver<QuarantineEvent>,
    head_starts: mpsc::UnboundedReceiver<HeadStartEvent>,
    state: watch::Receiver<(Workers, usize)>,
}

impl Recorder {
    fn new() -> (Self, Observed) {
        let (restarts, seen) = mpsc::unbounded_channel();
        let (quarantine, seen_quarantine) = mpsc::unbounded_channel();
        let (head_starts, seen_head_starts) = mpsc::unbounded_channel();
        let (state, seen_state) = watch::channel(Default::default());
        let observed =
            Observed { restarts: seen, quarantine: seen_quarantine, head_starts: seen_head_starts, state: seen_state };
        (Self { restarts, quarantine, head_starts, state }, observed)
    }
}

impl Observer for Recorder {
    fn workers(&self, workers: Workers) {
        self.state.send_modify(|state| state.0 = workers);
    }

    fn worker_restarted(&self, cause: &'static str) {
        // The test may be over.
        let _ = self.restarts.send(cause);
    }

    fn quarantine(&self, event: QuarantineEvent) {
        let _ = self.quarantine.send(event);
    }

    fn head_start(&self, event: HeadStartEvent) {
        let _ = self.head_starts.send(event);
    }

    fn queue(&self, jobs: usize, _media: Duration) {
        self.state.send_modify(|state| state.1 = jobs);
    }
}

impl Observed {
    async fn until(&mut self, condition: impl Fn(Workers, usize) -> bool) {
        self.state.wait_for(|(workers, queued)| condition(*workers, *queued)).await.expect("the pool lives");
    }
}

fn assert_right(job: &Job, done: &Done, attempts: u32) {
    let outcome = done.result.as_ref().expect("an outcome");
    assert_eq!(done.attempts, attempts);
    assert_eq!(outcome.renditions.len(), job.work.renditions());
    for rendition in &outcome.renditions {
        let got: Vec<_> = rendition.samples.iter().map(|sample| (sample.pts, &sample.data)).collect();
        let kept = job.units.iter().filter(|unit| job.window.contains(unit.pts));
        assert_eq!(got, kept.map(|unit| (unit.pts, &unit.data)).collect::<Vec<_>>());
    }
}

/// As it is known before any of its units.
fn draft(job: &Job) -> Job {
    Job { units: Vec::new(), window: Window { end: Ticks(i64::MAX), ..job.window }, ..job.clone() }
}

fn code(done: &Done) -> Option<FailureCode> {
    done.result.as_ref().err().map(|failure| failure.code)
}

fn threads(done: &Done) -> Option<u32> {
    let config = &done.result.as_ref().ok()?.renditions.first()?.config;
    Some(u32::from_be_bytes(config[..].try_into().ok()?))
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number as i32).expect("not 0")
}

/// Of a session that is in no hurry.
fn any() -> Claim {
    Claim { session: SessionId(0), deadline: None }
}

/// Three units in a window of one second and one outside it; the first unit holds `text`, the second is large.
fn job(id: u64, text: &str, renditions: usize) -> Job {
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
    Job {
        id,
        seq: id,
        track: Track { id: TrackId(1), timescale, language: None, format: Format::Video(video) },
        units: vec![
            unit(0, Bytes::copy_from_slice(text.as_bytes())),
            unit(2, vec![id as u8; 300_000].into()),
            unit(1, Bytes::new()),
            unit(1000, Bytes::from_static(b"post-roll")),
        ],
        window: Window { start: Ticks(0), end: Ticks(1000) },
        work: Work::Video { frame_rate: (25, 1), renditions: vec![spec; renditions], schedules: Vec::new() },
        threads: 0,
    }
}

fn unit(pts: i64, data: Bytes) -> AccessUnit {
    AccessUnit { track: TrackId(1), pts: Ticks(pts), dts: Ticks(pts), duration: None, sync: Sync::No, offset: 0, data }
}
