//! A hold on one worker process, by which it and nobody else is killed.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::process::Child;

/// Names the process itself and not its number, which the kernel gives to others once the process has been waited for.
pub(super) struct Hold {
    /// None where the kernel has no pidfd (before Linux 5.3, or where a filter forbids it).
    process: Option<OwnedFd>,
}

impl Hold {
    /// Of a child that was not waited for yet: its number is its own.
    pub(super) fn on(child: &Child) -> Self {
        let process = pid(child).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self { process }
    }

    /// SIGKILL to the process, and to what it may have started. An error says that it is gone already.
    pub(super) fn kill(&self, child: &mut Child) {
        if let Some(group) = pid(child) {
            // It leads its group, whose number is taken for as long as it has not been waited for.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let sent = self.process.as_ref().map(|process| pidfd_send_signal(process, Signal::KILL));
        if !matches!(sent, Some(Ok(()))) {
            let _ = child.start_kill();
        }
    }
}

fn pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
}
