//! What a worker may ask the kernel for, by seccomp: the few calls that jobs were seen to make. All else is refused with
//! EPERM, as if the kernel would not: a library that tries something goes on without it.
//!
//! Files can't be opened, named sockets can't be made, programs can't be started. Where a call can do more than is
//! needed, its arguments are looked at; what lies behind a pointer can't be.

use std::collections::BTreeMap;

use libc::{AF_UNIX, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM};
use rustix::process::getpid;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

/// For all threads of the process, for good.
pub(super) fn allow_few() -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let few = few(getpid().as_raw_pid())
        .and_then(|few| program(few, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow));
    // What clone3 is asked for lies behind a pointer. Where it is not there, glibc takes clone.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let clone3 = program(clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32));
    for program in [clone3, few] {
        apply_filter_all_threads(&program.map_err(|error| text(&error))?).map_err(|error| text(&error))?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn program(
    rules: Rules,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let machine = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, matching, machine)?.try_into()
}

/// Calls that are let through whatever their arguments are: they touch nothing but this process.
const PLAIN: &[i64] = &[
    // What is open already.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    // What pipelines wake each other by.
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    // Memory. Programs for the processor are made at run time (ORC), so some of it may be executable.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_membarrier,
    // Threads.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Its own signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Clocks, chance, and what it has used.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_clone3,
];

/// The flags by which a thread is made, and those that make anything else of it.
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
const NO_THREAD: u64 = (libc::CLONE_VFORK
    | libc::CLONE_PTRACE
    | libc::CLONE_PARENT
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_IO) as u32 as u64;

/// `pid`: this process.
fn few(pid: i32) -> Result<Rules, seccompiler::BackendError> {
    let pid = u64::from(pid.cast_unsigned());
    let own = |other: i32| u64::from(other.cast_unsigned());
    let pair = !u64::from((SOCK_CLOEXEC | SOCK_NONBLOCK).cast_unsigned()) & u64::from(u32::MAX);
    let mut rules: Rules = PLAIN.iter().map(|&call| (call, Vec::new())).collect();
    let looked_at = [
        (libc::SYS_clone, vec![masked(0, THREAD | NO_THREAD, THREAD)]),
        // By its own number: to end itself.
        (libc::SYS_kill, vec![word(0, pid)]),
        (libc::SYS_tgkill, vec![word(0, pid)]),
        // A connected socket's own end: no address.
        (libc::SYS_sendto, vec![pointer(4, 0)]),
        (libc::SYS_recvfrom, vec![pointer(4, 0)]),
        // A pair of nameless sockets, by which GStreamer's buses wake their readers.
        (libc::SYS_socketpair, vec![word(0, own(AF_UNIX)), masked(1, pair, own(SOCK_STREAM))]),
        (libc::SYS_fcntl, vec![word(1, own(libc::F_GETFD))]),
        (libc::SYS_fcntl, vec![word(1, own(libc::F_SETFD))]),
        (libc::SYS_fcntl, vec![word(1, own(libc::F_GETFL))]),
        (libc::SYS_fcntl, vec![word(1, own(libc::F_DUPFD_CLOEXEC))]),
        // Without O_ASYNC, which has signals sent.
        (libc::SYS_fcntl, vec![word(1, own(libc::F_SETFL)), masked(2, own(libc::O_ASYNC), 0)]),
        (libc::SYS_prctl, vec![word(0, own(libc::PR_SET_NAME))]),
        (libc::SYS_prctl, vec![word(0, own(libc::PR_SET_VMA))]),
        // Of its own thread.
        (libc::SYS_getpriority, vec![word(0, 0), word(1, 0)]),
        (libc::SYS_setpriority, vec![word(0, 0), word(1, 0)]),
        (libc::SYS_sched_setaffinity, vec![word(0, 0)]),
        // Its own limits: all to be read, the CPU's to be set.
        (libc::SYS_prlimit64, vec![word(0, 0), pointer(2, 0)]),
        (libc::SYS_prlimit64, vec![word(0, 0), word(1, u64::from(libc::RLIMIT_CPU))]),
    ];
    for (call, conditions) in looked_at {
        let conditions: Result<Vec<_>, _> = conditions.into_iter().collect();
        rules.entry(call).or_default().push(SeccompRule::new(conditions?)?);
    }
    Ok(rules)
}

type Condition = Result<SeccompCondition, seccompiler::BackendError>;

fn word(argument: u8, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn pointer(argument: u8, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

/// The bits of `mask` are as in `value`.
fn masked(argument: u8, mask: u64, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}
