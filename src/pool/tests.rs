use std::ffi::OsString;

use super::*;
use crate::ipc::fixtures::video_job;
use crate::media::{Ticks, Window};

#[test]
fn a_workers_environment_has_no_secrets() {
    let server = [("PATH", "/bin"), ("SEGMILL_RESUME_KEY", "secret"), ("GST_PLUGIN_PATH", "/p"), ("AWS_X", "secret")];
    let env = worker_env(server.map(|(name, value)| (OsString::from(name), OsString::from(value))));
    let names: Vec<_> = env.iter().filter_map(|(name, _)| name.to_str()).collect();
    let set = [
        "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TRIM_THRESHOLD_",
        "MALLOC_ARENA_MAX",
        "GLIBC_TUNABLES",
        "MIMALLOC_ARENA_RESERVE",
    ];
    assert_eq!(names, [&["PATH", "GST_PLUGIN_PATH"], &set[..]].concat());
}

#[test]
fn media_of_absurd_windows_is_bounded() {
    let with = |start, end| Job { window: Window { start: Ticks(start), end: Ticks(end) }, ..video_job(&[], 1) };
    assert_eq!(media(&with(-500, 1500)), Duration::from_secs(2));
    assert_eq!(media(&with(5, 0)), Duration::ZERO);
    assert_eq!(media(&with(i64::MIN, i64::MAX)), Duration::from_secs(3600));
}

#[tokio::test]
async fn a_program_that_is_not_there_stops_the_start() {
    let config = Config { workers: 2, ..Config::new("/nonexistent/worker", 2) };
    let error = Pool::start(config, Arc::new(())).await.err();
    assert!(matches!(error, Some(StartError::Spawn(_))), "{error:?}");
}
