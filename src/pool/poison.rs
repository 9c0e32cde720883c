//! Poison jobs as files, for who wants to find out what it is in them: `segmill worker --replay FILE` does one again.
//! The oldest go first where there are too many.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::quarantine::Identity;
use crate::ipc::pool_end::write_job_to;
use crate::job::Job;

/// What a file's name ends in, behind the job's hash.
const SUFFIX: &str = ".job";

/// Where poison jobs are kept, and how many bytes of them at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoisonDir {
    pub dir: PathBuf,
    pub bytes: u64,
}

impl PoisonDir {
    /// Keeps a job, whole or not at all, for this user's eyes only. Ok(false) where it is larger than all that may be
    /// kept. Blocks.
    pub(super) fn keep(&self, job: &Job, identity: &Identity) -> io::Result<bool> {
        let mut file = tempfile::Builder::new().prefix(".segmill-").tempfile_in(&self.dir)?;
        let mut bounded = Bounded { io: file.as_file_mut(), left: self.bytes };
        if let Err(error) = write_job_to(&mut bounded, job) {
            return if bounded.left == 0 { Ok(false) } else { Err(io::Error::other(error)) };
        }
        file.persist(self.dir.join(format!("{identity}{SUFFIX}"))).map_err(|error| error.error)?;
        self.trim()?;
        Ok(true)
    }

    /// Removes the oldest until the rest is within the bound.
    fn trim(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let (path, metadata) = (entry.path(), entry.metadata()?);
            if metadata.is_file() && is_kept(&path) {
                files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), path, metadata.len()));
            }
        }
        files.sort();
        let mut bytes = files.iter().fold(0, |sum: u64, (_, _, length)| sum.saturating_add(*length));
        for (_, path, length) in files {
            if bytes <= self.bytes {
                break;
            }
            std::fs::remove_file(path)?;
            bytes -= length;
        }
        Ok(())
    }
}

/// Whether it is a file that was made here: nothing else is ever removed.
fn is_kept(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
    name.is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Takes so many bytes and no more.
struct Bounded<W> {
    io: W,
    /// 0 once it was too much.
    left: u64,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) if left > 0 => {
                let written = self.io.write(bytes)?;
                self.left -= written as u64;
                Ok(written)
            }
            _ => {
                self.left = 0;
                Err(io::ErrorKind::FileTooLarge.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.io.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::ipc::fixtures::video_job;
    use crate::ipc::worker_end::Reader;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_job_is_read_back_as_it_was_and_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let dir = PoisonDir { dir: folder.path().to_owned(), bytes: 1 << 20 };
        let job = video_job(&[0, 2, 1], 2);
        let identity = Identity::of(&job);
        for _ in 0..2 {
            assert!(dir.keep(&job, &identity).unwrap());
        }
        assert_eq!(names(folder.path()), [format!("{identity}.job")]);
        let path = folder.path().join(format!("{identity}.job"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = Reader::new(std::fs::File::open(path).unwrap()).read_job().unwrap().unwrap();
        assert_eq!(Job { threads: job.threads, ..read }, job);
    }

    #[test]
    fn past_the_bound_the_oldest_go_and_what_is_not_ours_stays() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("notes.job"), "a person's").unwrap();
        let jobs: Vec<Job> = (0..4).map(|n| video_job(&[n, n + 4], 1)).collect();
        let mut dir = PoisonDir { dir: folder.path().to_owned(), bytes: 1 << 20 };
        let path = |job: &Job| folder.path().join(format!("{}.job", Identity::of(job)));
        for (age, job) in jobs.iter().enumerate() {
            assert!(dir.keep(job, &Identity::of(job)).unwrap());
            // Older ones first, whatever the clock's steps.
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1 + age as u64);
            std::fs::File::open(path(job)).unwrap().set_modified(at).unwrap();
        }
        let length = std::fs::metadata(path(&jobs[0])).unwrap().len();
        dir.bytes = 2 * length;
        assert!(dir.keep(&jobs[3], &Identity::of(&jobs[3])).unwrap());
        let kept: Vec<bool> = jobs.iter().map(|job| path(job).exists()).collect();
        assert_eq!(kept, [false, false, true, true]);
        dir.bytes = length / 2;
        assert!(!dir.keep(&jobs[0], &Identity::of(&jobs[0])).unwrap(), "larger than all that may be kept");
        assert_eq!(names(folder.path()).len(), 3, "nothing half-written, nothing removed for it");
        assert!(folder.path().join("notes.job").exists());
    }
}
